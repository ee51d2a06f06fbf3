"""What channels note on an alert for the key's next one, such as the id of the first post."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

from slowspan.delivery.alert_store import PURGED_AT_ONCE
from slowspan.fork import call_after_fork

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    Run = Callable[[Callable[[sqlite3.Connection], Any]], Any]
    """Does something in one transaction of the file; None when the file is unusable."""

MOST_NOTES = 20
"""Notes of one key; the oldest gives way to another."""

MOST_NOTE_BYTES = 1024
"""UTF-8 bytes of a note with its name: an id or an address, not a text."""

_MOST_ROWS = 20_000
_MOST_KEYS_IN_MEMORY = 500

NOTES_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS notes (
        id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL,
        expires REAL NOT NULL, UNIQUE (key, name))""",
    "CREATE INDEX IF NOT EXISTS notes_expires ON notes (expires)",
)


class NoteBook:
    """Keeps notes in the file of the alert state, and in memory while that is unusable. Thread-safe; never raises.

    Args:
        run: Runs a function on the file.
        window: Seconds for which a key that was told is not told again. A note is kept for two of them after it was
            written, as the counts are: the next alert comes when the first one is over.
        clock: Unix time in seconds.
    """

    def __init__(self, run: Run, window: float, clock: Callable[[], float] = time.time) -> None:
        self._run = run
        self._keep = 2 * window
        self._clock = clock
        self._in_memory: OrderedDict[str, dict[str, str]] = OrderedDict()
        self._start_anew()
        call_after_fork(self._start_anew)

    def _start_anew(self) -> None:
        self._lock = threading.Lock()

    def page(self, key: str) -> MutableMapping[str, str]:
        """Return the notes on a key, read and written at each access."""
        return _Page(self, key)

    def read(self, key: str) -> dict[str, str]:
        """Return all notes on a key, oldest first."""
        now = self._clock()
        rows = self._run(
            lambda connection: connection.execute(
                "SELECT name, value FROM notes WHERE key = ? AND expires > ? ORDER BY id", (key, now)
            ).fetchall()
        )
        with self._lock:
            return {**self._in_memory.get(key, {}), **dict(rows or ())}

    def write(self, key: str, name: str, value: str) -> None:
        """Keep a note, unless it is too long."""
        if len(name.encode(errors="replace")) + len(value.encode(errors="replace")) > MOST_NOTE_BYTES:
            return
        now = self._clock()

        def insert(connection: sqlite3.Connection) -> bool:
            connection.execute(
                "REPLACE INTO notes (key, name, value, expires) VALUES (?, ?, ?, ?)",
                (key, name, value, now + self._keep),
            )
            _delete_surplus(connection, "WHERE key = ?", (key,), MOST_NOTES)
            connection.execute(
                "DELETE FROM notes WHERE id IN (SELECT id FROM notes WHERE expires <= ? LIMIT ?)", (now, PURGED_AT_ONCE)
            )
            _delete_surplus(connection, "", (), _MOST_ROWS)
            return True

        if not self._run(insert):
            self._remember(key, name, value)

    def delete(self, key: str, name: str) -> None:
        """Forget a note, if it is there."""
        self._run(lambda connection: connection.execute("DELETE FROM notes WHERE key = ? AND name = ?", (key, name)))
        with self._lock:
            self._in_memory.get(key, {}).pop(name, None)

    def _remember(self, key: str, name: str, value: str) -> None:
        with self._lock:
            notes = self._in_memory.setdefault(key, {})
            notes.pop(name, None)
            notes[name] = value
            if len(notes) > MOST_NOTES:
                del notes[next(iter(notes))]
            self._in_memory.move_to_end(key)
            if len(self._in_memory) > _MOST_KEYS_IN_MEMORY:
                self._in_memory.popitem(last=False)


class _Page(MutableMapping[str, str]):
    def __init__(self, book: NoteBook, key: str) -> None:
        self._book = book
        self._key = key

    def __getitem__(self, name: str) -> str:
        return self._book.read(self._key)[name]

    def __setitem__(self, name: str, value: str) -> None:
        self._book.write(self._key, name, value)

    def __delitem__(self, name: str) -> None:
        if name not in self._book.read(self._key):
            raise KeyError(name)
        self._book.delete(self._key, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._book.read(self._key))

    def __len__(self) -> int:
        return len(self._book.read(self._key))


def _delete_surplus(connection: sqlite3.Connection, where: str, values: tuple[str, ...], most: int) -> None:
    """Delete the oldest rows beyond a number, a bounded number at once."""
    connection.execute(
        f"DELETE FROM notes WHERE id IN (SELECT id FROM notes {where} ORDER BY id DESC LIMIT ? OFFSET ?)",
        (*values, PURGED_AT_ONCE, most),
    )
