"""The turns of a profiled generator: who takes the item that it makes now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slowspan.recording.carriers import carrier_of
from slowspan.recording.runners import runner_here

if TYPE_CHECKING:
    from slowspan.recording.carriers import Carrier, Runner, ThreadCarrier


class Turns:
    """A generator, and what runs it in this turn.

    A synchronous one has its frame on a thread whenever it runs. An asynchronous one that waits has none there: it is
    found in the task that awaits the item, and each item may be awaited by another task. Nothing in a generator leads
    to that task, so it is noted at each turn, on the thread that takes the item.

    Args:
        generator: The generator, of either kind.
        taker: What takes the first item, as of ``runner_here``.

    Attributes:
        generator: The same.
        taker: What takes the item of this turn; None between two items, and where there is nothing to be followed.
    """

    __slots__ = ("__weakref__", "generator", "taker")

    def __init__(self, generator: Any, taker: ThreadCarrier | Runner | None) -> None:
        self.generator: Any = generator
        self.taker: ThreadCarrier | Runner | None = taker

    def begin(self) -> None:
        """Note that the caller's task or thread takes the next item."""
        self.taker = runner_here()

    def end(self) -> None:
        """Note that the item has been made."""
        self.taker = None  # A task that has been done since then would be kept, and its result.

    def carrier(self) -> Carrier | None:
        """Return what carries the generator in this turn."""
        taker = self.taker
        return carrier_of(taker) if taker is not None else None
