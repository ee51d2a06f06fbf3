"""Alert state in SQLite, beside the reports: shared by all processes of a host, kept across restarts."""

from __future__ import annotations

from dataclasses import astuple, fields
from typing import TYPE_CHECKING

from slowspan.delivery.alert_database import AlertDatabase
from slowspan.delivery.alert_store import (
    HOUR,
    MOST_DIGEST_KEYS,
    MOST_HELD_KEYS,
    PURGED_AT_ONCE,
    Claim,
    Held,
    KeyState,
    hour_of,
)

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from slowspan.delivery.alert_key import AlertKey
    from slowspan.delivery.alert_store import AlertPolicy, HeldBack

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS alerts (
        key TEXT PRIMARY KEY, told_ns INTEGER NOT NULL, told_worst_ns INTEGER NOT NULL,
        seen INTEGER NOT NULL, worst_ns INTEGER NOT NULL,
        claimed_seen INTEGER NOT NULL, claimed_worst_ns INTEGER NOT NULL,
        lease_until REAL NOT NULL, token TEXT NOT NULL, expires REAL NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS alerts_expires ON alerts (expires)",
    "CREATE TABLE IF NOT EXISTS hours (hour INTEGER PRIMARY KEY, claims INTEGER NOT NULL, held INTEGER NOT NULL)",
    """CREATE TABLE IF NOT EXISTS held (
        hour INTEGER NOT NULL, text TEXT NOT NULL, alerts INTEGER NOT NULL, worst_ns INTEGER NOT NULL,
        PRIMARY KEY (hour, text))""",
)

_COLUMNS = tuple(field.name for field in fields(KeyState))
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM alerts WHERE key = ?"
_WRITE = f"REPLACE INTO alerts (key, {', '.join(_COLUMNS)}) VALUES (?{', ?' * len(_COLUMNS)})"
_OLDEST = "DELETE FROM alerts WHERE rowid IN (SELECT rowid FROM alerts {} ORDER BY expires LIMIT ?)"

_KEPT_HOURS = 48
"""Hours after which what was held back is no news any more."""


