"""How much of the threads' CPU time is a request's own, wherever it ran. Used by the sampler's thread."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from slowspan.recording.gauge import ThreadEndedError, borrow_gauge
from slowspan.recording.sight import State

if TYPE_CHECKING:
    from slowspan.recording.gauge import ThreadGauge
    from slowspan.recording.sight import Sight


class Meter:
    """Adds up the CPU time of one request.

    A thread that is the request's alone has a clock that tells. Of a thread that several requests use in turns, only
    its whole time is known: what it used while the request did not move was not the request's; what it used before a
    look that finds the request on it was; of the rest the request gets the share in which it was found running.

    Args:
        native_id: The kernel's id of the thread on which the request began, or 0.
        shared: Whether other requests run on that thread, too.
    """

    def __init__(self, native_id: int, *, shared: bool) -> None:
        self.home: ThreadGauge = borrow_gauge(native_id)
        self.shared = shared
        self._guest: ThreadGauge | None = None
        self._guest_id = 0
        self._guest_cpu_ns: int | None = None
        self._last_home_ns: int | None = None
        self._credit_ns = 0
        self._delays: dict[ThreadGauge, int] = {}
        self._seen_running = 0
        self._seen_others = 0

    def close(self) -> None:
        """Give the gauges back."""
        self.home.give_back()
        self._leave_guest()

    def read(self, sight: Sight, home_thread_id: int) -> int | None:
        """Return the CPU time of the request so far, None where it cannot be known.

        Args:
            sight: Where the request is.
            home_thread_id: The thread on which it began.

        Raises:
            ThreadEndedError: That thread has ended.
        """
        home_ns = self.home.cpu_ns()
        if home_ns is None:
            return None
        is_guest = sight.thread_id not in {0, home_thread_id}
        if is_guest:
            self._credit_guest(sight.thread_id)
        else:
            self._leave_guest()
        if not self.shared:
            return home_ns + self._credit_ns
        last, self._last_home_ns = self._last_home_ns, home_ns
        if last is not None:
            self._credit_ns += int((home_ns - last) * self._own_share(sight, is_guest=is_guest))
        return self._credit_ns

    def at_end(self, cpu_ns: int) -> int:
        """Return the CPU time at the request's end, which is now, on the thread on which it began.

        Args:
            cpu_ns: The calling thread's clock.
        """
        if not self.shared:
            return cpu_ns + self._credit_ns
        last = self._last_home_ns
        return self._credit_ns + (cpu_ns - last if last is not None else 0)

    def gauge(self, sight: Sight, home_thread_id: int) -> ThreadGauge:
        """Return the gauge of the thread that the request is on."""
        if self._guest is not None and sight.thread_id != home_thread_id:
            return self._guest
        return self.home

    def new_delay_ns(self, gauge: ThreadGauge) -> int:
        """Return how long, since the last call, a thread was ready to run while every processor was taken.

        Returns:
            Nanoseconds; 0 in the first call and where it is not known.

        Raises:
            ThreadEndedError: The thread has ended.
        """
        delay_ns = gauge.delay_ns()
        last = self._delays.get(gauge)
        self._delays[gauge] = delay_ns
        return delay_ns - last if last is not None else 0

    def _own_share(self, sight: Sight, *, is_guest: bool) -> float:
        if sight.state is State.ON_THREAD and not is_guest:
            self._seen_running += 1
            return 1.0
        if sight.loop_is_busy:
            self._seen_others += 1
            return 0.0
        if not sight.moved or is_guest:
            return 0.0
        return (self._seen_running + 1) / (self._seen_running + self._seen_others + 1)

    def _credit_guest(self, thread_id: int) -> None:
        if self._guest_id != thread_id:
            self._leave_guest()
            self._guest_id = thread_id
            self._guest = borrow_gauge(_native_id(thread_id))
        try:
            now_ns = self._guest.cpu_ns() if self._guest is not None else None
        except ThreadEndedError:
            self._leave_guest()
            return
        if now_ns is not None and self._guest_cpu_ns is not None:
            self._credit_ns += now_ns - self._guest_cpu_ns
        self._guest_cpu_ns = now_ns

    def _leave_guest(self) -> None:
        if self._guest is not None:
            self._delays.pop(self._guest, None)
            self._guest.give_back()
        self._guest, self._guest_id, self._guest_cpu_ns = None, 0, None


def _native_id(thread_id: int) -> int:
    for thread in threading.enumerate():
        if thread.ident == thread_id:
            return thread.native_id or 0
    return 0
