"""One thread's part of the way to a request: where it begins, and what the thread waits for or works on meanwhile.

Frames are known by their functions' modules and names, and only known ones are asked for a variable.
"""

from __future__ import annotations

from types import CoroutineType
from typing import TYPE_CHECKING, Any, NamedTuple

from slowspan.recording import handoffs
from slowspan.recording.awaitables import is_future
from slowspan.recording.sight import State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import CodeType, FrameType

_NEAR = 8
"""Innermost frames of a thread among which one is looked for that waits for another thread."""


class Wait(NamedTuple):
    """A frame whose caller gets the result of something that goes on elsewhere.

    Where a thread serves a coroutine until that is done, it does not only wait there: what the coroutine hands back to
    it stands above. Whether that is what is awaited now only the coroutine's own chain of awaits tells.
    """

    position: int
    """Among the part's frames."""
    awaited: Any
    """A coroutine, an asyncio future or a ``concurrent.futures.Future``."""
    is_idle: bool = True
    """Whether the thread does nothing above that frame but wait."""
    has_loop: bool = False
    """Whether the thread itself runs the event loop of what is awaited: while it is idle, nobody else has that loop."""

    def explains(self, state: State | None, *, has_come_back: bool, has_frames: bool) -> bool:
        """Tell whether what was found beyond the wait is what the thread's own frames above it are there for.

        Args:
            state: Of the request, as it was found.
            has_come_back: Whether the way there has led through the thread again.
            has_frames: Whether frames were found.
        """
        if not has_frames:
            return self.has_loop and self.is_idle
        return self.is_idle or has_come_back or state is State.ON_THREAD


class Part(NamedTuple):
    """The frames of one thread that are the request's."""

    frames: list[tuple[CodeType, int]]
    """Code objects and instruction offsets, innermost first."""
    waits: list[Wait]
    """In the order in which they are to be followed."""
    is_whole: bool
    """Whether its beginning was found."""
    handed_on: Sequence[Any]
    """The futures of the work that was handed to a pool together with what the thread waits for."""


def part_of(top: FrameType, is_start: Callable[[FrameType], bool]) -> Part:
    """Return a thread's part of a request.

    Args:
        top: The thread's innermost frame.
        is_start: Tells the outermost frame that is the request's.
    """
    frames: list[tuple[CodeType, int]] = []
    blocked: list[Wait] = []
    served: list[Wait] = []
    handed_on: Sequence[Any] = ()
    is_idle, near, is_whole = True, _NEAR, False
    frame: FrameType | None = top
    while frame is not None and not is_whole:
        if near:
            near -= 1
            future = handoffs.from_blocked(frame)
            if future is not None:
                blocked, near = [Wait(len(frames), future)], 0
                handed_on = handoffs.handed_on_with(frame)
            elif handoffs.is_work_item(frame):
                near = 0  # It works for somebody else who waits: it does not wait itself.
        read = _SERVING.get(frame.f_code.co_name)
        awaited = read(frame) if read is not None else None
        if awaited is not None:
            # Of several the outermost one: it leads to the others.
            served = [Wait(len(frames), awaited, is_idle, frame.f_code.co_name != _BY_ASGIREF)]
        is_idle = handoffs.is_done_item(frame) or (is_idle and frame.f_globals.get("__name__") in _IDLE)
        frames.append((frame.f_code, frame.f_lasti))
        is_whole = is_start(frame)
        frame = frame.f_back
    return Part(frames, served + blocked, is_whole, handed_on)


def leads_on(top: FrameType | None) -> bool:
    """Tell cheaply whether a thread may wait for another one, or serve a coroutine: most do neither."""
    frame = top
    for _ in range(_NEAR_WAIT):
        if frame is None:
            break
        if frame.f_code.co_name in handoffs.BLOCKED:
            return True
        frame = frame.f_back
    frame = top
    while frame is not None:
        if frame.f_code.co_name in _SERVING and frame.f_globals.get("__name__") in _SERVING_MODULES:
            return True
        frame = frame.f_back
    return False


_NEAR_WAIT = 4
"""Innermost frames among which a wait for another thread is looked for: the wait, and what it calls in turn."""

_IDLE = frozenset(
    {"asyncio.base_events", "asyncio.runners", "asyncio.windows_events", "selectors", "threading", "uvloop"}
)
"""Modules of what stands above a frame that serves a coroutine, while its thread waits. Any step of one has others."""


def _awaited_by_asgiref(frame: FrameType) -> Any:
    caller = frame.f_back
    if frame.f_globals.get("__name__") != "asgiref.current_thread_executor" or caller is None:
        return None
    return caller.f_locals.get("awaitable") if caller.f_globals.get("__name__") == "asgiref.sync" else None


def _awaited_by_loop(frame: FrameType) -> Any:
    if frame.f_globals.get("__name__") != "asyncio.base_events":
        return None
    return _if_unfinished(frame.f_locals.get("future"))


def _awaited_by_runner(frame: FrameType) -> Any:
    # A loop that is compiled, as uvloop's, has no frames of its own.
    if frame.f_globals.get("__name__") not in {"asyncio.runners", "uvloop"}:
        return None
    names = frame.f_locals
    return _if_unfinished(names.get("main", names.get("coro")))


def _if_unfinished(awaited: Any) -> Any:
    """Return what is awaited; None when it is done, so that the loop ends other things, or cannot be followed."""
    if isinstance(awaited, CoroutineType):
        return awaited if awaited.cr_frame is not None else None
    return awaited if is_future(awaited) and not awaited.done() else None


_BY_ASGIREF = "run_until_future"

_SERVING: Mapping[str, Callable[[FrameType], Any]] = {
    _BY_ASGIREF: _awaited_by_asgiref,
    "run_until_complete": _awaited_by_loop,
    "run": _awaited_by_runner,
}
"""Functions in which a thread serves a coroutine until that is done: by name."""

_SERVING_MODULES = frozenset({"asgiref.current_thread_executor", "asyncio.base_events", "asyncio.runners", "uvloop"})
"""Their modules."""
