"""Where known libraries hand a request's work on: to child tasks, and to other threads.

To show the work behind a new library's wait, add its function to one of the two tables below, or to the one in
``threads``. A function is known by its module and name; one local variable of it tells where the work is. Nobody else's
variables are read, since that can keep them alive.
"""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from slowspan.recording.stacks import are_innermost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import FrameType


class Onward(NamedTuple):
    """Where the work behind a suspended frame is: one of five."""

    futures: Sequence[Any] = ()
    thread_id: int = 0
    due_at: float | None = None
    """The time for which the frame waits, as ``time.monotonic`` counts, whether or not the loop has noticed it."""
    in_queue: bool = False
    """Whether a thread is to do it that has not taken it up yet."""
    greenlet: Any = None
    """A greenlet, suspended as well, whose frames stand between this one and what it awaits."""


def from_suspended(frame: FrameType) -> Onward | None:
    """Return what a suspended frame of a known function really waits for.

    Args:
        frame: A frame of a suspended coroutine, of a name in ``SUSPENDED``.

    Returns:
        Where to go on; None when it waits for what it awaits.
    """
    module = frame.f_globals.get("__name__")
    for known_module, read in SUSPENDED[frame.f_code.co_name]:
        if module == known_module:
            onward = read(frame.f_locals)
            if onward is not None and (onward.due_at is not None or any(onward)):
                return onward
    return None


def from_blocked(frame: FrameType) -> Any:
    """Return what a thread waits for that stands in a frame of a known function.

    Args:
        frame: A frame near the top of a running thread's stack.

    Returns:
        A ``concurrent.futures.Future``; None for any other frame.
    """
    read = BLOCKED.get(frame.f_code.co_name)
    return read(frame) if read is not None else None


def handed_on_with(frame: FrameType) -> Sequence[Any]:
    """Return the futures of the work that was handed to a pool together with what a thread waits for.

    Args:
        frame: The one that tells what it waits for, as of ``from_blocked``.
    """
    caller = frame.f_back
    while caller is not None and caller.f_globals.get("__name__") == "concurrent.futures._base":
        if caller.f_code.co_name == "result_iterator":  # Of Executor.map.
            return list(caller.f_locals.get("fs") or ())[-_MAX_TOGETHER:]  # The next one is the last.
        caller = caller.f_back
    return ()


_MAX_TOGETHER = 100
"""Futures that are looked at, of those that stand together: a pool takes them up in their order."""


def is_boundary(frame: FrameType) -> bool:
    """Return whether a frame is the one in which a pool's thread takes up work: what is below serves all requests."""
    known = _BOUNDARIES.get(frame.f_code.co_name)
    return known is not None and frame.f_globals.get("__name__") in known


def outermost_of_step(top: FrameType | None) -> FrameType | None:
    """Return the outermost frame of what an event loop runs now; None where that or the loop has no frames.

    Args:
        top: The innermost frame of the loop's thread.
    """
    frame = top
    while frame is not None and frame.f_back is not None and not is_boundary(frame):
        if is_boundary(frame.f_back):
            return frame
        frame = frame.f_back
    return None


def is_in_greenlet(task: Any, thread_id: int, top: FrameType | None) -> bool:
    """Return whether a thread runs a greenlet that the event loop's running task has switched to.

    The outermost frame of such a greenlet has no caller, so that nothing in it leads to the task. So this is to be
    asked only where the task's own frame is not among the thread's. With gevent it can be anybody's.

    Args:
        task: The task that was found running.
        thread_id: Its event loop's thread.
        top: The innermost frame of that thread.
    """
    if top is None or "greenlet" not in sys.modules or "gevent.hub" in sys.modules:
        return False
    frame: FrameType | None = top
    while frame is not None:
        if is_boundary(frame):
            return False
        frame = frame.f_back
    # In this order: the thread is looked at between two looks that find the task running.
    return are_innermost({thread_id: top}) and sys.modules["asyncio"].current_task(task.get_loop()) is task


def frames_switched_from(thread_id: int) -> FrameType | None:
    """Return the innermost frame of what switched to the greenlet that a thread runs, where that is known."""
    driver = _drivers.get(thread_id)
    # Of the greenlet that runs there is none.
    return getattr(driver() if driver is not None else None, "gr_frame", None)


