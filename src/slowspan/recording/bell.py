"""What the sampler's thread sleeps on, and what wakes it."""

from __future__ import annotations

import contextlib
import sys
import time

from slowspan import native
from slowspan.recording.classify import Lock
from slowspan.recording.gauge import voluntary_switches


class Bell:
    """Rung by any thread, heard by one."""

    def __init__(self) -> None:
        self._lock = native.allocate_lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Wake the thread that sleeps, or have the next sleep end at once."""
        # Somebody else may have rung already.
        with contextlib.suppress(RuntimeError):
            self._lock.release()

    def wait(self) -> None:
        """Sleep until it rings."""
        self._lock.acquire()

    def sleep(self, delay_ns: float) -> Lock:
        """Sleep for some time, or until it rings; return how the caller came by the interpreter lock then."""
        switches = voluntary_switches()
        due = time.perf_counter_ns() + delay_ns
        self._lock.acquire(timeout=delay_ns / 1e9)
        # One for the sleep itself; waiting for the interpreter lock after it makes at least one more.
        if voluntary_switches() - switches <= 1:
            return Lock.FREE
        if time.perf_counter_ns() - due < sys.getswitchinterval() * 1e9:
            return Lock.GIVEN_UP
        return Lock.HELD
