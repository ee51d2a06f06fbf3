"""A bounded queue with a thread of its own, for work that must not run on a request's thread."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from slowspan import native
from slowspan.counters import Drop, DropError
from slowspan.delivery.flush import Flush
from slowspan.fork import call_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable

    from slowspan.counters import Counters

T = TypeVar("T")

_TICK_AFTER_ERROR = 60.0
"""Seconds until a tick that raised is called again."""

_logger = logging.getLogger("slowspan")


class DeliveryQueue(Generic[T]):
    """Hands items to one function, one after the other, on one daemon thread.

    The model is OpenTelemetry's batch processor: bounded, the oldest item gives way and is counted; the
    thread starts with the first item; a forked child begins with an empty queue, because what was queued is
    its parent's to deliver. An item takes the place of one with the same key that still waits.
    OpenTelemetry's instrumentation is suppressed on the thread, so that what a notifier sends makes no spans.

    Args:
        handle: Takes one item, on the queue's thread. Its exceptions are counted: a :class:`DropError` for
            its reason, any other as ``internal_error``.
        name: The thread's name.
        size: The most items that wait.
        counters: Where losses are counted; the thread also writes the log line on them.
        flush: Called on the thread at a flush, after the last item, with the remaining time in milliseconds;
            returns whether everything was delivered.
        close: Called on the thread when it ends after :meth:`close`.
        tick: Called on the thread when it starts, after :meth:`wake`, and when the seconds have passed that it returned
            at its last call; None when there is nothing to wait for.
        gave_way: Called with an item that will not be handled, which is then its loss to count: the oldest when the
            queue is full, on the thread that puts a newer one, and what waits still when ``join`` gives up.
    """

    def __init__(
        self,
        handle: Callable[[T], None],
        *,
        name: str,
        size: int,
        counters: Counters,
        flush: Callable[[int], bool] | None = None,
        close: Callable[[], None] | None = None,
        tick: Callable[[], float | None] | None = None,
        gave_way: Callable[[T], None] | None = None,
    ) -> None:
        self._handle = handle
        self._name = name
        self._size = size
        self._counters = counters
        self._flush_hook = flush
        self._close_hook = close
        self._tick_hook = tick
        self._gave_way_hook = gave_way
        self._closed = False
        self._reset()
        call_after_fork(self._reset)

    def _reset(self) -> None:
        # Reentrant, because a signal handler or a finalizer may put while its own thread is putting.
        self._lock = native.RLock()
        self._work = threading.Condition(self._lock)
        self._rest = threading.Condition(self._lock)
        self._waiting: OrderedDict[str, T] = OrderedDict()
        self._flushes: list[Flush] = []
        self._busy = False
        self._tick_is_next = False
        self._tick_at: float | None = None if self._tick_hook is None else 0.0
        self._thread: native.Thread | None = None

    def start(self) -> bool:
        """Start the thread unless it runs; a tenth of a millisecond that the first ``put`` need not spend.

        Returns:
            Whether the thread runs. The system may refuse one, and so does Python 3.12 at interpreter exit.
        """
        with self._lock:
            if native.eventlet_has_replaced_threads():
                return False  # It would be a greenlet, and the application would wait for what it does.
            if self._thread is not None and self._thread.is_alive():
                return True
            self._thread = native.make_thread(self._run, self._name)
            try:
                self._thread.start()
            except RuntimeError:
                self._thread = None
                return False
            return True

    def put(self, key: str, item: T) -> None:
        """Queue an item. Takes microseconds, never blocks and never raises.

        Args:
            key: Tells which waiting item this one replaces.
            item: What ``handle`` gets.
        """
        try:
            reason, oldest = self._put(key, item)
            if oldest is not None and self._gave_way_hook is not None:
                reason = None
                self._gave_way_hook(oldest)
        except Exception as error:  # noqa: BLE001 -- runs on a request's thread
            self._counters.drop(Drop.INTERNAL_ERROR, detail=f"{self._name}: {error!r}")
        else:
            if reason is not None:
                self._counters.drop(reason, detail=self._name)

    def _put(self, key: str, item: T) -> tuple[str | None, T | None]:
        """Queue an item; return the reason of a loss, and what was lost if it is not the item itself."""
        oldest = None
        with self._lock:
            if self._closed:
                return Drop.SHUTDOWN, None
            if not self._has_thread() and not self.start():
                return Drop.NO_THREAD, None
            if key not in self._waiting and len(self._waiting) >= self._size:
                _, oldest = self._waiting.popitem(last=False)
            self._waiting[key] = item
            self._work.notify()
        return (None if oldest is None else Drop.QUEUE_FULL), oldest

    def is_crowded(self) -> bool:
        """Return whether half of the places are taken. On any thread."""
        return len(self._waiting) > self._size // 2

    def is_awaited(self) -> bool:
        """Return whether somebody waits until everything is handled. On any thread."""
        return self._closed or bool(self._flushes)

    def wake(self) -> None:
        """Have ``tick`` called soon. On any thread."""
        with self._lock:
            if self._tick_hook is not None:
                self._tick_at = 0.0
                if self._has_thread():
                    self._work.notify()

    def begin_flush(self, deadline: float) -> Flush:
        """Ask for the delivery of everything queued, without waiting for it.

        Args:
            deadline: Until when to wait, as ``time.monotonic()`` counts.

        Returns:
            What to wait for.
        """
        flush = Flush(deadline)
        with self._lock:
            if not self._has_thread():
                # No thread: nothing was ever put here, or everything was delivered before the thread ended.
                flush.finish(not self._waiting)
            else:
                self._flushes.append(flush)
                self._work.notify()
        return flush

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Wait until everything queued is delivered.

        Args:
            timeout_millis: Time limit in milliseconds.

        Returns:
            Whether everything was delivered in time.
        """
        return self.begin_flush(time.monotonic() + timeout_millis / 1000).wait()

    def close(self) -> None:
        """Take no more items; the thread delivers those that wait and ends. Does not wait for it."""
        with self._lock:
            if self._closed:
                return
            if self._close_hook is not None:
                # The hook is somebody else's code and may hang: not on the thread that shuts down.
                self.start()
            self._closed = True
            if self._has_thread():
                self._work.notify_all()

    def join(self, timeout: float) -> bool:
        """Wait for the thread to end after :meth:`close`; what it did not deliver in time is counted as lost.

        Args:
            timeout: Time limit in seconds.

        Returns:
            Whether everything was delivered.
        """
        with self._lock:
            ended = self._rest.wait_for(self._has_ended, timeout)
            left = list(self._waiting.values())
            was_busy = self._busy and not ended
            self._waiting.clear()
            self._busy = False
        lost = len(left) + was_busy
        if lost and self._gave_way_hook is None:
            self._counters.drop(Drop.SHUTDOWN, lost, detail=f"{self._name} did not finish in time")
        elif self._gave_way_hook is not None:
            for item in left:
                self._guard(partial(self._gave_way_hook, item))
        return not lost

    def _has_thread(self) -> bool:
        # One that began before eventlet replaced the locks under it can be told nothing any more.
        return self._thread is not None and not native.eventlet_has_replaced_threads()

    def _has_ended(self) -> bool:
        return self._thread is None or not self._has_thread() or not self._thread.is_alive()

    def _run(self) -> None:
        try:
            # Imported here because it imports asyncio, where nothing else has done so.
            from opentelemetry.instrumentation.utils import suppress_instrumentation

            with suppress_instrumentation():
                while (job := self._next_job()) is not None:
                    self._do(job)
                    # Without this the last profile would be kept for as long as the thread waits.
                    del job
                if self._close_hook is not None:
                    self._guard(self._close_hook)
        finally:
            self._leave()

    def _next_job(self) -> Callable[[], None] | None:
        """Wait for something to do; None when the queue is closed and empty."""
        with self._lock:
            while not native.eventlet_has_replaced_threads():
                tick_in = None if self._tick_at is None else max(0.0, self._tick_at - time.monotonic())
                if tick_in == 0 and self._tick_is_next and not self._closed:
                    return self._tick
                if self._waiting:
                    # Under load there is always another item: a tick that is due takes turns with them.
                    self._tick_is_next = True
                    _, item = self._waiting.popitem(last=False)
                    self._busy = True
                    return partial(self._handle, item)
                if self._flushes:
                    return partial(self._flushes.pop(0).run, self._flush_hook)
                due_in = self._counters.line_due_in()
                if due_in == 0:
                    return self._counters.log_losses
                if self._closed:
                    return None
                if tick_in == 0:
                    return self._tick
                self._work.wait(min((wait for wait in (due_in, tick_in) if wait is not None), default=None))
        return None

    def _tick(self) -> None:
        with self._lock:
            self._tick_is_next = False
            self._tick_at = None
        wait: float | None = _TICK_AFTER_ERROR
        try:
            wait = self._tick_hook() if self._tick_hook is not None else None
        finally:
            with self._lock:
                # Unless somebody has called ``wake`` meanwhile.
                if self._tick_at is None and wait is not None:
                    self._tick_at = time.monotonic() + wait

    def _do(self, job: Callable[[], None]) -> None:
        self._guard(job)
        with self._lock:
            self._busy = False
        # Also between two items: under load there may be no pause for a long time.
        self._counters.log_losses()

    def _guard(self, job: Callable[[], None]) -> None:
        try:
            job()
        except DropError as error:
            self._counters.drop(error.reason, detail=str(error))
            _log_traceback(self._name)
        except Exception as error:  # noqa: BLE001 -- one item's failure must not stop the others
            self._counters.drop(Drop.INTERNAL_ERROR, detail=f"{self._name}: {error!r}")
            _log_traceback(self._name)

    def _leave(self) -> None:
        with self._lock:
            lost, self._busy = self._busy, False
            self._thread = None
            for flush in self._flushes:
                flush.finish(False)
            self._flushes.clear()
            if not native.eventlet_has_replaced_threads():
                self._rest.notify_all()
        if lost:
            # Not an Exception, which would have been caught: a SystemExit, or a greenlet that was killed.
            self._counters.drop(Drop.INTERNAL_ERROR, detail=f"{self._name} was made to end while it worked")
            self.start()


def _log_traceback(where: str) -> None:
    # The line on losses has one sentence for each; whoever writes a notifier needs more.
    try:
        _logger.debug("lost on the thread %s", where, exc_info=True)
    except Exception:  # noqa: BLE001 -- a log handler that raises leaves nobody to tell
        return
