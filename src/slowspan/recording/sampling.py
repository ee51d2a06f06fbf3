"""One look at all late requests: whose stack, and was its thread computing or waiting?"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from slowspan.recording import clocks
from slowspan.recording.classify import AMBIGUOUS, by_instruction, by_share, by_second_look
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
    cpu_ns: int
    flat: FlatStack
    line: int


def sample(recordings: Iterable[Recording], tick: int) -> None:
    """Take one sample of every recording whose turn it is. Runs on the sampler thread.

    Args:
        recordings: The late recordings.
        tick: Number of this tick; a long recording takes part in every second, fourth, … tick only.
    """
    due = [r for r in recordings if r.lost is None and r.trace is not None and tick % r.trace.stride == 0]
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
        look = _sample_one(recording, now, *stack)
        if look is not None:
            unclear.append(look)
    if unclear:
        _look_again(unclear, now)


def give_up_reused_threads(late: Iterable[Recording], young: Iterable[Recording]) -> None:
    """Stop reading the thread of a request that was never ended when another request has begun on it.

    A nested request is of the same trace as the one around it; one of another trace came after it.
    """
    newest: dict[int, Recording] = {}
    for recording in [*late, *young]:
        earlier = newest.get(recording.thread_id)
        newest[recording.thread_id] = recording
        if earlier is not None and earlier.lost is None and _trace_id(earlier) != _trace_id(recording):
            if earlier.trace is None or not earlier.trace.closed:
                earlier.lost = Lost.THREAD_REUSED


def _trace_id(recording: Recording) -> int:
    span = recording.span()
    context = span.context if span is not None else None
    return context.trace_id if context is not None else 0


def _sample_one(recording: Recording, now_ns: int, flat: FlatStack, line: int) -> _Look | None:
    """Add a sample, or return it when a second look must tell its class."""
    at_ns = now_ns - recording.origin_ns
    if not clocks.HAS_THREAD_CLOCKS:
        _add(recording, at_ns, None, flat, line, WAITING)
        return None
    cpu_ns = clocks.thread_cpu_ns(recording.native_id)
    if cpu_ns is None:
        # The identifier of an ended thread is given to the next one: the kernel's id tells them apart.
        recording.lost = Lost.THREAD_ENDED
        return None
    assert recording.trace is not None
    sample_class = by_share(recording.trace.computing_share(at_ns, cpu_ns))
    if sample_class == AMBIGUOUS and flat:
        sample_class = by_instruction(flat[0], flat[1])
    if sample_class == AMBIGUOUS:
        return _Look(recording, at_ns, cpu_ns, flat, line)
    _add(recording, at_ns, cpu_ns, flat, line, sample_class)
    return None


def _look_again(looks: list[_Look], first_ns: int) -> None:
    time.sleep(SECOND_LOOK)
    elapsed_ns = time.perf_counter_ns() - first_ns
    for look in looks:
        cpu_ns = clocks.thread_cpu_ns(look.recording.native_id)
        advanced_ns = 0 if cpu_ns is None else cpu_ns - look.cpu_ns
        sample_class = by_second_look(advanced_ns, elapsed_ns)
        _add(look.recording, look.at_ns, look.cpu_ns, look.flat, look.line, sample_class)


def _add(
    recording: Recording, at_ns: int, cpu_ns: int | None, flat: FlatStack, line: int, sample_class: int
) -> None:
    trace = recording.trace
    assert trace is not None
    with trace.lock:
        if not trace.closed:
            trace.add(at_ns, cpu_ns, flat, line, sample_class)
