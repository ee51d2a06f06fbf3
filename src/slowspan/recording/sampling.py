"""One look at all late requests: whose stack, and was its thread computing or waiting?"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from slowspan.recording import clocks
from slowspan.recording.classify import UNCLEAR, by_second_look, classify
from slowspan.recording.recording import Lost
from slowspan.recording.stacks import read_stacks
from slowspan.recording.trace import WAITING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slowspan.recording.recording import Recording
    from slowspan.recording.stacks import FlatStack

SECOND_LOOK = 0.00015
"""Seconds between the two looks at the CPU clock of a thread of which the instruction does not tell its state."""


class _Look(NamedTuple):
    """A sample of which the class is not known yet."""

    recording: Recording
    at_ns: int
    cpu_ns: int | None
    flat: FlatStack
    line: int


def sample(recordings: Iterable[Recording], tick: int, *, lock_was_free: bool, contended: bool) -> None:
    """Take one sample of every recording whose turn it is. Runs on the sampler thread.

    Args:
        recordings: The late recordings.
        tick: Number of this tick; a long recording takes part in every second, fourth, … tick only.
        lock_was_free: Whether the sampler got the interpreter lock without waiting for it.
        contended: Whether other threads of the process compete for the lock.
    """
    due = [r for r in recordings if not (r.ended or r.lost) and r.trace and tick % r.trace.stride == 0]
    if not due:
        return
    stacks = read_stacks({recording.thread_id for recording in due})
    now = time.perf_counter_ns()
    unclear = []
    for recording in due:
        stack = stacks.get(recording.thread_id)
        if stack is None:
            recording.lost = Lost.THREAD_ENDED
            continue
        look = _look(recording, now, *stack)
        if look is None:
            continue
        sample_class = _classify(look, lock_was_free=lock_was_free, contended=contended)
        if sample_class == UNCLEAR:
            unclear.append(look)
        else:
            _add(look, sample_class)
    if unclear:
        _look_again(unclear, now, lock_was_free)


def give_up_reused_threads(late: Iterable[Recording], young: Iterable[Recording]) -> None:
    """Stop reading the thread of a request that was never ended when another request has begun on it.

    A nested request is of the same trace as the one around it; one of another trace came after it.
    """
    newest: dict[int, Recording] = {}
    for recording in [*late, *young]:
        earlier = newest.get(recording.thread_id)
        newest[recording.thread_id] = recording
        if earlier is None or earlier.ended or earlier.lost is not None:
            continue
        if _trace_id(earlier) != _trace_id(recording):
            earlier.lost = Lost.THREAD_REUSED


def _trace_id(recording: Recording) -> int:
    span = recording.span()
    context = span.context if span is not None else None
    return context.trace_id if context is not None else 0


def _look(recording: Recording, now_ns: int, flat: FlatStack, line: int) -> _Look | None:
    cpu_ns = None
    if clocks.HAS_THREAD_CLOCKS:
        cpu_ns = clocks.thread_cpu_ns(recording.native_id)
        if cpu_ns is None:
            # The identifier of an ended thread is given to the next one: the kernel's id tells them apart.
            recording.lost = Lost.THREAD_ENDED
            return None
    return _Look(recording, now_ns - recording.origin_ns, cpu_ns, flat, line)


def _classify(look: _Look, *, lock_was_free: bool, contended: bool) -> int:
    trace = look.recording.trace
    if look.cpu_ns is None or trace is None or not look.flat:
        return WAITING
    share = trace.computing_share(look.at_ns, look.cpu_ns)
    return classify(look.flat[0], look.flat[1], share, lock_was_free=lock_was_free, contended=contended)


def _look_again(looks: list[_Look], first_ns: int, lock_was_free: bool) -> None:
    time.sleep(SECOND_LOOK)
    elapsed_ns = time.perf_counter_ns() - first_ns
    for look in looks:
        cpu_ns = clocks.thread_cpu_ns(look.recording.native_id)
        advanced_ns = cpu_ns - look.cpu_ns if cpu_ns is not None and look.cpu_ns is not None else 0
        _add(look, by_second_look(advanced_ns, elapsed_ns, lock_was_free=lock_was_free))


def _add(look: _Look, sample_class: int) -> None:
    trace = look.recording.trace
    if trace is not None:
        with trace.lock:
            if not trace.closed:
                trace.add(look.at_ns, look.cpu_ns, look.flat, look.line, sample_class)
