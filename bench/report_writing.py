"""Proves that fast requests do not notice a report being written and rendered beside them.

One process with slowspan's default settings. Four threads send requests of about 1 ms with short pauses, so
that the interpreter lock is taken about half of the time. In some windows, in random order, a request of 1
000 samples ends: its profile is resolved and written, its page rendered in a child process and written. The
window lasts until that is done; the controls' windows last as long, and nothing ends in them. What counts
is the p99 of the requests in the windows, as a ratio.
"""

from __future__ import annotations

import gc
import random
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from opentelemetry.trace import SpanKind

from bench.apps import instrumented, pages_app
from bench.estimates import Interval, bootstrap_interval, median_interval, percentile
from bench.figures import Figure, Options
from bench.filled import filled_trace, give_trace
from bench.processors import default_processor
from bench.workers import Worker

KINDS = ("control", "second control", "report")

SAMPLES = 1000
SECONDS = 10.0
DEPTH = 60

THREADS = 4
ROWS = 60
"""Makes a request take about 1 ms."""

PAUSE = 0.008
"""Mean seconds between two requests of a thread, exponentially distributed."""


class Neighbours:
    """Runs in a worker: an application, requests to it, and now and then a report."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="slowspan-bench-")
        # A request that seems to be ten seconds old when it starts would have a partial report as well.
        self._processor = default_processor(report_dir=self._directory.name, hung_after=3600)
        self._reports = 0
        self._client, self._provider = instrumented(pages_app(), self._processor)
        self._tracer = self._provider.get_tracer("bench")
        self._stopping = threading.Event()
        self._window = 0.3
        for _ in range(3):
            self.run("report")
        gc.collect()
        gc.freeze()

    def run(self, kind: str) -> dict[str, object]:
        """Return the latencies of the requests in one window, and its length, in nanoseconds."""
        span = None
        if kind == "report":
            ten_seconds_ago = time.time_ns() - int(SECONDS * 1e9)
            span = self._tracer.start_span("GET /slow", kind=SpanKind.SERVER, start_time=ten_seconds_ago)
            give_trace(span, filled_trace(SAMPLES, DEPTH, SECONDS))  # type: ignore[arg-type]
        sent: list[tuple[int, int]] = []
        self._stopping.clear()
        threads = [threading.Thread(target=self._send, args=(seed, sent)) for seed in range(THREADS)]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        start = time.perf_counter_ns()
        if span is not None:
            span.end()
            self._wait_for_report()
            # Controls' windows follow the reports': the p99 of a longer window is no other, only surer.
            self._window = (time.perf_counter_ns() - start) / 1e9
        else:
            time.sleep(self._window)
        end = time.perf_counter_ns()
        self._stopping.set()
        for thread in threads:
            thread.join()
        return {"latencies": [b - a for a, b in sent if a < end and b > start], "window": end - start}

    def _wait_for_report(self) -> None:
        # Not by a flush: whoever waits for a report gets it without its pauses.
        self._reports += 1
        while self._processor.status().reports < self._reports:
            time.sleep(0.005)

    def check(self, reports: int) -> None:
        """Make sure that the reports were written."""
        pages = len(list(Path(self._directory.name).glob("*.html")))
        assert pages >= reports, f"only {pages} pages of {reports} were written"

    def _send(self, seed: int, sent: list[tuple[int, int]]) -> None:
        rng = random.Random(seed)
        while not self._stopping.is_set():
            start = time.perf_counter_ns()
            self._client.get("/orders", f"rows={ROWS}")
            sent.append((start, time.perf_counter_ns()))
            time.sleep(rng.expovariate(1 / PAUSE))


Round = dict[str, list[int]]


def measure(options: Options) -> Iterator[Figure]:
    """Measure the p99 of fast requests beside a report, as a ratio to the control's."""
    rng = random.Random(0)
    rounds: list[Round] = []
    windows = []
    with Worker("bench.report_writing:Neighbours") as worker:
        for _ in range(15 if options.quick else 80):
            results = {kind: worker.call("run", kind=kind) for kind in rng.sample(KINDS, k=len(KINDS))}
            windows.append(results["report"]["window"] / 1e6)
            rounds.append({kind: result["latencies"] for kind, result in results.items()})
        worker.call("check", reports=len(rounds))
    yield Figure(
        name=f"p99 of fast requests beside a report of {SAMPLES} samples",
        unit="x",
        value=bootstrap_interval(rounds, lambda drawn: _p99_ratio(drawn, "report"), options.confidence),
        target=1.3,
        control=bootstrap_interval(rounds, lambda drawn: _p99_ratio(drawn, "second control"), options.confidence),
        neutral=1.0,
    )
    p99 = percentile([latency for one in rounds for latency in one["control"]], 0.99)
    yield Figure("the control's p99", "ms", Interval.exact(p99 / 1e6))
    yield Figure("time until the report is written", "ms", median_interval(windows, options.confidence))


def _p99_ratio(rounds: Sequence[Round], kind: str) -> float:
    def p99(kind: str) -> float:
        return percentile([latency for one in rounds for latency in one[kind]], 0.99)

    return p99(kind) / p99("control")
