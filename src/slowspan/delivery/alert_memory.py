"""Alert state in memory: for tests, single scripts, and while another store is away."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

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
from slowspan.fork import call_after_fork

if TYPE_CHECKING:
    from slowspan.delivery.alert_key import AlertKey
    from slowspan.delivery.alert_store import AlertPolicy, HeldBack

_MOST_HELD_HOURS = 48


@dataclass(slots=True)
class _Hour:
    alerts: int = 0
    keys: dict[str, list[int]] = field(default_factory=dict)


class HeldHours:
    """Counts, in memory, what was held back by hour and key. Bounded; not thread-safe."""

    def __init__(self) -> None:
        self._hours: OrderedDict[int, _Hour] = OrderedDict()

    def note(self, hour: int, text: str, duration_ns: int) -> None:
        """Count an alert that was held back."""
        held = self._hours.setdefault(hour, _Hour())
        held.alerts += 1
        if text in held.keys or len(held.keys) < MOST_HELD_KEYS:
            counted = held.keys.setdefault(text, [0, 0])
            counted[0] += 1
            counted[1] = max(counted[1], duration_ns)
        if len(self._hours) > _MOST_HELD_HOURS:
            self._hours.popitem(last=False)

    def take(self, now: float) -> HeldBack | None:
        """Return the oldest past hour in which something was held back, and forget it."""
        hour = min((hour for hour in self._hours if hour < hour_of(now)), default=None)
        if hour is None:
            return None
        held = self._hours.pop(hour)
        rows = sorted(
            ((text, alerts, worst_ns) for text, (alerts, worst_ns) in held.keys.items()),
            key=lambda row: row[1:],
            reverse=True,
        )
        return hour * HOUR * 10**9, held.alerts, tuple(rows[:MOST_DIGEST_KEYS])

    def next_in(self, now: float) -> float | None:
        """Return the seconds until an hour is past, or None."""
        if not self._hours:
            return None
        return max(0.0, (min(self._hours) + 1) * HOUR - now)


class MemoryStore:
    """Keeps alert state in this process alone; see the protocol ``AlertStore``.

    Args:
        policy: The numbers to decide by.
    """

    def __init__(self, policy: AlertPolicy) -> None:
        self._policy = policy
        self._lock = threading.Lock()
        self._keys: OrderedDict[str, KeyState] = OrderedDict()
        self._claims: tuple[int, int] = (0, 0)  # the hour, and its claims
        self._held = HeldHours()
        call_after_fork(self._start_anew)

    def _start_anew(self) -> None:
        # What the parent has claimed or held back, the parent tells.
        self._lock = threading.Lock()
        self._held = HeldHours()

    def see(
        self, key: AlertKey, duration_ns: int, now: float, *, counted: bool = False, held: bool = False
    ) -> Claim | Held | None:
        """See the protocol."""
        with self._lock:
            self._purge(now)
            state = self._keys.get(key.digest)
            if state is not None and not state.is_due(duration_ns, now, self._policy):
                state.count(duration_ns, counted=counted)
                return None
            hour = hour_of(now)
            claims = self._claims[1] if self._claims[0] == hour else 0
            if claims >= self._policy.alerts_per_hour:
                if state is not None:
                    state.count(duration_ns, counted=counted)
                if not held:
                    self._held.note(hour, key.text, duration_ns)
                return Held(hour * HOUR * 10**9, counted or state is not None)
            self._claims = (hour, claims + 1)
            state = self._keys.setdefault(key.digest, KeyState())
            self._keys.move_to_end(key.digest)
            return state.claim(key.digest, duration_ns, now, self._policy, counted=counted)

    def confirm(self, claim: Claim, now: float) -> None:
        """See the protocol."""
        with self._lock:
            state = self._keys.get(claim.key) or KeyState()
            if state.confirm(claim, now, self._policy):
                self._keys[claim.key] = state
                self._keys.move_to_end(claim.key)
            self._purge(now)

    def grow(self, claim: Claim, duration_ns: int, now: float) -> None:
        """See the protocol."""
        with self._lock:
            state = self._keys.get(claim.key)
            if state is not None:
                state.grow(claim, duration_ns, now, self._policy)

    def hold(self, claim: Claim, seconds: float, now: float) -> bool:
        """See the protocol."""
        with self._lock:
            state = self._keys.get(claim.key)
            return state is None or state.hold(claim, seconds, now, self._policy)

    def release(self, claim: Claim, now: float) -> None:
        """See the protocol."""
        with self._lock:
            state = self._keys.get(claim.key)
            hour, claims = self._claims
            if state is not None and state.release(claim, now) and hour == hour_of(now):
                self._claims = (hour, max(0, claims - 1))

    def digest(self, now: float) -> HeldBack | None:
        """See the protocol."""
        with self._lock:
            return self._held.take(now)

    def next_digest(self, now: float) -> float | None:
        """See the protocol."""
        with self._lock:
            return self._held.next_in(now)

    def check(self, now: float) -> str:  # noqa: ARG002 -- the protocol's signature
        """See the protocol."""
        return "memory of this process: every process tells every alert once"

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _purge(self, now: float) -> None:
        # The order of claiming and telling is the order of expiry.
        for _ in range(PURGED_AT_ONCE):
            if not self._keys:
                return
            oldest = next(iter(self._keys))
            if self._keys[oldest].expires > now and len(self._keys) <= self._policy.max_keys:
                return
            del self._keys[oldest]
