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
from collections.abc import Iterator

from bench.apps import Client, empty_app, instrumented
from bench.estimates import median_interval
from bench.figures import Figure, Options
from bench.processors import default_processor
from bench.workers import Worker

REQUESTS = 100
"""In a slice: about 20 ms, short beside the time over which a machine changes its pace."""

COPIES = ("control", "second control", "slowspan")


class Slices:
    """Runs in a worker: three copies of the application, made in the given order."""

    def __init__(self, order: list[str]) -> None:
        self._clients: dict[str, Client] = {}
        for name in order:
            processors = [default_processor()] if name == "slowspan" else []
            self._clients[name], _ = instrumented(empty_app(), *processors)
        for client in self._clients.values():
            _cpu_of_slice(client, 2000)
        gc.collect()
        gc.freeze()

    def run(self, rounds: int) -> list[dict[str, float]]:
        """Return the CPU time of a request in nanoseconds by copy, for each round."""
        rng = random.Random(0)
        results = []
        for _ in range(rounds):
            order = rng.sample(COPIES, k=len(COPIES))
            results.append({name: _cpu_of_slice(self._clients[name], REQUESTS) for name in order})
        return results


def measure(options: Options) -> Iterator[Figure]:
    """Measure what is added to the CPU time of an empty request: in µs and as a share."""
    processes, rounds = (6, 60) if options.quick else (12, 300)
    results = []
    for number in range(processes):
        order = list(COPIES[number % 3 :] + COPIES[: number % 3])
        with Worker("bench.fast_request:Slices", order=order) as worker:
            results += worker.call("run", rounds=rounds)
    for unit, target in (("µs", 5.0), ("%", 2.0)):
        values = {name: [_difference(result[name], result["control"], unit) for result in results] for name in COPIES}
        yield Figure(
            name="fast request: CPU time of its thread",
            unit=unit,
            value=median_interval(values["slowspan"], options.confidence),
            target=target,
            control=median_interval(values["second control"], options.confidence),
        )


def _difference(cost: float, control: float, unit: str) -> float:
    return (cost - control) / 1000 if unit == "µs" else 100 * (cost / control - 1)


def _cpu_of_slice(client: Client, requests: int) -> float:
    start = time.thread_time_ns()
    for _ in range(requests):
        client.get("/")
    return (time.thread_time_ns() - start) / requests
