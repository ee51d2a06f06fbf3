"""Following one request's work through threads, tasks and what they wait for.

A stack of frames shows a request only as far as it runs on one thread. Behind ``await`` stands a chain of suspended
coroutines; behind a future stands the task or the thread that will set it. Each step of the way is known here or in
``handoffs`` and ``threads``: only suspended frames, and those of known functions in which a thread waits or serves a
coroutine, are asked for a variable.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from slowspan.recording import handoffs
from slowspan.recording.awaitables import (
    behind,
    coroutine_of,
    frame_of,
    is_compiled,
    is_future,
    is_generator,
    is_running,
    parts_of,
)
from slowspan.recording.sight import State
from slowspan.recording.stacks import are_innermost, flatten, line_at, line_of
from slowspan.recording.threads import part_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import CodeType, FrameType

    from slowspan.recording.memory import Memory

MAX_HOPS = 100
"""Futures, tasks and threads that one look follows: a cycle or a crowd of children ends here."""

MAX_CHILDREN = 16
"""Waiting children of one ``gather`` or task group that one look compares."""

MAX_CHAIN = 500
"""Coroutines in one chain of awaits."""


class _Child(NamedTuple):
    """Where one of several that are waited for is."""

    path: list[tuple[CodeType, int]]
    line: int
    thread_id: int
    shown: dict[int, FrameType]
    visits: list[int]
    loop: Any
    state: State | None


class Walk:
    """One look: goes from a request's outermost frame to its innermost one.

    Args:
        frames: The innermost frames of all threads at this instant.
        memory: What is known from the last looks.
        home: The thread on which the request began.
        running: The task that the event loop on that thread runs now, if any.

    Attributes:
        home: The thread on which the request began.
        memory: What is known from the last looks.
        path: Code objects and instruction offsets, outermost first.
        line: Line number of the innermost frame.
        thread_id: The thread that the request was found on, or 0.
        moved: Whether it may have run since the last look.
        due_at: The time for which the innermost coroutine waits, as ``time.monotonic`` counts, or None.
        hops: How many tasks and threads it went through.
        in_queue: Whether it waits for a thread that has not taken up its work yet.
        loop: The event loop of the last task that it went through, or of what a coroutine awaits that a thread serves.
        moved_in_loop: Whether the request may have run there since the last look.
        has_children: Whether it waits for several, or through another future: one that ends does not end the wait.
        guests: All threads that work for the request, but for its home.
    """

    def __init__(self, frames: Mapping[int, FrameType], memory: Memory, home: int, running: Any = None) -> None:
        self.path: list[tuple[CodeType, int]] = []
        self.line: int = 0
        self.thread_id: int = 0
        self.moved: bool = False
        self._frames = frames
        self.memory: Memory = memory
        self.home: int = home
        self._running = running
        self.due_at: float | None = None
        self.hops: int = 0
        self.in_queue: bool = False
        self.loop: Any = None
        self.moved_in_loop: bool = False
        self.has_children: bool = False
        self.guests: set[int] = set()
        self._shown: dict[int, FrameType] = {}
        self._visits: list[int] = []
        self._works: list[tuple[Any, int]] | None = None

    def is_of_one_instant(self) -> bool:
        """Return whether the threads that are shown have not gone on since their frames were read.

        A pool's thread may have taken up another request's work before the request's own task was looked at.
        """
        return not self._shown or are_innermost(self._shown)

    # -- Coroutines and what they await.

    def follow_task(self, task: Any) -> State | None:
        """Go down into an asyncio task."""
        self.loop = task.get_loop()
        return self.follow_coroutine(coroutine_of(task), task)

    def follow_coroutine(self, coroutine: Any, task: Any = None) -> State | None:
        """Go down a chain of awaits.

        Args:
            coroutine: Where to begin.
            task: The task that runs it, if that is known.

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
            frame, inner = parts_of(awaited)
            if frame is None:
                inner = behind(awaited)
                if inner is None:
                    break
                if is_future(inner):
                    return self._follow_future(_awaited_by(task, inner), coroutine)
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
        return self._end_of_chain(coroutine, task, is_known=awaited is None)

    def _end_of_chain(self, coroutine: Any, task: Any, *, is_known: bool) -> State:
        """Tell a bare yield, as of ``asyncio.sleep(0)``, from somebody's own awaitable, which can hide a future."""
        waiter = getattr(task, "_fut_waiter", None)
        if waiter is not None and not waiter.done():
            return self._wait_for(waiter, coroutine)
        if task is not None or is_known:
            return self._ready()
        self.moved = self.moved_in_loop = True
        return State.SUSPENDED

    def _wait_for(self, future: Any, coroutine: Any) -> State:
        self.moved_in_loop = self.memory.has_moved(coroutine, future)
        self.moved = self.moved or self.moved_in_loop
        return State.SUSPENDED

    def _ready(self) -> State:
        self.moved = self.moved_in_loop = True
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
        if self.loop is None and hasattr(future, "get_loop"):
            self.loop = future.get_loop()  # Of a coroutine that a thread serves no task is known.
        if future.done():
            return self._ready()
        if hasattr(future, "get_coro"):
            return self.follow_task(future)
        children = handoffs.children_of(future)
        if children:
            return self._follow_children(children)
        worker = handoffs.source_of(future)
        if worker is not None:
            return self._follow_worker(worker)
        runner = handoffs.runner_of(future)
        return self._wait_for(future, coroutine) if runner is None else self._follow_runner(runner)

    def _follow_runner(self, runner: Any) -> State | None:
        """Go down into a generator of Tornado's: the event loop's callbacks resume it, and no task."""
        self.hops += 1
        if self.hops > MAX_HOPS:
            return State.SUSPENDED
        if is_running(runner.gen):
            return self._follow_running(runner.gen)
        awaited, generator = runner.future, runner.gen
        while is_generator(generator):
            frame, generator = parts_of(generator)
            if frame is not None:
                self.path.append((frame.f_code, frame.f_lasti))
                self.line = line_of(frame)
        return self._ready() if awaited is None else self._follow_future(awaited, runner)

    def _follow_children(self, futures: Iterable[Any]) -> State | None:
        """Go down into all, for their threads; stay in the one that runs, or else in the next one in turn."""
        self.has_children = True
        pending = [future for future in futures if not future.done()]
        if not pending:
            return self._ready()
        turn = self.memory.turn
        children = self._look_at_children(pending, turn % len(pending))
        # In an order that does not turn as well, or the same one would be shown again.
        on_threads = sorted((c for c in children if c.state is State.ON_THREAD), key=lambda child: child.thread_id)
        at_home = [child for child in on_threads if child.thread_id == self.home]
        best = at_home or on_threads or children[:1]
        chosen = best[turn % len(best)]
        self.path += chosen.path
        self.line, self.thread_id, self.loop = chosen.line, chosen.thread_id, chosen.loop
        self._shown.update(chosen.shown)
        self._visits += chosen.visits
        return chosen.state

    def _look_at_children(self, pending: list[Any], start: int) -> list[_Child]:
        """Go down into the one that has the loop, and into others, of which each comes first in turn."""
        order = [future for future in pending if future is self._running]
        order += [future for future in pending[start:] + pending[:start] if future is not self._running]
        children = [self._look_at_child(future) for future in order[:MAX_CHILDREN]]
        if len(pending) > MAX_CHILDREN and (self.in_queue or self.guests):
            # They wait for a pool, of which few of them have a thread: hardly those that are first in turn.
            at_work = self._note_threads(pending)
            if not any(child.state is State.ON_THREAD for child in children):
                rest = [future for future in order[MAX_CHILDREN:] if id(future) in at_work]
                children += [self._look_at_child(future) for future in rest[:MAX_CHILDREN]]
        return children

    def _look_at_child(self, future: Any) -> _Child:
        """Go down into one, and come back."""
        start, visits, line, shown, loop = len(self.path), len(self._visits), self.line, self._shown, self.loop
        self.thread_id, self._shown = 0, {}
        state = self._follow_future(future, future)
        path, visited = self.path[start:], self._visits[visits:]
        child = _Child(path, self.line, self.thread_id, self._shown, visited, self.loop, state)
        del self.path[start:], self._visits[visits:]
        self.line, self._shown, self.loop = line, shown, loop
        return child

    # -- Threads.

    def _follow_running(self, coroutine: Any) -> State | None:
        """Read the frames of a coroutine from the thread that runs it."""
        outermost = frame_of(coroutine)
        for thread_id in (self.home, *self._frames):
            top = self._frames.get(thread_id)
            if top is not None and outermost is not None and _is_below(top, outermost):
                return self.follow_thread(thread_id, outermost)
        top = self._frames.get(self.home)
        if self._running is None or top is None or outermost is None or coroutine_of(self._running) is not coroutine:
            return None
        if is_compiled(coroutine):
            outermost = handoffs.outermost_of_step(top)
            return self.follow_thread(self.home, outermost) if outermost is not None else None
        if not handoffs.is_in_greenlet(self._running, self.home, top):
            return None
        self._add_callers(outermost)
        return self.follow_thread(self.home)

    def _add_callers(self, outermost: FrameType) -> None:
        """Add the frames of a coroutine that has switched to a greenlet: all if they are found, else the outermost."""
        frame = handoffs.frames_switched_from(self.home)
        inner: list[tuple[CodeType, int]] = []
        while frame is not None and frame is not outermost:
            inner.append((frame.f_code, frame.f_lasti))
            frame = frame.f_back
        self.path.append((outermost.f_code, outermost.f_lasti))
        if frame is outermost:
            self.path += reversed(inner)

    def _add_greenlet(self, greenlet: Any) -> None:
        """Add the frames of a suspended greenlet, which awaits what comes next through the coroutine that made it."""
        handoffs.note_greenlet(greenlet, self.home)
        frame: FrameType | None = greenlet.gr_frame
        if frame is None:
            return
        self.line = line_of(frame)
        flat = flatten(frame)
        self.path += reversed(list(zip(flat[::2], flat[1::2], strict=True)))

    def _follow_worker(self, worker: Any) -> State | None:
        """Go on in the thread that works for a ``concurrent.futures.Future``."""
        if worker.done():
            return self._follow_done(worker)
        thread_id = self.memory.worker(worker, self._at_work) if worker.running() else 0
        return self.follow_thread(thread_id, work=worker) if thread_id else self._wait_in_queue()

    def _follow_done(self, worker: Any) -> State | None:
        """Go on in a thread that still tells others of its result, which is where it lets other threads run."""
        for thread_id in dict.fromkeys(self._visits):
            state = self.follow_thread(thread_id, work=worker)
            if state is not None:
                return state
        return self._ready()  # Any other thread may work for others by now.

    def _at_work(self) -> list[tuple[Any, int]]:
        """Return for what the threads of pools work, which is found out once in a look."""
        if self._works is None:
            self._works = handoffs.at_work(self._frames)
        return self._works

    def _wait_in_queue(self) -> State:
        self.in_queue = True
        return State.SUSPENDED

    def follow_thread(self, thread_id: int, outermost: FrameType | None = None, work: Any = None) -> State | None:
        """Go down a thread's stack, and on to the thread or task for which it waits.

        Args:
            thread_id: The thread.
            outermost: Where to begin; None for the whole stack, or for all that a worker thread does now.
            work: The ``concurrent.futures.Future`` for which to begin where the thread works for it.
        """
        self.hops += 1
        frame = self._frames.get(thread_id)
        if frame is None or self.hops > MAX_HOPS:
            return None
        part = part_of(frame, self._start_on(thread_id, outermost, work))
        if work is not None and not part.is_whole:
            return None  # It has gone on to something else.
        self._visits.append(thread_id)
        self.moved = True
        if thread_id != self.home:
            self.guests.add(thread_id)
            self._shown[thread_id] = frame
        self._note_threads(part.handed_on)
        for wait in part.waits:
            start, visits, shown = len(self.path), len(self._visits), dict(self._shown)
            self.path += reversed(part.frames[wait.position :])
            self.line = line_at(*self.path[-1])
            own, self.thread_id = len(self.path), 0
            state = self._follow_awaited(wait.awaited)
            has_come_back, has_frames = thread_id in self._visits[visits:], len(self.path) > own
            if wait.explains(state, has_come_back=has_come_back, has_frames=has_frames):
                return State.SUSPENDED if wait.has_loop and state is State.READY else state
            del self.path[start:]
            self._shown = shown
        self.path += reversed(part.frames)
        self.thread_id, self.line = thread_id, line_of(frame)
        return State.ON_THREAD

    def _start_on(self, thread_id: int, outermost: FrameType | None, work: Any) -> Callable[[FrameType], bool]:
        """Return what tells the first frame of a thread that is the request's."""
        if outermost is not None:
            return lambda frame: frame is outermost
        if work is not None:
            return lambda frame: handoffs.is_work_item(frame, work)
        return handoffs.is_worker_thread if thread_id != self.home else lambda _frame: False

    def _follow_awaited(self, awaited: Any) -> State | None:
        if is_future(awaited):
            return self._follow_future(awaited, awaited)
        if hasattr(awaited, "cr_frame"):
            return self.follow_coroutine(awaited)
        task = handoffs.source_of(awaited)
        return self._follow_worker(awaited) if task is None else self._follow_future(task, task)

    def _note_threads(self, futures: Sequence[Any]) -> dict[int, int]:
        """Note the threads that work for any of these futures; return them by the futures' ids."""
        ids = {id(future) for future in futures}
        found: dict[int, int] = {}
        for work, thread_id in self._at_work() if ids else ():
            for future in (work, *handoffs.waiters_of(work)):
                if id(future) in ids and len(found) < MAX_HOPS:
                    found[id(future)] = thread_id
        self.guests.update(found.values())
        self.guests.discard(self.home)
        return found


def _awaited_by(task: Any, found: Any) -> Any:
    """Return the future that a task waits for: in somebody's own awaitable another one may have been found."""
    waiter = getattr(task, "_fut_waiter", None)
    return found if waiter is None else waiter


def is_due(due_at: float | None) -> bool:
    """Return whether a time that is waited for has come."""
    return due_at is not None and due_at <= time.monotonic()


def _is_below(frame: FrameType | None, outermost: FrameType) -> bool:
    while frame is not None:
        if frame is outermost:
            return True
        frame = frame.f_back
    return False
