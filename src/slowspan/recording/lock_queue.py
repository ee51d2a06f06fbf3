"""Who queues for the interpreter lock: the kernel knows at which address a sleeping thread waits to be woken.

The lock is part of the interpreter's one static structure, in which no other address has threads sleep for long. A
thread that sleeps there is ready to run, whatever its stack looks like.
"""

from __future__ import annotations

_RUNTIME_SIZE = 1_000_000
"""Bytes that the interpreter's structure takes at most: half of that as of 3.13."""

_runtime: int | None = None
"""Address of the interpreter's structure; 0 where it cannot be known."""


def sleeps_at_lock(call: bytes) -> bool | None:
    """Return whether a thread waits for the interpreter lock.

    Args:
        call: The kernel's file on the thread's system call: its number, then its arguments. To be read while the
            caller holds the lock: letting go of it would wake the queue's first thread, and cost the caller its turn.

    Returns:
        None where the thread runs at this instant, or where it is not known.
    """
    fields = call.split()
    runtime = _address_of_runtime()
    if len(fields) < 3 or not runtime:
        return None
    # The first argument of the call that sleeps until an address is woken; of others it is something else.
    return 0 <= int(fields[1], 16) - runtime < _RUNTIME_SIZE


def _address_of_runtime() -> int:
    global _runtime
    if _runtime is None:
        try:
            import ctypes  # As in kernel_files, which has loaded it.

            _runtime = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
        except (ImportError, AttributeError, ValueError, OSError):
            # No ctypes, or an interpreter that was built without its symbols.
            _runtime = 0
    return _runtime
