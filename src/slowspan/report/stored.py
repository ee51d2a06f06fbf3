"""The compressed profile, made without holding the interpreter lock for long."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from slowspan.breather import Breather

if TYPE_CHECKING:
    from collections.abc import Callable

    from slowspan.recording.profile import Profile

_GZIP = 16 + zlib.MAX_WBITS


def compress_profile(profile: Profile, pause: Callable[[], None] | None = None) -> bytes:
    """Return a profile as it is stored: its JSON, gzip-compressed.

    Runs on a delivery thread, in slices of less than a millisecond: requests hardly wait for the lock.
    The bytes depend on nothing but the profile.

    Args:
        profile: The profile.
        pause: Called at every step, to let other threads run now and then; a new :class:`Breather` when None.

    Returns:
        What ``read_profile`` reads.
    """
    pause = pause or Breather()
    compressor = zlib.compressobj(wbits=_GZIP)
    compressed = bytearray()
    for piece in profile.json_slices():
        compressed += compressor.compress(piece.encode("utf-8"))
        pause()
    compressed += compressor.flush()
    return bytes(compressed)
