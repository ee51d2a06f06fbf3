"""Alerts that a channel has not been told yet: kept until it has, also when it is away, and across restarts."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from slowspan.delivery.alert_notes import NOTES_SCHEMA, NoteBook
from slowspan.delivery.alert_store import Claim
from slowspan.fork import call_after_fork
from slowspan.report.alert import Alert

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, MutableMapping
    from pathlib import Path

    from slowspan.delivery.alert_database import AlertDatabase

T = TypeVar("T")

LONGEST_WAIT = 86_400.0
"""Seconds after which an alert is given up: later it is no news."""

MOST_WAITING = 200
MOST_WAITING_BYTES = 20_000_000

_SCHEMA = (
    *NOTES_SCHEMA,
    """CREATE TABLE IF NOT EXISTS outbox (
        id INTEGER PRIMARY KEY AUTOINCREMENT, channel TEXT NOT NULL, alert TEXT NOT NULL, claim TEXT NOT NULL,
        created REAL NOT NULL, attempts INTEGER NOT NULL, due REAL NOT NULL, size INTEGER NOT NULL,
        stored BLOB NOT NULL)""",
    "CREATE TABLE IF NOT EXISTS told (claim TEXT PRIMARY KEY, expires REAL NOT NULL)",
)

_logger = logging.getLogger("slowspan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """An alert that waits for a channel."""

    id: int
    channel: str
    """The notifier's name."""
    alert: Alert
    claim: Claim
    """To be confirmed once a channel has told it."""
    stored: bytes
    """The profile as it is stored, compressed."""
    attempts: int
    """How often it could not be told."""
    told: bool = False
    """Whether another channel has been told."""


class GivenUp(NamedTuple):
    """What the outbox has given up."""

    alerts: int = 0
    claims: tuple[Claim, ...] = ()
    """Claims of which no alert waits any more: for release, if no channel has told them."""


