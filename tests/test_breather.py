"""The pauses in long work on threads of our own."""

from __future__ import annotations

import itertools

from slowspan.breather import PAUSE, SLICE_NS, Breather


def pauses(step_ns: int, steps: int) -> tuple[int, int]:
    """Do so many steps of a length; return the number of pauses, and the longest time without one, in nanoseconds."""
    now, longest, began = 0, 0, 0
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        nonlocal now, longest, began
        longest = max(longest, now - began)
        slept.append(seconds)
        now += int(seconds * 1e9)
        began = now

    pause = Breather(clock=lambda: now, sleep=sleep)
    for _ in range(steps):
        now += step_ns
        pause()
    assert set(slept) <= {PAUSE}
    return len(slept), longest


def test_short_work_has_no_pause() -> None:
    """What is over before a slice is costs no pause."""
    assert pauses(SLICE_NS // 10, 9) == (0, 0)


def test_long_work_has_a_pause_after_each_slice() -> None:
    """Nobody waits for longer than a slice and the step in which it ends; the pause itself is not of the next one."""
    for step_ns, in_a_slice in ((SLICE_NS // 10, 10), (SLICE_NS // 3 + 1, 3), (3 * SLICE_NS, 1)):
        count, longest = pauses(step_ns, 10 * in_a_slice)
        assert count == 10
        assert longest < SLICE_NS + step_ns


def test_haste() -> None:
    """While somebody waits for the work there is no pause."""
    now, awaited = 0, True
    slept: list[float] = []
    pause = Breather(lambda: awaited, clock=lambda: now, sleep=slept.append)
    for _ in range(10):
        now += SLICE_NS
        pause()
    assert slept == []
    awaited = False
    now += SLICE_NS
    pause()
    assert slept == [PAUSE]


def test_it_does_sleep() -> None:
    """By itself it takes the time from the clock, and other threads run while it sleeps."""
    pause = Breather()
    for _ in itertools.takewhile(lambda _: pause._began_ns + SLICE_NS > pause._clock(), itertools.count()):
        pass
    before = pause._clock()
    pause()
    assert pause._clock() - before >= PAUSE * 1e9 * 0.9
