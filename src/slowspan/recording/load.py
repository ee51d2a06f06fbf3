"""How busy the process is."""

from __future__ import annotations

import time


class Load:
    """Tells from the process's CPU clock whether it is busy. Used by the sampler's thread only.

    Args:
        window_ns: Time over which the load is measured.
        above: CPU time per time from which on the process is busy.
        below: CPU time per time below which it is so no longer; ``above`` when None.

    Attributes:
        is_busy: Whether it was when last measured.
    """

    def __init__(self, window_ns: int, above: float, below: float | None = None) -> None:
        self.is_busy: bool = False
        self._window_ns = window_ns
        self._above = above
        self._below = above if below is None else below
        self._began_ns = 0
        self._cpu_ns = 0

    def begin(self) -> None:
        """Measure from now on: until now there was no request that could have computed."""
        self._began_ns, self._cpu_ns = time.perf_counter_ns(), time.process_time_ns()

    def measure(self) -> None:
        """Look at the clock, and decide anew if the time to be measured is over."""
        elapsed = time.perf_counter_ns() - self._began_ns
        if elapsed < self._window_ns:
            return
        began_ns, cpu_ns = self._began_ns, self._cpu_ns
        self.begin()
        if began_ns:
            share = (self._cpu_ns - cpu_ns) / elapsed
            self.is_busy = share > (self._below if self.is_busy else self._above)
