"""Alert state: who has been told what, and when. The seam for stores, and the rules that they share."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from slowspan.config import Settings
    from slowspan.delivery.alert_key import AlertKey

HOUR = 3600
PURGED_AT_ONCE = 50
"""Expired keys that one call takes away: its work stays bounded, and more go than can come."""

MOST_HELD_KEYS = 200
"""Keys that are counted apart of those that were held back in an hour."""

MOST_DIGEST_KEYS = 20

ROUNDING_NS = 10**9
"""By how much the time when a key was told can differ between stores, in nanoseconds."""

LONGEST_HOLD = 172_800.0
"""Seconds for which a claim can be held: longer than an alert waits for a channel."""

HeldBack = tuple[int, int, tuple[tuple[str, int, int], ...]]
"""Unix time of the hour's beginning, number of alerts, the most frequent: text, alerts, worst duration. Times in ns."""


class Claim(NamedTuple):
    """The right, for a short time, to tell an alert. What it knows of earlier ones is as of when it was given."""

    key: str
    token: str
    """Tells this claim from others on the key."""
    told_before: bool
    seen_more: int
    """How many more slow requests of the key there were since it was told, or claimed by others in vain."""
    since_ns: int
    """Unix time, in nanoseconds, when it was told; 0 when it was not."""
    worst_ns: int
    """Longest duration of those ``seen_more``, in nanoseconds."""
    duration_ns: int
    """Duration of the request that is to be told."""


