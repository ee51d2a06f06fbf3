"""How much of the threads' CPU time is a request's own, wherever it ran. Used by the sampler's thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slowspan import native
from slowspan.recording.gauge import ThreadEndedError, borrow_gauge
from slowspan.recording.sight import State

if TYPE_CHECKING:
    from collections.abc import Collection

    from slowspan.recording.gauge import ThreadGauge
    from slowspan.recording.sight import Sight


class _Tally:
    """How often a request was found running on a thread that it shares with others, and how often others were."""

    __slots__ = ("_others", "_own")

    def __init__(self) -> None:
        self._own = self._others = 0

    def share(self, *, is_here: bool, is_busy: bool, moved: bool) -> float:
        """Return the request's part of the time that the thread has computed since the last look."""
        if is_here:
            self._own += 1
            return 1.0
        if is_busy:
            self._others += 1
            return 0.0
        return self.usual_share() if moved else 0.0

    def usual_share(self) -> float:
        """Return the share in which it was found running."""
        return (self._own + 1) / (self._own + self._others + 1)


class _Guest:
    """A thread that works for the request for a while."""

    __slots__ = ("_cpu_ns", "gauge", "tally")

    def __init__(self, thread_id: int) -> None:
        self.gauge = borrow_gauge(native.native_id_of(thread_id))
        self.tally = _Tally()
        self._cpu_ns: int | None = None

    def used_ns(self) -> int:
        """Return the CPU time since the last call; 0 in the first one, since what came before may be others' work.

        Raises:
            ThreadEndedError: The thread has ended.
        """
        last, self._cpu_ns = self._cpu_ns, self.gauge.cpu_ns()
        return self._cpu_ns - last if self._cpu_ns is not None and last is not None else 0


class Meter:
    """Adds up the CPU time of one request.

    A thread that is the request's alone has a clock that tells. Of a thread that several requests use in turns, only
    its whole time is known: what it used while the request did not move was not the request's; what it used before a
    look that finds the request on it was; of the rest the request gets the share in which it was found running. So it
    is for the thread of an event loop for which the request's own one waits. What a pool's thread used is the request's
    if two looks, one after the other, find it at the request's work.

    Several threads can compute at once, but there is no more time to account for than passes.

    Args:
        native_id: The kernel's id of the thread on which the request began, or 0.
        shared: Whether other requests run on that thread, too.

    Attributes:
        home: The gauge of that thread.
        share: The share of the time between the last two looks, 0 to 1, in which the thread on which the request is
            shown computed for it.
    """

    def __init__(self, native_id: int, *, shared: bool) -> None:
        self.home: ThreadGauge = borrow_gauge(native_id)
        self.shared = shared
        self.share: float = 0.0
        self._guests: dict[int, _Guest] = {}
        self._last_at_ns = 0
        self._last_home_ns: int | None = None
        self._credit_ns = 0
        self._last_delay: tuple[ThreadGauge, int] | None = None
        self._tally = _Tally()

    def close(self) -> None:
        """Give the gauges back."""
        self.home.give_back()
        self._leave_all_but(())

    def read(self, sight: Sight, home_thread_id: int, at_ns: int, others: int = 0) -> int | None:
        """Return the CPU time of the request so far, None where it cannot be known.

        Args:
            sight: Where the request is.
            home_thread_id: The thread on which it began.
            at_ns: The time of the look, since the start of the span.
            others: How many other requests were found running on that thread, at instants close to this one.

        Raises:
            ThreadEndedError: That thread has ended.
        """
        home_ns = self.home.cpu_ns()
        if home_ns is None:
            return None
        is_guest = sight.thread_id not in {0, home_thread_id}
        wall_ns, self._last_at_ns = max(at_ns - self._last_at_ns, 0), at_ns
        last, self._last_home_ns = self._last_home_ns, home_ns
        own_ns = home_ns - last if last is not None else 0
        if self.shared and last is not None:
            is_here = sight.state is State.ON_THREAD and not is_guest
            moved = sight.moved and not is_guest
            is_busy = sight.loop_is_busy or others > 0
            own_ns = int(own_ns * self._tally.share(is_here=is_here, is_busy=is_busy, moved=moved) / (others + 1))
        # Where a generator is followed into what takes its items, the home of that is another one.
        guests = {sight.thread_id, *sight.guests} - {0, home_thread_id} if is_guest or sight.guests else set()
        loop = sight.guest_loop
        if loop is not None:
            guests.add(loop.thread_id)
        used = self._used_by_guests(guests) if guests or self._guests else {}
        if loop is not None and loop.thread_id in used:
            tally, is_here = self._guests[loop.thread_id].tally, sight.thread_id == loop.thread_id
            share = tally.share(is_here=is_here, is_busy=loop.is_busy, moved=loop.moved)
            used[loop.thread_id] = int(used[loop.thread_id] * share)
        shown_ns = used.get(sight.thread_id, 0) if is_guest else own_ns
        self.share = shown_ns / wall_ns if wall_ns else 0.0
        self._credit_ns += min(sum(used.values()), max(wall_ns - own_ns, 0))
        if not self.shared:
            return home_ns + self._credit_ns
        self._credit_ns += own_ns
        return self._credit_ns

    def at_end(self, cpu_ns: int) -> int:
        """Return the CPU time at the request's end, which is now, on the thread on which it began.

        Args:
            cpu_ns: The calling thread's clock.
        """
        if not self.shared:
            return cpu_ns + self._credit_ns
        last = self._last_home_ns
        # A look that finds the request running is one of many; this one finds it there whatever it did before.
        return self._credit_ns + (int((cpu_ns - last) * self._tally.usual_share()) if last is not None else 0)

    def gauge(self, sight: Sight) -> ThreadGauge:
        """Return the gauge of the thread that the request is on."""
        guest = self._guests.get(sight.thread_id)
        return guest.gauge if guest is not None else self.home

    def new_delay_ns(self, gauge: ThreadGauge) -> int:
        """Return how long, since the last call, a thread was ready to run while every processor was taken.

        Returns:
            Nanoseconds; 0 where it is not known, and if the last call was for another thread: what this one did
            meanwhile is not of the time since then.

        Raises:
            ThreadEndedError: The thread has ended.
        """
        last, self._last_delay = self._last_delay, (gauge, gauge.delay_ns())
        return self._last_delay[1] - last[1] if last is not None and last[0] is gauge else 0

    def _used_by_guests(self, thread_ids: Collection[int]) -> dict[int, int]:
        """Return how much CPU time each of the threads has used for the request since the last look."""
        self._leave_all_but(thread_ids)
        used = {}
        for thread_id in thread_ids:
            guest = self._guests.get(thread_id)
            if guest is None:
                guest = self._guests[thread_id] = _Guest(thread_id)
            try:
                used[thread_id] = guest.used_ns()
            except ThreadEndedError:
                self._leave(thread_id)
        return used

    def _leave_all_but(self, thread_ids: Collection[int]) -> None:
        """Forget threads that work for the request no longer: they may work for others by now."""
        for thread_id in [known for known in self._guests if known not in thread_ids]:
            self._leave(thread_id)

    def _leave(self, thread_id: int) -> None:
        self._guests.pop(thread_id).gauge.give_back()
