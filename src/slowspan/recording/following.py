"""The three ways to find a request at every look: on its thread, in its asyncio task, in its greenlet."""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from slowspan.recording import handoffs
from slowspan.recording.awaitables import coroutine_of, frame_of, is_compiled, is_running
from slowspan.recording.kin import Kin
from slowspan.recording.memory import Memory
from slowspan.recording.sight import CarrierGoneError, GuestLoop, Sight, State
from slowspan.recording.stacks import flatten, line_of, marker, shortened
from slowspan.recording.synthetic import WAITING_FOR_LOOP
from slowspan.recording.threads import leads_on
from slowspan.recording.walk import Walk, is_due

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import CodeType, FrameType

    from opentelemetry.sdk.trace import Span

    from slowspan.recording.stacks import FlatStack

_WAITING_FOR_LOOP = marker(WAITING_FOR_LOOP)


class ThreadFollower:
    """Finds a request on its own thread, or where that waits for another thread's work."""

    shares_thread = False

    def __init__(self, thread_id: int) -> None:
        self._thread_id = thread_id
        self._memory = Memory()

    def look(self, frames: Mapping[int, FrameType], _span: Span | None = None) -> Sight | None:
        """Read the stack, as of ``Follower.look``."""
        frame = frames.get(self._thread_id)
        if frame is None:
            raise CarrierGoneError
        if not leads_on(frame):
            return Sight(flatten(frame), line_of(frame), State.ON_THREAD, self._thread_id)
        self._memory.turn += 1
        walk = Walk(frames, self._memory, self._thread_id)
        state = walk.follow_thread(self._thread_id)
        if state is State.READY:
            _add_wait_for_loop(walk)  # Of a task to which it has handed its work.
        return sight_of(walk, state)


class _Last(NamedTuple):
    """What the last look at a task has shown that waits for one future, and not for other tasks or threads."""

    waiter: weakref.ref[Any]
    due_at: float | None
    sight: Sight

    def still_holds(self, waiter: Any) -> bool:
        """Return whether the task has not moved since: of hundreds that wait, that is all there is to know."""
        return self.waiter() is waiter and not (waiter is None or waiter.done() or is_due(self.due_at))


class TaskFollower:
    """Finds a request in its asyncio task: running, suspended, or ready while the loop runs something else."""

    shares_thread = True

    def __init__(self, task: weakref.ref[Any], thread_id: int) -> None:
        self._task = task
        self._thread_id = thread_id
        self._memory = Memory()
        self._kin = Kin()
        self._last: _Last | None = None

    def look(self, frames: Mapping[int, FrameType], span: Span | None = None) -> Sight | None:
        """Read the stack, as of ``Follower.look``."""
        task = self._task()
        if task is None or task.done():
            raise CarrierGoneError
        # The loop's own module is there, since the task is.
        running = sys.modules["asyncio"].current_task(task.get_loop())
        waiter: Any = getattr(task, "_fut_waiter", None)
        last = self._last
        if last is not None and last.still_holds(waiter):
            child = self._child_at_work(task, running, frames, span)
            return child or last.sight._replace(loop_is_busy=bool(self._holder(task, running, frames)))
        self._memory.turn += 1
        walk = Walk(frames, self._memory, self._thread_id, running)
        state = walk.follow_task(task)
        self._last = None
        if span is not None:
            self._kin.learn(task, span)
        if state is State.ON_THREAD and walk.thread_id == self._thread_id:
            return sight_of(walk, state)
        child = self._child_at_work(task, running, frames, span) if state in _WITHOUT_THREAD else None
        if child is not None:
            return child
        holder = self._holder(task, running, frames)
        # Of another loop, to which a thread has handed work, it is not known who holds it.
        is_held = state is State.READY and bool(holder) and walk.loop is task.get_loop()
        if state is State.READY:
            _add_wait_for_loop(walk)
            if is_held:
                walk.path += reversed(holder)
                walk.line = line_of(frames[self._thread_id])
        sight = sight_of(walk, state, held=is_held, loop_is_busy=bool(holder))
        is_at_rest = state is State.SUSPENDED and walk.hops == 1 and not (walk.in_queue or walk.has_children)
        if is_at_rest and waiter is not None and sight is not None:
            self._last = _Last(weakref.ref(waiter), walk.due_at, sight._replace(moved=False))
        return sight

    def _child_at_work(
        self, task: Any, running: Any, frames: Mapping[int, FrameType], span: Span | None
    ) -> Sight | None:
        """Return what the event loop runs if that is a task which the request has started and does not await now.

        Its stack is shown as it is: where in the request it was started is not known.
        """
        if running is None or running is task or span is None or not self._kin.has(running, span):
            return None
        walk = Walk(frames, self._memory, self._thread_id, running)
        state = walk.follow_task(running)
        is_here = state is State.ON_THREAD and walk.thread_id == self._thread_id
        return sight_of(walk, state) if is_here else None

    def _holder(self, task: Any, running: Any, frames: Mapping[int, FrameType]) -> list[tuple[CodeType, int]]:
        """Return the frames of what else the event loop runs at this instant, innermost first; none when it waits."""
        if running is task:
            return []  # It has stopped meanwhile.
        coroutine = coroutine_of(running) if running is not None else None
        outermost = frame_of(coroutine)
        has_no_frame = running is None or is_compiled(coroutine)  # A callback that is no task, or one that is compiled.
        above: list[tuple[CodeType, int]] = []
        frame = frames.get(self._thread_id)
        while frame is not None:
            if has_no_frame and handoffs.is_boundary(frame):
                return above
            above.append((frame.f_code, frame.f_lasti))
            if frame is outermost:
                return above
            frame = frame.f_back
        if running is None or not is_running(coroutine):
            return []
        return above if handoffs.is_in_greenlet(running, self._thread_id, frames.get(self._thread_id)) else []


