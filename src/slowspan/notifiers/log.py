"""The notifier ``log``: one line per report."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slowspan.config import Settings
    from slowspan.report.report import Report

_logger = logging.getLogger("slowspan.report")


def file_writes_the_line(settings: Settings) -> bool:
    """Tell which notifier writes the line when both ``file`` and ``log`` are on.

    It is ``file``: only it knows when the page can be opened, and whether there is one.
    """
    return "file" in settings.notifiers and "log" in settings.notifiers


def log_report(report: Report, where: str | None, problem: str | None = None) -> None:
    """Write the line on a report, as a warning of the logger ``slowspan.report``.

    A warning, because Python shows those even where logging was never set up. The record also carries
    ``slowspan_id``, ``slowspan_trace_id`` and ``slowspan_report``, for handlers that write fields.

    Args:
        report: The report; its summary has no line breaks, whatever the URL had.
        where: Path or address of its page; None when there is none.
        problem: Why there is none.
    """
    line = report.summary
    if where is not None:
        line += f" · report {where}"
    if problem is not None:
        line += f" · {' '.join(problem.split())}"
    fields = {
        "slowspan_id": report.profile.id,
        "slowspan_trace_id": report.profile.span.trace_id,
        "slowspan_report": where,
    }
    _logger.warning("%s", line, extra=fields)


class LogNotifier:
    """Writes one log line per report.

    Args:
        silent: Whether the line is left to the file notifier.
    """

    receives = "reports"

    def __init__(self, *, silent: bool = False) -> None:
        self._silent = silent

    @classmethod
    def from_settings(cls, settings: Settings) -> LogNotifier:
        """Make the notifier; silent where the file notifier writes the same line with the path."""
        return cls(silent=file_writes_the_line(settings))

    def notify(self, report: Report) -> None:
        """Write the line."""
        if not self._silent:
            log_report(report, report.url)

    def check(self) -> str:
        """Return what is written where."""
        return "the file notifier writes the line" if self._silent else "writes to the logger slowspan.report"

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002 -- the protocol's signature
        """Return True: nothing is held back."""
        return True

    def shutdown(self) -> None:
        """Write no more lines."""
        self._silent = True
