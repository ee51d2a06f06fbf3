"""Proves that a profile tells where the time went, in spite of the interpreter lock.

Every workload measures its own truth: wall clock readings around each of its parts, in the request's thread. The error
of a request is the largest difference, in points, between a part's true share and its share in the profile. Time that
the profile marks as computed but not seen counts as an error of the part that computed, but for the saturated
workload, in which only the query's share is held against its target: there nothing more can be known.

What a single request shows scatters with its number of samples: among the 190 of 2 s a share of 60 % by 3.5 points,
whatever the profiler. The figure with a target is the median over requests all the same. Beside it stands the largest
error of a part's mean over the requests, which is what no number of samples mends.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, SpanKind

from bench.estimates import bootstrap_interval, median_interval
from bench.figures import Figure, Options
from bench.workers import Worker
from bench.workloads import WORKLOADS, Parts, run, server
from slowspan import Profile, SlowSpanProcessor
from slowspan.testing import InMemoryNotifier

TARGETS = {
    "waiting_pieces": 3.0,
    "waiting_pieces_8": 3.0,
    "waiting_sequence": 3.0,
    "waiting_sequence_8": 3.0,
    "half_5": 3.0,
    "half_50": 3.0,
    "half_500": 3.0,
    "six": 3.0,
    "n_plus_one": 5.0,
    "n_plus_one_4": 5.0,
}
"""Points by workload."""

ONLY_PART = {"n_plus_one_4": "query"}


class Requests:
    """Runs in a worker of its own for each round, so that the sampler's budget is that of a request now and then."""

    def __init__(self) -> None:
        self._notifier = InMemoryNotifier()
        self._provider = TracerProvider()
        self._provider.add_span_processor(SlowSpanProcessor(threshold=0.5, notifiers=[self._notifier]))
        self._tracer = self._provider.get_tracer("bench.truth")

    def run(self, name: str, seed: int) -> list[dict[str, float]]:
        """Run a workload once; return for each of its requests the errors of its parts, in points."""
        with server() as connect:
            results = run(WORKLOADS[name], connect, self._begin, self._end, seed)
        self._provider.force_flush()
        profiles = {report.profile.span.span_id: report.profile for report in self._notifier.reports}
        return [_errors(name, parts, profiles[str(span_id)]) for parts, span_id in results]

    def _begin(self) -> Span:
        return self._tracer.start_span("request", kind=SpanKind.SERVER)

    def _end(self, span: Any) -> str:
        span.end()
        return f"{span.get_span_context().span_id:016x}"


def measure(options: Options) -> Iterator[Figure]:
    """Measure the error of every workload, in points."""
    for name, target in TARGETS.items():
        errors: list[dict[str, float]] = []
        for seed in range(-(-(8 if options.quick else 24) // WORKLOADS[name].threads)):
            with Worker("bench.truth:Requests") as worker:
                errors += worker.call("run", name=name, seed=seed)
        yield Figure(
            name=f"truth: {name.replace('_', ' ')}: largest error of a part",
            unit="points",
            value=median_interval([max(map(abs, one.values())) for one in errors], options.confidence),
            target=target,
        )
        mean = bootstrap_interval(errors, _largest_mean, options.confidence)
        yield Figure(
            f"truth: {name.replace('_', ' ')}: the same of the mean over {len(errors)} requests", "points", mean
        )


def _largest_mean(errors: Sequence[dict[str, float]]) -> float:
    return max(abs(statistics.mean(one[name] for one in errors)) for name in errors[0])


def _errors(workload: str, parts: Parts, profile: Profile) -> dict[str, float]:
    truth = parts.shares()
    seen = shares(profile, list(truth))
    only = ONLY_PART.get(workload)
    return {name: 100 * (seen[name] - share) for name, share in truth.items() if only in (None, name)}


def shares(profile: Profile, names: list[str]) -> dict[str, float]:
    """Return the share of each part in a profile: the time of the samples whose stack holds its function.

    Args:
        profile: The profile of one request.
        names: The parts' function names; what belongs to none of them, nor is marked as not seen, is left out.
    """
    times: Counter[str] = Counter()
    for sample in profile.samples:
        functions = [frame.name for frame, _ in profile.stack_frames(sample.stack)]
        part = next((name for name in names if name in functions), None)
        if part is None and functions[-1] != "[computed, not seen]":
            continue
        times[part or "not seen"] += sample.wall_ns
    total = sum(times.values())
    return {name: times[name] / total for name in names}
