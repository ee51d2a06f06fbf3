"""What is remembered of a request from one look to the next. Used by the sampler's thread only."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_KNOWN = 100
"""Coroutines, and futures of threads, that are remembered."""

SEARCHES = 8
"""Looks at which all threads are searched for the one that works for a future. Later, as it may well be a process that
does, only one in as many."""


class Memory:
    """What a follower remembers from one look to the next, to save work and to know what has not run."""

    def __init__(self) -> None:
        self.turn: int = 0
        """Number of the look: children that wait side by side are shown in turns."""
        self._waiters: dict[int, weakref.ref[Any]] = {}
        self._workers: dict[int, _Worker] = {}
        self._loop: weakref.ref[Any] | None = None

    def has_moved(self, coroutine: Any, waiter: Any) -> bool:
        """Note what a coroutine waits for; tell whether that is something else than at the last look."""
        known = self._waiters.get(id(coroutine))
        if known is not None and known() is waiter:
            return False
        if len(self._waiters) >= MAX_KNOWN:
            self._waiters.clear()
        self._waiters[id(coroutine)] = weakref.ref(waiter)
        return True

    def last_loop(self, loop: Any) -> Any:
        """Return the event loop to which the way has led, or else the one to which it led the last time, or None."""
        # A coroutine that a thread serves does not tell at every instant whose it is.
        if loop is not None:
            self._loop = weakref.ref(loop)
        return self._loop() if self._loop is not None else None

    def worker(self, future: Any, at_work: Callable[[], Iterable[tuple[Any, int]]]) -> int:
        """Return the thread that works for a running ``concurrent.futures.Future``; 0 when none is found.

        Args:
            future: The future.
            at_work: Searches all threads, as of ``handoffs.at_work``.
        """
        known = self._workers.get(id(future))
        if known is None or known.future() is not future:
            if len(self._workers) >= MAX_KNOWN:
                self._workers.clear()
            known = self._workers[id(future)] = _Worker(future)
        if not known.thread_id and (known.searches < SEARCHES or self.turn % SEARCHES == 0):
            known.searches += 1
            known.thread_id = next((thread for work, thread in at_work() if work is future), 0)
        return known.thread_id


class _Worker:
    """What is known of the thread that works for a future."""

    __slots__ = ("future", "searches", "thread_id")

    def __init__(self, future: Any) -> None:
        self.future = weakref.ref(future)
        self.thread_id = 0
        self.searches = 0
