"""What carries a request, a thread, an asyncio task or a greenlet: found once, when its span starts."""

from __future__ import annotations

import threading
import weakref
from _thread import get_native_id
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from slowspan import native
from slowspan.fork import call_after_fork
from slowspan.recording.following import GreenletFollower, TaskFollower, ThreadFollower
from slowspan.recording.generators import GeneratorCarrier

if TYPE_CHECKING:
    from collections.abc import Callable

    from slowspan.recording.sight import Follower


class ThreadCarrier(NamedTuple):
    """The thread that runs a request, and nothing else meanwhile."""

    thread_id: int
    """As of ``_thread.get_ident``, or 0 where it is not known."""
    native_id: int
    """The kernel's id, or 0 where it is not known."""

    @property
    def key(self) -> int:
        """What runs one request after the other."""
        return self.thread_id

    def follower(self) -> Follower:
        """Return what finds the request at every look."""
        return ThreadFollower(self.thread_id)


class TaskCarrier(NamedTuple):
    """The asyncio task that runs a request, on a thread that runs many."""

    thread_id: int
    """The event loop's thread."""
    native_id: int
    task: weakref.ref[Any]

    @property
    def key(self) -> int:
        """What runs one request after the other."""
        return id(self.task())

    def follower(self) -> Follower:
        """Return what finds the request at every look."""
        return TaskFollower(self.task, self.thread_id)


class GreenletCarrier(NamedTuple):
    """The greenlet that runs a request, on a thread that runs many."""

    thread_id: int
    """The thread of the greenlet's hub."""
    native_id: int
    greenlet: weakref.ref[Any]

    @property
    def key(self) -> int:
        """What runs one request after the other."""
        return id(self.greenlet())

    def follower(self) -> Follower:
        """Return what finds the request at every look."""
        return GreenletFollower(self.greenlet, self.thread_id)


Carrier = ThreadCarrier | TaskCarrier | GreenletCarrier | GeneratorCarrier


def is_greenlet(carrier: Carrier) -> bool:
    """Return whether a request is carried by a greenlet, or by a generator that one consumes."""
    while isinstance(carrier, GeneratorCarrier):
        carrier = carrier.consumer
    return isinstance(carrier, GreenletCarrier)


def name_of_thread(native_id: int) -> str:
    """Return the name of a thread; empty where there is none of this id, or it was not started by Python."""
    return next((thread.name for thread in threading.enumerate() if thread.native_id == native_id), "")


def this_thread() -> ThreadCarrier:
    """Return the calling thread."""
    return ThreadCarrier(native.get_ident(), get_native_id())


known_threads: dict[int, ThreadCarrier] = {}
"""The living threads that have started a watched span, by their ids; not a pool's that calls for others.

To ask it costs a request less than what is kept by the interpreter for each thread does: that is found in other places
of the memory at each step."""


class _UntilItsEnd:
    """Has a thread forgotten when it ends: the interpreter then throws away what it keeps for it."""

    def __init__(self, thread_id: int) -> None:
        self._thread_id = thread_id

    def __del__(self, forget: Callable[..., object] = known_threads.pop) -> None:
        forget(self._thread_id, None)


class CallingThread(native.local):
    """What is known of the thread that starts a span; found once per thread, since asking the kernel costs 1 µs.

    Attributes:
        carrier: The thread.
    """

    def __init__(self) -> None:
        self._read()
        self._known = _UntilItsEnd(self.carrier.thread_id)

    def _read(self) -> None:
        self.carrier: ThreadCarrier = this_thread()
        known_threads[self.carrier.thread_id] = self.carrier

    def forget_others(self) -> None:
        """Start anew in a forked child, whose only thread has a new id to the kernel."""
        known_threads.clear()
        self._read()


calling_thread: CallingThread = CallingThread()

call_after_fork(calling_thread.forget_others)


class Greenlet(Protocol):
    """One that gevent has started."""

    @property
    def parent(self) -> Any:
        """Its hub."""
        ...


Runner = tuple[Any, Any] | Greenlet
"""A greenlet of gevent's, or a thread and the task or other greenlet that it ran at the span's start, or one of all
these and the turns of the generator that it ran: what a fast request leaves, unread."""


def carrier_of(runner: ThreadCarrier | Runner) -> Carrier:
    """Return the carrier of a request that has become late.

    Args:
        runner: What ran it at its start.
    """
    if isinstance(runner, ThreadCarrier):
        return runner
    outer: Any
    unit: Any
    outer, unit = runner if isinstance(runner, tuple) else (_thread_of(runner.parent), runner)
    if hasattr(unit, "gr_frame"):
        return GreenletCarrier(outer.thread_id, outer.native_id, weakref.ref(unit))
    if hasattr(unit, "get_coro"):
        return TaskCarrier(outer.thread_id, outer.native_id, weakref.ref(unit))
    consumer = carrier_of(outer)
    return GeneratorCarrier(consumer.thread_id, consumer.native_id, weakref.ref(unit), consumer)


def key_of(runner: ThreadCarrier | Runner) -> int:
    """Return the ``key`` of the carrier that ``carrier_of`` would return."""
    if isinstance(runner, ThreadCarrier):
        return runner.key
    return id(runner[1] if isinstance(runner, tuple) else runner)


def _thread_of(hub: Any) -> ThreadCarrier:
    thread_id = hub.thread_ident
    # gevent gives the main thread another id in ``threading``, by which it is not found there.
    return known_threads.get(thread_id) or ThreadCarrier(thread_id, native.native_id_of(thread_id))
