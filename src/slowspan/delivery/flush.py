"""A flush of a queue: asked for on one thread, done on the queue's, and waited for until a deadline."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Flush:
    """A request to deliver what a queue holds; ``DeliveryQueue.begin_flush`` makes it.

    Args:
        deadline: Until when to wait, as ``time.monotonic()`` counts.
    """

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._succeeded = False
        self._finished = threading.Event()

    def run(self, hook: Callable[[int], bool] | None) -> None:
        """Flush what stands behind the queue, and tell whoever waits. On the queue's thread, after its last item.

        Args:
            hook: Gets the remaining time in milliseconds; returns whether everything was delivered. What it raises
                goes on to the caller.
        """
        succeeded = False
        try:
            remaining = max(0.0, self._deadline - time.monotonic())
            succeeded = hook is None or bool(hook(int(remaining * 1000)))
        finally:
            self.finish(succeeded)

    def finish(self, succeeded: bool) -> None:
        """Tell whoever waits. On any thread."""
        self._succeeded = succeeded
        self._finished.set()

    def wait(self) -> bool:
        """Wait until the deadline; return whether everything was delivered."""
        self._finished.wait(max(0.0, self._deadline - time.monotonic()))
        return self._succeeded
