"""For the tests of applications and notifiers: a notifier that keeps the reports in memory."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slowspan.report.report import Report


class InMemoryNotifier:
    """Keeps every report, for assertions.

    Reports arrive on slowspan's threads: call ``force_flush`` of the tracer provider before looking.
    """

    receives = "reports"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reports: list[Report] = []
        self._is_shut_down = False

    @property
    def reports(self) -> tuple[Report, ...]:
        """The reports so far, oldest first."""
        with self._lock:
            return tuple(self._reports)

    def clear(self) -> None:
        """Forget the reports so far."""
        with self._lock:
            self._reports.clear()

    def notify(self, report: Report) -> None:
        """Keep the report."""
        with self._lock:
            if not self._is_shut_down:
                self._reports.append(report)

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002 -- the protocol's signature
        """Return True: nothing is held back."""
        return True

    def shutdown(self) -> None:
        """Keep no more reports; those so far stay."""
        with self._lock:
            self._is_shut_down = True
