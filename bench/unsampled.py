"""Measures what a request pays that the trace sampler drops, when slowspan has it recorded all the same.

Four copies of the same live in one process and one thread, and the sampler of each drops every trace: two controls,
one whose requests are recorded and watched, and one whose requests are recorded but not watched. The last one tells
what OpenTelemetry's own span costs. First only the span of a request is made and ended; then an empty Flask
application is called, whose instrumentation does more for a recorded span. Otherwise as ``bench.fast_request``.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence

from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio, Sampler
from opentelemetry.trace import SpanKind

from bench.apps import empty_app, instrumented
from bench.estimates import Interval, bootstrap_interval, percentile
from bench.figures import Figure, Options
from bench.processors import default_processor
from bench.workers import Worker
from slowspan import RecordUnsampled

CALLS = {"span": 500, "Flask": 100}
"""In a slice, as long as in ``bench.fast_request``."""

QUIET = 0.25
"""As in ``bench.fast_request``."""

COPIES = ("control", "second control", "slowspan", "span alone")

ATTRIBUTES = {
    "http.method": "GET",
    "http.scheme": "http",
    "http.host": "localhost",
    "http.target": "/",
    "http.route": "/",
    "http.flavor": "1.1",
    "net.host.port": 80,
}
"""What instrumentations start a request's span with."""

Costs = dict[str, float]
"""CPU time of a request in nanoseconds, by copy."""


class Slices:
    """Runs in a worker: the copies, made in the given order."""

    def __init__(self, what: str, order: list[str]) -> None:
        self._calls = CALLS[what]
        self._requests: dict[str, Callable[[], object]] = {}
        make = _make_flask if what == "Flask" else _make_span
        for name in order:
            dropping = ParentBasedTraceIdRatio(0)
            sampler = dropping if "control" in name else RecordUnsampled(dropping)
            self._requests[name] = make(sampler, [default_processor()] if name == "slowspan" else [])
        for request in self._requests.values():
            _cpu_of_slice(request, 1000)
        gc.collect()
        gc.freeze()

    def run(self, rounds: int) -> list[Costs]:
        """Return what a request costs, for each round."""
        rng = random.Random(0)
        results = []
        for _ in range(rounds):
            order = rng.sample(COPIES, k=len(COPIES))
            results.append({name: _cpu_of_slice(self._requests[name], self._calls) for name in order})
        return results


def measure(options: Options) -> Iterator[Figure]:
    """Measure what is added to the CPU time of a request that is dropped."""
    for what, target in (("span", 10.0), ("Flask", None)):
        results = _results(what, options)
        name = f"dropped request, {what}: CPU time of its thread"
        control = _added("second control", results, options)
        yield Figure(name=name, unit="µs", value=_added("slowspan", results, options), target=target, control=control)
        yield Figure(name=f"{name}, not watched", unit="µs", value=_added("span alone", results, options))


def _results(what: str, options: Options) -> list[Costs]:
    processes, rounds = (4, 50) if options.quick else (12, 300)
    results: list[Costs] = []
    for number in range(processes):
        turn = number % len(COPIES)
        with Worker("bench.unsampled:Slices", what=what, order=list(COPIES[turn:] + COPIES[:turn])) as worker:
            results += worker.call("run", rounds=rounds)
    return results


def _added(name: str, results: Sequence[Costs], options: Options) -> Interval:
    def added(drawn: Sequence[Costs]) -> float:
        cost, control = (percentile([costs[copy] for costs in drawn], QUIET) for copy in (name, "control"))
        return (cost - control) / 1000

    return bootstrap_interval(results, added, options.confidence)


def _make_flask(sampler: Sampler, processors: list[SpanProcessor]) -> Callable[[], object]:
    client, _ = instrumented(empty_app(), *processors, sampler=sampler)
    return lambda: client.get("/")


def _make_span(sampler: Sampler, processors: list[SpanProcessor]) -> Callable[[], object]:
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    for processor in (SpanProcessor(), *processors):
        provider.add_span_processor(processor)
    tracer = provider.get_tracer("bench")
    return lambda: tracer.start_span("GET /", kind=SpanKind.SERVER, attributes=ATTRIBUTES).end()


def _cpu_of_slice(request: Callable[[], object], calls: int) -> float:
    start = time.thread_time_ns()
    for _ in range(calls):
        request()
    return (time.thread_time_ns() - start) / calls
