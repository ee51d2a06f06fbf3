"""Proves that a slow request is hardly slower, and its process hardly busier, for being profiled.

Two endpoints, a page of SQLite and Jinja and a call-heavy one, from 1 and from 8 threads that send the next
request as soon as the last one is answered: all of them compute, which is the hardest case for whoever else
wants the interpreter lock. Two questions, because no single experiment answers both:

- *short*: every request of 25 or 40 ms is slow (``threshold`` 10 ms, so it is sampled from its first
  millisecond on), handed on and resolved, by a notifier that does nothing with it. Only here does 1 ms at
  p99 mean anything. No report is rendered: no disk and no renderer keeps up with 40 slow requests a second.
  For the latencies the limit on reports is lifted, so that every request pays in full. The CPU time is that of
  a process with the limit as it is by default, in an outage that has lasted for more than 60 requests;
- *1.2 s*: the same work is repeated within a request until it takes that long, and every request gets its
  files: profile, page rendered in a child process, log line. The settings are the defaults but for a
  threshold of 0.5 s, which a request still passes when the machine is suddenly twice as fast; sampling
  begins after 50 ms all the same. How requests fare while a report is written is ``report_writing``'s
  question.

Controls and slowspan each have a process of their own, and work in turn, in random order. A slice ends when
the last report is written, so CPU time includes it; children's CPU time, at nice 10 on whatever core is
free, is shown beside it.

The CPU time of slowspan's own threads is part of what it adds to the process's, and read from their own clocks it is
exact on the noisiest machine: so it has the same target. It is measured apart, under lasting load, one request after
the other for as long again as the sampler's budget is an average over, with the limit on reports as it is by default
and reached. In the slices it is larger, and shown: while the controls work slowspan saves up what it may use, as it
does in a process with a slow request now and then. Linux only.
"""

from __future__ import annotations

import gc
import random
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.apps import Client, instrumented, pages_app
from bench.estimates import Interval, bootstrap_interval, median_interval, percentile
from bench.figures import Figure, Options
from bench.workers import Worker

COPIES = ("control", "second control", "slowspan")

LIMITED = "slowspan, limited"
"""The copy of the short cases with ``reports_per_hour`` as it is by default."""

LIMIT = 60
"""``reports_per_hour`` by default; it is lifted everywhere else."""

LONG_REQUEST = 1.2
"""Seconds."""

LASTING = 10
"""Seconds after which nothing is left of what the sampler may have saved up: ``recording.budget.WINDOW_NS``, which
controls must not import."""

Slice = dict[str, Any]
Round = dict[str, Slice]


@dataclass(frozen=True)
class Case:
    """One experiment.

    Attributes:
        path: The endpoint.
        threads: How many send requests.
        long: Whether requests are made to take 1.2 s.
        requests: Of each thread in a slice. Few, since a machine changes its pace from one second to the next.
        rounds: How many in a full run, and in a quick one.
    """

    path: str
    threads: int
    long: bool
    requests: int
    rounds: tuple[int, int]

    @property
    def copies(self) -> tuple[str, ...]:
        return COPIES if self.long else (*COPIES, LIMITED)

    @property
    def busy(self) -> str:
        """Of which copy the CPU time counts."""
        return "slowspan" if self.long else LIMITED

    @property
    def name(self) -> str:
        kind = "1.2 s" if self.long else "short"
        return f"{self.path} {kind}, {self.threads} thread{'s' if self.threads > 1 else ''}"


CASES = [
    *(Case(path, 1, False, 4, (300, 25)) for path in ("/orders", "/calls")),
    *(Case(path, 8, False, 2, (120, 10)) for path in ("/orders", "/calls")),
    *(Case(path, threads, True, 1, (30, 8)) for path in ("/orders", "/calls") for threads in (1, 8)),
]


