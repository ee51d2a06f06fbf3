"""The compressed profile, made without holding the interpreter lock for long."""

from __future__ import annotations

import time
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from slowspan.recording.profile import Profile

PAUSE = 0.0005
"""Seconds between two slices. ``sleep(0)`` would take the lock back before a waiting thread wakes."""

SLICE = 16_384
"""Characters between two pauses: some 0.3 ms of work. Most profiles are shorter, and a pause costs 50 µs and more."""

_GZIP = 16 + zlib.MAX_WBITS


def _pause() -> None:
    time.sleep(PAUSE)


def compress_profile(profile: Profile, pause: Callable[[], None] = _pause) -> bytes:
    """Return a profile as it is stored: its JSON, gzip-compressed.

    Runs on a delivery thread, in slices of less than a millisecond: requests hardly wait for the lock.
    The bytes depend on nothing but the profile.

    Args:
        profile: The profile.
        pause: Called between slices to let other threads run.

    Returns:
        What ``read_profile`` reads.
    """
    compressor = zlib.compressobj(wbits=_GZIP)
    compressed = bytearray()
    length = 0
    for piece in profile.json_slices():
        compressed += compressor.compress(piece.encode("utf-8"))
        length += len(piece)
        if length >= SLICE:
            length = 0
            pause()
    compressed += compressor.flush()
    return bytes(compressed)
