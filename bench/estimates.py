"""Numbers with their noise: intervals that hold the true value with a given probability."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

Row = TypeVar("Row")

RESAMPLES = 500

QUIET = 0.25
"""Share of the slices that count as undisturbed where they are not compared round by round. What a call computes is
always the same: other processes and other virtual machines can only make it look dearer."""


@dataclass(frozen=True)
class Interval:
    """An estimate, and the range in which the true value lies with the confidence that was asked for."""

    estimate: float
    low: float
    high: float

    @classmethod
    def exact(cls, value: float) -> Interval:
        return cls(value, value, value)

    @classmethod
    def range_of(cls, values: Sequence[float]) -> Interval:
        """Return the median and the whole range, for values that hardly vary."""
        return cls(statistics.median(values), min(values), max(values))

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


def median_interval(values: Sequence[float], confidence: float) -> Interval:
    """Estimate a median by order statistics.

    Assumes nothing of the values' distribution, only that they are independent. Fewer than 6 values at 95 % or 8 at
    99 % tell nothing: the interval is then without bounds.
    """
    ordered = sorted(values)
    count = len(ordered)
    # The probability that fewer than ``rank`` values lie below the median is that of so few heads among coin tosses.
    below, rank = 0.0, 0
    while (below := below + math.comb(count, rank) / 2**count) <= (1 - confidence) / 2:
        rank += 1
    if not rank:
        return Interval(statistics.median(ordered), -math.inf, math.inf)
    return Interval(statistics.median(ordered), ordered[rank - 1], ordered[count - rank])


def bootstrap_interval(rows: Sequence[Row], statistic: Callable[[Sequence[Row]], float], confidence: float) -> Interval:
    """Estimate any statistic of rounds by drawing whole rounds again and again, with replacement."""
    rng = random.Random(0)
    drawn = sorted(statistic(rng.choices(rows, k=len(rows))) for _ in range(RESAMPLES))
    cut = int((1 - confidence) / 2 * RESAMPLES)
    return Interval(statistic(rows), drawn[cut], drawn[RESAMPLES - 1 - cut])


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` of the values lie."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
