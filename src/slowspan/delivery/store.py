"""The report directory: private, and never holding half a file."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from slowspan.counters import Drop, DropError
from slowspan.delivery.naming import is_alert_state, is_temporary_file, report_of_file, temporary_file

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_AS_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _NO_LINK
_AS_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | _NO_LINK
_POSIX = os.open in os.supports_dir_fd and os.scandir in os.supports_fd and hasattr(os, "geteuid")


class ReportDirError(DropError):
    """The report directory is not safe, or cannot be made. It is looked at anew for every report."""

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        super().__init__(Drop.REPORT_DIR_REFUSED, f"the report directory {path} {problem}: {remedy}")


class OpenDirectory:
    """The verified report directory, held open.

    All its operations mean the directory that was verified, whatever its path points to by now; without a
    descriptor (on Windows) they mean the path.
    """

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self._path = path
        self._descriptor = descriptor

    def entries(self) -> Iterator[os.DirEntry[str]]:
        """Yield the directory's entries; ``stat`` of an entry never follows a link when asked not to."""
        with os.scandir(self._path if self._descriptor is None else self._descriptor) as entries:
            yield from entries

    def create(self, file_name: str) -> int:
        """Create a file that only its owner may read, and return its descriptor; fails when it exists."""
        return os.open(self._at(file_name), _AS_NEW_FILE, 0o600, dir_fd=self._descriptor)

    def replace(self, file_name: str, new_name: str) -> None:
        """Rename a file, over an existing one if need be, in one step."""
        os.replace(self._at(file_name), self._at(new_name), src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def remove(self, file_name: str) -> None:
        """Delete a file; that it is gone already, because another process deleted it, is no error."""
        try:
            os.unlink(self._at(file_name), dir_fd=self._descriptor)
        except FileNotFoundError:
            return

    def _at(self, file_name: str) -> str:
        return str(self._path / file_name) if self._descriptor is None else file_name


class ReportStore:
    """Writes the files of reports into a directory that nobody else can read or write.

    The directory is opened and verified for every use, which takes microseconds: it may be deleted, replaced
    or repaired while the application runs.

    Args:
        directory: Absolute path; made with mode 0700, its parents with the usual one.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, file_name: str, data: bytes) -> Path:
        """Write one file of a report, or replace it, so that a reader sees all of it or nothing.

        The data is not forced to the disk, which could make the application's own writes wait: a killed
        process loses nothing by that, a machine without power may lose the reports of its last seconds.

        Args:
            file_name: A report's name with one of its suffixes.
            data: The content.

        Returns:
            The file's path.

        Raises:
            ReportDirError: The directory is not safe or cannot be made.
            DropError: The file cannot be written (``write_failed``).
        """
        if report_of_file(file_name) is None:
            raise DropError(Drop.WRITE_FAILED, f"{file_name!r} is no name of a report's file")
        path = self.directory / file_name
        temporary = temporary_file(file_name)
        with self.opened() as directory:
            try:
                with os.fdopen(directory.create(temporary), "wb") as file:
                    file.write(data)
                directory.replace(temporary, file_name)
            except OSError as error:
                _remove_quietly(directory, temporary)
                raise DropError(Drop.WRITE_FAILED, f"cannot write {path}: {error.strerror or error}") from error
        return path

    def remove(self, file_name: str) -> None:
        """Delete one file of a report, if it is there.

        Raises:
            ReportDirError: The directory is not safe or cannot be made.
            DropError: The file cannot be deleted (``write_failed``).
        """
        with self.opened() as directory:
            try:
                directory.remove(file_name)
            except OSError as error:
                raise DropError(
                    Drop.WRITE_FAILED,
                    f"cannot delete {self.directory / file_name}: {error.strerror or error}",
                ) from error

    @contextmanager
    def opened(self) -> Iterator[OpenDirectory]:
        """Make the directory if need be, verify it, and hold it open.

        Raises:
            ReportDirError: The directory is not safe or cannot be made.
        """
        try:
            descriptor = _open(self.directory)
        except OSError as error:
            raise ReportDirError(
                self.directory,
                f"cannot be used ({error.strerror or error})",
                "set report_dir to a directory that this user can create and write",
            ) from error
        try:
            yield OpenDirectory(self.directory, descriptor)
        finally:
            if descriptor is not None:
                os.close(descriptor)


def _open(path: Path) -> int | None:
    """Open the directory without following a link at its last part, and verify what was opened."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise ReportDirError(path, "is a symbolic link", "set report_dir to the directory that it should be")
    if not stat.S_ISDIR(found.st_mode):
        raise ReportDirError(path, "is not a directory", "remove the file, or set report_dir to another path")
    if not _POSIX:
        return None
    descriptor = os.open(path, _AS_DIRECTORY)
    try:
        _verify(path, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _verify(path: Path, descriptor: int) -> None:
    status = os.fstat(descriptor)
    user = os.geteuid()
    if status.st_uid != user:
        raise ReportDirError(
            path,
            f"belongs to the user with id {status.st_uid}, and this process runs as {user}",
            "set report_dir to a directory of this process's user",
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077 == 0:
        return
    names = os.listdir(descriptor)
    if mode & 0o022 and names:
        raise ReportDirError(
            path,
            f"can be written by other users (mode {mode:04o}) and is not empty",
            f"see that nothing in it is another user's, then: chmod 700 {path}",
        )
    if not all(report_of_file(name) or is_temporary_file(name) or is_alert_state(name) for name in names):
        # Not tightened: it may be a directory that other programs of this user share.
        raise ReportDirError(
            path,
            f"can be read by other users (mode {mode:04o}) and holds other files than reports",
            f"set report_dir to a directory for reports only, or: chmod 700 {path}",
        )
    os.fchmod(descriptor, 0o700)


def _remove_quietly(directory: OpenDirectory, file_name: str) -> None:
    try:
        directory.remove(file_name)
    except OSError:
        # What made the writing fail is worth telling; what is left over is swept away later.
        return
