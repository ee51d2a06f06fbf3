"""Proves that slow requests cost little while they run, however many there are at once.

Requests that wait, for 20 to 200 ms at a time, and do next to nothing in between: on threads, in asyncio tasks and in
greenlets. All of them are late, over their threshold and looked at while the process's CPU time is measured, with the
default settings. The controls are the same process without slowspan, twice. Of more than ``max_recordings`` requests
the others are watched as well, but not looked at.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator

from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import SpanKind

from bench.estimates import Interval
from bench.figures import Figure, Options
from bench.workers import Worker

COPIES = ("control", "second control", "slowspan")

CASES = (("threads", 100), ("asyncio", 100), ("asyncio", 1000), ("gevent", 100))

SETTLED = 2.0
"""Seconds after which all requests are over the default threshold of one second."""

TARGET = 2.0
"""Percent of one core."""


class Requests:
    """Runs in a worker: a process with requests that wait.

    Args:
        kind: What carries a request.
        count: How many.
        slowspan: Whether they are watched.
    """

    def __init__(self, kind: str, count: int, slowspan: bool) -> None:
        if kind == "gevent":
            from gevent import monkey

            monkey.patch_all()
        self._kind = kind
        self._count = count
        self._provider = TracerProvider(shutdown_on_exit=False)
        self._provider.add_span_processor(_processor() if slowspan else SpanProcessor())
        self._tracer = self._provider.get_tracer("bench")
        self._is_over = False

    def run(self, seconds: float) -> float:
        """Return the process's CPU time while the requests run, in percent of one core."""
        return {"threads": self._on_threads, "asyncio": self._in_tasks, "gevent": self._in_greenlets}[self._kind](
            seconds
        )

    def _on_threads(self, seconds: float) -> float:
        threads = [threading.Thread(target=self._request, args=(number,)) for number in range(self._count)]
        for thread in threads:
            thread.start()
        share = self._measure(seconds, time.sleep)
        for thread in threads:
            thread.join()
        return share

    def _in_greenlets(self, seconds: float) -> float:
        import gevent

        greenlets = [gevent.spawn(self._request, number) for number in range(self._count)]
        share = self._measure(seconds, gevent.sleep)
        gevent.joinall(greenlets)
        return share

    def _in_tasks(self, seconds: float) -> float:
        async def all_at_once() -> float:
            tasks = [asyncio.create_task(self._request_in_task(number)) for number in range(self._count)]
            await asyncio.sleep(SETTLED)
            share_since = _stopwatch()
            await asyncio.sleep(seconds)
            share = share_since()
            self._is_over = True
            await asyncio.gather(*tasks)
            return share

        return asyncio.run(all_at_once())

    def _measure(self, seconds: float, sleep: Callable[[float], object]) -> float:
        sleep(SETTLED)
        share_since = _stopwatch()
        sleep(seconds)
        share = share_since()
        self._is_over = True
        return share

    def _request(self, number: int) -> None:
        rng = random.Random(number)
        with self._tracer.start_as_current_span("GET", kind=SpanKind.SERVER):
            while not self._is_over:
                time.sleep(rng.uniform(0.02, 0.2))

    async def _request_in_task(self, number: int) -> None:
        rng = random.Random(number)
        with self._tracer.start_as_current_span("GET", kind=SpanKind.SERVER):
            while not self._is_over:
                await asyncio.sleep(rng.uniform(0.02, 0.2))


def _stopwatch() -> Callable[[], float]:
    """Return a function that tells the process's CPU time since now, in percent of one core."""
    cpu, clock = time.process_time(), time.perf_counter()
    return lambda: 100 * (time.process_time() - cpu) / (time.perf_counter() - clock)


def measure(options: Options) -> Iterator[Figure]:
    """Measure the CPU time of the process beyond its control's, in percent of one core."""
    seconds, repeats = (6.0, 1) if options.quick else (20.0, 3)
    for kind, count in CASES:
        rounds = [{copy: _share(copy, kind, count, seconds) for copy in COPIES} for _ in range(repeats)]

        def beyond(copy: str, rounds: list[dict[str, float]] = rounds) -> Interval:
            return Interval.range_of([one[copy] - one["control"] for one in rounds])

        name = f"{count} slow requests at once, {kind}: CPU time of the process"
        yield Figure(name, "%", beyond("slowspan"), TARGET, beyond("second control"))


def _share(copy: str, kind: str, count: int, seconds: float) -> float:
    with Worker("bench.in_flight:Requests", kind=kind, count=count, slowspan=copy == "slowspan") as worker:
        return float(worker.call("run", seconds=seconds))


def _processor() -> SpanProcessor:
    # Imported here because controls must not import it, and gevent patches before it is imported.
    from bench.processors import greedy, silent_processor

    return silent_processor(**greedy())
