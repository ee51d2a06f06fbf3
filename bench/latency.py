"""Proves that a slow request is hardly slower, and its process hardly busier, for being profiled.

Two endpoints, a page of SQLite and Jinja and a call-heavy one, from 1 and from 8 threads that send the next
request as soon as the last one is answered: all of them compute, which is the hardest case for whoever else
wants the interpreter lock. Requests repeat their work until they take as long as they are to. Two questions, because
no single experiment answers both:

- *0.1 s*: there 1 % is the 1 ms that is allowed at p99. Every request is slow (``threshold`` 40 ms, sampled all the
  while), in an outage that has lasted for more than the 60 requests of which reports are kept by default;
- *1.2 s*: every request gets its files: profile, page rendered in a child process, log line. The settings are the
  defaults but for a threshold of 0.48 s, which a request still passes when the machine is suddenly twice as
  fast; sampling begins after 50 ms all the same. How requests fare while a report is written is
  ``report_writing``'s question.

Shown beside them, without a target: the same work once, some 20 ms, all of which are slow. The end of a slow request
may take 0.2 ms, whatever its length: of 20 ms that is 1 % already. And the same with a report of each of them, handed
on and resolved, by a notifier that does nothing with it: no disk and no renderer keeps up with 40 slow requests a
second.

slowspan is switched on and off by turns, in random order, in one process: two processes that do the same
differ by more than is to be measured here. Two of three turns are the controls; they begin when slowspan's thread has
gone to sleep. In them it is switched off, not absent; ``fast_request`` compares with its absence. A turn ends when the
last report is written, so CPU time includes it; children's CPU time, at nice 10 on whatever core is free, is shown
beside it.

The CPU time of slowspan's own threads is part of what it adds to the process's, and read from their own clocks it is
exact on the noisiest machine: so it has the same target. Linux only.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.apps import instrumented, pages_app
from bench.estimates import bootstrap_interval, median_interval, percentile
from bench.figures import Figure, Options
from bench.processors import default_processor, greedy, silent_processor
from bench.workers import Worker
from slowspan.recording import stack_sampler

ON = "slowspan"
OFF = ("control", "second control")

LIMIT = 60
"""``reports_per_hour`` by default; it is lifted where every request is to have its report."""

REST = 5.0
"""Seconds within which the sampler's thread goes to sleep, once there is nothing to be watched."""

Turn = dict[str, Any]
Round = dict[str, Turn]


@dataclass(frozen=True)
class Case:
    """One experiment.

    Attributes:
        path: The endpoint.
        threads: How many send requests.
        seconds: How long a request is to take; 0 for doing its work once.
        rounds: How many in a full run, and in a quick one.
        requests: Of each thread in a turn.
        before: Of each thread before those, which are not measured: by then slowspan knows how busy the process is.
        limited: Whether the limit on reports is as it is by default, and has been reached.
        has_target: Whether it is to show what is promised, or only what there is.
    """

    path: str
    threads: int
    seconds: float
    rounds: tuple[int, int]
    requests: int = 1
    before: int = 0
    limited: bool = False
    has_target: bool = True

    @property
    def is_long(self) -> bool:
        return self.seconds >= 1

    @property
    def name(self) -> str:
        length = f"{self.seconds} s" if self.seconds else "once"
        reports = "" if self.is_long or self.limited else ", all reported"
        return f"{self.path} {length}, {self.threads} thread{'s' if self.threads > 1 else ''}{reports}"


PATHS = ("/orders", "/calls")

CASES = [
    *(Case(path, 1, 0.1, (60, 10), requests=10, before=3, limited=True) for path in PATHS),
    *(Case(path, 8, 0.1, (40, 8), requests=2, before=1, limited=True) for path in PATHS),
    *(Case(path, 1, 1.2, (60, 10)) for path in PATHS),
    *(Case(path, 8, 1.2, (20, 8)) for path in PATHS),
    *(
        Case(path, 1, 0, (20, 8), requests=40, before=15, limited=limited, has_target=False)
        for path in PATHS
        for limited in (True, False)
    ),
]


