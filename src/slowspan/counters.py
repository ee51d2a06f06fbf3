"""What slowspan counts of itself: how many spans, how many slow ones, and every loss with its reason."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Literal, NamedTuple

from slowspan import native
from slowspan.fork import call_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Counted = Literal["recorded", "slow", "reports"]

LOG_INTERVAL = 60.0
"""Seconds between two log lines on losses: often enough to be noticed, too rare to fill a disk."""

_MAX_DETAIL = 300
"""Characters of a detail in the log line: an error's text can be a whole page."""

_logger = logging.getLogger("slowspan")


class Drop:
    """The reasons for which something can be lost, as logs, metrics and ``status()`` show them."""

    TOO_MANY_RECORDINGS = "too_many_recordings"
    """More requests were late at once than ``max_recordings``; this one was not sampled."""
    WATCHED_ALREADY = "watched_already"
    """A late span was left to another processor, which watches it as well, by settings that may be others."""
    NOT_LINKED = "not_linked"
    """A slow span had ended before its profile could be written on it; the report was made all the same."""
    SPAN_ABANDONED = "span_abandoned"
    """A span was never ended; its recording was given up."""
    QUEUE_FULL = "queue_full"
    """A profile waited for delivery when newer ones filled the queue (``queue_size``)."""
    NO_THREAD = "no_thread"
    """The system refused a thread for delivery."""
    SHUTDOWN = "shutdown"
    """A profile came after the shutdown, or was not delivered within ``flush_timeout``."""
    REPORT_DIR_REFUSED = "report_dir_refused"
    """The report directory is not safe to write into; the log says why."""
    WRITE_FAILED = "write_failed"
    """A report could not be written, for example to a full disk."""
    RENDER_FAILED = "render_failed"
    """A page could not be made. The profile was kept: ``slowspan export`` makes the page later."""
    REPORT_LIMIT = "report_limit"
    """An endpoint had ``reports_per_hour`` reports in this hour; this request's was not kept."""
    ALERT_LIMIT = "alert_limit"
    """``alerts_per_hour`` alerts were told in this hour; the message at its end sums up the others."""
    OUTBOX_FULL = "outbox_full"
    """An alert that a channel could not be told was given up: too many wait, for too long, or they cannot be stored."""
    NOTIFIER_FAILED = "notifier_failed"
    """A notifier could not be loaded, or did not deliver a report."""
    INTERNAL_ERROR = "internal_error"
    """An error of slowspan itself; the log names it."""


class DropError(Exception):
    """Something was lost for a reason that has a name. Whoever catches it counts it.

    Attributes:
        reason: One of :class:`Drop`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Counts(NamedTuple):
    """The counts at one moment, of this process alone."""

    recorded: int
    """Spans that were late enough to be sampled."""
    slow: int
    """Spans that ended over their threshold."""
    reports: int
    """Reports of finished requests that were written; without the notifier ``file``, that the first one has."""
    delivered: Mapping[str, int]
    """Reports that each notifier delivered, partial ones included."""
    failed: Mapping[str, int]
    """Alerts that each channel did not deliver after all its tries; those in the outbox are tried again."""
    drops: Mapping[str, int]
    """Losses by reason; see :class:`Drop`."""


class Counters:
    """Counts, from any thread, and sums up losses in a log line once a minute.

    Counting takes well under a microsecond and does no I/O, so it is fit for a request's thread. Logging is
    not: the line is written by whoever calls :meth:`log_losses`, the delivery and the sampler thread. A
    forked child counts from zero.

    Args:
        clock: Monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._clear()
        call_after_fork(self._clear)

    def _clear(self) -> None:
        # Reentrant, because a signal handler or a finalizer may count while its own thread is counting here.
        self._lock = native.RLock()
        self._counts: dict[Counted, int] = {"recorded": 0, "slow": 0, "reports": 0}
        self._delivered: dict[str, int] = {}
        self._failed: dict[str, int] = {}
        self._drops: dict[str, int] = {}
        self._untold: dict[str, int] = {}
        self._details: dict[str, str] = {}
        self._told_at: float | None = None

    def add(self, name: Counted, count: int = 1) -> None:
        """Count spans or reports. On any thread; never raises."""
        with self._lock:
            self._counts[name] += count

    def add_delivered(self, notifier: str) -> None:
        """Count a report that a notifier delivered. On any thread; never raises."""
        with self._lock:
            self._delivered[notifier] = self._delivered.get(notifier, 0) + 1

    def add_failed(self, channel: str) -> None:
        """Count an alert that a channel did not deliver. On any thread; never raises."""
        with self._lock:
            self._failed[channel] = self._failed.get(channel, 0) + 1

    def drop(self, reason: str, count: int = 1, detail: str | None = None) -> None:
        """Count a loss. On any thread; never raises, and logs nothing: that is left to :meth:`log_losses`.

        Args:
            reason: One of :class:`Drop`.
            count: How many were lost.
            detail: What exactly happened; the last one of each reason is in the log line.
        """
        with self._lock:
            self._drops[reason] = self._drops.get(reason, 0) + count
            self._untold[reason] = self._untold.get(reason, 0) + count
            if detail is not None:
                self._details[reason] = detail

    def snapshot(self) -> Counts:
        """Return all counts as they are now."""
        with self._lock:
            return Counts(
                **self._counts,
                delivered=dict(self._delivered),
                failed=dict(self._failed),
                drops=dict(self._drops),
            )

    def line_due_in(self) -> float | None:
        """Return the seconds until losses may be logged again, or None when there is nothing to tell."""
        with self._lock:
            if not self._untold:
                return None
            if self._told_at is None:
                return 0.0
            return max(0.0, self._told_at + LOG_INTERVAL - self._clock())

    def log_losses(self, *, now: bool = False) -> None:
        """Write a log line that sums up the losses since the last one; the first at once, then one a minute.

        For threads of slowspan only: log handlers may block, and may call back into slowspan. Never raises.

        Args:
            now: Whether to write without waiting for the minute to pass, as at shutdown.
        """
        with self._lock:
            due_in = self.line_due_in()
            if due_in is None or (due_in > 0 and not now):
                return
            losses, self._untold = self._untold, {}
            details, self._details = self._details, {}
            self._told_at = self._clock()
        try:
            _logger.warning(
                "slowspan lost %d profiles or reports: %s",
                sum(losses.values()),
                ", ".join(_tell(reason, count, details.get(reason)) for reason, count in losses.items()),
            )
        except Exception:  # noqa: BLE001 -- a log handler that raises leaves nobody to tell
            return


def _tell(reason: str, count: int, detail: str | None) -> str:
    if detail is None:
        return f"{reason} {count}"
    # A detail can quote a URL or a server's answer, and must not be able to begin a log line of its own.
    line = " ".join(detail.split())
    if len(line) > _MAX_DETAIL:
        line = line[: _MAX_DETAIL - 1] + "…"
    return f"{reason} {count} ({line})"
