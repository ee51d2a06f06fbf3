"""How much CPU time the stack sampler may use."""

from __future__ import annotations

WINDOW_NS = 10_000_000_000
"""Time over which the budget is kept: a slow request now and then is sampled at the full rate for its first seconds,
while a process in which something is always slow settles at the share itself."""

WHILE_SATURATED = 0.5
"""Part of the budget that is used while the process computes without a pause. Then what the sampler takes is missing
elsewhere, and a computing thread that was stopped loses some more, as it comes back to caches gone cold."""


class Budget:
    """A share of one core, averaged over ten seconds. Used by the sampler's thread only.

    Attributes:
        share: CPU time that may be used, per time.
        mean_cost_ns: Running mean of what one tick costs.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self.mean_cost_ns: float = 0.0
        self._balance_ns = share * WINDOW_NS
        self._at_ns = 0

    def spend(self, cost_ns: int, now_ns: int) -> None:
        """Account for one tick.

        Args:
            cost_ns: CPU time of the tick, with waking up and going to sleep.
            now_ns: Monotonic time.
        """
        earned = self.share * (now_ns - self._at_ns)
        self._at_ns = now_ns
        self._balance_ns = min(self._balance_ns + earned, self.share * WINDOW_NS) - cost_ns
        self.mean_cost_ns += 0.1 * (cost_ns - self.mean_cost_ns)

    def stretch(self, interval_ns: float, *, saturated: bool) -> float:
        """Return the interval that can be afforded now: the one that is wanted, or a longer one.

        Args:
            interval_ns: The one that is wanted.
            saturated: Whether the process computes without a pause. Nothing that was saved up is used then: each tick
                is paid by some request.
        """
        if saturated:
            return max(interval_ns, self.mean_cost_ns / (WHILE_SATURATED * self.share))
        if self._balance_ns > 0:
            return interval_ns
        return max(interval_ns, self.mean_cost_ns / self.share)
