"""What runs a request that starts now: a thread, or a task or a greenlet on one, asked of the libraries at hand."""

from __future__ import annotations

import sys
import threading
from types import FunctionType
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import Span

from slowspan import native
from slowspan.recording import handoffs
from slowspan.recording.carriers import ThreadCarrier, calling_thread
from slowspan.recording.stacks import all_frames

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from slowspan.recording.carriers import Runner

_START_CODE = Span.start.__code__


def _is_called_by_pool() -> bool:
    """Return whether a thread pool calls a span processor for another thread, which is starting the span.

    The SDK's ``ConcurrentMultiSpanProcessor`` calls its processors that way; the request's thread waits meanwhile. A
    pool further out, around the span's start, is the one that serves the request.
    """
    pools = sys.modules.get("concurrent.futures.thread")
    if pools is None:
        return False
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not _START_CODE:
        if frame.f_code.co_filename == pools.__file__:
            return True
        frame = frame.f_back
    return False


def carrier_that_starts(span: Span) -> ThreadCarrier:
    """Find the thread that is inside ``span.start()``, waiting for its processors.

    Returns:
        The thread; its ids are 0 when no thread is starting this span.
    """
    thread_id = _thread_that_starts(span)
    return ThreadCarrier(thread_id, native.native_id_of(thread_id))


def _thread_that_starts(span: Span) -> int:
    # Safe although it reads a foreign frame: that thread cannot go on before this call has returned.
    with all_frames() as frames:
        del frames[native.get_ident()]
        for thread_id, top in frames.items():
            frame: FrameType | None = top
            while frame is not None:
                if frame.f_code is _START_CODE and frame.f_locals.get("self") is span:
                    return thread_id
                frame = frame.f_back
    return 0


def runner_here() -> ThreadCarrier | Runner | None:
    """Return what runs the caller.

    Returns:
        None where there is nothing that can be followed, as in an event loop's callback.
    """
    return runner_on(calling_thread.carrier, running_loop())


def runner_on(thread: ThreadCarrier | None, loop: object) -> ThreadCarrier | Runner | None:
    """Return what runs the request that starts now. On the path of many requests.

    Args:
        thread: The calling thread, if it is a known one. For any other the caller must be a span processor.
        loop: The event loop that runs on it, or None.

    Returns:
        None where there is nothing that can be followed, as in an event loop's callback, and where a pool calls the
        processor on behalf of another thread.
    """
    if thread is None:
        if _is_called_by_pool():
            return None
        thread = calling_thread.carrier
    if loop is not None:
        task = current_task(loop)
        return (thread, task) if task is not None else None
    return thread if look_further is None else look_further(thread)


def is_called_by_greenlets() -> bool:
    """Return whether a thread pool with greenlets for threads calls a span processor for the one that starts a span.

    Nothing leads from there to that one. To be asked in a processor's callback, when it is called for the first time.
    """
    if gevents_hub is None or not isinstance(current_greenlet().parent, gevents_hub):
        return False
    _ = calling_thread.carrier  # Has the thread known, to which the hubs of requests lead later.
    return _is_called_by_pool()


def _task_beyond_asgiref() -> Runner | None:
    future = handoffs.work_of_this_thread()
    task = handoffs.waiter_of(future) if future is not None else None
    if task is None:
        return None
    # Other event loops than asyncio's own do not say which thread runs them; a server's is the main one.
    thread_id = getattr(task.get_loop(), "_thread_id", None) or threading.main_thread().ident or 0
    return ThreadCarrier(thread_id, native.native_id_of(thread_id)), task


_LIBRARIES = frozenset({"asyncio", "asgiref.sync", "eventlet", "gevent", "trio"})
"""Libraries that run many requests on one thread."""

_known: frozenset[str] | None = None


def notice_new_libraries() -> None:
    """Notice libraries that were imported since the last call. Takes microseconds; the sampler's thread calls it."""
    global _known, current_greenlet, current_task, gevents_hub, look_further, running_loop, busy_loops
    loaded = _LIBRARIES.intersection(sys.modules.keys() & _LIBRARIES)
    if loaded == _known:
        return
    asyncio = sys.modules.get("asyncio")
    get_loop = getattr(asyncio, "_get_running_loop", _no_loop)
    get_task = getattr(asyncio, "current_task", None)
    if asyncio is not None and (get_loop is _no_loop or get_task is None):
        return  # Another thread is importing it.
    if not loaded.isdisjoint({"eventlet", "gevent"}) and not hasattr(sys.modules.get("greenlet"), "getcurrent"):
        return  # The same, of the extension on which they stand.
    hub = getattr(sys.modules.get("gevent.hub"), "Hub", None) if "gevent" in loaded else None
    if "gevent" in loaded and hub is None:
        return
    # In this order: a request that is told of a loop by the second one asks the first one for its task.
    current_greenlet = getattr(sys.modules.get("greenlet"), "getcurrent", None)
    current_task = _without_a_frame(get_task) if hub is None else _task_or_greenlet(get_task, hub)
    running_loop = get_loop
    look_further = _make_look(loaded) if loaded - {"asyncio"} else None
    # Where it is not there, or asyncio is not, the thread is asked for a loop each time.
    busy_loops = getattr(sys.modules.get("asyncio.tasks"), "_current_tasks", True)
    gevents_hub = hub
    _known = loaded


