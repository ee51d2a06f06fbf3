"""Alerts that a channel could not be told: kept until it is back, across restarts."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeVar

from slowspan.delivery.alert_notes import NOTES_SCHEMA, NoteBook
from slowspan.delivery.alert_store import Claim
from slowspan.fork import call_after_fork
from slowspan.report.alert import Alert

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, MutableMapping
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
    created_ns: int
    """Unix time, in nanoseconds, when it was put in."""
    attempts: int
    """Tries from the outbox that have failed."""


class Outbox:
    """Keeps undelivered alerts in the file ``alerts.sqlite3``, for all processes on the directory.

    Thread-safe, and usable in a forked child. Never raises: with an unusable file nothing can be kept, which the
    results say, and the log once.

    Args:
        directory: The report directory.
        window: Seconds for which notes are kept.
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
        self._given_up: list[Claim] = []

    def add(self, channel: str, alert: Alert, claim: Claim, stored: bytes, now: float, retry_in: float) -> int:
        """Keep an alert for a channel.

        Args:
            channel: The notifier's name.
            alert: The alert; its notes are not kept with it.
            claim: Its claim.
            stored: Its profile, compressed.
            now: Unix time in seconds.
            retry_in: Seconds until it is due.

        Returns:
            How many alerts were given up for it, or because they were too old: itself when it cannot be kept. Their
            claims are then in ``given_up``.
        """
        facts = {field.name: getattr(alert, field.name) for field in fields(Alert) if field.name != "notes"}
        row = (channel, json.dumps(facts), json.dumps(claim), stored, len(stored), now, now + retry_in)

        def insert(connection: sqlite3.Connection) -> int:
            connection.execute(
                "INSERT INTO outbox (channel, alert, claim, stored, size, created, attempts, due)"
                " VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
                row,
            )
            return self._give_up(connection, now)

        given_up = self._run(insert) if len(stored) <= MOST_WAITING_BYTES else None
        if given_up is None:
            with self._lock:
                self._given_up.append(claim)
            return 1
        return given_up

    def due(self, now: float, limit: int = 10) -> list[Pending]:
        """Take the alerts that are to be tried again; other processes leave them alone for the lease.

        Args:
            now: Unix time in seconds.
            limit: The most alerts.

        Returns:
            The alerts, oldest first; each needs ``done`` or ``later``.
        """

        def take(connection: sqlite3.Connection) -> list[Pending]:
            rows = connection.execute(
                "SELECT id, channel, alert, claim, stored, created, attempts FROM outbox"
                " WHERE due <= ? AND created > ? ORDER BY id LIMIT ?",
                (now, now - LONGEST_WAIT, limit),
            ).fetchall()
            connection.executemany(
                "UPDATE outbox SET due = ? WHERE id = ?", [(now + self._lease, row[0]) for row in rows]
            )
            return [self._pending(*row) for row in rows]

        # A look first: most of the time there is nothing, and nothing needs to be written.
        return (self._run(take) or []) if self._may_be_due(now) else []

    def done(self, pending: Pending) -> None:
        """Take an alert out: its channel was told, or never will be."""
        self._run(lambda connection: connection.execute("DELETE FROM outbox WHERE id = ?", (pending.id,)))

    def later(self, pending: Pending, now: float, retry_in: float) -> None:
        """Keep an alert that could not be told again.

        Args:
            pending: What ``due`` returned.
            now: Unix time in seconds.
            retry_in: Seconds until it is due again.
        """
        self._run(
            lambda connection: connection.execute(
                "UPDATE outbox SET due = ?, attempts = attempts + 1 WHERE id = ?", (now + retry_in, pending.id)
            )
        )

    def next_due(self, now: float) -> float | None:
        """Return the Unix time, in seconds, at which an alert is due, or None."""
        oldest = now - LONGEST_WAIT
        found = self._run(
            lambda connection: connection.execute("SELECT min(due) FROM outbox WHERE created > ?", (oldest,)).fetchone()
        )
        return found[0] if found else None

    def give_up(self, now: float) -> int:
        """Throw away what has waited too long, and return how many that were; ``given_up`` has their claims."""
        return self._run(lambda connection: self._give_up(connection, now)) or 0

    def given_up(self) -> list[Claim]:
        """Return, once, the claims of alerts that were given up: for release, if no channel has told them."""
        with self._lock:
            claims, self._given_up = self._given_up, []
        return claims

    def notes(self, key: str) -> MutableMapping[str, str]:
        """Return the notes on an alert's key, read and written at each access.

        Args:
            key: The key's digest.

        Returns:
            Texts by name, kept for the window; see :class:`NoteBook` for the bounds.
        """
        return self._notes.page(key)

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        if self._database is not None:
            self._database.close()

    def _may_be_due(self, now: float) -> bool:
        next_due = self.next_due(now)
        return next_due is not None and next_due <= now

    def _pending(
        self, id: int, channel: str, alert: str, claim: str, stored: bytes, created: float, attempts: int
    ) -> Pending:
        known = {field.name for field in fields(Alert)}
        facts = {name: value for name, value in json.loads(alert).items() if name in known}
        return Pending(
            id=id,
            channel=channel,
            alert=Alert(**facts, notes=self.notes(facts["key"])),
            claim=Claim(*json.loads(claim)),
            stored=stored,
            created_ns=round(created * 1e9),
            attempts=attempts,
        )

    def _give_up(self, connection: sqlite3.Connection, now: float) -> int:
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
        with self._lock:
            self._given_up.extend(Claim(*json.loads(claim)) for claim in claims_lost - claims_kept)
        return len(lost)

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
        self._is_unusable = False
        return result
