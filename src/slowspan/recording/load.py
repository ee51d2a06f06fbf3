"""How busy the process is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from slowspan.recording.gauge import ThreadEndedError, thread_cpu_ns

if TYPE_CHECKING:
    from collections.abc import Callable

HARDLY_ANY = 0.05
"""CPU time per time that other threads may use beside the one that computes alone."""


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


class Solo:
    """Tells whether one thread computes, and hardly any other. Used by the sampler's thread only.

    Args:
        window_ns: Time over which that is measured.

    Attributes:
        is_alone: Whether it was so when last measured.
    """

    def __init__(self, window_ns: int) -> None:
        self.is_alone: bool = False
        self._window_ns = window_ns
        self._native_id = 0
        self._began_ns = 0
        self._others_ns = 0

    def measure(self, find: Callable[[], tuple[int, bool]]) -> None:
        """Look at the clocks, and decide anew if the time to be measured is over.

        Args:
            find: Returns the kernel's id of the thread, or 0, and whether it is taken to be alone until that is known.
        """
        now = time.perf_counter_ns()
        elapsed = now - self._began_ns
        if self._native_id and elapsed < self._window_ns:
            return
        native_id, is_likely = find()
        if not native_id:
            # What holds until the next request is what held for the last one.
            self._native_id = 0
            return
        others_ns = _cpu_ns_beside(native_id)
        if native_id == self._native_id:
            self.is_alone = others_ns - self._others_ns <= HARDLY_ANY * elapsed
        else:
            self.is_alone = is_likely
        self._native_id, self._began_ns, self._others_ns = native_id, now, others_ns


def _cpu_ns_beside(native_id: int) -> int:
    """Return the CPU time of all threads but one, where that is known, and the caller."""
    try:
        own_ns = thread_cpu_ns(native_id)
    except ThreadEndedError:
        own_ns = None
    return time.process_time_ns() - time.thread_time_ns() - (own_ns or 0)
