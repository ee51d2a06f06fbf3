"""What one look at a request shows: its own stack, wherever it runs, and what it is doing there."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from types import FrameType

    from opentelemetry.sdk.trace import Span

    from slowspan.recording.stacks import FlatStack


class State(enum.Enum):
    """Whether a request has a thread now."""

    ON_THREAD = "it has a thread, which computes or waits"
    SUSPENDED = "it waits, and needs no thread"
    READY = "it could go on, but the event loop runs something else"


class GuestLoop(NamedTuple):
    """The event loop of another thread than a request's home, and the request's task in it."""

    thread_id: int
    is_busy: bool
    """Whether it runs a task of somebody else."""
    moved: bool
    """Whether the request's task may have run since the last look."""


class Sight(NamedTuple):
    """A request's stack at one instant. Holds no frame: none may outlive the look."""

    flat: FlatStack
    line: int
    """Line number of the innermost frame; 0 for an entry that is not code."""
    state: State
    thread_id: int = 0
    """The thread that it is on, as of ``_thread.get_ident``; 0 when it is on none."""
    moved: bool = True
    """Whether it may have run since the last look; False is sure."""
    held: bool = False
    """Whether the innermost frames are those of another task, which holds the event loop."""
    loop_is_busy: bool = False
    """Whether the event loop runs a task of somebody else."""
    guests: Collection[int] = ()
    """All threads that work for the request at this instant, but for the one on which it began."""
    guest_loop: GuestLoop | None = None
    """Where its task is, if a thread waits for that."""


class Follower(Protocol):
    """Finds a request's stack at every look, wherever it has gone. Used by the sampler's thread only.

    Attributes:
        shares_thread: Whether other requests run on the home thread as well, in turns.
    """

    shares_thread: bool

    def look(self, frames: Mapping[int, FrameType], span: Span | None, /) -> Sight | None:
        """Read the stack.

        Args:
            frames: The innermost frames of all threads at this instant. None is kept.
            span: The request's span, by which tasks that it has started are known. It is not kept.

        Returns:
            What is seen; None when the request cannot be read at this instant.

        Raises:
            CarrierGoneError: There is nothing any more that could carry the request.
        """
        ...


class CarrierGoneError(Exception):
    """The thread or task of a request has ended."""
