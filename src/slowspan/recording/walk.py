"""Following one request's work through threads, tasks and what they wait for.

A stack of frames shows a request only as far as it runs on one thread. Behind ``await`` stands a chain of suspended
coroutines; behind a future stands the task or the thread that will set it. Each step of the way is known here or in
``handoffs``: only suspended frames, and frames of known functions in which a thread waits, are asked for a variable.
"""

from __future__ import annotations

import gc
import time
import weakref
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any

from slowspan.recording import handoffs
from slowspan.recording.sight import State
from slowspan.recording.stacks import are_innermost, flatten, line_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import CodeType, FrameType

MAX_HOPS = 100
"""Futures, tasks and threads that one look follows: a cycle or a crowd of children ends here."""

MAX_CHILDREN = 16
"""Waiting children of one ``gather`` or task group that one look compares."""

MAX_CHAIN = 500
"""Coroutines in one chain of awaits."""

SEARCHES = 8
"""Looks at which all threads are searched for the one that works for a future. Later, as it may well be a process that
does, only one in as many."""

NEAR = 8
"""Innermost frames of a thread among which one is looked for that waits for another thread."""


_WITH_FRAMES = (CoroutineType, AsyncGeneratorType, GeneratorType)


class Memory:
    """What a follower remembers from one look to the next, to save work and to know what has not run."""

    def __init__(self) -> None:
        self.turn: int = 0
        """Number of the look: children that wait side by side are shown in turns."""
        self._waiters: dict[int, weakref.ref[Any]] = {}
        self._workers: dict[int, _Worker] = {}

    def has_moved(self, coroutine: Any, waiter: Any) -> bool:
        """Note what a coroutine waits for; tell whether that is something else than at the last look."""
        known = self._waiters.get(id(coroutine))
        if known is not None and known() is waiter:
            return False
        if len(self._waiters) >= MAX_HOPS:
            self._waiters.clear()
        self._waiters[id(coroutine)] = weakref.ref(waiter)
        return True

    def worker(self, future: Any, frames: Mapping[int, FrameType]) -> int:
        """Return the thread that works for a running ``concurrent.futures.Future``; 0 when none is found."""
        known = self._workers.get(id(future))
        if known is None or known.future() is not future:
            if len(self._workers) >= MAX_HOPS:
                self._workers.clear()
            known = self._workers[id(future)] = _Worker(future)
        if not known.thread_id and (known.searches < SEARCHES or self.turn % SEARCHES == 0):
            known.searches += 1
            known.thread_id = handoffs.thread_working_on(future, frames)
        return known.thread_id


class _Worker:
    """What is known of the thread that works for a future."""

    __slots__ = ("future", "searches", "thread_id")

    def __init__(self, future: Any) -> None:
        self.future = weakref.ref(future)
        self.thread_id = 0
        self.searches = 0


