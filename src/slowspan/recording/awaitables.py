"""What stands behind an awaitable: the frame of a coroutine, and what that awaits in turn."""

from __future__ import annotations

import gc
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

_WITH_FRAMES = (CoroutineType, AsyncGeneratorType, GeneratorType)

_ASEND = "async_generator_asend"
"""Type of what an asynchronous generator returns for one step, which ``anext`` with a default wraps once more."""


def parts_of(awaitable: Any) -> tuple[FrameType | None, Any]:
    """Return the frame of a coroutine or generator and what it awaits; no frame for anything else."""
    kind = type(awaitable)
    if kind is CoroutineType:
        return awaitable.cr_frame, awaitable.cr_await
    if kind is AsyncGeneratorType:
        return awaitable.ag_frame, awaitable.ag_await
    if kind is GeneratorType:
        return awaitable.gi_frame, awaitable.gi_yieldfrom
    return getattr(awaitable, "cr_frame", None), getattr(awaitable, "cr_await", None)


def frame_of(coroutine: Any) -> FrameType | None:
    """Return the frame of a coroutine or generator."""
    return parts_of(coroutine)[0]


def coroutine_of(task: Any) -> Any:
    """Return what has a task's outermost frame: a coroutine, or the asynchronous generator whose item it makes."""
    coroutine = task.get_coro()
    if frame_of(coroutine) is not None:
        return coroutine
    inner = behind(coroutine)
    return inner if isinstance(inner, _WITH_FRAMES) else coroutine


def is_compiled(coroutine: Any) -> bool:
    """Return whether a coroutine's frame is on no stack, even while it runs: Cython makes such ones, as in gRPC."""
    return not isinstance(coroutine, _WITH_FRAMES)


def is_running(coroutine: Any) -> bool:
    """Return whether a coroutine or a generator is on some thread now."""
    if type(coroutine) is AsyncGeneratorType:
        # It calls itself running from one item to the next, also while it awaits something.
        return coroutine.ag_running and coroutine.ag_await is None
    return bool(getattr(coroutine, "cr_running", False) or getattr(coroutine, "gi_running", False))


def behind(awaited: Any) -> Any:
    """Return what stands behind an iterator that awaiting made: a future, a coroutine or an asynchronous generator."""
    # These iterators have no attribute for it, but the collector can see through them.
    for referent in gc.get_referents(awaited):
        if is_future(referent) or isinstance(referent, _WITH_FRAMES):
            return referent
        if type(referent).__name__ == _ASEND:
            return behind(referent)
    return None


def is_generator(awaitable: Any) -> bool:
    """Return whether something is a plain generator."""
    return type(awaitable) is GeneratorType


def is_future(awaited: Any) -> bool:
    """Return whether something is a future of an event loop, or a task."""
    return getattr(awaited, "_asyncio_future_blocking", None) is not None