def note_greenlet(greenlet: Any, thread_id: int) -> None:
    """Remember what switches to the greenlets of a thread."""
    driver = greenlet.parent
    known = _drivers.get(thread_id)
    if driver is not None and (known is None or known() is not driver):
        _drivers[thread_id] = weakref.ref(driver)


_drivers: dict[int, weakref.ref[Any]] = {}
"""By thread, the greenlet that runs its event loop. There is no other way to it but through the greenlets it made."""


def children_of(future: Any) -> list[Any] | None:
    """Return the futures for which ``asyncio.gather`` or ``asyncio.shield`` stands."""
    children = getattr(future, "_children", None)
    if children:
        return list(children)
    inner = _from_callbacks(future, "inner")
    return [inner] if inner is not None else None


def runner_of(future: Any) -> Any:
    """Return what resumes the generator of Tornado's whose result a future is to be, or None."""
    runner = _from_callbacks(future, "runner")
    return runner if hasattr(runner, "gen") else None


def source_of(future: Any) -> Any:
    """Return what a future mirrors, or None.

    For an asyncio future that is a ``concurrent.futures.Future``, a thread's; for one of these, which a thread waits
    for, the task that ``asyncio.run_coroutine_threadsafe`` has made.
    """
    return _from_callbacks(future, "source")


def waiter_of(future: Any) -> Any:
    """Return the asyncio task that waits for a ``concurrent.futures.Future``, or None."""
    return next((waiter for waiter in waiters_of(future) if hasattr(waiter, "get_coro")), None)


def waiters_of(future: Any) -> Iterator[Any]:
    """Yield the asyncio futures that stand for a ``concurrent.futures.Future``, then the task that waits for them."""
    for _ in range(_MAX_MIRRORS):
        task = _waiting_task(future)
        if task is not None:
            yield task
            return
        future = _from_callbacks(future, "destination", "outer")
        if future is None:
            return
        yield future


def at_work(frames: Mapping[int, FrameType]) -> list[tuple[Any, int]]:
    """Return each ``concurrent.futures.Future`` that a pool's thread works for, with that thread."""
    return [(future, thread_id) for thread_id, top in frames.items() for future in _worked_on(top)]


def is_bridged_here() -> bool:
    """Return whether asgiref has (or has had) the calling thread work for an event loop."""
    bridge = getattr(sys.modules["asgiref.sync"], "SyncToAsync", None)
    return getattr(getattr(bridge, "threadlocal", None), "main_event_loop", None) is not None


def work_of_this_thread() -> Any:
    """Return the ``concurrent.futures.Future`` for which the calling thread works, or None."""
    return next(_worked_on(sys._getframe(1)), None)


def _worked_on(frame: FrameType | None) -> Iterator[Any]:
    """Yield the futures of the work that a thread of a pool does, from the innermost frame outwards."""
    while frame is not None:
        if is_work_item(frame):
            yield _future_of(frame)
        frame = frame.f_back


_MAX_MIRRORS = 4
"""Futures that stand for one another: asgiref shields what mirrors a thread's future."""

_WORK_ITEMS = ("concurrent.futures.thread", "asgiref.current_thread_executor")

_BOUNDARIES: Mapping[str, tuple[str, ...]] = {
    "run": (*_WORK_ITEMS, "anyio._backends._asyncio"),
    "_run": ("asyncio.events",),
}


def is_work_item(frame: FrameType, future: Any = None) -> bool:
    """Return whether a frame is the one in which a thread of a pool does one piece of work.

    Args:
        frame: Of any thread.
        future: The ``concurrent.futures.Future`` of the work that is meant; None for any.
    """
    if frame.f_code.co_name != "run" or frame.f_globals.get("__name__") not in _WORK_ITEMS:
        return False
    return future is None or _future_of(frame) is future


def is_done_item(frame: FrameType) -> bool:
    """Return whether a frame is the one of a piece of work that has its result, of which the thread tells others."""
    if not is_work_item(frame):
        return False
    future = _future_of(frame)
    return future is None or bool(future.done())


