"""Which thread carries a request: found once, when its span starts."""

from __future__ import annotations

import sys
import threading
from _thread import get_ident, get_native_id
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.sdk.trace import Span

from slowspan.fork import call_after_fork
from slowspan.recording.stacks import all_frames

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_START_CODE = Span.start.__code__


class Carrier(NamedTuple):
    """The thread that runs a request."""

    thread_id: int
    """As of ``_thread.get_ident``, or 0 where it is not known."""
    native_id: int
    """The kernel's id, or 0 where it is not known."""


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


def carrier_that_starts(span: Span) -> Carrier:
    """Find the thread that is inside ``span.start()``, waiting for its processors.

    Returns:
        The thread; its ids are 0 when no thread is starting this span.
    """
    thread_id = _thread_that_starts(span)
    native_ids = {thread.ident: thread.native_id for thread in threading.enumerate()}
    return Carrier(thread_id, native_ids.get(thread_id) or 0)


def _thread_that_starts(span: Span) -> int:
    # Safe although it reads a foreign frame: that thread cannot go on before this call has returned.
    with all_frames() as frames:
        del frames[get_ident()]
        for thread_id, top in frames.items():
            frame: FrameType | None = top
            while frame is not None:
                if frame.f_code is _START_CODE and frame.f_locals.get("self") is span:
                    return thread_id
                frame = frame.f_back
    return 0


def this_thread() -> Carrier:
    """Return the calling thread."""
    return Carrier(get_ident(), get_native_id())


class CallingThread(threading.local):
    """What is known of the thread that starts a span; found once per thread, since asking the kernel costs 1 µs.

    Attributes:
        carrier: The thread, or None where a pool starts spans on behalf of other threads.
    """

    def __init__(self) -> None:
        self.carrier: Carrier | None = None if called_from_pool(1) else this_thread()

    def renew(self) -> None:
        """Read the ids anew: a forked child's only thread has a new one."""
        if self.carrier is not None:
            self.carrier = this_thread()


calling_thread: CallingThread = CallingThread()

call_after_fork(calling_thread.renew)


def _find_running_loop() -> object:
    global running_loop
    # Missing as long as nobody has imported asyncio, or while another thread is importing it.
    function = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)
    if function is None:
        return None
    running_loop = function
    return function()


running_loop: Callable[[], object] = _find_running_loop
"""Returns the asyncio event loop that the calling thread runs, or None: its stack is then not one request's.

Replaces itself by asyncio's own function as soon as there is one, so look it up for each call.
"""
