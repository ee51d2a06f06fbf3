"""Which thread carries a request: found once, when its span starts."""

from __future__ import annotations

import sys
from _thread import get_ident
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import Span

from slowspan.recording.stacks import all_frames

if TYPE_CHECKING:
    from types import FrameType

_START_CODE = Span.start.__code__


def called_from_pool(level: int) -> bool:
    """Return whether a thread pool calls us for another thread, which is starting the span.

    The SDK's ``ConcurrentMultiSpanProcessor`` calls its processors that way; the request's thread waits meanwhile. A
    pool further out, around the span's start, is the one that serves the request.

    Args:
        level: At which frame to begin: 1 is this function's caller, 2 the caller's caller, and so on.
    """
    pools = sys.modules.get("concurrent.futures.thread")
    if pools is None:
        return False
    frame: FrameType | None = sys._getframe(level)
    while frame is not None and frame.f_code is not _START_CODE:
        if frame.f_code.co_filename == pools.__file__:
            return True
        frame = frame.f_back
    return False


def thread_that_starts(span: Span) -> int:
    """Find the thread that is inside ``span.start()``, waiting for its processors.

    Safe although it reads a foreign frame: that thread cannot go on before this call has returned.

    Returns:
        The thread's identifier, or 0 when no thread is starting this span.
    """
    with all_frames() as frames:
        del frames[get_ident()]
        for thread_id, top in frames.items():
            frame: FrameType | None = top
            while frame is not None:
                if frame.f_code is _START_CODE and frame.f_locals.get("self") is span:
                    return thread_id
                frame = frame.f_back
    return 0


def runs_event_loop() -> bool:
    """Return whether the calling thread is running an asyncio event loop: its stack is then not one request's."""
    # Missing while another thread is importing asyncio.
    running_loop = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)
    return running_loop is not None and running_loop() is not None