_WITHOUT_THREAD = (State.SUSPENDED, State.READY)


class GreenletFollower:
    """Finds a request in its greenlet, running or switched away."""

    shares_thread = True

    def __init__(self, greenlet: weakref.ref[Any], thread_id: int) -> None:
        self._greenlet = greenlet
        self._thread_id = thread_id
        self._place: tuple[int, ...] | None = None
        self._looks_at_rest = _AT_REST
        # The outermost frame's address, which nothing else has while the greenlet lives.
        self._root = 0

    def look(self, frames: Mapping[int, FrameType], _span: Span | None = None) -> Sight | None:
        """Read the stack, as of ``Follower.look``."""
        greenlet = self._greenlet()
        if greenlet is None or greenlet.dead:
            raise CarrierGoneError
        frame = greenlet.gr_frame
        if frame is None:
            frame = self._running(greenlet, frames)
            if frame is None:
                return None
            self._place, self._looks_at_rest = None, 0
            return Sight(flatten(frame), line_of(frame), State.ON_THREAD, self._thread_id)
        self._root = self._root or id(_root_of(frame))
        place, self._place = self._place, (id(frame), frame.f_lasti)
        has_moved = place is not None and self._place != place
        self._looks_at_rest = 0 if has_moved else self._looks_at_rest + 1
        return Sight(
            flatten(frame),
            line_of(frame),
            State.SUSPENDED,
            moved=self._looks_at_rest < _AT_REST,
            loop_is_busy=_runs_greenlet(frames.get(self._thread_id)),
        )

    def _running(self, greenlet: Any, frames: Mapping[int, FrameType]) -> FrameType | None:
        """Return the innermost frame of the greenlet, which has its thread now; None when it cannot be told.

        Since the frames were taken the thread may have gone on, and from one greenlet to the next.
        """
        frame = frames.get(self._thread_id)
        if frame is None:
            raise CarrierGoneError
        if self._root:
            return frame if id(_root_of(frame)) == self._root else None
        frame = sys._current_frames().get(self._thread_id)
        if frame is None or greenlet.gr_frame is not None:
            return None
        self._root = id(_root_of(frame))
        return frame


def _root_of(frame: FrameType) -> FrameType:
    while frame.f_back is not None:
        frame = frame.f_back
    return frame


_AT_REST = 10
"""Looks in one place after which a greenlet is taken to have stood there all the time.

One does not tell: a loop that waits in a function gets its new frame where the last one was, more often than not.
"""


def _runs_greenlet(frame: FrameType | None) -> bool:
    """Return whether a thread runs a greenlet, rather than the hub that waits for something to do."""
    # The hub itself is compiled: the first frame that is seen is its method's.
    hub = {"gevent.hub", "gevent._gevent_c_hub_primitives"}
    return frame is not None and _root_of(frame).f_globals.get("__name__") not in hub


def _add_wait_for_loop(walk: Walk) -> None:
    walk.path.append((_WAITING_FOR_LOOP, 0))
    walk.line = 0


def sight_of(walk: Walk, state: State | None, *, held: bool = False, loop_is_busy: bool = False) -> Sight | None:
    """Return what a walk has found; None for a state of None."""
    if state is None or not walk.is_of_one_instant():
        return None
    flat: FlatStack = []
    for code, offset in reversed(walk.path):
        flat.append(code)
        flat.append(offset)
    thread_id = walk.thread_id if state is State.ON_THREAD else 0
    return Sight(
        shortened(flat),
        walk.line,
        state,
        thread_id,
        walk.moved,
        held,
        loop_is_busy,
        frozenset(walk.guests),
        _guest_loop(walk),
    )


def _guest_loop(walk: Walk) -> GuestLoop | None:
    """Return the event loop to which a walk has come, unless it is at home; None where its thread is not known."""
    loop = walk.memory.last_loop(walk.loop)
    thread_id = getattr(loop, "_thread_id", None)  # Of uvloop's it is not to be had.
    if not thread_id or thread_id == walk.home:
        return None
    is_here = walk.thread_id == thread_id
    is_busy = not is_here and sys.modules["asyncio"].current_task(loop) is not None
    return GuestLoop(thread_id, is_busy, walk.moved_in_loop)