def is_worker_thread(frame: FrameType) -> bool:
    """Return whether a frame is the one in which a worker thread of anyio takes up work, all of it for one request."""
    if frame.f_code.co_name != "run" or frame.f_globals.get("__name__") != "anyio._backends._asyncio":
        return False
    # So are called the functions that run an event loop, for which see what calls them.
    return frame.f_back is not None and frame.f_back.f_globals.get("__name__") == "threading"


def _future_of(frame: FrameType) -> Any:
    return getattr(frame.f_locals.get("self"), "future", None)


_LINKING = frozenset({"asyncio.futures", "asyncio.tasks", "tornado.gen"})
"""Modules whose callbacks lead from a future to what it stands for."""


def _from_callbacks(future: Any, *names: str) -> Any:
    """Return a variable of the function that is called when a future is done: asyncio keeps such links nowhere else."""
    callbacks = getattr(future, "_callbacks", None) or getattr(future, "_done_callbacks", None) or ()
    for callback in list(callbacks)[:_MAX_MIRRORS]:
        function = callback[0] if isinstance(callback, tuple) else callback
        code = getattr(function, "__code__", None)
        if code is None or getattr(function, "__module__", None) not in _LINKING:
            continue
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
            if name in names:
                return cell.cell_contents
    return None


def _waiting_task(future: Any) -> Any:
    for callback in list(getattr(future, "_callbacks", None) or ())[:_MAX_MIRRORS]:
        owner = getattr(callback[0], "__self__", None)
        if hasattr(owner, "get_coro"):
            return owner
    return None


def _group(names: Mapping[str, Any], name: str = "self") -> Onward:
    return Onward(futures=list(getattr(names.get(name), "_tasks", None) or ()))


def _child(names: Mapping[str, Any]) -> Onward:
    # Starlette has a child task serve or stream, while the task itself waits for messages.
    return _group(names, "task_group")


def _child_that_streams(names: Mapping[str, Any]) -> Onward | None:
    # Until there is a response the middleware's own function runs.
    return _child(names) if "response" in names else None


def _timer(names: Mapping[str, Any]) -> Onward | None:
    handle = names.get("h")
    return Onward(due_at=handle.when()) if handle is not None else None


def _waited_for(names: Mapping[str, Any]) -> Onward | None:
    future = names.get("fut")
    return Onward(futures=[future]) if hasattr(future, "done") else None


def _worker_thread(names: Mapping[str, Any]) -> Onward | None:
    worker, future = names.get("worker"), names.get("future")
    if worker is None or future is None or future.done():
        return None
    unfinished = worker.queue.unfinished_tasks
    if not unfinished:
        return Onward(due_at=0.0)  # The thread is done, but the event loop has not taken the result.
    if len(worker.queue.queue) == unfinished:  # Its qsize() would wait for a lock.
        return Onward(in_queue=True)
    return Onward(thread_id=worker.ident or 0)


def _greenlet(names: Mapping[str, Any]) -> Onward | None:
    greenlet = names.get("context")
    return Onward(greenlet=greenlet) if getattr(greenlet, "gr_frame", None) is not None else None


SUSPENDED: Mapping[str, Sequence[tuple[str, Callable[[Mapping[str, Any]], Onward | None]]]] = {
    "sleep": [("asyncio.tasks", _timer)],
    "_wait": [("asyncio.tasks", lambda names: Onward(futures=list(names.get("fs") or ())))],
    "wait_for": [("asyncio.tasks", _waited_for)],
    "__aexit__": [("asyncio.taskgroups", _group), ("anyio._backends._asyncio", _group)],
    "__call__": [("starlette.responses", _child), ("starlette.middleware.base", _child_that_streams)],
    "call_next": [("starlette.middleware.base", _child)],
    "run_sync_in_worker_thread": [("anyio._backends._asyncio", _worker_thread)],
    "greenlet_spawn": [("sqlalchemy.util.concurrency", _greenlet), ("sqlalchemy.util._concurrency_py3k", _greenlet)],
}
"""Functions in which a task waits for something else than what it awaits: name, module, what to read."""


def _awaited_result(frame: FrameType) -> Any:
    if frame.f_globals.get("__name__") != "concurrent.futures._base":
        return None
    future = frame.f_locals.get("self")
    return None if future is None or future.done() else future


BLOCKED: Mapping[str, Callable[[FrameType], Any]] = {
    "result": _awaited_result,
}
"""Functions in which a thread waits for another: by name."""
