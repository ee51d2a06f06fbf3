"""How a finished recording becomes a profile. Runs on the delivery thread."""

from __future__ import annotations

import os
import platform
import socket
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from slowspan.breather import Breather
from slowspan.recording.carriers import name_of_thread
from slowspan.recording.profile import Frame, Location, ProcessFacts, Profile, Sample, Stack
from slowspan.recording.span_groups import describe_n_plus_one, n_plus_ones
from slowspan.recording.span_tree import SpanTree, carry_spans
from slowspan.recording.stacks import ROOT, line_at
from slowspan.recording.synthetic import BEFORE_FIRST_SAMPLE, COMPUTED_NOT_SEEN, NOT_SAMPLED

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType

    from pyinstrument.session import Session

    from slowspan.recording.finished import Finished
    from slowspan.recording.profile import SpanFacts
    from slowspan.recording.trace import TraceData

N_PLUS_ONE_NOTES = 3
"""Repeated queries that are named in the notes; the report's list of spans has all of them."""

_HIDE_MARK = "__tracebackhide__"


class _Tables:
    """The tables of a profile while it is being built: every frame, location and stack once."""

    def __init__(self) -> None:
        self.frames: dict[Frame, int] = {}
        self.locations: dict[Location, int] = {}
        self.stacks: dict[Stack, int] = {}
        self._codes: dict[int, int] = {}

    def stack(self, parent: int, code: CodeType, offset: int) -> int:
        frame = self._codes.get(id(code))
        if frame is None:
            described = Frame(
                code.co_name, code.co_filename, code.co_firstlineno, class_name(code), _HIDE_MARK in code.co_varnames
            )
            frame = self._codes[id(code)] = self.frames.setdefault(described, len(self.frames))
        return self.location(parent, Location(frame, line_at(code, offset)))

    def synthetic(self, parent: int, name: str) -> int:
        return self.place(parent, Frame(name, "", 0, None, False), 0)

    def place(self, parent: int, frame: Frame, line: int) -> int:
        return self.location(parent, Location(self.frames.setdefault(frame, len(self.frames)), line))

    def location(self, parent: int, location: Location) -> int:
        stack = Stack(parent, self.locations.setdefault(location, len(self.locations)))
        return self.stacks.setdefault(stack, len(self.stacks))


def class_name(code: CodeType) -> str | None:
    """Return the class in whose body a function was defined.

    Python 3.10 does not know it: there it could only be told from local variables, which are never read.
    """
    qualified = getattr(code, "co_qualname", None)
    if qualified is None:
        return None
    owner, _, _ = qualified.rpartition(".")
    owner = owner.rpartition(".")[2]
    return owner if owner and owner != "<locals>" else None


def build_profile(
    finished: Finished,
    span: SpanFacts,
    pause: Callable[[], None] | None = None,
    tree: SpanTree = SpanTree(),  # noqa: B008 - immutable
) -> Profile:
    """Turn a finished recording into a profile.

    Resolves names and lines, in slices with pauses between them.

    Args:
        finished: The recording.
        span: The facts of its span.
        pause: Called at every step, to let other threads run now and then; a new :class:`Breather` when None.
        tree: The spans inside it.

    Returns:
        The profile; its samples' wall times add up to its duration.
    """
    pause = pause or Breather()
    tables = _Tables()
    if finished.session is not None:
        samples = _read_inline(finished, finished.session, tables, pause)
    else:
        samples = _build_samples(finished, tables, pause)
    count = finished.sample_count
    pause()
    sampled_ns = finished.duration_ns - samples[0].wall_ns if count else 0
    profile = Profile(
        id=finished.id,
        name=finished.name,
        running=finished.running,
        engine="thread" if finished.session is None else "inline",
        start_time_ns=finished.start_ns,
        duration_ns=finished.duration_ns,
        threshold_ns=finished.threshold_ns,
        cpu_time_ns=finished.cpu_time_ns,
        interval_ns=sampled_ns // count if count else 0,
        sample_count=count,
        span=span,
        process=process_facts(finished.native_id, finished.thread_name),
        notes=_notes(finished),
        frames=tuple(tables.frames),
        locations=tuple(tables.locations),
        stacks=tuple(tables.stacks),
        samples=carry_spans(samples, tree.spans, tuple(tables.frames), tuple(tables.locations), tuple(tables.stacks)),
        spans=tree.spans,
        spans_left_out=tree.left_out,
    )
    pause()
    named = tuple(
        describe_n_plus_one(group, at_least=bool(tree.left_out)) for group in n_plus_ones(profile)[:N_PLUS_ONE_NOTES]
    )
    return replace(profile, notes=profile.notes + named) if named else profile


