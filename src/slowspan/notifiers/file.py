"""The notifier ``file``: a page and the stored profile of each slow request, in a private directory."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from slowspan.counters import Drop, DropError
from slowspan.delivery.naming import PAGE_SUFFIX, PROFILE_SUFFIX
from slowspan.delivery.retention import Retention
from slowspan.delivery.store import ReportStore
from slowspan.notifiers.log import file_writes_the_line, log_report
from slowspan.report.renderer import RenderError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slowspan.config import Settings
    from slowspan.report.report import Report

SWEEP_SHARE = 0.01
"""Share of the time that may go into deleting old reports: reading a directory of 1 000 files takes 5 ms."""

_logger = logging.getLogger("slowspan")


class FileNotifier:
    """Writes ``<name>.json.gz`` and ``<name>.html`` of each report, and deletes the oldest ones.

    The profile comes first: it is small, certain, and the page can be made from it at any time.

    Args:
        store: The report directory.
        retention: What is deleted.
        logs: Whether to write the log line on each report.
        clock: Monotonic time in seconds.
    """

    receives = "reports"

    def __init__(
        self,
        store: ReportStore,
        retention: Retention,
        *,
        logs: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._retention = retention
        self._logs = logs
        self._clock = clock
        self._next_sweep = clock()
        self._sweep_owed = False
        self._sweep_failed = False
        self._is_shut_down = False

    @classmethod
    def from_settings(cls, settings: Settings) -> FileNotifier:
        """Make the notifier for the settings' report directory."""
        return cls(
            ReportStore(settings.report_dir),
            Retention.from_settings(settings),
            logs=file_writes_the_line(settings),
        )

    def notify(self, report: Report) -> None:
        """Write the report's files, then the log line, then delete what is beyond the limits.

        Raises:
            DropError: Nothing was kept (``report_dir_refused``, ``write_failed``), or no page
                (``render_failed``, or ``write_failed`` for the page alone).
        """
        if self._is_shut_down:
            return
        try:
            page = self._write(report)
        except Exception as error:
            if self._logs:
                log_report(report, None, problem=str(error) if isinstance(error, DropError) else repr(error))
            raise
        if self._logs:
            log_report(report, report.url or str(page))

    def withdraw(self, name: str) -> None:
        """Delete the files of a report.

        Args:
            name: Their name without extension.

        Raises:
            DropError: They cannot be deleted (``report_dir_refused``, ``write_failed``).
        """
        for suffix in (PAGE_SUFFIX, PROFILE_SUFFIX):
            self._store.remove(name + suffix)

    def check(self) -> str:
        """Make or verify the report directory.

        Raises:
            ReportDirError: It cannot be used; says what to do.
        """
        with self._store.opened():
            return f"writes into {self._store.directory}"

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002 -- the protocol's signature
        """Delete what is still to be deleted. Every report has been written by then."""
        if self._sweep_owed:
            self._sweep()
        return True

    def shutdown(self) -> None:
        """Delete what is still to be deleted, and write no more reports."""
        self.force_flush()
        self._is_shut_down = True

    def _write(self, report: Report) -> Path:
        name = report.profile.name
        profile = self._store.write(name + PROFILE_SUFFIX, report.stored_profile())
        self._sweep_owed = True
        try:
            return self._store.write(name + PAGE_SUFFIX, report.html())
        except RenderError as error:
            # The page of the still running request would contradict the finished profile beside it.
            self._store.remove(name + PAGE_SUFFIX)
            raise DropError(
                Drop.RENDER_FAILED,
                f"no page: {error}; slowspan export {report.profile.id} --format html makes it of {profile}",
            ) from error
        finally:
            if self._clock() >= self._next_sweep:
                self._sweep()

    def _sweep(self) -> None:
        self._sweep_owed = False
        started = self._clock()
        try:
            with self._store.opened() as directory:
                self._retention.sweep(directory)
        except (OSError, DropError) as error:
            if not self._sweep_failed:
                self._sweep_failed = True
                _logger.warning("cannot delete old reports in %s: %s", self._store.directory, error)
        finally:
            ended = self._clock()
            self._next_sweep = ended + (ended - started) / SWEEP_SHARE
