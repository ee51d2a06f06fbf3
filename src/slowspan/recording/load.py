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
        self._idle = True
        self._began_ns = 0
        self._cpu_ns = 0

    def measure(self, *, idle: bool) -> None:
        """Look at the clocks, and decide anew if the time to be measured is over.

        Args:
            idle: Whether no request is running. Such time is not measured together with any other.
        """
        now = time.perf_counter_ns()
        elapsed, was_idle, self._idle = now - self._began_ns, self._idle, idle
        if idle == was_idle and elapsed < self._window_ns:
            return
        cpu_before, self._cpu_ns, self._began_ns = self._cpu_ns, time.process_time_ns(), now
        if idle == was_idle:
            share = 0 if idle else (self._cpu_ns - cpu_before) / elapsed
            self.is_busy = share > (self._below if self.is_busy else self._above)
