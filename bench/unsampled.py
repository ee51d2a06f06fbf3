"""Measures what a request pays that the trace sampler drops, when slowspan has it recorded all the same.

Four copies of the same live in one process and one thread, and the sampler of each drops every trace: two controls,
one whose requests are recorded and watched, and one whose requests are recorded but not watched. The last one tells
what OpenTelemetry's own span costs. First only the span of a request is made and ended; then an empty Flask
application is called, whose instrumentation does more for a recorded span. Otherwise as ``bench.fast_request``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio, Sampler
from opentelemetry.trace import SpanKind

from bench.apps import empty_app, instrumented
from bench.estimates import QUIET, Interval, bootstrap_interval, percentile
from bench.fast_request import Copies, Costs
from bench.figures import Figure, Options
from bench.processors import default_processor
from bench.workers import Worker
from slowspan import RecordUnsampled

CALLS = {"span": 500, "Flask": 100}
"""In a slice, as long as in ``bench.fast_request``."""

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


class Slices(Copies):
    """Runs in a worker: the copies, made in the given order."""

    def __init__(self, what: str, order: list[str]) -> None:
        cpu_of_slices = {}
        make = _make_flask if what == "Flask" else _make_span
        for name in order:
            dropping = ParentBasedTraceIdRatio(0)
            sampler = dropping if "control" in name else RecordUnsampled(dropping)
            request = make(sampler, [default_processor()] if name == "slowspan" else [])
            cpu_of_slices[name] = partial(_cpu_of_slice, request)
        super().__init__(cpu_of_slices, CALLS[what])


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
