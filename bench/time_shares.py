"""Proves that a profile tells computing, waiting and waiting for a turn apart, with 1, 4 and 16 busy threads.

Every request computes a known amount of processor time and sleeps for a known time; what is left of its duration it
was ready to run, while other threads had the interpreter lock. The thread's own clocks tell the truth. The error of a
request is the largest difference, in points of the time that its profile knows of, between a true share and its share
in the profile. With many threads a request has few samples, since the sampler queues for the lock as well, and what a
single one shows scatters: the figure is the error of the requests' mean shares. How much of the requests' time the
profiles do not know of, mostly before the first look, is shown beside it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind

from bench.estimates import median_interval
from bench.figures import Figure, Options
from bench.workers import Worker
from slowspan import SlowSpanProcessor
from slowspan.report.summary import time_shares
from slowspan.testing import InMemoryNotifier

TARGET = 5.0
"""Points."""

PIECES = 10
"""Times that a request computes and sleeps in turns."""

WORKLOADS = {1: (0.5, 0.5), 4: (0.6, 0.8), 16: (0.3, 2.0)}
"""By the number of threads: seconds of processor time and of sleep of each request."""

UNIT = 20_000

KINDS = ("computing", "waiting", "ready to run")


class Requests:
    """Serves requests on threads that compete for the interpreter lock."""

    def __init__(self) -> None:
        self._notifier = InMemoryNotifier()
        self._provider = TracerProvider()
        self._provider.add_span_processor(SlowSpanProcessor(threshold=0.4, notifiers=[self._notifier]))
        self._tracer = self._provider.get_tracer("bench.time_shares")
        self._truth: dict[str, tuple[float, float, float]] = {}
        start = time.thread_time()
        _compute(300)
        self._units = 300 / (time.thread_time() - start)

    def run(self, threads: int) -> tuple[float, float]:
        """Serve one request on each thread; return the largest error of their mean shares, and what is not known."""
        workers = [
            threading.Thread(target=self._serve, args=(f"GET /{n}", *WORKLOADS[threads])) for n in range(threads)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self._provider.force_flush()
        errors = dict.fromkeys(KINDS, 0.0)
        unknown = 0.0
        for report in self._notifier.reports:
            seen = {share.name: share.share for share in time_shares(report.profile)}
            known = sum(seen.get(kind, 0.0) for kind in KINDS)
            assert known, f"{report.profile.span.name} was never looked at"
            unknown += (1 - known) / threads
            for kind, true in zip(KINDS, self._truth[report.profile.span.name], strict=True):
                errors[kind] += (seen.get(kind, 0.0) / known - true) / threads
        assert len(self._notifier.reports) == threads
        return 100 * max(map(abs, errors.values())), 100 * unknown

    def _serve(self, name: str, computing: float, sleeping: float) -> None:
        span = self._tracer.start_span(name, kind=SpanKind.SERVER)
        wall, cpu = time.perf_counter(), time.thread_time()
        for _ in range(PIECES):
            _compute(int(self._units * computing / PIECES))
            time.sleep(sleeping / PIECES)
        cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
        span.end()
        self._truth[name] = cpu / wall, sleeping / wall, 1 - (cpu + sleeping) / wall


def _compute(units: int) -> None:
    for _ in range(units):
        sum(range(UNIT))


def measure(options: Options) -> Iterator[Figure]:
    """Measure the error of the shares for each number of threads, in points."""
    for threads in WORKLOADS:
        results: list[tuple[float, float]] = []
        for _ in range(8 if options.quick else 16):
            with Worker("bench.time_shares:Requests") as worker:
                results.append(worker.call("run", threads=threads))
        errors, unknown = zip(*results, strict=True)
        name = f"{threads} busy thread{'s' if threads > 1 else ''}"
        value = median_interval(errors, options.confidence)
        yield Figure(f"shares: computing, waiting, ready; {name}", "points", value, TARGET)
        yield Figure(f"shares: not known; {name}", "%", median_interval(unknown, options.confidence))
