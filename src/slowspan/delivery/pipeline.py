"""From a finished recording to every notifier: the rooms behind the queue."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from slowspan.counters import Drop, DropError
from slowspan.delivery.naming import report_url, trace_url
from slowspan.delivery.queue import DeliveryQueue
from slowspan.fork import call_after_fork
from slowspan.report.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slowspan.config import Settings
    from slowspan.counters import Counters
    from slowspan.notifiers.base import Notifier
    from slowspan.recording.profile import Profile


class Identified(Protocol):
    """What can be submitted: anything with the id of its profile."""

    @property
    def id(self) -> str:
        """The profile's id; a later one with the same id replaces one that still waits."""
        ...


class RenderHtml(Protocol):
    """Makes the page from a stored profile; ``ChildRenderer.render_html`` is one."""

    def __call__(self, stored: bytes, trace_url: str | None = None) -> bytes:
        """Return the page.

        Raises:
            RenderError: The page could not be made.
        """
        ...


F = TypeVar("F", bound=Identified)


class Delivery(Generic[F]):
    """Turns finished recordings into reports and hands each to every notifier.

    One thread resolves recordings; each notifier has a queue and a thread of its own, so that one that hangs
    or fails takes nothing from the others. All threads start with the first recording, in every process anew.

    Args:
        settings: The settings.
        counters: Where reports and losses are counted.
        load: Makes the notifiers, with their names; called once in each process, on the delivery thread.
        resolve: Makes a profile from what was submitted, on the delivery thread.
        render_html: Makes a report's page, on the thread of the first notifier that asks for it.
        compress: Makes a profile's stored form, likewise.
    """

    def __init__(
        self,
        settings: Settings,
        counters: Counters,
        *,
        load: Callable[[], Sequence[tuple[str, Notifier]]],
        resolve: Callable[[F], Profile],
        render_html: RenderHtml,
        compress: Callable[[Profile], bytes],
    ) -> None:
        self._settings = settings
        self._counters = counters
        self._load = load
        self._resolve = resolve
        self._render_html = render_html
        self._compress = compress
        self._lanes: tuple[_Lane, ...] | None = None
        self._intake: DeliveryQueue[F] = DeliveryQueue(
            self._deliver, name="slowspan-delivery", size=settings.queue_size, counters=counters
        )
        call_after_fork(self._forget_lanes)

    def _forget_lanes(self) -> None:
        # A forked child makes its own: connections and locks of the parent's notifiers are not for sharing.
        self._lanes = None

    def start(self) -> None:
        """Start the delivery thread ahead of the first submission, from a thread that has the time."""
        self._intake.start()

    def submit(self, finished: F) -> None:
        """Queue a finished or partial recording. On any thread: microseconds, never blocks, never raises."""
        self._intake.put(finished.id, finished)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Wait until everything submitted has been delivered or has failed.

        Args:
            timeout_millis: Time limit in milliseconds, for all notifiers together.

        Returns:
            Whether that was so in time.
        """
        deadline = time.monotonic() + timeout_millis / 1000
        resolved = self._intake.begin_flush(deadline).wait()
        flushes = [lane.queue.begin_flush(deadline) for lane in self._lanes or ()]
        delivered = [flush.wait() for flush in flushes]
        return resolved and all(delivered)

    def shutdown(self, timeout: float | None = None) -> bool:
        """Deliver what is queued, within the time limit, and end all threads; count what is left as lost.

        A notifier that hangs keeps its daemon thread, never the caller.

        Args:
            timeout: Time limit in seconds; the setting ``flush_timeout`` when None.

        Returns:
            Whether everything was delivered.
        """
        deadline = time.monotonic() + (self._settings.flush_timeout if timeout is None else timeout)
        self._intake.close()
        resolved = self._intake.join(_until(deadline))
        lanes = self._lanes or ()
        for lane in lanes:
            lane.queue.close()
        delivered = [lane.queue.join(_until(deadline)) for lane in lanes]
        self._counters.log_losses(now=True)
        return resolved and all(delivered)

    def _deliver(self, finished: F) -> None:
        lanes = self._lanes
        if lanes is None:
            size = self._settings.queue_size
            lanes = tuple(_Lane(name, notifier, size, self._counters) for name, notifier in self._load())
            self._lanes = lanes
        if not lanes:
            return
        profile = self._resolve(finished)
        link = trace_url(self._settings, profile.span.trace_id, profile.span.span_id)
        report = Report(
            profile,
            render_html=partial(self._render_html, trace_url=link),
            compress=self._compress,
            url=report_url(self._settings, profile.id, profile.name),
            trace_url=link,
        )
        if not profile.running:
            self._counters.add("reports")
        for lane in lanes:
            lane.put(report)


class _Lane:
    """One notifier with its queue and thread."""

    def __init__(self, name: str, notifier: Notifier, size: int, counters: Counters) -> None:
        self._name = name
        self._notifier = notifier
        self._counters = counters
        self.queue: DeliveryQueue[Report] = DeliveryQueue(
            self._notify,
            name=f"slowspan-{name}",
            size=size,
            counters=counters,
            flush=notifier.force_flush,
            close=notifier.shutdown,
        )

    def put(self, report: Report) -> None:
        if self.queue.start():
            self.queue.put(report.profile.id, report)
            return
        # Python 3.12 starts no thread at interpreter exit: better on this one than not at all.
        try:
            self._notify(report)
        except DropError as error:
            self._counters.drop(error.reason, detail=str(error))

    def _notify(self, report: Report) -> None:
        try:
            self._notifier.notify(report)
        except DropError:
            raise
        except Exception as error:
            raise DropError(Drop.NOTIFIER_FAILED, f"{self._name}: {error!r}") from error
        self._counters.add_delivered(self._name)


def _until(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
