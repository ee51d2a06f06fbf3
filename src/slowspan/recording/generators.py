"""A generator that is profiled as a whole: between two of its items the time is its consumer's, and not to be shown."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from slowspan.recording.following import sight_of
from slowspan.recording.sight import CarrierGoneError, Sight, State
from slowspan.recording.stacks import marker
from slowspan.recording.synthetic import IN_CONSUMER
from slowspan.recording.walk import Memory, Walk

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

    from opentelemetry.sdk.trace import Span

    from slowspan.recording.carriers import Carrier
    from slowspan.recording.sight import Follower

_IN_CONSUMER = marker(IN_CONSUMER)


class GeneratorCarrier(NamedTuple):
    """A generator, synchronous or not, which runs in turns with its consumer, on any thread."""

    thread_id: int
    native_id: int
    generator: weakref.ref[Any]
    consumer: Carrier
    """What ran when it began."""

    @property
    def key(self) -> int:
        """What runs one request after the other."""
        return id(self.generator())

    def follower(self) -> Follower:
        """Return what finds the generator at every look."""
        return GeneratorFollower(self.generator, self.consumer)


class GeneratorFollower:
    """Finds a generator where it runs, on whatever thread; a suspended one is nowhere."""

    shares_thread = True

    def __init__(self, generator: weakref.ref[Any], consumer: Carrier) -> None:
        self._generator = generator
        self._thread_id = consumer.thread_id
        self._consumer = consumer.follower()
        self._memory = Memory()

    def look(self, frames: Mapping[int, FrameType], span: Span | None = None) -> Sight | None:
        """Read the stack, as of ``Follower.look``."""
        generator = self._generator()
        if generator is None:
            raise CarrierGoneError
        if getattr(generator, "gi_running", False):
            walk = Walk(frames, self._memory, self._thread_id)
            return sight_of(walk, walk.follow_coroutine(generator))
        if getattr(generator, "ag_running", False):
            # Somebody awaits its next item: it is where the task is.
            return self._consumer.look(frames, span)
        # Whatever the thread does is the consumer's.
        return Sight([_IN_CONSUMER, 0], 0, State.SUSPENDED, loop_is_busy=True)
