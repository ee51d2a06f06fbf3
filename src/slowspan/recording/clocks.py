"""What the kernel knows of threads: CPU clocks and how often one had to wait."""

from __future__ import annotations

import sys
import time

HAS_THREAD_CLOCKS = sys.platform == "linux"
"""Whether another thread's CPU time can be read. Elsewhere samples carry wall time only."""


def thread_cpu_ns(native_id: int) -> int | None:
    """Read the CPU time that a thread of this process has used.

    Takes about 1 µs. ``time.pthread_getcpuclockid`` would do the same, but crashes on a thread that has ended.

    Args:
        native_id: The kernel's thread id, as of ``threading.get_native_id``.

    Returns:
        Nanoseconds, or None when the thread has ended.
    """
    try:
        # Linux: the clock of a thread is the complement of its id, with the bits for "per thread, scheduler's time".
        return time.clock_gettime_ns((~native_id << 3) | 6)
    except OSError:
        return None


if sys.platform == "linux":
    import resource

    def voluntary_switches() -> int:
        """Return how often the calling thread has gone to sleep so far: for a lock, a timer or anything else."""
        return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw

else:

    def voluntary_switches() -> int:
        """Return 0: not known on this platform."""
        return 0
