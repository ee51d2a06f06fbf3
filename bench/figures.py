"""A measured figure against its target, and how it is judged.

A figure is at most its target, or it is not; noise decides how sure one can be:

- ``holds``: the whole confidence interval is within the target;
- ``MISS``: the whole interval is beyond the target, and beyond what the A/A control shows in the same run;
- ``TOO NOISY``: the control, which has nothing to show by construction, scatters by more than the room that
  the target leaves. Such a run could not have seen a small miss; it proves nothing;
- ``unclear``: the target lies inside the interval: more rounds, or a quieter machine, would tell.

The control is printed beside every figure with its own interval and is subtracted from nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.estimates import Interval

HANDICAP_VARIABLE = "SLOWSPAN_BENCH_HANDICAP"
"""Set in the environment of workers that are to measure a slowspan made worse on purpose."""

HOLDS, MISS, UNCLEAR, TOO_NOISY = "holds", "MISS", "unclear", "TOO NOISY"


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        quick: Fewer and shorter rounds.
        handicap: Measure a slowspan made worse on purpose.
        confidence: Of all intervals. Higher when quick: with few rounds a miss must be plainer to count.
    """

    quick: bool = False
    handicap: bool = False

    @property
    def confidence(self) -> float:
        return 0.99 if self.quick else 0.95


@dataclass(frozen=True)
class Figure:
    """One line of the result.

    Attributes:
        name: What was measured.
        unit: Of all numbers here.
        value: What slowspan adds.
        target: The most that is allowed; None for a figure that only informs.
        control: The same difference between two halves of the control, where there is one.
        neutral: The control's value by construction: 0 for a difference, 1 for a ratio.
    """

    name: str
    unit: str
    value: Interval
    target: float | None = None
    control: Interval | None = None
    neutral: float = 0.0

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        noise = self.control or Interval.exact(self.neutral)
        if self.value.low > max(self.target, noise.high):
            return MISS
        if noise.half_width > self.target - self.neutral:
            return TOO_NOISY
        return HOLDS if self.value.high <= self.target else UNCLEAR


HEADER = f"{'figure':<62} {'slowspan adds':>28} {'A/A control':>26} {'at most':>10}"


def line(figure: Figure) -> str:
    """Return a figure as one line of the table."""
    control = _range(figure.control, figure.unit) if figure.control else ""
    target = f"{figure.target:g} {figure.unit}" if figure.target is not None else ""
    return f"{figure.name:<62} {_range(figure.value, figure.unit):>28} {control:>26} {target:>10}  {figure.verdict}"


def exit_status(figures: Sequence[Figure], *, quick: bool) -> int:
    """Return 1 when a figure misses its target, 2 when none does but noise has hidden one, else 0.

    A quick run is there to find what is plainly wrong: noise does not fail it.
    """
    verdicts = {figure.verdict for figure in figures}
    if MISS in verdicts:
        return 1
    return 2 if TOO_NOISY in verdicts and not quick else 0


def exit_status_of_handicapped(figures: Sequence[Figure]) -> int:
    """Return 0 when every figure with a target misses it, as it must when slowspan is made worse on purpose."""
    return int(any(figure.verdict not in ("", MISS) for figure in figures))


def _range(interval: Interval, unit: str) -> str:
    if interval.low == interval.high:
        return f"{interval.estimate:.4g} {unit}"
    return f"{_short(interval.estimate)} [{_short(interval.low)}, {_short(interval.high)}] {unit}"


def _short(number: float) -> str:
    return f"{number:.2f}" if abs(number) < 100 else f"{number:.0f}"
