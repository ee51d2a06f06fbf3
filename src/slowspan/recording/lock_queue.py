"""Who queues for the interpreter lock: the kernel knows at which address a sleeping thread waits to be woken.

The lock is part of the interpreter's one static structure, in which no other address has threads sleep for long. A
thread that sleeps there is ready to run, whatever its stack looks like. All this is read while the sampler holds the
lock: letting go of it would wake the queue's first thread, and cost the sampler its turn.
"""

from __future__ import annotations

import sys
from typing import Any

_RUNTIME_SIZE = 1_000_000
"""Bytes that the interpreter's structure takes at most: half of that as of 3.13."""

_BYTES = 256


class LockQueue:
    """Tells who waits for the interpreter lock. Used by the sampler's thread only."""

    def __init__(self) -> None:
        # Imported here because it costs milliseconds, and only a process whose threads queue for the lock needs it.
        import ctypes

        runtime = ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime")
        self._start = ctypes.addressof(runtime)
        # As part of Python's own interface: a call through it keeps the lock, while os.pread would let go of it.
        self._pread: Any = ctypes.PyDLL(None).pread
        self._buffer = ctypes.create_string_buffer(_BYTES)
        self._offset = ctypes.c_long(0)

    def has(self, file: int) -> bool | None:
        """Return whether a thread waits for the lock. Takes 3 µs, and does not let go of the lock.

        Args:
            file: The kernel's file on the thread's system call: its number, then its arguments.

        Returns:
            None where the thread runs at this instant, or the kernel does not tell.
        """
        size = self._pread(file, self._buffer, _BYTES - 1, self._offset)
        fields = self._buffer.raw[: max(size, 0)].split()
        if len(fields) < 3:
            return None
        # The first argument of the call that sleeps until an address is woken; of others it is something else.
        return 0 <= int(fields[1], 16) - self._start < _RUNTIME_SIZE


_queue: LockQueue | None = None
_is_known = sys.platform == "linux"


def queues_for_lock(file: int) -> bool | None:
    """Return whether a thread waits for the interpreter lock, which the caller holds; None if that is not known.

    Args:
        file: As of :meth:`LockQueue.has`.
    """
    global _queue, _is_known
    if not _is_known:
        return None
    if _queue is None:
        try:
            _queue = LockQueue()
        except (ImportError, AttributeError, ValueError, OSError):
            # No ctypes, or an interpreter that was built without its symbols.
            _is_known = False
            return None
    return _queue.has(file)
