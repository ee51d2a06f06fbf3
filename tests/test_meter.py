"""Whose CPU time is whose, when a request works in several threads: the clocks are the test's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slowspan import native
from slowspan.recording import meter as meter_module
from slowspan.recording.gauge import ThreadEndedError
from slowspan.recording.meter import Meter
from slowspan.recording.sight import GuestLoop, Sight, State

if TYPE_CHECKING:
    from collections.abc import Collection

MS = 1_000_000
HOME = 1


class FakeGauge:
    """The gauge of a thread, with a clock that the test sets."""

    def __init__(self) -> None:
        self.clock_ns: int | None = 0
        self.users = 0
        self.delay = 0

    def cpu_ns(self) -> int | None:
        """Return the clock; a thread without one has ended."""
        if self.clock_ns is None:
            raise ThreadEndedError
        return self.clock_ns

    def delay_ns(self) -> int:
        """Return how long it was ready."""
        return self.delay

    def give_back(self) -> None:
        """Count."""
        self.users -= 1


class Gauges(dict[int, FakeGauge]):
    """The gauges of all threads there are."""

    def borrow(self, native_id: int) -> FakeGauge:
        """Lend one."""
        gauge = self.setdefault(native_id, FakeGauge())
        gauge.users += 1
        return gauge

    def compute(self, *thread_ids: int, ms: float = 5) -> None:
        """Let threads compute."""
        for thread_id in thread_ids:
            gauge = self.setdefault(thread_id, FakeGauge())
            assert gauge.clock_ns is not None
            gauge.clock_ns += int(ms * MS)


@pytest.fixture
def gauges(monkeypatch: pytest.MonkeyPatch) -> Gauges:
    """Replace the threads of this process; the kernel's ids are the interpreter's."""
    gauges = Gauges()
    monkeypatch.setattr(meter_module, "borrow_gauge", gauges.borrow)
    monkeypatch.setattr(native, "native_id_of", lambda thread_id: thread_id)
    return gauges


class Looks:
    """A meter that is read every 10 ms."""

    def __init__(self, *, shared: bool = True) -> None:
        self.meter = Meter(HOME, shared=shared)
        self._at_ns = 0

    def look(self, shown: int, guests: Collection[int] = (), loop: GuestLoop | None = None) -> float | None:
        """Read it; return the CPU time so far, in milliseconds."""
        self._at_ns += 10 * MS
        state = State.ON_THREAD if shown else State.SUSPENDED
        cpu_ns = self.meter.read(Sight([], 0, state, shown, guests=guests, guest_loop=loop), HOME, self._at_ns)
        return cpu_ns / MS if cpu_ns is not None else None


@pytest.mark.parametrize("shared", [True, False])
def test_all_threads_that_work_for_a_request_are_its_own(gauges: Gauges, shared: bool) -> None:
    """Whichever of them is shown, each counts from the first look at it."""
    looks = Looks(shared=shared)
    gauges.compute(2, 3)
    assert looks.look(2, {2, 3}) == 0
    for number, shown in enumerate([3, 2, 0], 1):
        gauges.compute(2, 3, ms=2)
        assert looks.look(shown, {2, 3}) == 4 * number


def test_a_thread_that_has_gone_on_to_others_is_not_the_requests(gauges: Gauges) -> None:
    """What it does from the last look that finds it at the request's work to the next such look is nobody's."""
    looks = Looks()
    looks.look(2, {2, 3})
    gauges.compute(2, 3)
    assert looks.look(2, {2}) == 5
    gauges.compute(2, 3, ms=1)
    assert looks.look(2, {2, 3}) == 6
    gauges.compute(2, 3, ms=1)
    assert looks.look(2, {2, 3}) == 8


@pytest.mark.parametrize("shared", [True, False])
def test_no_more_time_is_computed_than_passes(gauges: Gauges, shared: bool) -> None:
    """Threads that compute at the same time do not fill the time in which the request waits before or after."""
    looks = Looks(shared=shared)
    looks.look(0)
    looks.look(HOME, {2, 3})
    gauges.compute(HOME, ms=3)
    gauges.compute(2, 3, ms=9)
    assert looks.look(HOME, {2, 3}) == 10
    assert looks.look(0) == 10


def test_the_share_is_of_the_thread_that_is_shown(gauges: Gauges) -> None:
    """A thread that sleeps beside one that computes is not taken for one that computes."""
    looks = Looks()
    looks.look(2, {2, 3})
    gauges.compute(3, ms=10)
    looks.look(2, {2, 3})
    assert looks.meter.share == 0
    gauges.compute(3, ms=9)
    looks.look(3, {2, 3})
    assert looks.meter.share == pytest.approx(0.9)


def test_gauges_are_given_back(gauges: Gauges) -> None:
    """Nobody keeps the gauge of a thread that has ended, that works for others, or when the request has ended."""
    looks = Looks()
    looks.look(2, {2, 3, 4})
    gauges[3].clock_ns = None
    looks.look(2, {2, 3})
    assert {thread_id: gauge.users for thread_id, gauge in gauges.items()} == {HOME: 1, 2: 1, 3: 0, 4: 0}
    looks.meter.close()
    assert not any(gauge.users for gauge in gauges.values())


def test_only_the_delay_of_one_thread_is_told(gauges: Gauges) -> None:
    """Of a thread that was not shown at the last look, more than the time since then would count."""
    looks = Looks()
    looks.look(2, {2, 3})
    for shown, expected in ((2, 0), (2, 1), (3, 0), (2, 0), (2, 1)):
        gauges[2].delay += MS
        gauges[3].delay += MS
        looks.look(shown, {2, 3})
        assert looks.meter.new_delay_ns(looks.meter.gauge(Sight([], 0, State.ON_THREAD, shown))) == expected * MS


def test_a_thread_that_is_shown_is_a_guest_wherever_the_follower_is_at_home(gauges: Gauges) -> None:
    """A generator goes on in another thread than the one in which it began: neither counts twice, or not at all."""
    looks = Looks(shared=False)
    looks.look(2, {HOME})
    gauges.compute(HOME, ms=3)
    gauges.compute(2, ms=4)
    assert looks.look(2, {HOME}) == 7


def test_the_end_of_a_request_that_others_share_the_thread_with(gauges: Gauges) -> None:
    """It is running when it ends, however little of the time since the last look it was."""
    looks = Looks()
    looks.look(HOME)
    looks.look(HOME)
    busy = Sight([], 0, State.SUSPENDED, moved=False, loop_is_busy=True)
    for at_ms in range(30, 90, 10):
        gauges.compute(HOME, ms=8)
        assert looks.meter.read(busy, HOME, at_ms * MS) == 0
    gauges.compute(HOME, ms=8)
    assert looks.meter.at_end(gauges[HOME].cpu_ns()) == 2 * MS


def test_the_end_of_a_request_that_has_its_thread_to_itself(gauges: Gauges) -> None:
    """All of the time since the last look was its own."""
    looks = Looks()
    for _ in range(3):
        gauges.compute(HOME, ms=8)
        looks.look(HOME)
    gauges.compute(HOME, ms=8)
    assert looks.meter.at_end(gauges[HOME].cpu_ns()) == 24 * MS


@pytest.mark.parametrize("shared", [True, False])
def test_a_loop_elsewhere_that_has_no_other_tasks(gauges: Gauges, shared: bool) -> None:
    """What its thread has computed between two looks is the request's, wherever it was when they came."""
    looks = Looks(shared=shared)
    looks.look(0, loop=GuestLoop(2, is_busy=False, moved=True))
    for number, shown in enumerate([2, 0, 0, 2], 1):
        gauges.compute(2, ms=4)
        assert looks.look(shown, loop=GuestLoop(2, is_busy=False, moved=True)) == 4 * number


