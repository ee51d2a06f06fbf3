"""Proves that a slow request is not made to wait at its end, whatever its length and the depth of its stacks.

What is timed is ``span.end()`` on the request's thread: wall time, since that is what the request waits.
Controls end a span of the same provider without slowspan.

- *fed*: requests of 10 s whose 1 000 samples were fed into them; many, so that the figure is exact;
- *real*: a request that does run for 10 s (2 s when quick) on a stack of that depth while the sampler looks
  at it, and then ends. Alone, with the caches gone cold in the meantime, and eight at once, so that the interpreter
  lock is taken and the sampler at work as well. The control's requests do the same with a provider without slowspan;
- *first*: the first slow request of a process, which meets cold code. It is one of many only in a process
  that is seldom slow.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import SpanKind, Tracer

from bench.call_tree import call, random_path
from bench.estimates import bootstrap_interval, median_interval
from bench.figures import Figure, Options
from bench.filled import filled_trace, give_trace
from bench.processors import silent_processor
from bench.workers import Worker
from slowspan.recording.trace import Trace

COPIES = ("control", "second control", "slowspan")

DEPTHS = (20, 200, 900)

TARGET = 200.0
"""Microseconds."""

REAL = ("control", "slowspan")

REAL_AT_ONCE = {1: 8, 8: 3}
"""Requests at the same time, and how often."""

ATTRIBUTES: dict[str, str | int] = {
    "http.method": "GET",
    "http.target": "/orders/7?page=2",
    "http.route": "/orders/<id>",
    "http.status_code": 200,
}


class Ends:
    """Runs in a worker: a provider with slowspan, and one without."""

    def __init__(self) -> None:
        self._tracers: dict[str, Tracer] = {}
        self._providers = []
        for name, processor in (("control", SpanProcessor()), ("slowspan", silent_processor(threshold=0.5))):
            provider = TracerProvider(shutdown_on_exit=False)
            provider.add_span_processor(processor)
            self._providers.append(provider)
            self._tracers[name] = provider.get_tracer("bench")

    def fed(self, depth: int, count: int) -> list[dict[str, float]]:
        """Return the microseconds that ``span.end()`` took: for each round one with slowspan and two controls."""
        rng = random.Random(0)
        rounds = []
        for number in range(count):
            trace = filled_trace(1000, depth, 10.0, seed=number)
            order = rng.sample(COPIES, k=len(COPIES))
            rounds.append({name: self._end(name, trace) for name in order})
            self._providers[1].force_flush()
        return rounds

    def real(self, name: str, depth: int, seconds: float, at_once: int) -> list[float]:
        """Return the microseconds that ``span.end()`` took of requests that run at the same time."""
        took: list[float] = []
        threads = [
            threading.Thread(target=self._request, args=(name, depth, seconds + 0.05 * number, number, took))
            for number in range(at_once)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return took

    def _request(self, name: str, depth: int, seconds: float, seed: int, took: list[float]) -> None:
        rng = random.Random(seed)
        span = self._tracers[name].start_span("GET", kind=SpanKind.SERVER, attributes=ATTRIBUTES)
        outer = random_path(depth // 2, rng)
        deadline = time.monotonic() + seconds

        def leaf() -> None:
            time.sleep(0.003)
            sum(range(10_000))

        def work() -> None:
            while time.monotonic() < deadline:
                call(random_path(depth - depth // 2, rng), leaf)

        call(outer, work)
        took.append(_time_of_end(span))

    def _end(self, name: str, trace: Trace) -> float:
        start_time = time.time_ns() - 10_000_000_000
        tracer = self._tracers["slowspan" if name == "slowspan" else "control"]
        span = tracer.start_span("GET", kind=SpanKind.SERVER, attributes=ATTRIBUTES, start_time=start_time)
        if name == "slowspan":
            give_trace(span, trace)  # type: ignore[arg-type]
        time.sleep(0.001)  # What the start has stirred up in other threads settles.
        return _time_of_end(span)


def measure(options: Options) -> Iterator[Figure]:
    """Measure the time of ``span.end()`` in microseconds, the control's subtracted where there is one."""
    for depth in DEPTHS:
        with Worker("bench.end_of_request:Ends") as worker:
            worker.call("fed", depth=depth, count=5)
            rounds = worker.call("fed", depth=depth, count=40 if options.quick else 200)
        yield Figure(
            name=f"end of a 10 s request, {depth} frames deep, fed",
            unit="µs",
            value=median_interval([one["slowspan"] - one["control"] for one in rounds], options.confidence),
            target=TARGET,
            control=median_interval([one["second control"] - one["control"] for one in rounds], options.confidence),
        )
    seconds = 2.0 if options.quick else 10.0
    for depth, (at_once, repeats) in product(DEPTHS, REAL_AT_ONCE.items()):
        # One after the other in one process: where its objects lie in memory makes a difference of its own.
        rounds: list[dict[str, list[float]]] = []
        with Worker("bench.end_of_request:Ends") as worker:
            for _ in range(repeats):
                arguments = {"depth": depth, "seconds": seconds, "at_once": at_once}
                rounds.append({name: worker.call("real", name=name, **arguments) for name in REAL})
        took = [{name: one[name][n] for name in REAL} for one in rounds for n in range(at_once)]
        value = bootstrap_interval(took, _median_added, options.confidence)
        company = "alone" if at_once == 1 else f"{at_once} at once"
        yield Figure(f"end of a {seconds:g} s request, {depth} frames deep, real, {company}", "µs", value, TARGET)
    first = []
    for _ in range(8 if options.quick else 20):
        with Worker("bench.end_of_request:Ends") as worker:
            first.append(worker.call("fed", depth=60, count=1)[0]["slowspan"])
    yield Figure("end of a process's first slow request", "µs", median_interval(first, options.confidence), TARGET)


def _median_added(took: Sequence[dict[str, float]]) -> float:
    control, slowspan = (statistics.median([one[name] for one in took]) for name in REAL)
    return slowspan - control


def _time_of_end(span: Any) -> float:
    start = time.perf_counter_ns()
    span.end()
    return (time.perf_counter_ns() - start) / 1000
