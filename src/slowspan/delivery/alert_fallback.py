"""An alert store that never fails: memory takes over while the real one is away, and gives back what it learnt."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeVar

from slowspan.delivery.alert_memory import MemoryStore
from slowspan.delivery.alert_store import AlertPolicy, Claim
from slowspan.fork import call_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable

    from slowspan.config import Settings
    from slowspan.delivery.alert_key import AlertKey
    from slowspan.delivery.alert_store import AlertStore, Held, HeldBack

T = TypeVar("T")

RETRY_AFTER = 30.0
"""Seconds after which a store that failed is tried again; a try may take seconds of the delivery thread."""

MOST_REMEMBERED = 1000
"""Alerts told while the store was away that it is told of later: more than a day of them by default."""

_logger = logging.getLogger("slowspan")


class FallbackStore:
    """Uses a store as long as it works, and memory while it does not; see the protocol ``AlertStore``.

    Only ``check`` raises. In memory every process decides for itself, but knows what it has learnt from the store
    to be told already.

    Args:
        primary: Makes the store; called when it is first needed, and again until it succeeds.
        policy: The numbers to decide by.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self,
        primary: Callable[[], AlertStore],
        policy: AlertPolicy,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make_primary = primary
        self._policy = policy
        self._clock = clock
        self._primary: AlertStore | None = None
        self._memory = MemoryStore(policy)
        self._retry_at: float | None = None
        self._start_anew()
        call_after_fork(self._start_anew)

    def _start_anew(self) -> None:
        self._lock = threading.Lock()
        # What a forked child's parent has told, the parent will tell the store.
        self._told: OrderedDict[str, tuple[Claim, float]] = OrderedDict()

    def see(
        self, key: AlertKey, duration_ns: int, now: float, *, counted: bool = False, held: bool = False
    ) -> Claim | Held | None:
        """See the protocol."""
        answered, verdict = self._try(lambda store: store.see(key, duration_ns, now, counted=counted, held=held))
        if not answered:
            return self._memory.see(key, duration_ns, now, counted=counted, held=held)
        if verdict is None:
            self._memory.confirm(Claim(key.digest, "", True, 0, 0, 0, duration_ns), now)
        return verdict

    def confirm(self, claim: Claim, now: float) -> None:
        """See the protocol."""
        self._memory.confirm(claim, now)
        answered, _ = self._try(lambda store: store.confirm(claim, now))
        if not answered:
            with self._lock:
                self._told[claim.key] = (claim, now)
                if len(self._told) > MOST_REMEMBERED:
                    self._told.popitem(last=False)

    def grow(self, claim: Claim, duration_ns: int, now: float) -> None:
        """See the protocol."""
        self._memory.grow(claim, duration_ns, now)
        self._try(lambda store: store.grow(claim, duration_ns, now))

    def hold(self, claim: Claim, seconds: float, now: float) -> bool:
        """See the protocol."""
        own = self._memory.hold(claim, seconds, now)
        answered, answer = self._try(lambda store: store.hold(claim, seconds, now))
        return bool(answer) if answered else own

    def release(self, claim: Claim, now: float) -> None:
        """See the protocol."""
        self._memory.release(claim, now)
        self._try(lambda store: store.release(claim, now))

    def digest(self, now: float) -> HeldBack | None:
        """See the protocol."""
        return self._memory.digest(now) or self._try(lambda store: store.digest(now))[1]

    def next_digest(self, now: float) -> float | None:
        """See the protocol."""
        waits = (self._memory.next_digest(now), self._try(lambda store: store.next_digest(now))[1])
        return min((wait for wait in waits if wait is not None), default=None)

    def check(self, now: float) -> str:
        """See the protocol. Asks the store itself, whatever is known of it."""
        return self._opened().check(now)

    def close(self) -> None:
        """See the protocol."""
        if self._primary is not None:
            try:
                self._primary.close()
            except Exception:
                _logger.debug("slowspan's alert state was not closed well", exc_info=True)

    def _opened(self) -> AlertStore:
        with self._lock:
            if self._primary is None:
                self._primary = self._make_primary()
            return self._primary

    def _try(self, operation: Callable[[AlertStore], T]) -> tuple[bool, T | None]:
        """Return whether the store answered, and what."""
        with self._lock:
            was_away = self._retry_at is not None
            if self._retry_at is not None:
                if self._clock() < self._retry_at:
                    return False, None
                # One thread tries; the others need not wait for a server that may hang.
                self._retry_at = self._clock() + RETRY_AFTER
        try:
            store = self._opened()
            if was_away:
                self._give_back(store)
            answer = operation(store)
        except Exception as error:  # noqa: BLE001 -- whatever a client raises, memory takes over
            self._fail(error)
            return False, None
        if was_away:
            self._retry_at = None
            _logger.warning("slowspan's alert state is back")
        return True, answer

    def _give_back(self, store: AlertStore) -> None:
        """Tell a store that is back what was told in the meantime."""
        while True:
            with self._lock:
                if not self._told:
                    return
                key, (claim, told_at) = next(iter(self._told.items()))
            store.confirm(claim, told_at)
            with self._lock:
                self._told.pop(key, None)

    def _fail(self, error: Exception) -> None:
        with self._lock:
            first = self._retry_at is None
            self._retry_at = self._clock() + RETRY_AFTER
        if first:
            # Without the traceback: a client's own could quote the address with its password.
            _logger.warning(
                "slowspan's alert state cannot be used, and is kept in memory until it can: %s: %s",
                type(error).__name__,
                error,
            )


def make_store(settings: Settings) -> AlertStore:
    """Return the store of the setting ``alert_store``; it is opened when it is first used.

    Without the setting that is the SQLite file in the report directory, and a URI names another; both never fail but
    in ``check``. ``memory://`` is for tests and single scripts.
    """
    policy = AlertPolicy.from_settings(settings)
    uri = settings.alert_store
    if uri == "memory://":
        return MemoryStore(policy)

    def make() -> AlertStore:
        # Imported here because each brings a library that nobody needs who has no slow request, or another store.
        if uri is None:
            from slowspan.delivery.alert_sqlite import SqliteStore

            return SqliteStore(settings.report_dir, policy)
        from slowspan.delivery.alert_limits import LimitsStore

        return LimitsStore(uri, policy)

    return FallbackStore(make, policy)