class Held(NamedTuple):
    """The limit on alerts per hour held an alert back. It is counted, and summed up at the end of the hour."""

    hour_ns: int
    """Unix time of the hour's beginning, in nanoseconds."""
    counted: bool = False
    """Whether the request is among those of which the key's next alert tells the number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertPolicy:
    """The numbers by which every store decides."""

    window: float = 864_000.0
    """Seconds for which a key that was told is not told again."""
    realert_ratio: float = 2.0
    """From this many times the worst duration told on, a request is told inside the window."""
    alerts_per_hour: int = 30
    lease: float = 120.0
    """Seconds for which a claim is respected: longer than the tries of a channel take, or it is told twice."""
    max_keys: int = 10_000
    """The most keys; those go that were told least recently."""

    @classmethod
    def from_settings(cls, settings: Settings) -> AlertPolicy:
        """Make one of the settings."""
        return cls(
            window=settings.alert_window,
            realert_ratio=settings.realert_ratio,
            alerts_per_hour=settings.alerts_per_hour,
            # Four tries that all come to their end, and the waits between them.
            lease=max(120.0, 4 * settings.notify_timeout + 60.0),
        )


class AlertStore(Protocol):
    """Decides who tells an alert. Thread-safe, and usable in a forked child.

    ``now`` is always Unix time in seconds. Every method but ``close`` may raise when the store cannot be reached;
    none blocks for longer than a few seconds.
    """

    def see(
        self, key: AlertKey, duration_ns: int, now: float, *, counted: bool = False, held: bool = False
    ) -> Claim | Held | None:
        """Count a slow request, and tell whether it is to be told.

        Args:
            key: The request's key.
            duration_ns: Its duration, in nanoseconds.
            now: Unix time in seconds.
            counted: The request was counted while it ran: it is not counted again, but may be due by now.
            held: The request was held back while it ran.

        Returns:
            A claim when it is to be told, by the caller: it must be confirmed, held or released, and lapses with its
            lease. ``Held`` when the hour's limit is reached. None when it has been told, or somebody else is about to.
        """
        ...

    def confirm(self, claim: Claim, now: float) -> None:
        """Note that the alert was told: its window begins. Also for a claim that has lapsed, or of another store.

        When the key was told since the claim was given, as when one channel after the other has told it, the window
        that began then goes on, and so do the counts.
        """
        ...

    def grow(self, claim: Claim, duration_ns: int, now: float) -> None:
        """Note that the request of a claim takes longer than the claim says. Changes nothing while nobody is told."""
        ...

    def hold(self, claim: Claim, seconds: float, now: float) -> bool:
        """Keep a claim for longer, while its alert waits for a channel. Another store's claim changes nothing.

        Returns:
            Whether the alert is still to be told: False when somebody else has told or claimed the key since. Of a
            claim that was confirmed it says nothing.
        """
        ...

    def release(self, claim: Claim, now: float) -> None:
        """Give a claim back: nobody could be told, and the next slow request of the key may be. Counts stay.

        A claim that was confirmed, that has lapsed, or that is another store's, changes nothing.
        """
        ...

    def digest(self, now: float) -> HeldBack | None:
        """Return what was held back in one past hour: once, to one caller of all processes."""
        ...

    def next_digest(self, now: float) -> float | None:
        """Return the seconds until there may be a digest, or None."""
        ...

    def check(self, now: float) -> str:
        """Write, read back, and return one line on what the store is; for ``slowspan check``.

        Raises:
            Exception: The store cannot be used; the message says why and holds no secret.
        """
        ...

    def close(self) -> None:
        """Release connections. A later call opens them again."""
        ...


@dataclass(slots=True)
class KeyState:
    """What is known of one key, and the rules by which it changes. Not thread-safe."""

    told_ns: int = 0
    """Unix time when it was told; 0 for never."""
    told_worst_ns: int = 0
    """Longest duration told in this window."""
    seen: int = 0
    worst_ns: int = 0
    """Of the requests counted since the last claim."""
    claimed_seen: int = 0
    claimed_worst_ns: int = 0
    """Of those that a claim has taken, and will tell unless it fails."""
    lease_until: float = 0.0
    token: str = ""
    expires: float = 0.0

    def is_due(self, duration_ns: int, now: float, policy: AlertPolicy) -> bool:
        """Tell whether a request with this duration is to be told."""
        if self._is_claimed(now):
            return False
        return not self._is_in_window(now, policy) or duration_ns >= policy.realert_ratio * self.told_worst_ns

    def count(self, duration_ns: int, *, counted: bool = False) -> None:
        """Count a request that is not told, unless it is counted already."""
        self.seen += not counted
        self.worst_ns = max(self.worst_ns, duration_ns)

    def claim(self, key: str, duration_ns: int, now: float, policy: AlertPolicy, *, counted: bool = False) -> Claim:
        """Give a claim, which takes the counts along, but not that of its own request."""
        self.claimed_seen += self.seen
        self.claimed_worst_ns = max(self.claimed_worst_ns, self.worst_ns)
        self.seen = self.worst_ns = 0
        if counted and self.claimed_seen:
            self.claimed_seen -= 1
        if not self.claimed_seen:
            self.claimed_worst_ns = 0
        self.token = secrets.token_hex(8)
        self.lease_until = now + policy.lease
        self.expires = _expiry(now, policy)
        return Claim(
            key, self.token, self.told_ns > 0, self.claimed_seen, self.told_ns, self.claimed_worst_ns, duration_ns
        )

    def confirm(self, claim: Claim, now: float, policy: AlertPolicy) -> bool:
        """Note that a claim was told; tells whether a window begins with that."""
        if self.was_told_since(claim, now, policy):
            self.grow(claim, claim.duration_ns, now, policy)
            return False
        in_window = self._is_in_window(now, policy)
        self.told_worst_ns = max(claim.duration_ns, self.told_worst_ns if in_window else 0)
        # Later than the last time, by which the next claim knows whether it was told.
        self.told_ns = max(round(now * 1e9), self.told_ns + 1 if in_window else 0)
        self.claimed_seen = self.claimed_worst_ns = 0
        self.lease_until = 0.0
        self.token = claim.token
        self.expires = _expiry(now, policy)
        return True

    def grow(self, claim: Claim, duration_ns: int, now: float, policy: AlertPolicy) -> bool:
        """Note how long the request of a claim takes; tells whether there was anything to change."""
        if duration_ns <= self.told_worst_ns or not self.was_told_since(claim, now, policy):
            return False
        self.told_worst_ns = duration_ns
        return True

    def was_told_since(self, claim: Claim, now: float, policy: AlertPolicy) -> bool:
        """Tell whether the key was told after a claim was given, by its holder or by somebody else."""
        if not claim.token or not self.token:
            return False  # When it was told is not known, only that it was.
        if claim.token == self.token:
            return self.told_ns > claim.since_ns
        # What others know of the time may be rounded to seconds, and be of a window that is over.
        return self.told_ns > claim.since_ns + ROUNDING_NS and self._is_in_window(now, policy)

    def _is_claimed(self, now: float) -> bool:
        # A time from far in the future is of a clock that was wrong.
        return now < self.lease_until <= now + LONGEST_HOLD

    def _is_in_window(self, now: float, policy: AlertPolicy) -> bool:
        # A time from far in the future is of a clock that was wrong: it must not silence the key.
        return self.told_ns > 0 and now - policy.window < self.told_ns / 1e9 <= now + policy.window

    def hold(self, claim: Claim, seconds: float, now: float, policy: AlertPolicy) -> bool:
        """Extend a claim's lease; tells whether its alert is still to be told."""
        if self.token != claim.token:
            return not (self._is_claimed(now) or self.was_told_since(claim, now, policy))
        # Without a lease it was told, or given back.
        if self.lease_until:
            self.lease_until = now + min(seconds, LONGEST_HOLD)
            self.expires = max(self.expires, self.lease_until)
        return True

    def release(self, claim: Claim, now: float) -> bool:
        """Give a claim back, unless it is another's by now; tells whether there was anything to change."""
        if self.token != claim.token or self.lease_until <= now:
            return False
        self.lease_until = 0.0
        return True


def _expiry(now: float, policy: AlertPolicy) -> float:
    # A window longer than the window itself, so that the next alert can say how often the last one was seen.
    return now + 2 * policy.window


def hour_of(now: float) -> int:
    """Return the number of the hour, since 1970, in which a time lies."""
    return int(now // HOUR)