class Walk:
    """One look: goes from a request's outermost frame to its innermost one.

    Args:
        frames: The innermost frames of all threads at this instant.
        memory: What is known from the last looks.
        home: The thread on which the request began.
        running: The task that the event loop on that thread runs now, if any.

    Attributes:
        path: Code objects and instruction offsets, outermost first.
        line: Line number of the innermost frame.
        thread_id: The thread that the request was found on, or 0.
        moved: Whether it may have run since the last look.
        due_at: The time for which the innermost coroutine waits, as ``time.monotonic`` counts, or None.
        hops: How many tasks and threads it went through.
        in_queue: Whether it waits for a thread that has not taken up its work yet.
    """

    def __init__(self, frames: Mapping[int, FrameType], memory: Memory, home: int, running: Any = None) -> None:
        self.path: list[tuple[CodeType, int]] = []
        self.line: int = 0
        self.thread_id: int = 0
        self.moved: bool = False
        self._frames = frames
        self._memory = memory
        self._home = home
        self._running = running
        self.due_at: float | None = None
        self.hops: int = 0
        self.in_queue: bool = False
        self._guests: dict[int, FrameType] = {}

    def is_of_one_instant(self) -> bool:
        """Return whether the threads that work for the request have not gone on since their frames were read.

        A pool's thread may have taken up another request's work before the request's own task was looked at.
        """
        return not self._guests or are_innermost(self._guests)

    # -- Coroutines and what they await.

    def follow_task(self, task: Any) -> State | None:
        """Go down into an asyncio task."""
        return self.follow_coroutine(task.get_coro())

    def follow_coroutine(self, coroutine: Any) -> State | None:
        """Go down a chain of awaits.

        Returns:
            What the request is doing at its end; None when that cannot be told at this instant.
        """
        self.hops += 1
        if self.hops > MAX_HOPS:
            return State.SUSPENDED
        if is_running(coroutine):
            return self._follow_running(coroutine)
        awaited: Any = coroutine
        for _ in range(MAX_CHAIN):
            if awaited is None:
                break
            frame, inner = _parts(awaited)
            if frame is None:
                inner = _behind(awaited)
                if inner is None or _is_future(inner):
                    return self._follow_future(inner, coroutine)
                awaited = inner
                continue
            self.path.append((frame.f_code, frame.f_lasti))
            self.line = line_of(frame)
            if frame.f_code.co_name in handoffs.SUSPENDED:
                onward = handoffs.from_suspended(frame)
                if onward is not None and onward.greenlet is not None:
                    self._add_greenlet(onward.greenlet)
                elif onward is not None and not self._waits_for_time(onward):
                    return self._follow_onward(onward)
            awaited = inner
        return self._ready()

    def _ready(self) -> State:
        self.moved = True
        return State.READY

    def _waits_for_time(self, onward: handoffs.Onward) -> bool:
        self.due_at = onward.due_at
        return onward.due_at is not None and not is_due(onward.due_at)

    def _follow_onward(self, onward: handoffs.Onward) -> State | None:
        if onward.due_at is not None:
            return self._ready()
        if onward.in_queue:
            return self._wait_in_queue()
        if onward.thread_id:
            return self.follow_thread(onward.thread_id)
        return self._follow_children(onward.futures)

    def _follow_future(self, future: Any, coroutine: Any) -> State | None:
        if future is None or future.done():
            return self._ready()  # No future is a bare yield, as of asyncio.sleep(0).
        if hasattr(future, "get_coro"):
            return self.follow_task(future)
        children = handoffs.children_of(future)
        if children:
            return self._follow_children(children)
        worker = handoffs.worker_of(future)
        if worker is not None:
            return self._follow_worker(worker)
        if self._memory.has_moved(coroutine, future):
            self.moved = True
        return State.SUSPENDED

    def _follow_children(self, futures: Iterable[Any]) -> State | None:
        """Go down into the one that runs, or else into the next one in turn."""
        pending = [future for future in futures if not future.done()]
        if not pending:
            return self._ready()
        start = len(self.path)
        chosen: tuple[list[tuple[CodeType, int]], int, State | None] | None = None
        turn = self._memory.turn % len(pending)
        # The one that has the loop is known, however many there are. Of the others each comes first in turn.
        running = [future for future in pending if future is self._running]
        for future in (running + pending[turn:] + pending[:turn])[:MAX_CHILDREN]:
            state = self._follow_future(future, future)
            if state is State.ON_THREAD:
                return state
            if chosen is None:
                chosen = self.path[start:], self.line, state
            del self.path[start:]
        assert chosen is not None
        rest, self.line, state = chosen
        self.path += rest
        return state

    # -- Threads.

    def _follow_running(self, coroutine: Any) -> State | None:
        """Read the frames of a coroutine from the thread that runs it."""
        outermost, _ = _parts(coroutine)
        for thread_id in (self._home, *self._frames):
            top = self._frames.get(thread_id)
            if top is not None and outermost is not None and _is_below(top, outermost):
                return self.follow_thread(thread_id, outermost)
        top = self._frames.get(self._home)
        if self._running is None or top is None or outermost is None or self._running.get_coro() is not coroutine:
            return None
        if not handoffs.is_in_greenlet(self._running, self._home, top):
            return None
        self._add_callers(outermost)
        return self.follow_thread(self._home)

    def _add_callers(self, outermost: FrameType) -> None:
        """Add the frames of a coroutine that has switched to a greenlet: all if they are found, else the outermost."""
        frame = handoffs.frames_switched_from(self._home)
        inner: list[tuple[CodeType, int]] = []
        while frame is not None and frame is not outermost:
            inner.append((frame.f_code, frame.f_lasti))
            frame = frame.f_back
        self.path.append((outermost.f_code, outermost.f_lasti))
        if frame is outermost:
            self.path += reversed(inner)

    def _add_greenlet(self, greenlet: Any) -> None:
        """Add the frames of a suspended greenlet, which awaits what comes next through the coroutine that made it."""
        handoffs.note_greenlet(greenlet, self._home)
        frame: FrameType | None = greenlet.gr_frame
        if frame is None:
            return
        self.line = line_of(frame)
        flat = flatten(frame)
        self.path += reversed(list(zip(flat[::2], flat[1::2], strict=True)))

    def _follow_worker(self, worker: Any) -> State | None:
        """Go on in the thread that works for a ``concurrent.futures.Future``."""
        if worker.done():
            return self._ready()  # The thread may work for others by now.
        thread_id = self._memory.worker(worker, self._frames) if worker.running() else 0
        return self.follow_thread(thread_id) if thread_id else self._wait_in_queue()

    def _wait_in_queue(self) -> State:
        self.in_queue = True
        return State.SUSPENDED

    def follow_thread(self, thread_id: int, outermost: FrameType | None = None) -> State | None:
        """Go down a thread's stack, and on to the thread or task for which it waits.

        Args:
            thread_id: The thread.
            outermost: Where to begin; None for the whole stack.
        """
        self.hops += 1
        frame = self._frames.get(thread_id)
        if frame is None or self.hops > MAX_HOPS:
            return None
        self.thread_id = thread_id
        self.moved = True
        self.line = line_of(frame)
        if thread_id != self._home:
            self._guests[thread_id] = frame
        above: list[tuple[CodeType, int]] = []
        blocked: tuple[int, Any] | None = None
        near = NEAR
        while frame is not None:
            above.append((frame.f_code, frame.f_lasti))
            if near:
                near -= 1
                target = handoffs.from_blocked(frame)
                if target is not None:
                    blocked, near = (len(above) - 1, target), 0
                elif handoffs.is_work_item(frame):
                    near = 0  # It works for somebody else who waits: it does not wait itself.
            if frame is outermost or (thread_id != self._home and handoffs.is_boundary(frame)):
                break
            frame = frame.f_back
        if blocked is not None:
            return self._follow_blocked(above, *blocked)
        self.path += reversed(above)
        return State.ON_THREAD

    def _follow_blocked(self, above: list[tuple[CodeType, int]], position: int, target: Any) -> State | None:
        """Go on where a thread waits for another one; stay with its own stack when the other is not found."""
        thread_id, line = self.thread_id, self.line
        self.path += reversed(above[position:])
        start = len(self.path)
        self.thread_id = 0
        state = self.follow_coroutine(target) if hasattr(target, "cr_frame") else self._follow_worker(target)
        if len(self.path) > start:
            return state
        self.path += reversed(above[:position])
        self.thread_id, self.line = thread_id, line
        return State.ON_THREAD