def _without_a_frame(get_task: Any) -> Any:
    """Return what ``asyncio.current_task`` asks, where that is a function of Python: a call costs a request 1 µs.

    Args:
        get_task: That function, of C from Python 3.12 on; None before asyncio is imported.
    """
    tasks = getattr(sys.modules.get("asyncio.tasks"), "_current_tasks", None)
    # By its globals: a wrapper around it says that it is of the same module.
    is_theirs = isinstance(get_task, FunctionType) and get_task.__globals__ is vars(sys.modules["asyncio.tasks"])
    return tasks.get if is_theirs and isinstance(tasks, dict) else get_task


def _task_or_greenlet(get_task: Any, hub: type) -> Any:
    """Return what tells what runs on the thread of an event loop where that may be one of gevent's greenlets.

    asyncio tells of a loop all the time for which it runs, and of a task until the end of its step, also to the
    greenlets that have the thread meanwhile.

    Args:
        get_task: ``asyncio.current_task``.
        hub: ``gevent.hub.Hub``.
    """

    def is_beside(loop: Any, greenlet: Any) -> bool:
        # What neither gevent nor a thread has started, a task has. A loop that is compiled blocks its thread.
        code = getattr(getattr(type(loop), "run_forever", None), "__code__", None)
        if code is None or not (greenlet.parent is None or isinstance(greenlet.parent, hub)):
            return False
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code is not code:
            frame = frame.f_back
        return frame is None

    def current(loop: Any) -> Any:
        greenlet = current_greenlet()
        return greenlet if is_beside(loop, greenlet) else get_task(loop)

    return current


def _make_look(loaded: frozenset[str]) -> Callable[[ThreadCarrier], ThreadCarrier | Runner | None]:
    """Return what finds a request that is on no event loop, with these libraries."""
    trio = sys.modules.get("trio")
    has_asgiref, has_eventlet = "asgiref.sync" in loaded, "eventlet" in loaded

    def look(thread: ThreadCarrier) -> ThreadCarrier | Runner | None:
        if has_eventlet and native.eventlet_has_replaced_threads():
            return None
        if current_greenlet is not None:
            greenlet = current_greenlet()
            # A thread's first greenlet is the thread itself, unless gevent has it wait in turns with others.
            if greenlet.parent is not None or _has_hub():
                return thread, greenlet
        if trio is not None and trio.lowlevel.in_trio_run():
            return None
        # A thread that asgiref uses belongs to one request while it works for one, and to none in between.
        if has_asgiref and handoffs.is_bridged_here():
            return _task_beyond_asgiref() or thread
        return thread

    return look


def _has_hub() -> bool:
    hub = getattr(sys.modules.get("gevent._hub_local"), "get_hub_if_exists", None)
    return hub is not None and hub() is not None


def _no_loop() -> Any:
    # Until the sampler's thread has time for it, two tasks would be taken for one thread.
    if "asyncio" in sys.modules:
        notice_new_libraries()
        return running_loop() if running_loop is not _no_loop else None
    return None


def _notice_first() -> Any:
    notice_new_libraries()
    return running_loop() if running_loop is not _notice_first else None


running_loop: Callable[[], Any] = _notice_first
"""Returns the event loop that runs on the calling thread, or None."""

current_task: Any = None
"""Returns the task that runs on a loop, or None; a greenlet where that has the loop's thread meanwhile."""

gevents_hub: type | None = None
"""gevent's class of what greenlets go back to, once it is loaded: the parent of each greenlet that it has started."""

current_greenlet: Any = None
"""Returns the greenlet that runs on the calling thread; None where no library with greenlets is known."""

busy_loops: object = True
"""True while an event loop runs a step of a task, on any thread."""

look_further: Callable[[ThreadCarrier], ThreadCarrier | Runner | None] | None = None
"""Finds what runs a request on no event loop, where a library is loaded that runs many of those on one thread."""
