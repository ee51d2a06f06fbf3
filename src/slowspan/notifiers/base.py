"""The seam for notifiers: what one must do, and what it may rely on. No logic here.

A new notifier is one file (or one function) and one entry point in the group ``slowspan_notifier``::

    [project.entry-points.slowspan_notifier]
    pager = "my_package:PagerNotifier"

The entry point names a class, or a plain function that takes the report. A class is made with its
``from_settings(settings)`` where it has one, else without arguments.

What a notifier may have besides the methods of the protocol:

- ``receives = "reports"``: it gets every report that is kept. Without it, it gets alerts: each slow endpoint once per
  window, with ``report.alert`` set, retried when it raises, and kept for later when it cannot be reached.
- ``withdraw(name)``: where it gets reports, forget the one whose profile has this name: it was told while its request
  ran, and is to be none.
- ``notify_digest(digest)``: tell what the limit on alerts per hour has held back. Without it, it is not told.
- ``check()``: reach the other side without telling anybody anything, for ``slowspan check``; return one line on what
  was found (``posts to town-square of acme as @slowspan``), or raise :class:`DeliveryError` with what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from slowspan.report.report import Report


class DeliveryError(Exception):
    """A notifier could not deliver, and knows whether trying again makes sense. The message must hold no secret.

    Any other exception counts as worth another try.

    Args:
        message: What went wrong and what to do, in one line.
        retry: Whether trying again can help; false for a wrong token, an unknown channel, a report that is too large.
        retry_after: Seconds to wait before the next try, when the other side has said so.
        of_message: Whether without ``retry`` another message may well pass, as after one that is too large. Else the
            channel rests for a while.
    """

    def __init__(
        self, message: str, *, retry: bool = True, retry_after: float | None = None, of_message: bool = False
    ) -> None:
        super().__init__(message)
        self.retry = retry
        self.retry_after = retry_after
        self.of_message = of_message


@runtime_checkable
class Notifier(Protocol):
    """Hands reports to people, in the manner of OpenTelemetry's exporters.

    All calls come from slowspan's delivery threads, never from a request's thread, with OpenTelemetry's
    instrumentation suppressed. One notifier is never called twice at the same time.
    """

    def notify(self, report: Report) -> None:
        """Deliver one report.

        May block; the other notifiers do not wait for it.

        Args:
            report: The report of one slow request; ``report.profile.running`` tells a partial one. Where
                ``receives`` is ``"reports"``, a later report of the same ``report.profile.id`` replaces it.

        Raises:
            Exception: The report was not delivered. It is logged and counted as ``notifier_failed``: an alert only when
                all further tries have failed as well.
        """
        ...

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Deliver whatever is still held back, within the time limit.

        Args:
            timeout_millis: Time limit in milliseconds.

        Returns:
            Whether everything was delivered.
        """
        ...

    def shutdown(self) -> None:
        """Release resources. Nothing is delivered after this call."""
        ...
