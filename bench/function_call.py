"""Proves that a profiled function which is fast costs its span and little more.

What is timed is the call of a function that does nothing: bare under a span of OpenTelemetry's own decorator (the
control, twice), and under ``slowspan.profile``. Slices of the three follow one another in random order in one thread;
what counts is the thread's CPU time. Without OpenTelemetry there is no such control, so the figure is the whole call.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import slowspan
from bench.estimates import QUIET, Interval, bootstrap_interval, percentile
from bench.figures import Figure, Options
from bench.processors import default_processor
from bench.workers import Worker

CALLS = 200
"""In a slice: a few milliseconds."""

COPIES = ("control", "second control", "slowspan")

TARGET = 5.0
"""Microseconds."""

Costs = dict[str, float]
"""CPU time of a call in nanoseconds, by copy."""


def _nothing() -> None:
    """Do nothing."""


class Calls:
    """Runs in a worker: the same function under different decorators.

    Args:
        set_up: Whether OpenTelemetry is set up.
    """

    def __init__(self, set_up: bool) -> None:
        self._processor = default_processor()
        self._functions: dict[str, Callable[[], None]] = {
            "slowspan": slowspan.profile("work", threshold=0.5)(lambda: None)
        }
        if set_up:
            provider = TracerProvider(shutdown_on_exit=False)
            trace.set_tracer_provider(provider)
            tracer = provider.get_tracer("bench")
            for name in ("control", "second control"):
                self._functions[name] = _spanned(tracer)
        for function in self._functions.values():
            _cpu_of_slice(function, 1000)
        gc.collect()
        gc.freeze()

    def run(self, rounds: int) -> list[Costs]:
        """Return what a call costs, for each round."""
        rng = random.Random(0)
        names = sorted(self._functions)
        return [
            {name: _cpu_of_slice(self._functions[name], CALLS) for name in rng.sample(names, k=len(names))}
            for _ in range(rounds)
        ]


def _spanned(tracer: trace.Tracer) -> Callable[[], None]:
    def work() -> None:
        # What a programmer writes who wants a span: half as dear as the same as a decorator.
        with tracer.start_as_current_span("work"):
            _nothing()

    return work


def measure(options: Options) -> Iterator[Figure]:
    """Measure what ``slowspan.profile`` adds to a call and its span, and what it costs where there is no span."""
    processes, rounds = (4, 50) if options.quick else (10, 200)
    for set_up in (True, False):
        results: list[Costs] = []
        for _ in range(processes):
            with Worker("bench.function_call:Calls", set_up=set_up) as worker:
                results += worker.call("run", rounds=rounds)
        if set_up:
            yield Figure(
                name="fast function: CPU time beside that of its span",
                unit="µs",
                value=_added("slowspan", results, options),
                target=TARGET,
                control=_added("second control", results, options),
            )
        else:
            yield Figure("fast function without OpenTelemetry: CPU time", "µs", _whole(results, options))


def _added(name: str, results: Sequence[Costs], options: Options) -> Interval:
    def added(drawn: Sequence[Costs]) -> float:
        cost, control = (percentile([costs[copy] for costs in drawn], QUIET) for copy in (name, "control"))
        return (cost - control) / 1000

    return bootstrap_interval(results, added, options.confidence)


def _whole(results: Sequence[Costs], options: Options) -> Interval:
    def whole(drawn: Sequence[Costs]) -> float:
        return percentile([costs["slowspan"] for costs in drawn], QUIET) / 1000

    return bootstrap_interval(results, whole, options.confidence)


def _cpu_of_slice(function: Callable[[], None], calls: int) -> float:
    start = time.thread_time_ns()
    for _ in range(calls):
        function()
    return (time.thread_time_ns() - start) / calls
