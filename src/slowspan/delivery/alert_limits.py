"""Alert state for fleets: Redis, Valkey, their clusters and sentinels, memcached and others, through ``limits``.

``limits`` offers counters that expire, and no more; so the state of a key is a few counters:

- ``told``: when it was told, and the worst duration told, in one number, so that both change together;
- ``lease``: whoever makes it 1 has the claim; it expires by itself, also when its process was killed;
- ``held``: the second until which a claim waits in an outbox;
- ``seen`` and ``worst``, one pair per telling: the requests counted since.

Everything expires by itself, after two windows at the latest: the window, and another one in which the next alert can
say how often the last one was seen.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING

from slowspan.delivery.alert_memory import HeldHours
from slowspan.delivery.alert_store import HOUR, LONGEST_HOLD, ROUNDING_NS, Claim, Held, hour_of
from slowspan.delivery.shared_counters import AlertStoreError, SharedCounters
from slowspan.fork import call_after_fork

if TYPE_CHECKING:
    from slowspan.delivery.alert_key import AlertKey
    from slowspan.delivery.alert_store import AlertPolicy, HeldBack

_WORST_BITS = 21
"""Bits of ``told`` for the worst duration, as a logarithm; 32 more hold Unix time. Redis scripts count to 2 ** 53."""

_SKEW = 2.0
"""Seconds within which a server has let a lease lapse that has ended for us."""

_EARLY = 1
"""Seconds for which a server keeps a lease longer: one that counts in whole seconds would give one claim to two."""

_STEPS = 60_000
"""Steps of that logarithm for a factor of e: twice as slow is told from twice as slow less 0.002 %."""


class LimitsStore:
    """Keeps alert state in what a URI names; see the protocol ``AlertStore``.

    The number of what was held back in an hour is that of all processes; the list of endpoints with it is that of
    the process that tells it. A server that loses its data (memcached may at any time) has alerts told again.

    Args:
        uri: Address as ``limits`` takes it; may hold a password.
        policy: The numbers to decide by; the lease counts in whole seconds here.

    Raises:
        AlertStoreError: A package is missing, or the URI is not understood.
    """

    def __init__(self, uri: str, policy: AlertPolicy) -> None:
        self._counters = SharedCounters(uri)
        self._policy = policy
        self._keep = math.ceil(2 * policy.window)
        self._lease = max(1, math.ceil(policy.lease))
        self._start_anew()
        call_after_fork(self._start_anew)

    def _start_anew(self) -> None:
        # A forked child leaves to its parent what that has held back.
        self._lock = threading.Lock()
        self._held_hours = HeldHours()

    def see(
        self, key: AlertKey, duration_ns: int, now: float, *, counted: bool = False, held: bool = False
    ) -> Claim | Held | None:
        """See the protocol."""
        told = self._told(key.digest, now)
        seen = 0 if counted else 1
        if not self._is_due(told, duration_ns, now) or self._is_held(key.digest, now):
            self._count(key.digest, _unpack(told)[0], duration_ns, seen)
            return None
        hour = hour_of(now)
        if not self._has_room(hour):
            return self._hold_back(key, told, duration_ns, hour, counted=counted, held=held)
        if self._counters.incr(f"{key.digest}:lease", self._lease + _EARLY) != 1:
            self._count(key.digest, _unpack(told)[0], duration_ns, seen)
            return None
        # Another one may have told it, and given the lease back, since it was looked up above.
        told = self._told(key.digest, now)
        if not self._is_due(told, duration_ns, now):
            self._counters.clear(f"{key.digest}:lease")
            self._count(key.digest, _unpack(told)[0], duration_ns, seen)
            return None
        if not self._admit(hour):
            self._counters.clear(f"{key.digest}:lease")
            return self._hold_back(key, told, duration_ns, hour, counted=counted, held=held)
        told_at, _ = _unpack(told)
        if counted:
            self._uncount(key.digest, told_at)
        seen, worst_ms = self._counts(key.digest, told_at)
        token = f"{now + self._lease:.3f}"  # when it lapses
        return Claim(key.digest, token, told > 0, seen, told_at * 10**9, worst_ms * 10**6 if seen else 0, duration_ns)

    def confirm(self, claim: Claim, now: float) -> None:
        """See the protocol."""
        key = f"{claim.key}:told"
        before = self._told(claim.key, now)
        told_at, worst_ns = _unpack(before)
        if self._was_told_since(claim, told_at, now):
            self._raise_worst(claim.key, before, claim.duration_ns)
            return
        in_window = told_at > now - self._policy.window
        worst_ns = max(claim.duration_ns, worst_ns if in_window else 0)
        # At least a second later than the last time: the counts of each telling have names of their own.
        now_at = max(round(now), told_at + 1)
        told = _pack(now_at, worst_ns)
        if before:
            # Anew, since the time to live of a counter counts from its first increment.
            self._counters.clear(key)
        if self._counters.incr(key, self._keep, told) != told:
            # Somebody else confirmed at this moment.
            self._counters.clear(key)
            self._counters.incr(key, self._keep, told)
        self._counters.clear(f"{claim.key}:held")
        self._counters.clear(f"{claim.key}:lease")
        self._carry_over(claim, told_at, now_at)

    def grow(self, claim: Claim, duration_ns: int, now: float) -> None:
        """See the protocol."""
        told = self._told(claim.key, now)
        if self._was_told_since(claim, _unpack(told)[0], now):
            self._raise_worst(claim.key, told, duration_ns)

    def hold(self, claim: Claim, seconds: float, now: float) -> bool:
        """See the protocol."""
        lapses = _lapses(claim)
        if self._was_told_since(claim, _unpack(self._told(claim.key, now))[0], now):
            return False
        if lapses is None or (now > lapses + _SKEW and not self._is_held(claim.key, now)):
            # Not ours, or no more: it may be somebody else's by now.
            if self._counters.get(f"{claim.key}:lease"):
                return False
            if lapses is None:
                return True
        key = f"{claim.key}:held"
        until = math.ceil(now + min(seconds, LONGEST_HOLD))
        already = self._counters.get(key)
        if already > now + LONGEST_HOLD:
            self._counters.clear(key)
            already = 0
        # Only ever upwards, without a gap in which another one could claim the key.
        if already < until:
            self._counters.incr(key, math.ceil(LONGEST_HOLD), until - already)
        return True

    def release(self, claim: Claim, now: float) -> None:
        """See the protocol."""
        lapses = _lapses(claim)
        if lapses is None or self._was_told_since(claim, _unpack(self._told(claim.key, now))[0], now):
            return
        if not self._is_held(claim.key, now) and now >= lapses:
            return  # It has lapsed: the lease is somebody else's.
        self._counters.incr(f"hour:{hour_of(now)}:back", 2 * HOUR)
        self._counters.clear(f"{claim.key}:held")
        self._counters.clear(f"{claim.key}:lease")

    def digest(self, now: float) -> HeldBack | None:
        """See the protocol."""
        with self._lock:
            own = self._held_hours.take(now)
        if own is None:
            return None
        hour_ns, alerts, endpoints = own
        hour = hour_ns // (HOUR * 10**9)
        if self._counters.incr(f"hour:{hour}:digest", 2 * 86_400) != 1:
            return None
        return hour_ns, max(alerts, self._counters.get(f"hour:{hour}:alerts")), endpoints

    def next_digest(self, now: float) -> float | None:
        """See the protocol."""
        with self._lock:
            return self._held_hours.next_in(now)

    def check(self, now: float) -> str:
        """See the protocol."""
        key = f"check:{round(now * 1000)}:{threading.get_ident()}"
        written = self._counters.incr(key, 10, 7)
        found = self._counters.get(key)
        self._counters.clear(key)
        if (written, found) != (7, 7):
            raise AlertStoreError(f"{self._counters.place} answered {found} where 7 had been written")
        return f"{self._counters.place}, shared by all processes that name it"

    def close(self) -> None:
        """See the protocol."""
        self._counters.close()

    def _is_due(self, told: int, duration_ns: int, now: float) -> bool:
        told_at, worst_ns = _unpack(told)
        return told_at <= now - self._policy.window or duration_ns >= self._policy.realert_ratio * worst_ns

    def _is_held(self, digest: str, now: float) -> bool:
        # Two renewals at once can add up to a time far in the future, and so can a clock that was wrong.
        return now < self._counters.get(f"{digest}:held") <= now + LONGEST_HOLD

    def _told(self, digest: str, now: float) -> int:
        told = self._counters.get(f"{digest}:told")
        # Two who confirm at once can add up their numbers before they mend it; one of them may be killed between.
        if _unpack(told)[0] > now + self._policy.window:
            self._counters.clear(f"{digest}:told")
            return 0
        return told

    def _was_told_since(self, claim: Claim, told_at: int, now: float) -> bool:
        """Tell whether the key was told after a claim was given, by its holder or by somebody else."""
        if _lapses(claim) is not None:
            return told_at * 10**9 > claim.since_ns
        return told_at * 10**9 > claim.since_ns + ROUNDING_NS and told_at > now - self._policy.window

    def _raise_worst(self, digest: str, told: int, duration_ns: int) -> None:
        """Note that what was told takes longer than is noted with it."""
        more = _pack(_unpack(told)[0], duration_ns) - told
        if more > 0:
            self._counters.incr(f"{digest}:told", self._keep, more)

    def _counts(self, digest: str, told_at: int) -> tuple[int, int]:
        return self._counters.get(f"{digest}:{told_at}:seen"), self._counters.get(f"{digest}:{told_at}:worst")

    def _count(self, digest: str, told_at: int, duration_ns: int, seen: int = 1) -> None:
        key = f"{digest}:{told_at}"
        if seen:
            self._counters.incr(f"{key}:seen", self._keep, seen)
        worst_ms = duration_ns // 10**6
        # Raising it is two steps; who cannot have the lock leaves it to those who come after.
        if self._counters.get(f"{key}:worst") < worst_ms and self._counters.incr(f"{key}:lock", 2) == 1:
            more = worst_ms - self._counters.get(f"{key}:worst")
            if more > 0:
                self._counters.incr(f"{key}:worst", self._keep, more)
            self._counters.clear(f"{key}:lock")

    def _uncount(self, digest: str, told_at: int) -> None:
        """Count one request less, for whoever has the lease: its own, which was counted while it ran."""
        key = f"{digest}:{told_at}:seen"
        seen = self._counters.get(key)
        if seen:
            # Not by a negative number, which memcached does not take.
            self._counters.clear(key)
        if seen > 1:
            self._counters.incr(key, self._keep, seen - 1)

    def _carry_over(self, claim: Claim, told_at: int, now_at: int) -> None:
        """Count for the next alert the requests that came while this one was being told."""
        seen, worst_ms = self._counts(claim.key, told_at)
        if seen > claim.seen_more:
            self._count(claim.key, now_at, worst_ms * 10**6, seen - claim.seen_more)
        if seen:
            self._counters.clear(f"{claim.key}:{told_at}:seen")
            self._counters.clear(f"{claim.key}:{told_at}:worst")

    def _has_room(self, hour: int) -> bool:
        taken = self._counters.get(f"hour:{hour}:claims") - self._counters.get(f"hour:{hour}:back")
        return taken < self._policy.alerts_per_hour

    def _admit(self, hour: int) -> bool:
        """Take one of the hour's alerts, if any is left."""
        claims, back = f"hour:{hour}:claims", f"hour:{hour}:back"
        if self._counters.incr(claims, 2 * HOUR) - self._counters.get(back) <= self._policy.alerts_per_hour:
            return True
        self._counters.incr(back, 2 * HOUR)
        return False

    def _hold_back(self, key: AlertKey, told: int, duration_ns: int, hour: int, *, counted: bool, held: bool) -> Held:
        if told:
            self._count(key.digest, _unpack(told)[0], duration_ns, 0 if counted else 1)
        if not held:
            with self._lock:
                self._held_hours.note(hour, key.text, duration_ns)
            self._counters.incr(f"hour:{hour}:alerts", 2 * 86_400)
        return Held(hour * HOUR * 10**9, counted or told > 0)


def _lapses(claim: Claim) -> float | None:
    """Return the Unix time at which a claim lapses that is not held; None for a claim of another kind of store."""
    # The tokens of the others are hexadecimal, and some of those are numbers too.
    try:
        return float(claim.token) if "." in claim.token else None
    except ValueError:
        return None


def _pack(told_at: int, worst_ns: int) -> int:
    """Return when something was told and the worst duration told as one number, of which the later is the greater."""
    return (told_at << _WORST_BITS) + min(int(_STEPS * math.log(max(1, worst_ns))), (1 << _WORST_BITS) - 1)


def _unpack(told: int) -> tuple[int, int]:
    return told >> _WORST_BITS, int(math.exp((told & ((1 << _WORST_BITS) - 1)) / _STEPS))
