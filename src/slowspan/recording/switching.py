"""The interpreter's switch interval: short while a late request is sampled, so that computing can be seen."""

from __future__ import annotations

import sys
import time

FINE_INTERVAL = 0.0005
"""Seconds. With the default of 5 ms the sampler waits longer for the lock than most pieces of work take."""

SATURATED = 0.6
"""CPU time of the process per second of wall time from which on threads compete for the lock: then a short
interval would cost throughput (measured: 4 % with four busy threads, 8 % with sixteen)."""

MEASURE_NS = 40_000_000
"""Time over which the process's load is measured."""


class FineSwitching:
    """Shortens ``sys.setswitchinterval`` while it pays, and restores it unless somebody else changed it.

    Used by the sampler thread only.

    Attributes:
        allowed: The ``fine_switching`` setting.
        contended: Whether threads competed for the interpreter lock when last looked at.
    """

    def __init__(self) -> None:
        self.allowed = True
        self.contended: bool = False
        self._original: float | None = None
        self._measured_at_ns = 0
        self._cpu_ns = 0
        self._saturated = False

    def measure(self, open_requests: int) -> None:
        """Find out whether threads compete for the lock. Of two calls 40 ms apart the second one tells.

        Args:
            open_requests: Watched requests that are running now.
        """
        self.contended = open_requests > 1 and self._is_saturated()

    def update(self) -> None:
        """Switch finely if threads do not compete for the lock, else restore."""
        if self.allowed and not self.contended:
            self._refine()
        else:
            self.restore()

    def restore(self) -> None:
        """Set the interval back to what it was, unless somebody else has changed it since."""
        if self._original is not None:
            if abs(sys.getswitchinterval() - FINE_INTERVAL) < 1e-6:
                sys.setswitchinterval(self._original)
            self._original = None

    def _refine(self) -> None:
        if self._original is None:
            current = sys.getswitchinterval()
            if current > FINE_INTERVAL:
                self._original = current
                sys.setswitchinterval(FINE_INTERVAL)

    def _is_saturated(self) -> bool:
        now = time.perf_counter_ns()
        elapsed = now - self._measured_at_ns
        if elapsed >= MEASURE_NS:
            cpu = time.process_time_ns()
            self._saturated = self._measured_at_ns > 0 and cpu - self._cpu_ns > SATURATED * elapsed
            self._measured_at_ns, self._cpu_ns = now, cpu
        return self._saturated
