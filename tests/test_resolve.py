"""How a finished recording becomes a profile: its times, its names and lines, and what it says it did not see."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles import make_span
from slowspan.recording.finished import Finished
from slowspan.recording.meter import Meter
from slowspan.recording.profile import Frame, Profile
from slowspan.recording.recording import Lost
from slowspan.recording.resolve import build_profile, class_name, process_facts
from slowspan.recording.stacks import ROOT
from slowspan.recording.trace import COMPUTING, WAITING, Accounts, Trace
from watched import in_thread, read_stacks, wait_here

if TYPE_CHECKING:
    from types import CodeType

MS = 1_000_000


class Orders:
    """A class of an application."""

    def load(self) -> None:
        """Load."""

    def hidden(self) -> None:
        """Ask to be left out of tracebacks."""
        __tracebackhide__ = True


def view() -> None:
    """Answer a request."""


def make_finished(trace: Trace | None, **changes: Any) -> Finished:
    """Return a finished recording."""
    finished = Finished(
        id="5f3a9c0d1e2b4a68",
        name="20261121T194410.123Z_GET_orders_id_5f3a9c0d1e2b4a68",
        running=False,
        span=None,
        start_ns=1_795_290_250_123_456_789,
        duration_ns=100 * MS,
        threshold_ns=50 * MS,
        cpu_time_ns=10 * MS,
        native_id=threading.get_native_id(),
        lost=None,
        data=trace.snapshot() if trace is not None else None,
    )
    return finished._replace(**changes)


def build(finished: Finished, **options: Any) -> Profile:
    """Build the profile."""
    return build_profile(finished, make_span(), **options)


def check(profile: Profile) -> None:
    """Check what holds for every profile."""
    assert sum(sample.wall_ns for sample in profile.samples) == profile.duration_ns
    for sample in profile.samples:
        assert 0 <= sample.cpu_ns <= sample.wall_ns
        assert 0 <= sample.at_ns <= profile.duration_ns
        assert 0 <= sample.stack < len(profile.stacks)
    for number, stack in enumerate(profile.stacks):
        assert ROOT <= stack.parent < number
        assert 0 <= stack.location < len(profile.locations)
    assert all(0 <= location.frame < len(profile.frames) for location in profile.locations)
    for table in (profile.frames, profile.locations, profile.stacks):
        assert len(set(table)) == len(table)


def flat(*codes: CodeType) -> list[Any]:
    """Return a stack as it is read, from functions root first."""
    return [part for code in reversed(codes) for part in (code, 2)]


VIEW, LOAD, HIDDEN = view.__code__, Orders.load.__code__, Orders.hidden.__code__
STACKS = [flat(VIEW), flat(VIEW, LOAD), flat(VIEW, LOAD, HIDDEN), flat(LOAD), []]


@given(
    st.lists(st.tuples(st.integers(0, 30 * MS), st.floats(0, 1), st.sampled_from(STACKS), st.booleans()), max_size=30),
    st.integers(1, 2000 * MS),
    st.sampled_from([None, *Lost]),
    st.booleans(),
)
def test_every_profile_adds_up(
    steps: list[tuple[int, float, list[Any], bool]], duration_ns: int, lost: Lost | None, running: bool
) -> None:
    """Finished, partial, lost, or cut by an explicit end time: a profile's times add up to its duration."""
    trace = Trace(20, Meter(0, shared=False))
    at_ns = cpu_ns = 0
    for wall_ns, share, stack, computing in steps:
        at_ns += wall_ns
        cpu_ns += int(wall_ns * share)
        trace.add(at_ns, Accounts(cpu_ns), stack, 3, COMPUTING if computing else WAITING)
    if running:
        duration_ns = max(duration_ns, at_ns)
    else:
        trace.close(duration_ns if lost is None else 0, cpu_ns)
    finished = make_finished(
        trace, duration_ns=duration_ns, cpu_time_ns=min(cpu_ns, duration_ns), lost=lost, running=running
    )
    profile = build(finished)
    check(profile)
    assert profile.running == running
    assert bool(profile.notes) == (lost is not None)


@pytest.mark.parametrize(("lost", "name"), [(None, "[before the first sample]"), (Lost.EVENT_LOOP, "[not sampled]")])
def test_profile_without_samples(lost: Lost | None, name: str) -> None:
    """Without any sample all of the time is in one entry, which says why."""
    profile = build(make_finished(None, lost=lost))
    check(profile)
    assert [frame.name for frame in profile.frames] == [name]
    assert profile.sample_count == profile.interval_ns == 0
    assert profile.cpu_time_ns == profile.samples[0].cpu_ns == 10 * MS


