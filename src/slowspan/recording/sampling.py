"""One look at all late requests: whose stack, and was its thread computing or waiting?"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, NamedTuple

from slowspan import native
from slowspan.recording.carriers import key_of
from slowspan.recording.classify import LEFT, UNCLEAR, Lock, by_second_look, by_state, stopped_by_force
from slowspan.recording.gauge import ThreadEndedError, voluntary_switches
from slowspan.recording.recording import Lost
from slowspan.recording.sight import CarrierGoneError, State
from slowspan.recording.stacks import all_frames
from slowspan.recording.trace import COMPUTING, READY, WAITING, Accounts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from types import FrameType

    from opentelemetry.sdk.trace import Span

    from slowspan.recording.gauge import ThreadGauge
    from slowspan.recording.recording import Recording, Young
    from slowspan.recording.sight import Sight
    from slowspan.recording.trace import Trace


NEARLY_ALL = 0.9
"""Share of computing from which a thread that queues for the lock is taken to compute in C without it."""

SECOND_LOOK = 0.00015
"""Seconds between two looks at a CPU clock; each of them stops a computing thread."""


class _Look(NamedTuple):
    """A sample of which the class is not known yet."""

    recording: Recording
    trace: Trace
    gauge: ThreadGauge
    at_ns: int
    accounts: Accounts
    sight: Sight


class _Tick(NamedTuple):
    """What holds for all samples of one tick."""

    now_ns: int
    lock: Lock
    contended: bool
    forced: bool
    running: Mapping[int, Collection[int]]
    """By thread: the traces of the requests that were found running there. Between two looks it can have gone on."""

    def others(self, recording: Recording) -> int:
        """Return how many requests of other traces were found running on a request's thread."""
        found = self.running.get(recording.carrier.thread_id)
        return len(found) - (_trace_id(recording.span()) in found) if found else 0


def sample(
    recordings: Iterable[Recording], tick: int, *, interval_ns: int, lock: Lock, contended: bool, forced: bool
) -> None:
    """Take one sample of every recording whose turn it is. Runs on the sampler thread.

    Args:
        recordings: The late recordings.
        tick: Number of this tick; a long recording takes part in every second, fourth, … tick only.
        interval_ns: The mean time between two ticks. After a tick for others the next one can come earlier.
        lock: How the sampler came by the interpreter lock.
        contended: Whether threads of the process queue for the interpreter lock.
        forced: Whether threads have been stopped for this tick that would not have been else.
    """
    now = time.perf_counter_ns()
    open_ones = [r for r in recordings if not (r.ended or r.lost)]
    due = [r for r in open_ones if r.trace and r.trace.is_due(tick, now - r.origin_ns, interval_ns)]
    if not due:
        return
    sights = [(recording, sight) for recording, sight in _look(due) if sight is not None]
    facts = _Tick(time.perf_counter_ns(), lock, contended, forced, _found_running(sights))
    unclear = []
    for recording, sight in sights:
        try:
            look = _sample_one(recording, facts, sight)
        except ThreadEndedError:
            _give_up_if_at_home(recording, sight)
        else:
            if look is not None:
                unclear.append(look)
    if unclear:
        _look_again(unclear, facts)


def _look(recordings: Iterable[Recording]) -> Iterator[tuple[Recording, Sight | None]]:
    """Find every request in the stacks of this instant."""
    shared = []
    with all_frames() as frames:
        for recording in recordings:
            if recording.follower.shares_thread:
                shared.append(recording)
            else:
                yield recording, _look_at(recording, frames)
    # Each at an instant of its own: where its task is, is read with the frames, and both must be of the same. The first
    # one has the instant at which the sampler came by the lock. Between two looks others can run.
    first = random.randrange(len(shared)) if shared else 0
    for recording in shared[first:] + shared[:first]:
        with all_frames() as frames:
            yield recording, _look_at(recording, frames)


def _look_at(recording: Recording, frames: Mapping[int, FrameType]) -> Sight | None:
    try:
        return recording.follower.look(frames, recording.span())
    except CarrierGoneError:
        recording.lost = Lost.THREAD_ENDED
    except Exception as error:  # noqa: BLE001 - one request's failure must not stop the others' sampling
        recording.owner.on_error(error)
    return None


def _found_running(sights: Iterable[tuple[Recording, Sight]]) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for recording, sight in sights:
        home = recording.carrier.thread_id
        if recording.follower.shares_thread and sight.thread_id == home:
            found.setdefault(home, set()).add(_trace_id(recording.span()))
    return found