def is_due(due_at: float | None) -> bool:
    """Return whether a time that is waited for has come."""
    return due_at is not None and due_at <= time.monotonic()


def _parts(awaitable: Any) -> tuple[FrameType | None, Any]:
    """Return the frame of a coroutine or generator and what it awaits; no frame for anything else."""
    kind = type(awaitable)
    if kind is CoroutineType:
        return awaitable.cr_frame, awaitable.cr_await
    if kind is AsyncGeneratorType:
        return awaitable.ag_frame, awaitable.ag_await
    if kind is GeneratorType:
        return awaitable.gi_frame, awaitable.gi_yieldfrom
    return getattr(awaitable, "cr_frame", None), getattr(awaitable, "cr_await", None)


def is_running(coroutine: Any) -> bool:
    """Return whether a coroutine is on some thread now."""
    return bool(getattr(coroutine, "cr_running", False) or getattr(coroutine, "gi_running", False))


def _behind(awaited: Any) -> Any:
    """Return what stands behind an iterator that awaiting made: a future, a coroutine or an asynchronous generator."""
    # These iterators have no attribute for it, but the collector can see through them.
    for referent in gc.get_referents(awaited):
        if _is_future(referent) or isinstance(referent, _WITH_FRAMES):
            return referent
    return None


def _is_future(awaited: Any) -> bool:
    return getattr(awaited, "_asyncio_future_blocking", None) is not None


def _is_below(frame: FrameType | None, outermost: FrameType) -> bool:
    while frame is not None:
        if frame is outermost:
            return True
        frame = frame.f_back
    return False
