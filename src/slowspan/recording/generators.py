"""A generator that is profiled as a whole: between two of its items the time is its consumer's, and not to be shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from slowspan.recording.following import sight_of
from slowspan.recording.memory import Memory
from slowspan.recording.sight import CarrierGoneError, Sight, State
from slowspan.recording.stacks import marker
from slowspan.recording.synthetic import IN_CONSUMER
from slowspan.recording.walk import Walk

if TYPE_CHECKING:
    import weakref
    from collections.abc import Mapping
    from types import FrameType

    from opentelemetry.sdk.trace import Span

    from slowspan.recording.carriers import Carrier
    from slowspan.recording.sight import Follower
    from slowspan.recording.turns import Turns

_IN_CONSUMER = marker(IN_CONSUMER)


class GeneratorCarrier(NamedTuple):
    """A generator, synchronous or not, which runs in turns with its consumer, on any thread."""

    thread_id: int
    native_id: int
    turns: weakref.ref[Turns]
    consumer: Carrier
    """What took its first item."""

    @property
    def key(self) -> int:
        """What runs one request after the other."""
        return id(self.turns())

    def follower(self) -> Follower:
        """Return what finds the generator at every look."""
        return GeneratorFollower(self.turns, self.consumer)


class GeneratorFollower:
    """Finds a generator where it runs, on whatever thread; a suspended one is nowhere."""

    shares_thread = True

    def __init__(self, turns: weakref.ref[Turns], consumer: Carrier) -> None:
        self._turns = turns
        self._thread_id = consumer.thread_id
        self._consumer = consumer
        self._follower = consumer.follower()
        self._memory = Memory()

    def look(self, frames: Mapping[int, FrameType], span: Span | None = None) -> Sight | None:
        """Read the stack, as of ``Follower.look``."""
        turns = self._turns()
        if turns is None:
            raise CarrierGoneError
        generator: Any = turns.generator
        if getattr(generator, "gi_running", False):
            walk = Walk(frames, self._memory, self._thread_id)
            return sight_of(walk, walk.follow_coroutine(generator))
        if getattr(generator, "ag_running", False):
            return self._look_at_consumer(turns, frames, span)
        # Whatever the thread does is the consumer's.
        return Sight([_IN_CONSUMER, 0], 0, State.SUSPENDED, loop_is_busy=True)

    def _look_at_consumer(self, turns: Turns, frames: Mapping[int, FrameType], span: Span | None) -> Sight | None:
        """Read the stack of what awaits the next item of an asynchronous generator."""
        taker = turns.taker
        consumer = turns.carrier()
        if consumer is None:
            return None
        if consumer != self._consumer:
            self._consumer, self._follower = consumer, consumer.follower()
        try:
            sight = self._follower.look(frames, span)
        except CarrierGoneError:
            return None  # It has ended just now. The generator may go on in another one.
        # With its item it goes on to what is no longer the generator's.
        return sight if turns.taker is taker else None