class Outbox:
    """Keeps undelivered alerts in the file ``alerts.sqlite3``, for all processes on the directory.

    Thread-safe, and usable in a forked child. Never raises: with an unusable file nothing can be kept, which the
    results say, and the log once.

    Args:
        directory: The report directory.
        window: Seconds for which a key that was told is not told again; notes are kept for two of them.
        lease: Seconds for which an alert that one process has taken is left alone by the others.
    """

    def __init__(self, directory: Path, *, window: float = 864_000.0, lease: float = 600.0) -> None:
        self._directory = directory
        self._lease = lease
        self._database: AlertDatabase | None = None
        self._is_unusable = False
        self._notes = NoteBook(self._run, window)
        self._start_anew()
        call_after_fork(self._start_anew)

    def _start_anew(self) -> None:
        self._lock = threading.Lock()

    def add(
        self, channel: str, alert: Alert, claim: Claim, stored: bytes, now: float, retry_in: float
    ) -> tuple[int, GivenUp]:
        """Keep an alert for a channel.

        Args:
            channel: The notifier's name.
            alert: The alert; its notes are not kept with it.
            claim: Its claim.
            stored: Its profile, compressed.
            now: Unix time in seconds.
            retry_in: Seconds until it is due.

        Returns:
            Its id, 0 when it cannot be kept; and the alerts that were given up for it, or because they were too old.
        """
        facts = {field.name: getattr(alert, field.name) for field in fields(Alert) if field.name != "notes"}
        row = (channel, json.dumps(facts), json.dumps(claim), stored, len(stored), now, now + retry_in)

        def insert(connection: sqlite3.Connection) -> tuple[int, GivenUp]:
            added = connection.execute(
                "INSERT INTO outbox (channel, alert, claim, stored, size, created, attempts, due)"
                " VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
                row,
            )
            return added.lastrowid or 0, self._give_up(connection, now)

        added = self._run(insert) if len(stored) <= MOST_WAITING_BYTES else None
        if added is None:
            return 0, GivenUp()
        # Not after any success: on a full disk what only reads goes on to work.
        self._is_unusable = False
        return added

    def due(self, now: float, channels: Collection[str], limit: int = 10) -> list[Pending]:
        """Take the alerts that are to be tried again; other processes leave them alone for the lease.

        Args:
            now: Unix time in seconds.
            channels: Their channels; what waits for others is left to processes that have them.
            limit: The most alerts.

        Returns:
            The alerts, oldest first; each needs ``done`` or ``later``, else another process tells it.
        """

        def take(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            rows = connection.execute(
                "SELECT id, channel, alert, claim, stored, attempts, claim IN (SELECT claim FROM told)"
                f" FROM outbox WHERE due <= ? AND created > ? AND channel IN ({_places(channels)}) ORDER BY id LIMIT ?",
                (now, now - LONGEST_WAIT, *channels, limit),
            ).fetchall()
            connection.executemany(
                "UPDATE outbox SET due = ? WHERE id = ?", [(now + self._lease, row[0]) for row in rows]
            )
            return rows

        # A look first: most of the time there is nothing, and nothing needs to be written.
        next_due = self.next_due(now, channels)
        rows = self._run(take) or [] if next_due is not None and next_due <= now else []
        taken = [self._pending(*row) for row in rows]
        return [pending for pending in taken if pending is not None]

    def done(self, id: int, claim: Claim) -> bool:
        """Take an alert out: its channel was told, or never will be.

        Args:
            id: What ``add`` or ``due`` returned.
            claim: The alert's claim.

        Returns:
            Whether it waits for another channel still.
        """

        def delete(connection: sqlite3.Connection) -> bool:
            connection.execute("DELETE FROM outbox WHERE id = ?", (id,))
            found = connection.execute("SELECT 1 FROM outbox WHERE claim = ?", (json.dumps(claim),))
            return found.fetchone() is not None

        return bool(self._run(delete))

    def note_told(self, claim: Claim, now: float) -> None:
        """Note that a channel was told an alert that waits for another one."""

        def insert(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM told WHERE expires <= ?", (now,))
            connection.execute("REPLACE INTO told VALUES (?, ?)", (json.dumps(claim), now + LONGEST_WAIT))

        self._run(insert)

    def later(self, id: int, now: float, retry_in: float) -> None:
        """Keep an alert that could not be told.

        Args:
            id: What ``add`` or ``due`` returned.
            now: Unix time in seconds.
            retry_in: Seconds until it is due again.
        """
        self._run(
            lambda connection: connection.execute(
                "UPDATE outbox SET due = ?, attempts = attempts + 1 WHERE id = ?", (now + retry_in, id)
            )
        )

    def renew(self, ids: Collection[int], now: float, seconds: float) -> None:
        """Have other processes leave alerts alone for longer, while this one still tells them."""
        if ids:
            self._run(
                lambda connection: connection.execute(
                    f"UPDATE outbox SET due = ? WHERE id IN ({_places(ids)})", (now + seconds, *ids)
                )
            )

    def next_due(self, now: float, channels: Collection[str]) -> float | None:
        """Return the Unix time, in seconds, at which an alert for one of the channels is due, or None."""
        found = self._run(
            lambda connection: connection.execute(
                f"SELECT min(due) FROM outbox WHERE created > ? AND channel IN ({_places(channels)})",
                (now - LONGEST_WAIT, *channels),
            ).fetchone()
        )
        return found[0] if found else None

    def give_up(self, now: float) -> GivenUp:
        """Throw away what has waited too long, and return it."""
        return self._run(lambda connection: self._give_up(connection, now)) or GivenUp()

    def notes(self, key: str) -> MutableMapping[str, str]:
        """Return the notes on an alert's key, read and written at each access.

        Args:
            key: The key's digest.

        Returns:
            Texts by name, kept for two windows; see :class:`NoteBook` for the bounds.
        """
        return self._notes.page(key)

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        if self._database is not None:
            self._database.close()

    def _pending(
        self, id: int, channel: str, alert: str, claim: str, stored: bytes, attempts: int, told: int
    ) -> Pending | None:
        """Make a pending alert of a row; None where it cannot be read: the release that wrote it can, perhaps."""
        known = {field.name for field in fields(Alert)}
        try:
            facts = {name: value for name, value in json.loads(alert).items() if name in known}
            read_alert = Alert(**facts, notes=self.notes(facts["key"]))
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        read_claim = _read_claim(claim)
        if read_claim is None:
            return None
        return Pending(
            id=id,
            channel=channel,
            alert=read_alert,
            claim=read_claim,
            stored=stored,
            attempts=attempts,
            told=bool(told),
        )

    def _give_up(self, connection: sqlite3.Connection, now: float) -> GivenUp:
        """Delete what is too old, and the oldest beyond the limits."""
        rows = connection.execute("SELECT id, claim, size, created FROM outbox ORDER BY id DESC").fetchall()
        size = 0
        lost: list[tuple[int]] = []
        claims_kept: set[str] = set()
        claims_lost: set[str] = set()
        for index, (id, claim, row_size, created) in enumerate(rows):
            size += row_size
            if index >= MOST_WAITING or size > MOST_WAITING_BYTES or created <= now - LONGEST_WAIT:
                lost.append((id,))
                claims_lost.add(claim)
            else:
                claims_kept.add(claim)
        connection.executemany("DELETE FROM outbox WHERE id = ?", lost)
        claims = (_read_claim(claim) for claim in claims_lost - claims_kept)
        return GivenUp(len(lost), tuple(claim for claim in claims if claim is not None))

    def _opened(self) -> AlertDatabase:
        # Imported here because it loads sqlite3, which most processes never need.
        from slowspan.delivery.alert_database import AlertDatabase

        with self._lock:
            if self._database is None:
                self._database = AlertDatabase(self._directory, _SCHEMA)
            return self._database

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """Do something in one transaction; None when the file is unusable."""
        try:
            with self._opened().transaction() as connection:
                result = work(connection)
        except Exception as error:  # noqa: BLE001 -- whatever it is, delivery goes on without
            if not self._is_unusable:
                self._is_unusable = True
                _logger.warning("slowspan's outbox cannot be used; undelivered alerts are not kept: %s", error)
            return None
        return result


def _places(values: Collection[object]) -> str:
    return ", ".join("?" * len(values))


def _read_claim(text: str) -> Claim | None:
    try:
        return Claim(*json.loads(text))
    except (ValueError, TypeError):
        return None
