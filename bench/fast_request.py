"""Proves that a request which ends soon pays next to nothing for being watched.

Three copies of an empty Flask application live in one process and one thread: two controls and one with
slowspan. Slices of 100 requests to each follow one another in random order; what counts is the thread's CPU
time of a slice. A copy's place in memory makes a difference of its own, so the copies are made anew in
several processes, in another order each time.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Iterator, Sequence

from bench.apps import Client, empty_app, instrumented
from bench.estimates import Interval, bootstrap_interval, percentile
from bench.figures import Figure, Options
from bench.processors import default_processor
from bench.workers import Worker

REQUESTS = 100
"""In a slice: about 20 ms, short beside the time over which a machine changes its pace."""

QUIET = 0.25
"""Share of the slices that count as undisturbed. What a request computes is always the same: other processes and
other virtual machines can only make it look dearer."""

COPIES = ("control", "second control", "slowspan")

Costs = dict[str, float]
"""CPU time of a request in nanoseconds, by copy."""


class Slices:
    """Runs in a worker: three copies of the application, made in the given order."""

    def __init__(self, order: list[str]) -> None:
        self._clients: dict[str, Client] = {}
        for name in order:
            processors = [default_processor()] if name == "slowspan" else []
            self._clients[name], _ = instrumented(empty_app(), *processors)
        for client in self._clients.values():
            _cpu_of_slice(client, 1000)
        gc.collect()
        gc.freeze()

    def run(self, rounds: int) -> list[Costs]:
        """Return what a request costs, for each round."""
        rng = random.Random(0)
        results = []
        for _ in range(rounds):
            order = rng.sample(COPIES, k=len(COPIES))
            results.append({name: _cpu_of_slice(self._clients[name], REQUESTS) for name in order})
        return results


def measure(options: Options) -> Iterator[Figure]:
    """Measure what is added to the CPU time of an empty request: in µs and as a share."""
    processes, rounds = (4, 50) if options.quick else (12, 300)
    results: list[Costs] = []
    for number in range(processes):
        order = list(COPIES[number % 3 :] + COPIES[: number % 3])
        with Worker("bench.fast_request:Slices", order=order) as worker:
            results += worker.call("run", rounds=rounds)
    for unit, target in (("µs", 5.0), ("%", 2.0)):
        yield Figure(
            name="fast request: CPU time of its thread",
            unit=unit,
            value=_added("slowspan", unit, results, options),
            target=target,
            control=_added("second control", unit, results, options),
        )


def _added(name: str, unit: str, results: Sequence[Costs], options: Options) -> Interval:
    def added(drawn: Sequence[Costs]) -> float:
        cost, control = (percentile([costs[copy] for costs in drawn], QUIET) for copy in (name, "control"))
        return (cost - control) / 1000 if unit == "µs" else 100 * (cost / control - 1)

    return bootstrap_interval(results, added, options.confidence)


def _cpu_of_slice(client: Client, requests: int) -> float:
    start = time.thread_time_ns()
    for _ in range(requests):
        client.get("/")
    return (time.thread_time_ns() - start) / requests