class Slices:
    """Runs in a worker: one application, and threads that send it requests."""

    def __init__(self, path: str, threads: int, copy: str, long: bool) -> None:
        self._path = path
        self._threads = threads
        self._directory = tempfile.TemporaryDirectory(prefix="slowspan-bench-")
        self._processor = None
        if copy.startswith("slowspan"):
            limits = {"reports_per_hour": LIMIT} if copy == LIMITED else {}
            self._processor = _processor(self._directory.name, long, **limits)
        processors = [self._processor] if self._processor else []
        self._client, self._provider = instrumented(pages_app(), *processors)
        self._pool = ThreadPoolExecutor(threads)

    def warm_up(self, times: int) -> float:
        """Send some requests; return the seconds that one takes now."""
        seconds = self.run(3, times)["latencies"]
        gc.collect()
        gc.freeze()
        return statistics.median(seconds) / 1e9

    def run(self, requests: int, times: int) -> Slice:
        """Let each thread send requests, then wait for the reports."""
        cpu, own, children = time.process_time_ns(), _cpu_of_slowspan(), _cpu_of_children()
        sent = [self._pool.submit(_send, self._client, self._path, requests, times) for _ in range(self._threads)]
        latencies = [latency for future in sent for latency in future.result()]
        self._provider.force_flush()
        return {
            "latencies": latencies,
            "cpu": time.process_time_ns() - cpu,
            "own": _cpu_of_slowspan() - own,
            "children": _cpu_of_children() - children,
        }

    def last(self, times: int) -> list[float]:
        """Let the threads send requests without a pause; return the share of slowspan's threads, in percent.

        One value for each second after those in which the sampler may use what it has saved up.
        """
        over = threading.Event()

        def send() -> None:
            while not over.is_set():
                self._client.get(self._path, f"times={times}")

        sent = [self._pool.submit(send) for _ in range(self._threads)]
        time.sleep(LASTING)
        shares = []
        for _ in range(LASTING):
            cpu, own = time.process_time_ns(), _cpu_of_slowspan()
            time.sleep(1)
            shares.append(100 * (_cpu_of_slowspan() - own) / (time.process_time_ns() - cpu))
        over.set()
        for future in sent:
            future.result()
        self._provider.force_flush()
        return shares

    def check(self, slow: int, reports: int, pages: int) -> None:
        """Make sure that what was to be measured did happen.

        Raises:
            AssertionError: Some requests were not slow, or left no report.
        """
        assert self._processor is not None
        status = self._processor.status()
        written = len(list(Path(self._directory.name).glob("*.html")))
        if status.slow < slow or status.reports < 0.9 * reports or written < pages:
            raise AssertionError(f"of {slow} requests not all were slow; {written} pages written: {status}")


def measure(options: Options) -> Iterator[Figure]:
    """Measure median and p99 latency in and beyond the control's, and CPU time, of every case."""
    for case in CASES:
        rounds, times = _run_case(case, options)
        yield from _figures(case, rounds, options)
        yield from _figures_of_lasting_load(case, times, options)


