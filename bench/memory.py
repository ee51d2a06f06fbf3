"""Proves that 100 slow requests at once, each recorded for a minute, take little memory.

100 threads with stacks of 60 frames go through six phases each; in a phase the outer 45 frames stay, and
the inner 15 are at one of 20 places. They mostly wait, so that a minute takes a minute and little else.
What counts is the resident memory of a process with slowspan and its default settings, everything included,
beyond that of a control that runs the same threads, just before the requests end. Both have imported Flask
and its instrumentation, as every process with such requests has. It hardly varies: the intervals here are
whole ranges. Linux only.
"""

from __future__ import annotations

import random
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import opentelemetry.instrumentation.flask  # noqa: F401 -- for its memory
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import SpanKind

from bench.call_tree import call, random_path
from bench.estimates import Interval
from bench.figures import Figure, Options
from bench.workers import Worker

REQUESTS = 100
SECONDS = 60.0
PHASES = 6
PLACES = 20

COPIES = ("control", "second control", "slowspan", "traced")

Memory = dict[str, float]


class Requests:
    """Runs in a worker: 100 requests at once, each on a thread."""

    def __init__(self, slowspan: bool, traced: bool) -> None:
        if traced:
            tracemalloc.start()
        self._started = time.monotonic()
        self._provider = TracerProvider(shutdown_on_exit=False)
        self._provider.add_span_processor(_processor() if slowspan else SpanProcessor())
        self._tracer = self._provider.get_tracer("bench")
        self._threads = [threading.Thread(target=self._request, args=(number,)) for number in range(REQUESTS)]

    def run(self) -> dict[str, Memory]:
        """Run the requests; return the memory just before they end, and after they were told."""
        self._started = time.monotonic()
        for thread in self._threads:
            thread.start()
        time.sleep(SECONDS)
        running = _memory()
        for thread in self._threads:
            thread.join()
        self._provider.force_flush()
        return {"running": running, "told": _memory()}

    def _request(self, number: int) -> None:
        rng = random.Random(number)
        with self._tracer.start_as_current_span(f"GET /{number}", kind=SpanKind.SERVER):
            call(random_path(30, rng), partial(self._phases, rng))

    def _phases(self, rng: random.Random) -> None:
        for phase in range(PHASES):
            places = [random_path(15, rng) for _ in range(PLACES)]
            # The last second is for looking at the memory.
            until = self._started + (SECONDS + 1) * (phase + 1) / PHASES
            call(random_path(15, rng), partial(_go_through, rng, places, until))


def measure(options: Options) -> Iterator[Figure]:
    """Measure resident memory in MB, and for information what ``tracemalloc`` sees."""
    rounds = [_round() for _ in range(1 if options.quick else 5)]

    def beyond(name: str, when: str) -> Interval:
        values = [one[name][when]["resident"] - one["control"][when]["resident"] for one in rounds]
        return Interval.range_of(values)

    def samples(name: str) -> str:
        return f"{rounds[-1][name]['running']['samples']:.0f} samples each"

    for when, target in (("running", 20.0), ("told", None)):
        yield Figure(
            name=f"memory, {REQUESTS} recordings of a minute, {samples('slowspan')}, {when}",
            unit="MB",
            value=beyond("slowspan", when),
            target=target,
            control=beyond("second control", when),
        )
    held = [one["traced"]["running"]["held"] for one in rounds]
    name = f"by tracemalloc held by slowspan's objects, {samples('traced')}"
    yield Figure(name, "MB", Interval.range_of(held))


def _round() -> dict[str, dict[str, Memory]]:
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(
                Worker("bench.memory:Requests", slowspan="control" not in name, traced=name == "traced")
            )
            for name in COPIES
        }
        # At the same time: they compete for nothing but a few percent of a core.
        with ThreadPoolExecutor(len(COPIES)) as pool:
            return dict(zip(COPIES, pool.map(lambda name: workers[name].call("run"), COPIES), strict=True))


def _go_through(rng: random.Random, places: list[Any], until: float) -> None:
    while time.monotonic() < until:
        call(rng.choice(places), partial(time.sleep, rng.uniform(0.02, 0.2)))


def _processor() -> SpanProcessor:
    # Imported here because controls must not import it.
    from bench.processors import silent_processor

    return silent_processor()


def _memory() -> Memory:
    """Return resident memory and what slowspan's files hold, in MB, and the samples of a recording."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    # In this order: looking at all traced memory takes seconds, in which the requests end.
    return {"resident": pages * 4096 / 1e6, "samples": _samples_of_a_request(), "held": _held_by_slowspan()}


def _held_by_slowspan() -> float:
    if not tracemalloc.is_tracing():
        return 0.0
    only = tracemalloc.Filter(True, "*/slowspan/*")
    statistics = tracemalloc.take_snapshot().filter_traces([only]).statistics("filename")
    return sum(statistic.size for statistic in statistics) / 1e6


def _samples_of_a_request() -> float:
    sampler = sys.modules.get("slowspan.recording.stack_sampler")
    if sampler is None or not sampler.shared.late:
        return 0.0
    traces = [recording.trace for recording in list(sampler.shared.late)]
    return sum(trace.sample_count for trace in traces) / len(traces)
