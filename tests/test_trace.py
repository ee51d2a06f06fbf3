"""The time that each sample stands for: it adds up, whatever the clocks, classes and lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slowspan.recording.hot_lines import HOT_CANDIDATES
from slowspan.recording.meter import Meter
from slowspan.recording.profile import ROOT
from slowspan.recording.trace import COMPUTING, READY, WAITING, Accounts, Trace, TraceData

if TYPE_CHECKING:
    from types import CodeType

MS = 1_000_000


def make_code(name: str) -> CodeType:
    """Return a code object of its own."""
    return compile("pass", "app.py", "exec").replace(co_name=name)


ROOT_CODE = make_code("serve")
CODES = [make_code(f"f{number}") for number in range(12)]


def stack(*codes: CodeType) -> list[Any]:
    """Return a stack below ``serve``, as it is read: innermost first, flat."""
    return [part for code in reversed((ROOT_CODE, *codes)) for part in (code, 0)]


def make_trace(max_samples: int = 1000) -> Trace:
    """Return a trace of a thread that there is not: the clocks are the test's."""
    return Trace(max_samples, Meter(0, shared=False))


class Step(NamedTuple):
    """One sample: what happened since the last one, and what is seen now."""

    wall_ns: int
    cpu_share: float
    delay_share: float
    queued: bool
    codes: tuple[int, ...]
    sample_class: int


STEPS = st.lists(
    st.builds(
        Step,
        st.integers(0, 50 * MS),
        st.floats(0, 1.2),
        st.floats(0, 1.2),
        st.booleans(),
        st.lists(st.integers(0, len(CODES) - 1), max_size=4).map(tuple),
        st.sampled_from([WAITING, COMPUTING]),
    ),
    max_size=60,
)