def _run_case(case: Case, options: Options) -> tuple[list[Round], int]:
    rng = random.Random(0)
    rounds = []
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(
                Worker(
                    "bench.latency:Slices",
                    path=case.path,
                    threads=case.threads,
                    copy=name,
                    long=case.long,
                )
            )
            for name in case.copies
        }
        times = _times(case, workers["control"])
        for worker in workers.values():
            worker.call("warm_up", times=times)
        if not case.long:
            # Until no more reports are kept.
            workers[LIMITED].call("run", requests=LIMIT // case.threads + 1, times=times)
        for _ in range(case.rounds[options.quick]):
            order = rng.sample(case.copies, k=len(case.copies))
            rounds.append({name: workers[name].call("run", requests=case.requests, times=times) for name in order})
        sent = case.rounds[options.quick] * case.requests * case.threads
        workers["slowspan"].call("check", slow=sent, reports=sent, pages=sent if case.long else 0)
        if not case.long:
            workers[LIMITED].call("check", slow=sent, reports=LIMIT, pages=0)
    return rounds, times


def _times(case: Case, control: Worker) -> int:
    """Return how often a request repeats its work to take as long as it is to."""
    if not case.long:
        return 1
    return max(1, round(LONG_REQUEST / control.call("warm_up", times=1)))


def _figures_of_lasting_load(case: Case, times: int, options: Options) -> Iterator[Figure]:
    for copy, note, target in ((LIMITED, "", 2.0), ("slowspan", ", without the limit on reports", None)):
        with Worker("bench.latency:Slices", path=case.path, threads=case.threads, copy=copy, long=case.long) as worker:
            worker.call("warm_up", times=times)
            if copy == LIMITED:
                # Until no more reports are kept.
                worker.call("run", requests=LIMIT // case.threads + 1, times=times)
            shares = worker.call("last", times=times)
        value = median_interval(shares, options.confidence)
        yield Figure(f"{case.name}: CPU time of slowspan's threads under lasting load{note}", "%", value, target)


def _figures(case: Case, rounds: list[Round], options: Options) -> Iterator[Figure]:
    def median_of(name: str, what: str) -> Interval:
        values = [_relative(one[name], one["control"], what) for one in rounds]
        return median_interval(values, options.confidence)

    for what, label, copy in (
        ("latencies", "median latency", "slowspan"),
        ("cpu", "CPU time of the process", case.busy),
    ):
        yield Figure(
            name=f"{case.name}: {label}",
            unit="%",
            value=median_of(copy, what),
            target=1.0 if what == "latencies" else 2.0,
            control=median_of("second control", what),
        )

    def p99_of(name: str) -> Interval:
        return bootstrap_interval(rounds, lambda drawn: _p99_difference(drawn, name), options.confidence)

    yield Figure(
        name=f"{case.name}: p99 latency",
        unit="ms",
        value=p99_of("slowspan"),
        target=None if case.long else 1.0,
        control=p99_of("second control"),
    )
    for what, label in (("own", "slowspan's threads"), ("children", "rendering children")):
        if case.long or what == "own":
            shares = [100 * one[case.busy][what] / one[case.busy]["cpu"] for one in rounds]
            yield Figure(f"{case.name}: CPU time of {label}", "%", median_interval(shares, options.confidence))
    if not case.long:
        shares = [100 * one["slowspan"]["own"] / one["slowspan"]["cpu"] for one in rounds]
        value = median_interval(shares, options.confidence)
        yield Figure(f"{case.name}: the same without the limit on reports", "%", value)


def _relative(one: Slice, control: Slice, what: str) -> float:
    if what == "cpu":
        return 100 * (one["cpu"] / control["cpu"] - 1)
    return 100 * (statistics.median(one["latencies"]) / statistics.median(control["latencies"]) - 1)


def _p99_difference(rounds: Sequence[Round], name: str) -> float:
    def p99(name: str) -> float:
        return percentile([latency for one in rounds for latency in one[name]["latencies"]], 0.99)

    return (p99(name) - p99("control")) / 1e6


def _send(client: Client, path: str, requests: int, times: int) -> list[int]:
    latencies = []
    for _ in range(requests):
        start = time.perf_counter_ns()
        client.get(path, f"times={times}")
        latencies.append(time.perf_counter_ns() - start)
    return latencies


def _cpu_of_slowspan() -> int:
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("slowspan-")]
    # On Linux the clock of a thread is the complement of its id, with the bits for "per thread, scheduler's time".
    return sum(time.clock_gettime_ns((~(thread.native_id or 0) << 3) | 6) for thread in threads)


def _cpu_of_children() -> int:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return int((usage.ru_utime + usage.ru_stime) * 1e9)


def _processor(directory: str, long: bool, **limits: int) -> Any:
    # Imported here because controls must not import it.
    from bench.processors import default_processor, greedy, silent_processor

    if long:
        return default_processor(threshold=0.5, report_dir=directory, **limits, **greedy())
    return silent_processor(threshold=0.01, **limits, **greedy())
