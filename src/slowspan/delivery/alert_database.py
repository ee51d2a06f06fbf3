"""The SQLite file beside the reports: one connection per process, safe across fork, made anew when it is damaged.

Imported late: it needs ``sqlite3``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import sqlite3
import threading
import time
import weakref
from typing import TYPE_CHECKING

from slowspan import native
from slowspan.delivery.naming import ALERT_STATE
from slowspan.delivery.store import ReportStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUSY_TIMEOUT = 1.0
"""Seconds to wait for another process's transaction, which takes well under a millisecond."""

_BUSY_PAUSE = (0.0002, 0.001)
"""Seconds between two attempts, at random, so that processes do not meet again and again."""

_SWITCHING_PAUSE = (0.002, 0.02)
"""The same where an attempt itself keeps the others from succeeding, since it reads what nobody else may read then."""

_FORK_WAIT = 1.0
"""Seconds that a fork waits for a transaction of another thread."""

_logger = logging.getLogger("slowspan")

_abandoned: list[sqlite3.Connection] = []
"""Connections of a parent process: a child may neither use nor close them, and so must keep them."""


class AlertDatabase:
    """The SQLite file of a report directory.

    The connection is opened when it is needed, and closed before this process forks: SQLite's locks belong to a
    process, and a child that inherits an open file would take its parent's locks for its own. A file that was
    deleted or replaced is noticed at the next transaction.

    Args:
        directory: The report directory; it is made, or refused, as for reports. Not on a network file system.
        schema: Statements that make the tables, each harmless when they exist.
    """

    def __init__(self, directory: Path, schema: tuple[str, ...]) -> None:
        self.path: Path = directory / ALERT_STATE
        self._schema = schema
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._locked_for_fork = False
        _follow_forks(self)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the file's write lock for a few statements, which count wholly or not at all.

        Raises:
            sqlite3.Error: The file cannot be used: busy, on a full disk, damaged (it is then replaced at once, and
                the next transaction works).
            ReportDirError: The directory is not safe or cannot be made.
            OSError: The file cannot be made.
        """
        with self._lock:
            try:
                connection = self._opened()
                _execute_in_turn(connection, "BEGIN IMMEDIATE")
                try:
                    yield connection
                    # With write-ahead logging nobody is in its way; where that cannot be, readers are.
                    _execute_in_turn(connection, "COMMIT")
                except BaseException:
                    with contextlib.suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                    raise
            except sqlite3.DatabaseError as error:
                if _is_damage(error):
                    self._move_aside(error)
                raise

    def close(self) -> None:
        """Close the connection; the next transaction opens it again."""
        with self._lock:
            self._close()

    def _opened(self) -> sqlite3.Connection:
        if self._connection is not None:
            if self._identity == _identity(self.path):
                return self._connection
            self._close()
        try:
            self._connection = self._open()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            self._move_aside(error)
            self._connection = self._open()
        return self._connection

    def _open(self) -> sqlite3.Connection:
        with ReportStore(self.path.parent).opened() as directory, contextlib.suppress(FileExistsError):
            os.close(directory.create(self.path.name))
        self._identity = _identity(self.path)
        # Transactions are begun by hand, and threads take turns by the lock above.
        connection = sqlite3.connect(
            self.path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False, cached_statements=32
        )
        try:
            # A new file holds nothing that would be worth a disk's second or two, for which all the others would wait.
            connection.execute("PRAGMA synchronous=OFF")
            _execute_in_turn(connection, "PRAGMA journal_mode=WAL", _SWITCHING_PAUSE)
            connection.execute("PRAGMA journal_size_limit=1000000")
            for statement in self._schema:
                connection.execute(statement)
            # A machine without power may forget the last alerts; the disk is not waited for.
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA busy_timeout=0")  # from here on waited for by ``_execute_in_turn``
        except BaseException:
            connection.close()
            raise
        return connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _move_aside(self, error: sqlite3.Error) -> None:
        """Rename a damaged file, unless another process has done so, to make place for a new one."""
        self._close()
        with _directory_lock(self.path.parent):
            if self._identity is None or _identity(self.path) != self._identity:
                return
            aside = self.path.with_name(f"{ALERT_STATE}.corrupt")
            for suffix in ("-wal", "-shm"):
                self.path.with_name(ALERT_STATE + suffix).unlink(missing_ok=True)
            self.path.replace(aside)
            self._identity = None
        _logger.warning("slowspan's alert state was damaged (%s): it is now %s, and a new one begins", error, aside)

    def _before_fork(self) -> None:
        self._locked_for_fork = self._lock.acquire(timeout=_FORK_WAIT)
        if self._locked_for_fork:
            self._close()

    def _after_fork_in_parent(self) -> None:
        if self._locked_for_fork:
            self._lock.release()

    def _after_fork_in_child(self) -> None:
        self._lock = threading.Lock()
        if self._connection is not None:
            _abandoned.append(self._connection)
            self._connection = None


def _follow_forks(database: AlertDatabase) -> None:
    if not hasattr(os, "register_at_fork"):
        return
    weak = weakref.ref(database)

    def call(name: str) -> None:
        alive = weak()
        if alive is not None:
            getattr(alive, name)()

    os.register_at_fork(
        before=lambda: call("_before_fork"),
        after_in_parent=lambda: call("_after_fork_in_parent"),
        after_in_child=lambda: call("_after_fork_in_child"),
    )


def _execute_in_turn(connection: sqlite3.Connection, statement: str, pause: tuple[float, float] = _BUSY_PAUSE) -> None:
    """Execute a statement as soon as the other processes let it.

    SQLite's own waiting doubles its sleeps up to 100 ms, for transactions that take a fraction of a millisecond: a
    kill would meet much that is told and not yet confirmed, which is then told twice. And it does not wait at all
    when several processes switch a new file to write-ahead logging.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            connection.execute(statement)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            # Not gevent's, which would make a hub, with its files, on each thread that comes here.
            native.sleep(random.uniform(*pause))
        else:
            return


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    # Damage is the one case without a class of its own: a full disk and such are an OperationalError.
    return type(error) is sqlite3.DatabaseError


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def _directory_lock(directory: Path) -> Iterator[None]:
    """Keep other processes from replacing the file at the same time."""
    try:
        # Imported here because Windows has none; there, a file that another process has open is not renamed anyway.
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
