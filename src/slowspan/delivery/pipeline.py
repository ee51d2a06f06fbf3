"""From a finished recording to every notifier: the rooms behind the queue."""

from __future__ import annotations

import os
import time
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from slowspan.counters import Drop, DropError
from slowspan.delivery.naming import ALERT_STATE, report_url, trace_url
from slowspan.delivery.queue import DeliveryQueue
from slowspan.fork import call_after_fork
from slowspan.report.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slowspan.config import Settings
    from slowspan.counters import Counters
    from slowspan.delivery.alerting import Alerter
    from slowspan.notifiers.base import Notifier
    from slowspan.recording.profile import Profile, SpanFacts
    from slowspan.report.alert import Alert


class Submitted(Protocol):
    """What can be submitted: a recording that has ended, or one of a request that still runs."""

    @property
    def id(self) -> str:
        """The profile's id; a later one with the same id replaces one that still waits."""
        ...

    @property
    def running(self) -> bool:
        """Whether the request still ran."""
        ...

    @property
    def duration_ns(self) -> int:
        """How long it took, or has taken so far, in nanoseconds."""
        ...

    @property
    def kept(self) -> bool:
        """Whether the limit on reports lets this one be kept."""
        ...

    @property
    def withdrawn(self) -> bool:
        """Whether it is to be reported no more, and what was reported of it while it ran is to be deleted."""
        ...

    @property
    def name(self) -> str:
        """The report's file name without extension."""
        ...


class RenderHtml(Protocol):
    """Makes the page from a stored profile; ``ChildRenderer.render_html`` is one."""

    def __call__(self, stored: bytes, trace_url: str | None = None) -> bytes:
        """Return the page.

        Raises:
            RenderError: The page could not be made.
        """
        ...


F = TypeVar("F", bound=Submitted)