def _sample_one(recording: Recording, tick: _Tick, sight: Sight) -> _Look | None:
    """Add a sample, or return it when a second look must tell its class."""
    trace = recording.trace
    if trace is None:
        raise ThreadEndedError
    at_ns = tick.now_ns - recording.origin_ns
    meter = trace.meter
    cpu_ns = meter.read(sight, recording.carrier.thread_id, at_ns, tick.others(recording))
    if sight.state is not State.ON_THREAD:
        accounts = Accounts(cpu_ns) if cpu_ns is not None else None
        _add(trace, at_ns, accounts, sight, READY if sight.state is State.READY else WAITING)
        return None
    if cpu_ns is None or not sight.flat:
        _add(trace, at_ns, None, sight, WAITING)
        return None
    gauge, share = meter.gauge(sight), meter.share
    # Several threads of one request queue for the lock as those of several requests do.
    contended = tick.contended or len(sight.guests) > 1
    if _is_stopped(tick.lock, sight, share):
        # One that computed all the time never waited for a processor.
        delay_ns = meter.new_delay_ns(gauge) if share < NEARLY_ALL else 0
        _add(trace, at_ns, Accounts(cpu_ns, delay_ns, queued=contended and not tick.forced), sight, COMPUTING)
        return None
    if contended and share < NEARLY_ALL and _is_queued(gauge, tick.lock, share):
        _add(trace, at_ns, Accounts(cpu_ns, queued=True), sight, READY)
        return None
    # Whoever queues for the lock is not ready until its turn comes, and then is although it may have waited before.
    is_ready = None if contended else gauge.is_ready()
    accounts = Accounts(cpu_ns, meter.new_delay_ns(gauge))
    if is_ready is not None:
        sample_class = by_state(tick.lock, is_ready=is_ready, computing_share=share)
    elif share >= NEARLY_ALL:
        sample_class = COMPUTING
    else:
        # It had no processor when it had got what it waited for, as likely as in the middle of computing.
        accounts, sample_class = Accounts(cpu_ns), WAITING
    if sample_class == UNCLEAR:
        return _Look(recording, trace, gauge, at_ns, accounts, sight)
    _add(trace, at_ns, accounts, sight, sample_class)
    return None


def _is_stopped(lock: Lock, sight: Sight, share: float) -> bool:
    """Return whether a thread was computing until the sampler had it stopped."""
    if lock is Lock.FREE:
        return False
    # Of one that did nothing else since the last look a second one would hardly ever tell anything new. It costs the
    # thread two more stops, and the sampler twice what all the rest does.
    return stopped_by_force(sight.flat[0], sight.flat[1]) or (lock is Lock.HELD and share >= NEARLY_ALL)


def _is_queued(gauge: ThreadGauge, lock: Lock, share: float) -> bool:
    """Return whether a thread was ready to run, and others held the interpreter lock, until the sampler got it."""
    queues = gauge.queues_for_lock()
    # One that still runs has just been stopped, or given up the lock: either way it did not wait until now.
    # Where the kernel does not tell, only one that has computed since the last look is sure not to wait all the time.
    return queues is True or (queues is None and lock is not Lock.FREE and share > 0)


def _look_again(looks: list[_Look], tick: _Tick) -> None:
    # Read anew: since the sample was taken the thread could not go on, for want of the lock.
    start_ns = time.perf_counter_ns()
    before = [_cpu_ns(look) for look in looks]
    switches = voluntary_switches()
    native.sleep(SECOND_LOOK)
    lock_was_taken = voluntary_switches() - switches > 1
    elapsed_ns = time.perf_counter_ns() - start_ns
    for look, cpu_ns in zip(looks, before, strict=True):
        advanced_ns = _cpu_ns(look) - cpu_ns
        sample_class = by_second_look(
            tick.lock, advanced_ns=advanced_ns, elapsed_ns=elapsed_ns, lock_was_taken=lock_was_taken
        )
        _add(look.trace, look.at_ns, look.accounts, look.sight, sample_class)


def _cpu_ns(look: _Look) -> int:
    try:
        return look.gauge.cpu_ns() or 0
    except ThreadEndedError:
        _give_up_if_at_home(look.recording, look.sight)
        return 0


def _give_up_if_at_home(recording: Recording, sight: Sight) -> None:
    """Give a recording up of which the thread has ended, unless that only worked for it for a while."""
    # The identifier of an ended thread is given to the next one; the kernel's id tells them apart.
    if sight.thread_id in {0, recording.carrier.thread_id}:
        recording.lost = Lost.THREAD_ENDED


def _add(trace: Trace, at_ns: int, accounts: Accounts | None, sight: Sight, sample_class: int) -> None:
    if sample_class == LEFT:
        return
    with trace.lock:
        if not trace.closed:
            trace.add(at_ns, accounts, sight.flat, sight.line, sample_class, held=sight.held)


def give_up_reused_threads(late: Iterable[Recording], young: Iterable[Mapping[object, Young]]) -> None:
    """Stop reading the thread of a request that was never ended when another request has begun on it.

    A nested request is of the same trace as the one around it; one of another trace came after it.

    Args:
        late: The late recordings, oldest first.
        young: The spans of each watcher that are younger than those.
    """
    newest: dict[int, Recording] = {}
    for recording in late:
        trace_id = _trace_id(recording.span())
        if trace_id:  # Else it has ended, and its span is gone.
            key = recording.carrier.key
            _give_up(newest.get(key), trace_id)
            newest[key] = recording
    for spans in young:
        for span, runner, *_ in list(spans.values()):
            _give_up(newest.get(key_of(runner)), _trace_id(span))


def _give_up(earlier: Recording | None, trace_id: int) -> None:
    if earlier is not None and not earlier.ended and earlier.lost is None:
        earlier_trace_id = _trace_id(earlier.span())
        if earlier_trace_id not in {0, trace_id}:
            earlier.lost = Lost.THREAD_REUSED


def _trace_id(span: Span | None) -> int:
    context = span.context if span is not None else None
    return context.trace_id if context is not None else 0
