"""Messages on alerts that were held back: told by every channel, and kept for another try when none could."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slowspan.counters import Drop
from slowspan.delivery.outbox import LONGEST_WAIT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from slowspan.counters import Counters
    from slowspan.delivery.channel import Channel
    from slowspan.notifiers.base import DeliveryError
    from slowspan.report.alert import Digest

FIRST_RETRY = 60.0
"""Seconds until a message that no channel could tell is tried again; doubles with each try."""

LAST_RETRY = 3600.0

_MOST_KEPT = 24

_logger = logging.getLogger("slowspan")


@dataclass(slots=True)
class _Message:
    created: float
    waiting_for: set[str] = field(default_factory=set)
    """Names of the channels that have not answered yet."""
    problems: list[str] = field(default_factory=list)
    tries: int = 0
    delivered: bool = False
    due: float | None = None


class Digests:
    """The messages that are being told, or wait in memory for another try. On the delivery thread, but for ``note``.

    Args:
        channels: The channels by their names; may be filled later.
        counters: Where losses are counted.
        wake: Has ``tick`` called soon, from any thread.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        channels: Mapping[str, Channel],
        counters: Counters,
        *,
        wake: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._channels = channels
        self._counters = counters
        self._wake = wake
        self._clock = clock
        # Made anew in a forked child, like the channels.
        self._lock = threading.Lock()
        self._messages: dict[Digest, _Message] = {}

    def tell(self, digest: Digest) -> None:
        """Hand a message to all channels that can tell it."""
        with self._lock:
            self._messages[digest] = _Message(self._clock())
            if len(self._messages) > _MOST_KEPT:
                self._give_up(next(iter(self._messages)))
        self._put(digest)

    def tick(self, now: float) -> float | None:
        """Try again what is due; return the seconds until something is, or None."""
        with self._lock:
            due = [digest for digest, message in self._messages.items() if message.due is not None]
            due = [digest for digest in due if (self._messages[digest].due or 0.0) <= now]
        for digest in due:
            self._put(digest)
        with self._lock:
            waits = [message.due - now for message in self._messages.values() if message.due is not None]
        return min(waits, default=None)

    def note(self, digest: Digest, name: str, error: DeliveryError | None) -> None:
        """Note how a channel fared. Runs on the channel's thread."""
        with self._lock:
            message = self._messages.get(digest)
            if message is None or name not in message.waiting_for:
                return
            message.waiting_for.discard(name)
            if error is None:
                message.delivered = True
            else:
                message.problems.append(str(error))
            if message.waiting_for:
                return
            pause = min(FIRST_RETRY * 2.0**message.tries, LAST_RETRY)
            pause = max(pause, (error.retry_after if error is not None else None) or 0.0)
            message.tries += 1
            if message.delivered or self._clock() + pause > message.created + LONGEST_WAIT:
                self._give_up(digest)
                return
            message.due = self._clock() + pause
        if message.tries == 1:
            _logger.warning("%s; the message on alerts held back is kept and tried again", error)
        self._wake()

    def close(self) -> None:
        """Count as lost what nobody was told."""
        with self._lock:
            for digest in list(self._messages):
                self._give_up(digest)

    def _put(self, digest: Digest) -> None:
        channels = [channel for channel in self._channels.values() if channel.tells_digests]
        with self._lock:
            message = self._messages.get(digest)
            if message is None:
                return
            if not channels:
                del self._messages[digest]
                return
            message.due = None
            message.problems.clear()
            message.waiting_for = {channel.name for channel in channels}
        for channel in channels:
            channel.put_digest(digest)

    def _give_up(self, digest: Digest) -> None:
        """Forget a message that is told, or will not be, and count what went wrong. The caller holds the lock."""
        message = self._messages.pop(digest)
        for problem in message.problems:
            self._counters.drop(Drop.NOTIFIER_FAILED, detail=problem)
