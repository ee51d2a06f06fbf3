"""Which thread carries a request: found once, when its span starts."""

from __future__ import annotations

import concurrent.futures.thread
import sys
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import Span

if TYPE_CHECKING:
    from types import FrameType

_POOL_FILE = concurrent.futures.thread.__file__
_START_CODE = Span.start.__code__


def called_from_pool(level: int) -> bool:
    """Return whether a frame of the calling thread belongs to a thread pool's machinery.

    The SDK's ``ConcurrentMultiSpanProcessor`` calls its processors that way; the request's thread waits meanwhile.

    Args:
        level: Which frame: 1 is this function's caller, 2 the caller's caller, and so on.
    """
    return sys._getframe(level).f_code.co_filename == _POOL_FILE


def thread_that_starts(span: Span) -> int:
    """Find the thread that is inside ``span.start()``, waiting for its processors.

    Safe although it reads a foreign frame: that thread cannot go on before this call has returned.

    Returns:
        The thread's identifier, or 0 when no thread is starting this span.
    """
    for thread_id, top in sys._current_frames().items():
        frame: FrameType | None = top
        while frame is not None:
            if frame.f_code is _START_CODE and frame.f_locals.get("self") is span:
                return thread_id
            frame = frame.f_back
    return 0


def runs_event_loop() -> bool:
    """Return whether the calling thread is running an asyncio event loop: its stack is then not one request's."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None