class Run:
    """A trace that is fed with steps, with the clocks that go with them."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.at_ns = self.cpu_ns = self.counted_cpu_ns = self.first_cpu_ns = 0

    def add(self, step: Step, *, has_clock: bool = True) -> None:
        """Add a sample."""
        self.at_ns += step.wall_ns
        cpu_ns = int(step.wall_ns * step.cpu_share)
        self.cpu_ns += cpu_ns
        delay_ns = int(step.wall_ns * step.delay_share)
        accounts = Accounts(self.cpu_ns, delay_ns, step.queued) if has_clock else None
        if has_clock and self.trace.sample_count:
            self.counted_cpu_ns += min(cpu_ns, step.wall_ns)
        elif has_clock:
            self.first_cpu_ns = self.cpu_ns
        with self.trace.lock:
            flat = stack(*(CODES[number] for number in step.codes))
            self.trace.add(self.at_ns, accounts, flat, 1, step.sample_class)


def totals(data: TraceData) -> tuple[int, int]:
    """Return the wall and the CPU time of all that is in a trace."""
    wall = data.before_first_ns + sum(data.wall_ns) + sum(wall for wall, _ in data.unseen.values())
    cpu = sum(data.cpu_ns) + sum(cpu for _, cpu in data.unseen.values())
    return wall, cpu


@given(STEPS, st.integers(0, 100 * MS), st.floats(0, 1), st.integers(10, 80))
def test_times_add_up_exactly(steps: list[Step], rest_ns: int, rest_share: float, max_samples: int) -> None:
    """Wall times add up to the duration, and CPU times to what the clock counted since the first sample, exactly."""
    run = Run(make_trace(max_samples))
    for step in steps:
        run.add(step)
    rest_cpu_ns = int(rest_ns * rest_share)
    run.trace.close(run.at_ns + rest_ns, run.cpu_ns + rest_cpu_ns)
    counted_ns = run.counted_cpu_ns + rest_cpu_ns if steps else 0
    assert totals(run.trace.snapshot()) == (run.at_ns + rest_ns, counted_ns)
    assert run.trace.cpu_time_ns(2**62) == (run.cpu_ns - run.first_cpu_ns + rest_cpu_ns if steps else None)


@given(STEPS, st.integers(0, 100 * MS), st.integers(10, 80))
def test_every_entry_makes_sense(steps: list[Step], rest_ns: int, max_samples: int) -> None:
    """No entry has a negative time, or more CPU time than time, and all lie within the request."""
    run = Run(make_trace(max_samples))
    for step in steps:
        run.add(step)
    run.trace.close(run.at_ns + rest_ns, None)
    data = run.trace.snapshot()
    entries = [(data.before_first_ns, 0), *zip(data.wall_ns, data.cpu_ns, strict=True), *data.unseen.values()]
    assert all(0 <= cpu <= wall for wall, cpu in entries)
    assert list(data.at_ns) == sorted(data.at_ns)
    assert all(0 <= at <= run.at_ns for at in data.at_ns)


@given(STEPS, st.integers(0, 100 * MS))
def test_without_a_cpu_clock(steps: list[Step], rest_ns: int) -> None:
    """Where no CPU clock is known the wall times still add up, and no CPU time is claimed."""
    run = Run(make_trace())
    for step in steps:
        run.add(step, has_clock=False)
    run.trace.close(run.at_ns + rest_ns, None)
    assert totals(run.trace.snapshot()) == (run.at_ns + rest_ns, 0)
    assert run.trace.cpu_time_ns(run.at_ns) is None


@given(STEPS, st.integers(10, 30))
def test_bounded(steps: list[Step], max_samples: int) -> None:
    """However many samples come, fewer than the bound are kept; every halving doubles the stride."""
    run = Run(make_trace(max_samples))
    for step in steps:
        run.add(step)
        assert len(run.trace.snapshot().nodes) < max_samples
        assert len(run.trace.snapshot().table.codes) <= 4 * max_samples
    assert run.trace.sample_count == len(steps)
    assert run.trace.stride == 1 or len(steps) >= max_samples


@given(STEPS)
def test_halving_keeps_the_totals_of_each_class(steps: list[Step]) -> None:
    """Halving the resolution changes neither the time nor the CPU time of either class."""
    run = Run(make_trace())
    for step in steps:
        run.add(step)

    def totals_by_class() -> dict[int, tuple[int, int]]:
        trace = run.trace
        return {
            sample_class: (
                sum(wall for wall, known in zip(trace._wall, trace._classes, strict=True) if known == sample_class),
                sum(cpu for cpu, known in zip(trace._cpu, trace._classes, strict=True) if known == sample_class),
            )
            for sample_class in (WAITING, COMPUTING)
        }

    before, count = totals_by_class(), len(run.trace._nodes)
    run.trace._halve()
    assert totals_by_class() == before
    assert len(run.trace._nodes) <= count // 2 + 1
    assert run.trace.stride == 2
    # And it can go on from there.
    for step in steps:
        run.add(step)
    run.trace.close(run.at_ns, run.cpu_ns)
    assert totals(run.trace.snapshot())[0] == run.at_ns


@given(STEPS)
def test_hottest_lines_are_the_hottest(steps: list[Step]) -> None:
    """The lines that are kept sorted while sampling are those with most own time at the end."""
    run = Run(make_trace())
    for step in steps:
        run.add(step)
    run.trace.close(run.at_ns, run.cpu_ns)
    data = run.trace.snapshot()
    own: dict[str, int] = {}
    for node, wall in zip(data.nodes, data.wall_ns, strict=True):
        name = data.table.codes[node].co_name
        own[name] = own.get(name, 0) + wall
    hottest = run.trace.hot_lines.hottest(5)
    assert [wall for _, wall in hottest if wall] == [wall for wall in sorted(own.values(), reverse=True)[:5] if wall]
    assert all(own[place.split()[-1]] == wall for place, wall in hottest)
    assert len(run.trace.hot_lines.hottest(100)) <= HOT_CANDIDATES


def own_times(data: TraceData) -> dict[str, tuple[float, float]]:
    """Return wall and CPU time in milliseconds by the innermost function."""
    times: dict[str, tuple[float, float]] = {}
    for node, wall, cpu in zip(data.nodes, data.wall_ns, data.cpu_ns, strict=True):
        name = data.table.codes[node].co_name
        known = times.get(name, (0, 0))
        times[name] = known[0] + wall / MS, known[1] + cpu / MS
    return times


def test_each_class_gets_its_own_time() -> None:
    """Computing time goes to the computing samples and waiting time to the waiting ones, not to whoever is seen."""
    trace = make_trace()
    query, render = stack(CODES[0]), stack(CODES[1])
    cpu = 0
    trace.add(0, Accounts(0, 0), query, 1, WAITING)
    for tick in range(1, 41):
        # Half of the time is computing, of which one sample in four happens to see anything.
        cpu += 5 * MS
        seen = tick % 4 == 2
        trace.add(tick * 10 * MS, Accounts(cpu, 0), render if seen else query, 1, COMPUTING if seen else WAITING)
    trace.close(400 * MS, cpu)
    times = own_times(trace.snapshot())
    assert times["f0"] == pytest.approx((200, 0))
    assert times["f1"] == pytest.approx((200, 200))


def test_computing_that_nobody_saw() -> None:
    """Computing time without a computing sample is told as such, below the innermost frame that all stacks share."""
    trace = make_trace()
    for tick in range(41):
        flat = stack(CODES[0], CODES[1 + tick % 2])
        trace.add(tick * 10 * MS, Accounts(tick * 5 * MS, 0), flat, 1, WAITING)
    trace.close(400 * MS, 200 * MS)
    data = trace.snapshot()
    assert sum(wall for wall, _ in data.unseen.values()) == sum(cpu for _, cpu in data.unseen.values()) == 200 * MS
    assert sum(data.cpu_ns) == 0
    for node in data.unseen:
        names = []
        while node != ROOT:
            names.append(data.table.codes[node].co_name)
            node = data.table.parents[node]
        assert names == ["f0", "serve"]


def test_a_trifle_of_computing_is_not_worth_an_entry() -> None:
    """The little that every wait computes is no entry of its own."""
    trace = make_trace()
    for tick in range(41):
        trace.add(tick * 10 * MS, Accounts(tick * 100_000, 0), stack(CODES[0]), 1, WAITING)
    trace.close(400 * MS, 4 * MS)
    assert trace.snapshot().unseen == {}


def test_waiting_for_a_processor_is_no_waiting() -> None:
    """Time in which the thread could have run, but had no processor, goes where it computed."""
    trace = make_trace()
    for tick in range(41):
        computing = tick % 2 == 0
        flat = stack(CODES[0] if computing else CODES[1])
        accounts = Accounts(tick * 2 * MS, 4 * MS)
        trace.add(tick * 10 * MS, accounts, flat, 1, COMPUTING if computing else WAITING)
    trace.close(400 * MS, 80 * MS)
    times = own_times(trace.snapshot())
    assert times["f0"][0] == pytest.approx(240, abs=15)
    assert times["f0"][1] == pytest.approx(80, abs=5)
    assert times["f1"][1] == 0


def test_time_before_the_first_sample_is_its_own() -> None:
    """What came before the first sample is given to no sample."""
    trace = make_trace()
    trace.add(50 * MS, Accounts(20 * MS, 0), stack(CODES[0]), 1, WAITING)
    trace.close(60 * MS, 20 * MS)
    data = trace.snapshot()
    assert data.before_first_ns == 50 * MS
    assert list(data.wall_ns) == [10 * MS]


def test_no_sample_at_all() -> None:
    """A request that ended before its first sample is all before it."""
    trace = make_trace()
    trace.close(60 * MS, 20 * MS)
    assert trace.snapshot().before_first_ns == 60 * MS
    assert trace.cpu_time_ns(1000 * MS) is None
    assert trace.hot_lines.hottest(5) == []


def test_end_before_the_last_sample() -> None:
    """An explicit end time before the last sample makes no negative time."""
    trace = make_trace()
    for tick in range(1, 11):
        trace.add(tick * 10 * MS, Accounts(tick * MS, 0), stack(CODES[0]), 1, WAITING)
    trace.close(50 * MS, 10 * MS)
    assert totals(trace.snapshot())[0] == 100 * MS


def test_cpu_clock_that_goes_back() -> None:
    """A CPU clock that goes back, as one of another thread would, makes no negative time."""
    trace = make_trace()
    for tick in range(1, 11):
        trace.add(tick * 10 * MS, Accounts((500 - tick) * MS, 0), stack(CODES[0]), 1, WAITING)
    trace.close(110 * MS, 0)
    assert totals(trace.snapshot()) == (110 * MS, 0)


def test_snapshot_is_a_copy() -> None:
    """A partial profile's data do not change while the request goes on."""
    run = Run(make_trace(20))
    for _ in range(15):
        run.add(Step(10 * MS, 0.5, 0, False, (1,), COMPUTING))
    data = run.trace.snapshot()
    before = (list(data.nodes), list(data.wall_ns), list(data.cpu_ns), dict(data.unseen), data.sample_count)
    for _ in range(30):
        run.add(Step(10 * MS, 0.5, 0, False, (2,), WAITING))
    run.trace.close(run.at_ns, run.cpu_ns)
    assert (list(data.nodes), list(data.wall_ns), list(data.cpu_ns), dict(data.unseen), data.sample_count) == before


