"""The late requests: how they come among those that are sampled, and how they leave."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from slowspan import native
from slowspan.recording.carriers import ThreadCarrier, carrier_of
from slowspan.recording.meter import Meter
from slowspan.recording.recording import Lost
from slowspan.recording.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager

    from slowspan.recording.carriers import Carrier
    from slowspan.recording.recording import Recording, Watcher, Young


class Late(dict["Recording", None]):
    """Recordings that are being sampled, in the order in which they became late.

    Only the sampler's thread adds and forgets. Any thread may ask for what is here.
    """

    def __init__(self) -> None:
        # Reentrant: a signal handler can flush in the midst of a flush.
        self._lock: AbstractContextManager[bool] = native.RLock()

    def forget(self, recording: Recording) -> None:
        """Sample a request no longer, and let its owner hand on what its end has left."""
        owner = recording.owner
        # Who has found it here no more finds that it has been handed on.
        with self._lock:
            # First of all: an end that does not find it here hands on by itself.
            self.pop(recording, None)
            owner.on_ended(recording)
        try:
            if recording.trace is not None:
                recording.trace.meter.close()
        except Exception as error:  # noqa: BLE001 - what is left of one must not keep the others here
            owner.on_error(error)

    def hand_on(self, owner: Watcher) -> None:
        """Have an owner's requests that have ended handed on now, not when they are forgotten. On any thread."""
        with self._lock:
            for recording in list(self):
                if recording.owner is owner:
                    owner.on_ended(recording)


def some_home(late: Late, watchers: Iterable[Watcher]) -> tuple[int, bool]:
    """Return the kernel's id of a thread on which a request runs, or 0, and whether others run there, too."""
    carrier = next(_carriers(late, watchers), None)
    return (carrier.native_id, not isinstance(carrier, ThreadCarrier)) if carrier is not None else (0, False)


def _carriers(late: Late, watchers: Iterable[Watcher]) -> Iterator[Carrier]:
    for recording in late:
        yield recording.carrier
    for watcher in watchers:
        for _, runner, *_ in list(watcher.young.values()):
            # Of a greenlet that has ended the hub can be gone.
            with contextlib.suppress(AttributeError):
                yield carrier_of(runner)


def collect_late(late: Late, watchers: Iterable[Watcher], now: int, longest_ns: int) -> tuple[int, int]:
    """Add requests that have become late.

    Args:
        late: Where to.
        watchers: Whose requests.
        now: Unix time in nanoseconds.
        longest_ns: For how long nobody needs to look, if none of the requests of now becomes late before.

    Returns:
        The nanoseconds until the next look, and for how long the first of those that have become late has been.
    """
    next_due = longest_ns
    overdue = 0
    for watcher in watchers:
        # Not its items: a collection amid them, which 3.10 and 3.11 allow, can let a request start or end.
        for key in list(watcher.young):
            young = watcher.young.get(key)
            if young is None:
                continue
            due = (young[0].start_time or 0) + watcher.start_after_ns - now
            if due <= 0:
                overdue = max(overdue, -due)
                _begin(late, watcher, key, young)
            else:
                next_due = min(next_due, due)
                if due <= watcher.start_after_ns:
                    break  # Those that follow are younger still. One that starts in the future tells nothing.
    return next_due, overdue


def _begin(late: Late, owner: Watcher, key: object, young: Young) -> None:
    try:
        recording = owner.on_late(key, young)
    except Exception as error:  # noqa: BLE001 - one owner's failure must not stop the others' sampling
        owner.young.pop(key, None)
        owner.on_error(error)
        return
    if recording is None:
        return
    recording.hung_ns = owner.hung_after_ns
    recording.origin_ns = time.perf_counter_ns() - (time.time_ns() - recording.start_ns)
    if len(late) >= owner.max_recordings:
        recording.lost = Lost.TOO_MANY
    recording.follower = recording.carrier.follower()
    meter = Meter(recording.carrier.native_id, shared=recording.follower.shares_thread)
    recording.trace = Trace(owner.max_samples, meter)
    # Should the span have ended meanwhile, it is forgotten again in this very tick.
    late[recording] = None


def prune_late(late: Late, now: int) -> int:
    """Forget what has ended, and tell owners how old the rest is.

    Args:
        late: Where from.
        now: Unix time in nanoseconds.

    Returns:
        The smallest stride of those that are left.
    """
    stride = 0
    for recording in list(late):
        trace = recording.trace
        age = now - recording.start_ns
        owner = recording.owner
        span = recording.span()
        ended = recording.ended or (span is not None and span.end_time is not None)
        if trace is None or ended or recording.selected is False:
            late.forget(recording)
            continue
        if span is None or age > owner.max_age_ns:
            late.forget(recording)
            owner.on_lost(recording, "its span was not ended")
            continue
        stride = min(stride or trace.stride, trace.stride)
        try:
            if recording.inline is not None:
                owner.on_look(recording)
            if recording.threshold_ns is None:
                owner.on_threshold(recording, age)
            if age >= recording.hung_ns and owner.on_hung(recording, age):
                recording.hung_ns = 2 * age
        except Exception as error:  # noqa: BLE001 - one owner's failure must not stop the others' sampling
            owner.on_error(error)
    return stride or 1
