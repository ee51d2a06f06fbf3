"""What the kernel knows of another thread: its CPU clock, how long it waited for a processor, whether it could run."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from slowspan.recording.kernel_files import close_file, keep_lock, open_file, os_read, read_file
from slowspan.recording.lock_queue import sleeps_at_lock

if TYPE_CHECKING:
    from collections.abc import Callable

HAS_THREAD_CLOCKS = sys.platform == "linux"
"""Whether another thread's CPU time can be read. Elsewhere samples carry wall time only."""

MAX_OPEN = 64
"""Gauges with open files at the same time, three files each: the application needs its descriptors, too."""


if sys.platform == "linux":
    import resource

    def voluntary_switches() -> int:
        """Return how often the calling thread has gone to sleep: for a timer, or for the interpreter lock."""
        return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw

else:

    def voluntary_switches() -> int:
        """Return 0: not known on this system."""
        return 0


class ThreadEndedError(Exception):
    """The thread of a gauge has ended."""


def thread_cpu_ns(native_id: int) -> int | None:
    """Return the CPU time that a thread has used, or None where it cannot be known. Takes 1 µs.

    Args:
        native_id: The kernel's thread id, as of ``threading.get_native_id``; 0 where it is not known.

    Raises:
        ThreadEndedError: The thread has ended.
    """
    # To the kernel 0 is the calling thread.
    if not HAS_THREAD_CLOCKS or not native_id:
        return None
    try:
        # The clock of a thread is the complement of its id, with the bits for "per thread, scheduler's time".
        # time.pthread_getcpuclockid would do the same, but crashes on a thread that has ended.
        return time.clock_gettime_ns((~native_id << 3) | 6)
    except OSError:
        raise ThreadEndedError from None


class ThreadGauge:
    """Reads the accounts of one thread of this process. Used by the sampler's thread only.

    Where the kernel's files cannot be opened (another system, a sandbox, no descriptor left) only the CPU clock is
    read, or nothing.

    Args:
        native_id: The kernel's thread id, as of ``threading.get_native_id``.
    """

    __slots__ = ("_files", "_native_id", "_users")

    _open = 0

    def __init__(self, native_id: int) -> None:
        self._native_id = native_id
        self._users = 0
        self._files: dict[str, int] = {}

    def give_back(self) -> None:
        """Close the files when nobody else has borrowed this gauge."""
        self._users -= 1
        if self._users <= 0:
            if _borrowed.get(self._native_id) is self:
                del _borrowed[self._native_id]
            self.close()

    def close(self) -> None:
        """Close the files."""
        files, self._files = self._files, {}
        if any(file >= 0 for file in files.values()):
            ThreadGauge._open -= 1
        for file in files.values():
            if file >= 0:
                close_file(file)

    def cpu_ns(self) -> int | None:
        """Return the CPU time that the thread has used, or None where it cannot be known. Takes 1 µs.

        Raises:
            ThreadEndedError: The thread has ended.
        """
        return thread_cpu_ns(self._native_id)

    def delay_ns(self) -> int:
        """Return how long in all the thread was ready to run while every processor was taken.

        Returns:
            Nanoseconds; 0 where it is not known.

        Raises:
            ThreadEndedError: The thread has ended.
        """
        text = self._read("schedstat")
        return int(text.split()[1]) if text is not None else 0

    def is_ready(self) -> bool | None:
        """Return whether the thread runs or could run now, None where that is not known. Takes 4 µs.

        The call lets go of the interpreter lock: a thread that was stopped so that the sampler could look is woken by
        that, and ready; one that waits for anything else is not.

        Raises:
            ThreadEndedError: The thread has ended.
        """
        text = self._read("stat", os_read)
        return text[text.rindex(b")") + 2 :][:1] == b"R" if text is not None else None

    def queues_for_lock(self) -> bool | None:
        """Return whether the thread waits for the interpreter lock, which the caller holds; None if not known."""
        if not keep_lock():
            return None
        try:
            text = self._read("syscall")
        except ThreadEndedError:
            return None
        return sleeps_at_lock(text) if text is not None else None

    def _read(self, name: str, read: Callable[[int], bytes] = read_file) -> bytes | None:
        """Return one of the thread's files, None where it cannot be opened."""
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = self._opened(name)
        if file < 0:
            return None
        try:
            return read(file)
        except OSError:
            raise ThreadEndedError from None

    def _opened(self, name: str) -> int:
        """Open one of the thread's files and return its descriptor, or -1."""
        is_first = all(file < 0 for file in self._files.values())
        if not HAS_THREAD_CLOCKS or (is_first and ThreadGauge._open >= MAX_OPEN):
            return -1
        try:
            file = open_file(f"/proc/self/task/{self._native_id}/{name}")
        except OSError:
            return -1
        ThreadGauge._open += is_first
        return file


_borrowed: dict[int, ThreadGauge] = {}


def borrow_gauge(native_id: int) -> ThreadGauge:
    """Return the gauge of a thread, which all requests on that thread share; give it back after use.

    Args:
        native_id: The kernel's thread id, as of ``threading.get_native_id``.
    """
    gauge = _borrowed.get(native_id)
    if gauge is None:
        gauge = _borrowed[native_id] = ThreadGauge(native_id)
    gauge._users += 1
    return gauge
