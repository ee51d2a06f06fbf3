"""Keeping the report directory small: the oldest reports go, by count, by size and by age."""

from __future__ import annotations

import stat
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slowspan.delivery.naming import is_temporary_file, report_of_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from slowspan.config import Settings
    from slowspan.delivery.store import OpenDirectory

ABANDONED_AFTER = 3600.0
"""Seconds after which a temporary file is that of a dead process: writing one takes well under a second."""


@dataclass(slots=True)
class _Kept:
    """The files of one report: the stored profile, its page, or both."""

    name: str
    files: list[str] = field(default_factory=list)
    size: int = 0
    written_at: float = 0.0


class Retention:
    """Deletes the oldest reports of a directory until the rest is within the limits.

    Any number of processes may do so on one directory: what another one deleted first is no error. A report's
    page and profile go together. Only regular files whose names have the form of ours are touched.

    Args:
        count: The most reports kept.
        size: The most bytes kept.
        age: Seconds for which a report is kept, counted from its last writing.
        clock: Unix time in seconds.
    """

    def __init__(self, *, count: int, size: int, age: float, clock: Callable[[], float] = time.time) -> None:
        self._count = count
        self._size = size
        self._age = age
        self._clock = clock

    @classmethod
    def from_settings(cls, settings: Settings) -> Retention:
        """Make one with the limits of the settings."""
        return cls(count=settings.retention_count, size=settings.retention_bytes, age=settings.retention_age)

    def sweep(self, directory: OpenDirectory) -> int:
        """Delete what is beyond the limits; reads the directory once.

        Args:
            directory: The open report directory.

        Returns:
            How many reports were deleted.

        Raises:
            OSError: The directory cannot be read, or a file cannot be deleted; the others were.
        """
        now = self._clock()
        kept, abandoned = _look(directory, now - ABANDONED_AFTER)
        surplus = self._surplus(kept, now)
        failure: OSError | None = None
        # The page first: a page whose profile is gone would be a report that cannot be exported.
        for file_name in [*abandoned, *(name for report in surplus for name in sorted(report.files))]:
            try:
                directory.remove(file_name)
            except OSError as error:
                failure = error
        if failure is not None:
            raise failure
        return len(surplus)

    def _surplus(self, kept: list[_Kept], now: float) -> list[_Kept]:
        kept.sort(key=lambda report: (report.written_at, report.name))
        size = sum(report.size for report in kept)
        for index, report in enumerate(kept):
            within = len(kept) - index <= self._count and size <= self._size
            if within and report.written_at >= now - self._age:
                return kept[:index]
            size -= report.size
        return kept


def _look(directory: OpenDirectory, abandoned_before: float) -> tuple[list[_Kept], list[str]]:
    """Return the reports in a directory, and the temporary files that nobody writes any more."""
    kept: dict[str, _Kept] = {}
    abandoned: list[str] = []
    for entry in directory.entries():
        name = report_of_file(entry.name)
        temporary = name is None and is_temporary_file(entry.name)
        if name is None and not temporary:
            continue
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(status.st_mode):
            continue
        if name is None:
            if status.st_mtime < abandoned_before:
                abandoned.append(entry.name)
            continue
        report = kept.setdefault(name, _Kept(name))
        report.files.append(entry.name)
        report.size += status.st_size
        report.written_at = max(report.written_at, status.st_mtime)
    return list(kept.values()), abandoned