def test_a_loop_elsewhere_that_has_other_tasks(gauges: Gauges) -> None:
    """What it computes while the request does not move, or until it is found at others' work, is theirs."""
    looks = Looks()
    looks.look(0, loop=GuestLoop(2, is_busy=False, moved=True))
    for loop in (GuestLoop(2, is_busy=False, moved=False), GuestLoop(2, is_busy=True, moved=True)):
        gauges.compute(2, ms=4)
        assert looks.look(0, loop=loop) == 0
    # It was found once, and others were: it gets half, or all where it is found now.
    gauges.compute(2, ms=4)
    assert looks.look(0, loop=GuestLoop(2, is_busy=False, moved=True)) == 2
    gauges.compute(2, ms=4)
    assert looks.look(2, loop=GuestLoop(2, is_busy=False, moved=True)) == 6


def test_no_two_requests_of_one_thread_have_the_same_time(gauges: Gauges) -> None:
    """Of several that were found running, since the loop went on between the looks, each has its part."""
    looks = Looks()
    looks.look(HOME)
    here, away = Sight([], 0, State.ON_THREAD, HOME), Sight([], 0, State.SUSPENDED)
    for sight, others, expected in ((here, 0, 8), (here, 1, 12), (away, 1, 12), (away, 0, 18)):
        gauges.compute(HOME, ms=8)
        cpu_ns = looks.meter.read(sight, HOME, 10**9, others)
        assert cpu_ns is not None
        assert cpu_ns / MS == pytest.approx(expected, abs=0.1)