def test_names_lines_and_classes() -> None:
    """Frames have the function's name, file and first line, its class where Python knows it, and whether it hides."""
    trace = Trace(20, Meter(0, shared=False))
    trace.add(50 * MS, Accounts(0), flat(VIEW, LOAD, HIDDEN), 3, WAITING)
    trace.close(100 * MS, 0)
    profile = build(make_finished(trace))
    frames = profile.stack_frames(profile.samples[-1].stack)
    known = hasattr(VIEW, "co_qualname")
    assert [frame for frame, _ in frames] == [
        Frame("view", __file__, VIEW.co_firstlineno, None, False),
        Frame("load", __file__, LOAD.co_firstlineno, "Orders" if known else None, False),
        Frame("hidden", __file__, HIDDEN.co_firstlineno, "Orders" if known else None, True),
    ]
    for (frame, line), code in zip(frames, (VIEW, LOAD, HIDDEN), strict=True):
        assert line in {known for _, _, known in code.co_lines()}, frame


def test_lines_of_a_real_stack() -> None:
    """Lines that are resolved from offsets are those that the interpreter itself tells of a waiting thread."""
    ready, release = threading.Event(), threading.Event()

    def request() -> None:
        ready.set()
        release.wait(60)

    thread = threading.Thread(target=request)
    thread.start()
    assert ready.wait(30)
    wait_here(0.05)
    stack, line = read_stacks({thread.ident})[thread.ident]
    trace = Trace(20, Meter(0, shared=False))
    trace.add(50 * MS, Accounts(0), stack, line, WAITING)
    trace.close(100 * MS, 0)
    release.set()
    thread.join()
    profile = build(make_finished(trace))
    frames = profile.stack_frames(profile.samples[-1].stack)
    assert frames[-1][1] == line
    (request_line,) = [known for frame, known in frames if frame.name == "request"]
    assert request_line == request.__code__.co_firstlineno + 2


def test_class_names() -> None:
    """The class is the one in whose body a function was defined, not the function around it; 3.10 knows none."""

    class Inner:
        def method(self) -> Any:
            def nested() -> None: ...

            return nested

    known = hasattr(VIEW, "co_qualname")
    assert class_name(Inner.method.__code__) == ("Inner" if known else None)
    assert class_name(Inner().method().__code__) is None
    assert class_name((lambda: None).__code__) is None
    assert class_name(LOAD) == ("Orders" if known else None)
    assert class_name(VIEW) is None


def test_long_work_pauses() -> None:
    """At each step of a large profile there can be a pause, in which the application's threads run."""
    trace = Trace(100_000, Meter(0, shared=False))
    codes = [compile("pass", "app.py", "exec").replace(co_name=f"f{number}") for number in range(2000)]
    for number, code in enumerate(codes):
        trace.add((number + 1) * MS, Accounts(0), flat(VIEW, code), 1, WAITING)
    trace.close(len(codes) * MS, 0)
    pauses = []
    check(build(make_finished(trace, duration_ns=len(codes) * MS), pause=lambda: pauses.append(1)))
    assert len(pauses) >= 2 * len(codes)


def test_table_that_grows_meanwhile() -> None:
    """A partial profile is built while the sampler adds to the same table: it has what there was when it was made."""
    trace = Trace(100, Meter(0, shared=False))
    trace.add(50 * MS, Accounts(0), flat(VIEW, LOAD), 1, WAITING)
    trace.add(60 * MS, Accounts(0), flat(VIEW, LOAD), 1, WAITING)
    finished = make_finished(trace, running=True)
    assert finished.data is not None

    def grow() -> None:
        number = trace.sample_count
        code = compile("pass", "app.py", "exec").replace(co_name=f"f{number}")
        trace.add((60 + number) * MS, Accounts(0), flat(VIEW, code), 1, WAITING)

    profile = build(finished, pause=grow)
    check(profile)
    assert {frame.name for frame in profile.frames} >= {"[before the first sample]", "view", "load"}
    # The sampler may have been stopped between the columns of a new row.
    finished.data.table.codes.append(VIEW)
    check(build(finished))


def test_truncated_stacks_are_told() -> None:
    """A profile that had to cut stacks says how many."""
    trace = Trace(10, Meter(0, shared=False))
    for number in range(100):
        code = compile("pass", "app.py", "exec").replace(co_name=f"f{number}")
        trace.add((number + 1) * MS, Accounts(0), flat(VIEW, code), 1, WAITING)
    trace.close(100 * MS, 0)
    profile = build(make_finished(trace))
    check(profile)
    assert any("too many stacks" in note for note in profile.notes)


def test_thread_name_is_no_other_threads() -> None:
    """The thread is named after the kernel's id: an ended thread's identifier belongs to another one soon."""
    native_ids: list[int] = []
    in_thread(lambda: native_ids.append(threading.get_native_id()))
    assert process_facts(threading.get_native_id()).thread_name == "MainThread"
    assert process_facts(native_ids[0]).thread_name == ""
