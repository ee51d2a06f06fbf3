"""The kernel's files on the threads of this process.

Every call of ``os`` that opens or reads a file lets go of the interpreter lock. Where sixteen threads queue for that,
each of the calls costs a tenth of a second. So the C library is called as if it were part of Python's own interface,
which keeps the lock.
"""

from __future__ import annotations

import os
from typing import Any

BYTES = 256
"""The most that is read of a file."""

_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)

_library: Any = None
_buffer: Any = None
_can_keep_lock = True


def keep_lock() -> bool:
    """Have all files used without letting go of the interpreter lock from now on. Used by the sampler's thread only.

    Returns:
        Whether that is possible.
    """
    global _library, _buffer, _can_keep_lock
    if _library is None and _can_keep_lock:
        try:
            # Imported here because it costs 3 ms, on a thread that has the time.
            import ctypes

            library = ctypes.PyDLL(None)
            library.open, library.pread, library.close  # noqa: B018 -- looks for them
            _buffer = ctypes.create_string_buffer(BYTES)
            library.pread.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_long)
            _library = library
        except Exception:  # noqa: BLE001 - there are hardened systems on which it fails with MemoryError
            _can_keep_lock = False
    return _can_keep_lock


def open_file(path: str) -> int:
    """Open a file for reading and return its descriptor.

    Raises:
        OSError: It cannot be opened.
    """
    if _library is None:
        return os.open(path, _FLAGS)
    file: int = _library.open(path.encode(), _FLAGS)
    if file < 0:
        raise OSError(f"cannot open {path}")
    return file


def os_read(file: int) -> bytes:
    """Return what is in a file now, and let go of the interpreter lock meanwhile.

    Raises:
        OSError: It cannot be read, as after its thread's end.
    """
    return os.pread(file, BYTES, 0)


def read_file(file: int) -> bytes:
    """Return what is in a file now. Takes 3 µs.

    Raises:
        OSError: It cannot be read, as after its thread's end.
    """
    if _library is None:
        return os_read(file)
    size: int = _library.pread(file, _buffer, BYTES, 0)
    if size < 0:
        raise OSError("cannot read a file of the kernel's")
    text: bytes = _buffer.raw[:size]
    return text


def close_file(file: int) -> None:
    """Close a file."""
    if _library is None:
        os.close(file)
    else:
        _library.close(file)
