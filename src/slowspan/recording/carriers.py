"""Which thread carries a request: found once, when its span starts."""

from __future__ import annotations

import sys
import threading
from _thread import get_ident, get_native_id
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import Span

from slowspan.fork import call_after_fork
from slowspan.recording.stacks import all_frames

if TYPE_CHECKING:
    from collections.abc import Callable
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


class CallingThread(threading.local):
    """What is known of the thread that starts a span; found once per thread, since asking the kernel costs 1 µs.

    Attributes:
        ident: As of ``_thread.get_ident``.
        native_id: The kernel's id.
        serves_pool: Whether a pool starts spans here on behalf of other threads.
    """

    def __init__(self) -> None:
        self.serves_pool: bool = called_from_pool(1)
        self.renew()

    def renew(self) -> None:
        """Read the ids: a forked child's only thread has a new one."""
        self.ident: int = get_ident()
        self.native_id: int = get_native_id()


calling_thread: CallingThread = CallingThread()

call_after_fork(calling_thread.renew)

_running_loop: Callable[[], object] | None = None


def runs_event_loop() -> bool:
    """Return whether the calling thread is running an asyncio event loop: its stack is then not one request's."""
    global _running_loop
    if _running_loop is None:
        # Missing while another thread is importing asyncio.
        _running_loop = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)
        if _running_loop is None:
            return False
    return _running_loop() is not None