class SqliteStore:
    """Keeps alert state in the file ``alerts.sqlite3`` of the report directory; see the protocol ``AlertStore``.

    Every method is one short transaction. See ``AlertDatabase.transaction`` for what they raise.

    Args:
        directory: The report directory.
        policy: The numbers to decide by.
    """

    def __init__(self, directory: Path, policy: AlertPolicy) -> None:
        self._policy = policy
        self._database = AlertDatabase(directory, _SCHEMA)

    def see(
        self, key: AlertKey, duration_ns: int, now: float, *, counted: bool = False, held: bool = False
    ) -> Claim | Held | None:
        """See the protocol."""
        with self._database.transaction() as connection:
            connection.execute(_OLDEST.format("WHERE expires <= ?"), (now, PURGED_AT_ONCE))
            state = _read(connection, key.digest)
            if state is not None and not state.is_due(duration_ns, now, self._policy):
                state.count(duration_ns, counted=counted)
                _write(connection, key.digest, state)
                return None
            hour = hour_of(now)
            if not self._admit(connection, hour):
                if state is not None:
                    state.count(duration_ns, counted=counted)
                    _write(connection, key.digest, state)
                if not held:
                    _hold_back(connection, hour, key.text, duration_ns)
                return Held(hour * HOUR * 10**9, counted or state is not None)
            if state is None:
                self._make_room(connection)
                state = KeyState()
            claim = state.claim(key.digest, duration_ns, now, self._policy, counted=counted)
            _write(connection, key.digest, state)
            return claim

    def confirm(self, claim: Claim, now: float) -> None:
        """See the protocol."""
        with self._database.transaction() as connection:
            state = _read(connection, claim.key) or KeyState()
            state.confirm(claim, now, self._policy)
            _write(connection, claim.key, state)

    def grow(self, claim: Claim, duration_ns: int, now: float) -> None:
        """See the protocol."""
        with self._database.transaction() as connection:
            state = _read(connection, claim.key)
            if state is not None and state.grow(claim, duration_ns, now, self._policy):
                _write(connection, claim.key, state)

    def hold(self, claim: Claim, seconds: float, now: float) -> bool:
        """See the protocol."""
        with self._database.transaction() as connection:
            state = _read(connection, claim.key)
            if state is None:
                return True
            is_to_be_told = state.hold(claim, seconds, now, self._policy)
            _write(connection, claim.key, state)
            return is_to_be_told

    def release(self, claim: Claim, now: float) -> None:
        """See the protocol."""
        with self._database.transaction() as connection:
            state = _read(connection, claim.key)
            if state is not None and state.release(claim, now):
                _write(connection, claim.key, state)
                connection.execute(
                    "UPDATE hours SET claims = max(0, claims - 1) WHERE hour = ?",
                    (hour_of(now),),
                )

    def digest(self, now: float) -> HeldBack | None:
        """See the protocol."""
        with self._database.transaction() as connection:
            past = hour_of(now)
            # What an outage or a wrong clock left behind; and hours of which there is nothing to tell.
            connection.execute(
                "DELETE FROM hours WHERE hour < ? AND (held = 0 OR hour < ?)", (past, past - _KEPT_HOURS)
            )
            connection.execute("DELETE FROM held WHERE hour < ?", (past - _KEPT_HOURS,))
            found = connection.execute(
                "SELECT hour, held FROM hours WHERE hour < ? AND held > 0 ORDER BY hour LIMIT 1", (past,)
            ).fetchone()
            if found is None:
                return None
            hour, alerts = found
            rows = connection.execute(
                "SELECT text, alerts, worst_ns FROM held WHERE hour = ? ORDER BY alerts DESC, worst_ns DESC LIMIT ?",
                (hour, MOST_DIGEST_KEYS),
            ).fetchall()
            connection.execute("DELETE FROM held WHERE hour = ?", (hour,))
            connection.execute("DELETE FROM hours WHERE hour = ?", (hour,))
            return hour * HOUR * 10**9, alerts, tuple((text, count, worst) for text, count, worst in rows)

    def next_digest(self, now: float) -> float | None:
        """See the protocol."""
        with self._database.transaction() as connection:
            (hour,) = connection.execute("SELECT min(hour) FROM hours WHERE held > 0").fetchone()
            return None if hour is None else max(0.0, (hour + 1) * HOUR - now)

    def check(self, now: float) -> str:
        """See the protocol."""
        probe = KeyState(expires=now)
        with self._database.transaction() as connection:
            _write(connection, "check", probe)
            if _read(connection, "check") != probe:
                raise OSError(f"{self._database.path} does not hold what was written into it")
            connection.execute("DELETE FROM alerts WHERE key = 'check'")
            (keys,) = connection.execute("SELECT count(*) FROM alerts").fetchone()
        return f"SQLite file {self._database.path} with {keys} alerts, shared by the processes of this host"

    def close(self) -> None:
        """See the protocol."""
        self._database.close()

    def _admit(self, connection: sqlite3.Connection, hour: int) -> bool:
        """Take one of the hour's alerts, if any is left."""
        connection.execute("INSERT OR IGNORE INTO hours VALUES (?, 0, 0)", (hour,))
        taken = connection.execute(
            "UPDATE hours SET claims = claims + 1 WHERE hour = ? AND claims < ?", (hour, self._policy.alerts_per_hour)
        )
        return taken.rowcount > 0

    def _make_room(self, connection: sqlite3.Connection) -> None:
        (keys,) = connection.execute("SELECT count(*) FROM alerts").fetchone()
        surplus = keys + 1 - self._policy.max_keys
        if surplus > 0:
            connection.execute(_OLDEST.format(""), (min(surplus, PURGED_AT_ONCE),))


def _read(connection: sqlite3.Connection, key: str) -> KeyState | None:
    row = connection.execute(_SELECT, (key,)).fetchone()
    return None if row is None else KeyState(*row)


def _write(connection: sqlite3.Connection, key: str, state: KeyState) -> None:
    connection.execute(_WRITE, (key, *astuple(state)))


def _hold_back(connection: sqlite3.Connection, hour: int, text: str, duration_ns: int) -> None:
    connection.execute("UPDATE hours SET held = held + 1 WHERE hour = ?", (hour,))
    counted = connection.execute(
        "UPDATE held SET alerts = alerts + 1, worst_ns = max(worst_ns, ?) WHERE hour = ? AND text = ?",
        (duration_ns, hour, text),
    )
    if counted.rowcount:
        return
    (keys,) = connection.execute("SELECT count(*) FROM held WHERE hour = ?", (hour,)).fetchone()
    if keys < MOST_HELD_KEYS:
        connection.execute("INSERT INTO held VALUES (?, ?, 1, ?)", (hour, text, duration_ns))
