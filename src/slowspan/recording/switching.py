"""The interpreter's switch interval: short while a late request is sampled, so that computing can be seen."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from slowspan.recording.load import Load, Solo

if TYPE_CHECKING:
    from collections.abc import Callable

FINE_INTERVAL = 0.0005
"""Seconds. With the default of 5 ms the sampler waits longer for the lock than most pieces of work take."""

FINEST_INTERVAL = 0.0001
"""Seconds, where one thread computes and no other, or for a moment.

A thread that gives the lock up for a moment, as an event loop does between any two steps, has it again before one that
waits for it is awake, and the interval begins anew. Where all steps are shorter than that, nobody else gets the lock.
"""


class FineSwitching:
    """Shortens ``sys.setswitchinterval`` while it pays, and restores it unless somebody else changed it.

    Used by the sampler thread only.

    Attributes:
        allowed: The ``fine_switching`` setting.
        contended: Whether threads compete for the interpreter lock. With a short interval that would cost throughput
            (measured: 4 % with four busy threads, 8 % with sixteen).
        alone: Whether one thread computes, and hardly any other.
    """

    def __init__(self) -> None:
        self.allowed = True
        self.measure_anew()
        self._original: float | None = None
        self._own = FINE_INTERVAL

    def measure_anew(self) -> None:
        """Forget what was measured."""
        self.contended: bool = False
        self.alone: bool = False
        # They decide how samples are read, so they must be quick.
        self._competition = Load(window_ns=40_000_000, above=0.6)
        self._solo = Solo(window_ns=40_000_000)

    def measure(self, requests: int, find: Callable[[], tuple[int, bool]]) -> None:
        """Look at the clocks: who computes?

        Args:
            requests: The number of requests that are running.
            find: As of ``Solo.measure``.
        """
        self._competition.measure(idle=not requests)
        self._solo.measure(find)
        self.alone = self._solo.is_alone
        self.contended = self._competition.is_busy and requests > 1 and not self.alone

    def update(self) -> None:
        """Switch finely if threads do not compete for the lock, else restore."""
        if self.allowed and not self.contended:
            self._refine(FINEST_INTERVAL if self.alone else FINE_INTERVAL)
        else:
            self.restore()

    def force(self) -> bool:
        """Switch as finely as can be until the next update, even if threads compete; return whether that is allowed."""
        if self.allowed:
            self._refine(FINEST_INTERVAL)
        return self.allowed

    def restore(self) -> None:
        """Set the interval back to what it was, unless somebody else has changed it since."""
        if self._original is not None:
            if self._is_own():
                sys.setswitchinterval(self._original)
            self._original = None

    def _refine(self, interval: float) -> None:
        if self._original is None:
            current = sys.getswitchinterval()
            if current > interval:
                self._original = current
                self._set(interval)
        elif interval != self._own and self._is_own():
            self._set(min(interval, self._original))

    def _set(self, interval: float) -> None:
        self._own = interval
        sys.setswitchinterval(interval)

    def _is_own(self) -> bool:
        return abs(sys.getswitchinterval() - self._own) < 1e-6