def _build_samples(finished: Finished, tables: _Tables, pause: Callable[[], None]) -> list[Sample]:
    data = finished.data
    if data is None or not data.nodes:
        cpu = finished.cpu_time_ns or 0
        name = NOT_SAMPLED if finished.lost else BEFORE_FIRST_SAMPLE
        return [Sample(tables.synthetic(ROOT, name), 0, finished.duration_ns, cpu)]
    stacks = _resolve_nodes(data, tables, pause)
    samples = [Sample(tables.synthetic(ROOT, BEFORE_FIRST_SAMPLE), 0, data.before_first_ns, 0)]
    # A collection can end the span in the midst of a sample, of which then not every column is there.
    rows = zip(data.nodes, data.at_ns, data.wall_ns, data.cpu_ns, data.ready_ns, strict=False)
    for node, at, wall, cpu, ready in rows:
        if wall:
            stack = tables.synthetic(ROOT, NOT_SAMPLED) if node == ROOT else stacks[node]
            samples.append(Sample(stack, at, wall, cpu, ready))
        pause()
    end = data.at_ns[-1]
    for node, (wall, cpu) in data.unseen.items():
        samples.append(Sample(tables.synthetic(stacks[node], COMPUTED_NOT_SEEN), end, wall, cpu, wall - cpu))
    rest = finished.duration_ns - sum(sample.wall_ns for sample in samples)
    if rest > 0 and finished.lost is not None:
        samples.append(Sample(tables.synthetic(ROOT, NOT_SAMPLED), end, rest, 0))
    elif rest > 0 and finished.running:
        # Some of the last moments' time is given to samples only when the next ones are there.
        samples.append(Sample(samples[-1].stack, end, rest, 0))
    return _fit(samples, finished.duration_ns, pause)


def _read_inline(finished: Finished, session: Session, tables: _Tables, pause: Callable[[], None]) -> list[Sample]:
    # Imported by the inline engine already, which loaded pyinstrument.
    from slowspan.recording.session import read_session

    records = [(path, round(seconds * 1e9)) for path, seconds in read_session(session)]
    at_ns = max(finished.duration_ns - sum(wall_ns for _, wall_ns in records), 0)
    samples = [Sample(tables.synthetic(ROOT, BEFORE_FIRST_SAMPLE), 0, at_ns, 0)]
    for path, wall_ns in records:
        stack = ROOT
        for frame, line in path:
            stack = tables.place(stack, frame, line)
        at_ns += wall_ns
        samples.append(Sample(stack, at_ns, wall_ns, 0))
        pause()
    return _fit(samples, finished.duration_ns, pause)


def _resolve_nodes(data: TraceData, tables: _Tables, pause: Callable[[], None]) -> dict[int, int]:
    stacks = {ROOT: ROOT}
    # The table may still grow while a partial profile is built: its length now is enough.
    for node in range(len(data.table.parents)):
        code, offset, parent = data.table.codes[node], data.table.offsets[node], data.table.parents[node]
        stacks[node] = tables.stack(stacks[parent], code, offset)
        pause()
    return stacks


def _fit(samples: list[Sample], duration_ns: int, pause: Callable[[], None]) -> list[Sample]:
    """Scale the samples to the span's own duration, which may come from other clocks or an explicit end time."""
    total = sum(sample.wall_ns for sample in samples)
    if total == duration_ns or not total:
        return samples
    fitted, seen, given = [], 0, 0
    for sample in samples:
        seen += sample.wall_ns
        upto = seen * duration_ns // total
        wall = upto - given
        given = upto
        cpu = min(wall, sample.cpu_ns * duration_ns // total)
        ready = min(wall - cpu, sample.ready_ns * duration_ns // total)
        fitted.append(sample._replace(at_ns=min(sample.at_ns, duration_ns), wall_ns=wall, cpu_ns=cpu, ready_ns=ready))
        pause()
    return fitted


GREENLETS_NOTE = (
    "Greenlets do not tell when they could go on: time in which another one had the thread counts as waiting."
)


def _notes(finished: Finished) -> tuple[str, ...]:
    notes = []
    if finished.lost is not None:
        notes.append(finished.lost.value)
    data = finished.data
    if data is not None and data.table.truncated:
        notes.append(f"{data.table.truncated} samples show the outer part of their stack only: too many stacks.")
    if finished.session is not None:
        notes.append("The inline engine does not tell computing and waiting apart, and lengthens what computes.")
    elif finished.cpu_time_ns is None:
        notes.append("The CPU time of the request's thread is not known, so computing and waiting are not told apart.")
    if not finished.ready_is_known:
        notes.append(GREENLETS_NOTE)
    return tuple(notes)


def process_facts(native_id: int, thread_name: str = "") -> ProcessFacts:
    """Describe this process and one of its threads.

    Args:
        native_id: The kernel's thread id. An ended thread's identifier may be another one's already.
        thread_name: Its name where that is known; else it is looked up.
    """
    return ProcessFacts(
        host=socket.gethostname(),
        pid=os.getpid(),
        thread_name=thread_name or name_of_thread(native_id),
        thread_id=native_id,
        python=platform.python_version(),
        sys_path=tuple(path for path in sys.path if isinstance(path, str)),
        sys_prefixes=(sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix),
    )