class Delivery(Generic[F]):
    """Turns finished recordings into reports and hands them to the notifiers: to some each, to some as alerts.

    One thread resolves recordings; each notifier has a queue and a thread of its own, so that one that hangs
    or fails takes nothing from the others. All threads start with the first recording, in every process anew.

    Args:
        settings: The settings.
        counters: Where reports and losses are counted.
        load: Makes the notifiers, with their names; called once in each process, on the delivery thread.
        facts: Reads what a report says of the span, on the delivery thread; takes microseconds.
        resolve: Makes a profile from what was submitted and its facts, on the delivery thread; takes milliseconds.
        render_html: Makes a report's page, on the thread of the first notifier that asks for it.
        compress: Makes a profile's stored form, likewise.
        clock: Unix time in seconds, for alerts.
    """

    def __init__(
        self,
        settings: Settings,
        counters: Counters,
        *,
        load: Callable[[], Sequence[tuple[str, Notifier]]],
        facts: Callable[[F], SpanFacts],
        resolve: Callable[[F, SpanFacts], Profile],
        render_html: RenderHtml,
        compress: Callable[[Profile], bytes],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._counters = counters
        self._load = load
        self._facts = facts
        self._resolve = resolve
        self._render_html = render_html
        self._compress = compress
        self._clock = clock
        self._receivers: _Receivers | None = None
        self._intake: DeliveryQueue[Callable[[], F]] = DeliveryQueue(
            self._deliver, name="slowspan-delivery", size=settings.queue_size, counters=counters, tick=self._tick
        )
        call_after_fork(self._forget_receivers)

    def _forget_receivers(self) -> None:
        # A forked child makes its own: connections and locks of the parent's notifiers are not for sharing.
        self._receivers = None

    def start(self) -> None:
        """Start the delivery thread ahead of the first submission, from a thread that has the time."""
        self._intake.start()

    def submit(self, finished: F) -> None:
        """Queue a finished or partial recording. On any thread: microseconds, never blocks, never raises."""
        self.submit_later(finished.id, lambda: finished)

    def submit_later(self, id: str, finish: Callable[[], F]) -> None:
        """Queue a recording that has yet to be put together. As ``submit``.

        Args:
            id: The profile's.
            finish: Returns the finished recording; called on the delivery thread.
        """
        self._intake.put(id, finish)

    def wants(self, *, kept: bool) -> bool:
        """Return whether a finished recording goes to anybody. On any thread.

        Args:
            kept: Whether the limit on reports lets it be kept.
        """
        receivers = self._receivers
        if receivers is None:
            return True  # Not known before the first one.
        return receivers.alerter is not None or (kept and bool(receivers.lanes))

    def in_haste(self) -> bool:
        """Return whether somebody waits for what is here, or so much of it that some would be lost. On any thread."""
        return self._intake.is_crowded() or any(queue.is_awaited() for queue in (self._intake, *self._queues()))

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Wait until everything submitted has been delivered or has failed.

        Args:
            timeout_millis: Time limit in milliseconds, for all notifiers together.

        Returns:
            Whether that was so in time.
        """
        deadline = time.monotonic() + timeout_millis / 1000
        resolved = self._intake.begin_flush(deadline).wait()
        flushes = [queue.begin_flush(deadline) for queue in self._queues()]
        delivered = [flush.wait() for flush in flushes]
        return resolved and all(delivered)

    def shutdown(self, timeout: float | None = None) -> bool:
        """Deliver what is queued, within the time limit, and end all threads; count what is left as lost.

        A notifier that hangs keeps its daemon thread, never the caller. Alerts that were not told wait in the outbox.

        Args:
            timeout: Time limit in seconds; the setting ``flush_timeout`` when None.

        Returns:
            Whether everything was delivered.
        """
        deadline = time.monotonic() + (self._settings.flush_timeout if timeout is None else timeout)
        self._intake.close()
        resolved = self._intake.join(_until(deadline))
        receivers = self._receivers
        if receivers is not None:
            receivers.close()
        delivered = [queue.join(_until(deadline)) for queue in self._queues()]
        if receivers is not None and receivers.alerter is not None:
            receivers.alerter.shutdown()
        self._counters.log_losses(now=True)
        return resolved and all(delivered)

    def _queues(self) -> Sequence[DeliveryQueue[Any]]:
        return self._receivers.queues() if self._receivers is not None else ()

    def _prepare(self) -> _Receivers:
        if self._receivers is None:
            notifiers = self._load()
            lanes = [_Lane(*one, self._settings.queue_size, self._counters) for one in notifiers if _gets_reports(one)]
            # What the file has is what there is to read.
            for lane in sorted(lanes, key=lambda lane: lane.name != "file")[:1]:
                lane.is_keeper = True
            self._receivers = _Receivers(lanes, self._alerter([one for one in notifiers if not _gets_reports(one)]))
            self._intake.wake()
        return self._receivers

    def _alerter(self, notifiers: Sequence[tuple[str, Notifier]]) -> Alerter | None:
        if not notifiers:
            return None
        # Imported here because most processes have no channel to tell alerts to.
        from slowspan.delivery.alerting import Alerter

        return Alerter(
            self._settings,
            self._counters,
            notifiers,
            restore=self._restore,
            wake=self._intake.wake,
            clock=self._clock,
        )

    def _deliver(self, finish: Callable[[], F]) -> None:
        receivers = self._prepare()
        finished = finish()
        if finished.withdrawn:
            for lane in receivers.lanes:
                lane.withdraw(finished.id, finished.name)
            return
        if not self.wants(kept=finished.kept):
            return
        facts = self._facts(finished)
        # Made by whoever needs it first, if anybody does: most slow requests of an outage are only counted.
        report = cache(lambda: self._report(self._resolve(finished, facts), is_kept=finished.kept))
        if finished.kept:
            for lane in receivers.lanes:
                lane.put(report())
        if receivers.alerter is not None:
            receivers.alerter.consider(finished, facts, report)

    def _tick(self) -> float | None:
        # Before the first slow request notifiers are loaded only where an earlier process may have left something.
        # Not Path.exists, which raises where the directory cannot be entered.
        if self._receivers is None and not os.path.exists(self._settings.report_dir / ALERT_STATE):  # noqa: PTH110
            return None
        alerter = self._prepare().alerter
        return alerter.tick() if alerter is not None else None

    def _report(self, profile: Profile, alert: Alert | None = None, *, is_kept: bool = True) -> Report:
        link = trace_url(self._settings, profile.span.trace_id, profile.span.span_id)
        return Report(
            profile,
            render_html=partial(self._render_html, trace_url=link),
            compress=self._compress,
            url=report_url(self._settings, profile.id, profile.name) if is_kept else None,
            trace_url=link,
            alert=alert,
        )

    def _restore(self, stored: bytes, alert: Alert) -> Report:
        # Imported here because only an alert that waited in the outbox needs it.
        from slowspan.recording.profile import read_profile

        return self._report(read_profile(stored), alert)


class _Receivers(NamedTuple):
    """The notifiers of one process: lanes for those that get every report, an alerter for the others."""

    lanes: list[_Lane]
    alerter: Alerter | None

    def queues(self) -> list[DeliveryQueue[Any]]:
        channels = self.alerter.channels.values() if self.alerter is not None else ()
        return [*(lane.queue for lane in self.lanes), *(channel.queue for channel in channels)]

    def close(self) -> None:
        for lane in self.lanes:
            lane.queue.close()
        if self.alerter is not None:
            self.alerter.close()


class _Lane:
    """One notifier with its queue and thread.

    Attributes:
        name: The notifier's name.
        is_keeper: Whether what it has is counted as a report.
    """

    def __init__(self, name: str, notifier: Notifier, size: int, counters: Counters) -> None:
        self.name = name
        self.is_keeper = False
        self._notifier = notifier
        self._counters = counters
        self.queue: DeliveryQueue[Callable[[], None]] = DeliveryQueue(
            _call,
            name=f"slowspan-{name}",
            size=size,
            counters=counters,
            flush=notifier.force_flush,
            close=notifier.shutdown,
        )

    def put(self, report: Report) -> None:
        self._put(report.profile.id, partial(self._notify, report))

    def withdraw(self, id: str, name: str) -> None:
        """Have the notifier forget a report of a request that still ran, if it can."""
        withdraw = getattr(self._notifier, "withdraw", None)
        if withdraw is not None:
            self._put(id, partial(withdraw, name))

    def _put(self, id: str, job: Callable[[], None]) -> None:
        if self.queue.start():
            self.queue.put(id, job)
            return
        # Python 3.12 starts no thread at interpreter exit: better on this one than not at all.
        try:
            job()
        except DropError as error:
            self._counters.drop(error.reason, detail=str(error))

    def _notify(self, report: Report) -> None:
        try:
            self._notifier.notify(report)
        except DropError:
            raise
        except Exception as error:
            raise DropError(Drop.NOTIFIER_FAILED, f"{self.name}: {error!r}") from error
        self._counters.add_delivered(self.name)
        if self.is_keeper and not report.profile.running:
            self._counters.add("reports")


def _call(job: Callable[[], None]) -> None:
    job()


def _gets_reports(named: tuple[str, Notifier]) -> bool:
    return getattr(named[1], "receives", "alerts") == "reports"


def _until(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
