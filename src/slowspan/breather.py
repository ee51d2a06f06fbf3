"""Long work on threads of our own, in slices: between two of them the application's threads run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from slowspan import native

if TYPE_CHECKING:
    from collections.abc import Callable

SLICE_NS = 100_000
"""Time of a slice: much less than the switch interval, after which the interpreter takes the lock away."""

PAUSE = 0.001
"""Seconds between two slices: so long that a short request meets one or two. ``sleep(0)`` would take the lock back
before a waiting thread wakes."""


class Breather:
    """Called at every step of some work, sleeps a moment when a slice is over.

    Work that is over before has no pause at all. A thread that wants the interpreter lock meanwhile waits for the rest
    of the slice; it would wait for the switch interval, 5 ms, if there were no pauses.

    Args:
        in_haste: Tells whether somebody waits for the work: then there are no pauses.
        clock: Nanoseconds, monotonic.
        sleep: Waits for some seconds.
    """

    def __init__(
        self,
        in_haste: Callable[[], bool] = lambda: False,
        clock: Callable[[], int] = time.perf_counter_ns,
        sleep: Callable[[float], object] = native.sleep,
    ) -> None:
        self._in_haste = in_haste
        self._clock = clock
        self._sleep = sleep
        self._began_ns = clock()

    def __call__(self) -> None:
        """Sleep if it is time."""
        if self._clock() - self._began_ns >= SLICE_NS:
            if not self._in_haste():
                self._sleep(PAUSE)
            self._began_ns = self._clock()
