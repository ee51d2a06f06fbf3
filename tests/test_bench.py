"""The judgement of the benchmarks: a miss is told as one, and noise hides none."""

from __future__ import annotations

import random
import statistics

import pytest
from bench.estimates import Interval, median_interval
from bench.figures import HOLDS, MISS, TOO_NOISY, UNCLEAR, Figure, exit_status


def figure(low: float, high: float, control: float = 0.0) -> Figure:
    """Return a figure with a target of 5 and a control that scatters by as much as is given."""
    value = Interval((low + high) / 2, low, high)
    return Figure("figure", "µs", value, target=5.0, control=Interval(0, -control, control))


@pytest.mark.parametrize(
    ("measured", "verdict", "status"),
    [
        (figure(1, 4), HOLDS, 0),
        (figure(4, 6), UNCLEAR, 0),
        (figure(6, 8), MISS, 1),
        (figure(1, 4, control=9), TOO_NOISY, 2),
    ],
)
def test_verdicts(measured: Figure, verdict: str, status: int) -> None:
    """Beyond the target is a miss and fails the run; so does a control that scatters too much to prove anything."""
    assert measured.verdict == verdict
    assert exit_status([measured], quick=False) == status


def test_interval_of_a_median_holds_the_true_one() -> None:
    """Of 95 % intervals of medians, about 95 % hold the true median."""
    rng = random.Random(1)
    held = [
        interval.low <= 10 <= interval.high
        for interval in (median_interval([rng.gauss(10, 3) for _ in range(25)], 0.95) for _ in range(400))
    ]
    assert 0.93 <= statistics.mean(held) <= 1