def test_unknown_stack() -> None:
    """A sample without any frame has its time, at no node and no line."""
    trace = make_trace()
    trace.add(10 * MS, Accounts(0, 0), [], 0, WAITING)
    trace.add(20 * MS, Accounts(0, 0), [], 0, WAITING)
    trace.close(30 * MS, 0)
    data = trace.snapshot()
    assert set(data.nodes) == {ROOT}
    assert totals(data)[0] == 30 * MS
    assert trace.hot_lines.hottest(5) == []


def test_time_in_the_queue_for_the_lock_is_ready_time() -> None:
    """Between two looks that find a thread in the queue for the lock, all that it did not compute it was ready."""
    trace = make_trace()
    trace.add(0, Accounts(0, queued=True), stack(CODES[0]), 1, READY)
    trace.add(10 * MS, Accounts(2 * MS, queued=True), stack(CODES[0]), 1, READY)
    trace.add(20 * MS, Accounts(4 * MS, queued=True), stack(CODES[1]), 1, COMPUTING)
    trace.close(20 * MS, 4 * MS)
    assert trace.ready_ns == 16 * MS
    assert trace.cpu_time_ns(1000 * MS) == 4 * MS
    assert trace.cpu_time_ns(3 * MS) == 3 * MS
    assert sum(trace.snapshot().wall_ns) + trace.before_first_ns == 20 * MS
    assert sum(trace.snapshot().ready_ns) == 16 * MS


def test_half_of_the_time_before_a_wait_was_spent_in_the_queue() -> None:
    """Between a look that finds a thread in the queue and one that finds it waiting, each has its half of the time."""
    trace = make_trace()
    trace.add(0, Accounts(0, queued=True), stack(CODES[0]), 1, READY)
    trace.add(10 * MS, Accounts(0), stack(CODES[1]), 1, WAITING)
    trace.close(10 * MS, 0)
    assert trace.ready_ns == 5 * MS
    assert sum(trace.snapshot().wall_ns) == 10 * MS


def test_a_task_that_waits_for_its_loop_is_ready() -> None:
    """Time of a task that could go on is ready time, and the line below is marked as another one's."""
    trace = make_trace()
    for tick in range(1, 11):
        trace.add(tick * 10 * MS, Accounts(0), stack(CODES[0]), 7, READY, held=True)
    trace.close(100 * MS, 0)
    assert trace.ready_ns == 90 * MS
    assert trace.hot_lines.hottest(1) == [("app.py:7 f0 [held the event loop]", 100 * MS - trace.before_first_ns)]
    trace._halve()
    assert sum(trace.snapshot().ready_ns) == 90 * MS