class Switched:
    """Runs in a worker: one application, slowspan to be switched on and off, and threads that send requests."""

    def __init__(self, path: str, threads: int, threshold: float, written: bool, limited: bool) -> None:
        self._path = path
        self._threads = threads
        self._directory = tempfile.TemporaryDirectory(prefix="slowspan-bench-")
        limits = {"reports_per_hour": LIMIT} if limited else {}
        options = {"threshold": threshold, **limits, **greedy()}
        if written:
            self._processor = default_processor(report_dir=self._directory.name, **options)
        else:
            self._processor = silent_processor(**options)
        self._client, self._provider = instrumented(pages_app(), self._processor)
        self._pool = ThreadPoolExecutor(threads)

    def time(self) -> float:
        """Return the seconds that one request takes that does its work once."""
        self._processor.disable()
        return statistics.median(self._send(5, 1)) / 1e9

    def warm_up(self, times: int, requests: int) -> None:
        """Let each thread send some slow requests."""
        self.run(on=True, before=0, requests=requests, times=times)
        gc.collect()
        gc.freeze()

    def run(self, on: bool, before: int, requests: int, times: int) -> Turn:
        """Let each thread send requests, then wait for the reports."""
        self._switch(on=on)
        barrier = threading.Barrier(self._threads + 1)

        def send() -> list[int]:
            self._send(before, times)
            barrier.wait()
            return self._send(requests, times)

        sent = [self._pool.submit(send) for _ in range(self._threads)]
        barrier.wait()
        cpu, own, children = time.process_time_ns(), _cpu_of_slowspan(), _cpu_of_children()
        latencies = [latency for future in sent for latency in future.result()]
        self._provider.force_flush()
        return {
            "latencies": latencies,
            "cpu": time.process_time_ns() - cpu,
            "own": _cpu_of_slowspan() - own,
            "children": _cpu_of_children() - children,
        }

    def check(self, slow: int, reports: int, pages: int) -> None:
        """Make sure that what was to be measured did happen.

        Raises:
            AssertionError: Some requests were not slow, or left no report.
        """
        status = self._processor.status()
        written = len(list(Path(self._directory.name).glob("*.html")))
        if status.slow < slow or status.reports < 0.9 * reports or written < pages:
            raise AssertionError(f"of {slow} requests not all were slow; {written} pages written: {status}")

    def _switch(self, *, on: bool) -> None:
        if on:
            self._processor.enable()
            return
        self._processor.disable()
        until = time.monotonic() + REST
        while not stack_sampler.shared.parked:
            if time.monotonic() > until:
                raise AssertionError("the sampler has not gone to sleep: a control would pay for it")
            time.sleep(0.01)

    def _send(self, requests: int, times: int) -> list[int]:
        latencies = []
        for _ in range(requests):
            start = time.perf_counter_ns()
            self._client.get(self._path, f"times={times}")
            latencies.append(time.perf_counter_ns() - start)
        return latencies


def measure(options: Options) -> Iterator[Figure]:
    """Measure median and p99 latency in and beyond the control's, and CPU time, of every case."""
    for case in CASES:
        yield from _figures(case, _run_case(case, case.rounds[options.quick]), options)


def _run_case(case: Case, count: int) -> list[Round]:
    rng = random.Random(0)
    options = {"threshold": 0.4 * case.seconds or 0.01, "written": case.is_long, "limited": case.limited}
    with Worker("bench.latency:Switched", path=case.path, threads=case.threads, **options) as worker:
        times = max(1, round(case.seconds / worker.call("time")))
        # Until no more reports are kept.
        worker.call("warm_up", requests=LIMIT // case.threads + 1 if case.limited else 1, times=times)
        turn = {"before": case.before, "requests": case.requests, "times": times}
        rounds = []
        for _ in range(count):
            order = rng.sample((ON, *OFF), k=3)
            rounds.append({name: worker.call("run", on=name == ON, **turn) for name in order})
        slow = count * case.requests * case.threads
        worker.call("check", slow=slow, reports=LIMIT if case.limited else slow, pages=slow if case.is_long else 0)
    return rounds


def _figures(case: Case, rounds: list[Round], options: Options) -> Iterator[Figure]:
    for what, label, target in (("latencies", "median latency", 1.0), ("cpu", "CPU time of the process", 2.0)):
        yield Figure(
            name=f"{case.name}: {label}",
            unit="%",
            value=median_interval([_added(one, what) for one in rounds], options.confidence),
            target=target if case.has_target else None,
            control=median_interval([_difference(one, what) for one in rounds], options.confidence),
        )
    yield Figure(
        name=f"{case.name}: p99 latency",
        unit="ms",
        value=bootstrap_interval(rounds, _p99_added, options.confidence),
        target=1.0 if case.has_target and not case.is_long else None,
        control=bootstrap_interval(rounds, _p99_difference, options.confidence),
    )
    for what, label in (("own", "slowspan's threads"), ("children", "rendering children")):
        if case.is_long or what == "own":
            shares = [100 * one[ON][what] / one[ON]["cpu"] for one in rounds]
            yield Figure(
                name=f"{case.name}: CPU time of {label}",
                unit="%",
                value=median_interval(shares, options.confidence),
                target=2.0 if what == "own" and case.has_target else None,
            )


def _added(one: Round, what: str) -> float:
    """Return by how much a turn with slowspan is beyond the mean of the two without, in percent."""
    return 100 * (_value(one[ON], what) / statistics.mean(_value(one[name], what) for name in OFF) - 1)


def _difference(one: Round, what: str) -> float:
    first, second = (_value(one[name], what) for name in OFF)
    return 100 * (second / first - 1)


def _value(turn: Turn, what: str) -> float:
    return float(turn["cpu"] if what == "cpu" else statistics.median(turn["latencies"]))


def _p99_added(rounds: Sequence[Round]) -> float:
    return (_p99(rounds, ON) - statistics.mean(_p99(rounds, name) for name in OFF)) / 1e6


def _p99_difference(rounds: Sequence[Round]) -> float:
    return (_p99(rounds, OFF[1]) - _p99(rounds, OFF[0])) / 1e6


def _p99(rounds: Sequence[Round], name: str) -> float:
    return percentile([latency for one in rounds for latency in one[name]["latencies"]], 0.99)


def _cpu_of_slowspan() -> int:
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("slowspan-")]
    # On Linux the clock of a thread is the complement of its id, with the bits for "per thread, scheduler's time".
    return sum(time.clock_gettime_ns((~(thread.native_id or 0) << 3) | 6) for thread in threads)


def _cpu_of_children() -> int:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return int((usage.ru_utime + usage.ru_stime) * 1e9)
