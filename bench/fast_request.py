"""Proves that a request which ends soon pays next to nothing for being watched.

Three copies of an empty Flask application live in one process and one thread: two controls and one with
slowspan. Slices of 20 requests to each follow one another in random order; what counts is the thread's CPU
time of a slice beside that of the control's slice of the same round, since a machine changes its pace from one
tenth of a second to the next by much more than is to be measured. A copy's place in memory makes a difference of
its own, so the copies are made anew in several processes, in another order each time.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from bench.apps import Client, empty_app, instrumented
from bench.estimates import Interval, median_interval
from bench.figures import Figure, Options
from bench.processors import default_processor
from bench.workers import Worker
from slowspan import SlowSpanProcessor

REQUESTS = 20
"""In a slice: about 4 ms, short beside the time over which a machine changes its pace."""

ROUNDS = 300
"""In a process."""

COPIES = ("control", "second control", "slowspan")

Costs = dict[str, float]
"""CPU time of a request in nanoseconds, by copy."""


class Copies:
    """Measures copies of an application in turn, all of them on the calling thread.

    Args:
        cpu_of_slices: For each copy what sends it as many requests as it is told, and returns the CPU time of one.
        requests: How many make a slice.
    """

    def __init__(self, cpu_of_slices: Mapping[str, Callable[[int], float]], requests: int = REQUESTS) -> None:
        self._cpu_of_slices = cpu_of_slices
        self._requests = requests
        for cpu_of_slice in cpu_of_slices.values():
            cpu_of_slice(1000)
        gc.collect()
        gc.freeze()

    def run(self, rounds: int) -> list[Costs]:
        """Return what a request costs, for each round."""
        rng = random.Random(0)
        results = []
        for _ in range(rounds):
            order = rng.sample(list(self._cpu_of_slices), k=len(self._cpu_of_slices))
            results.append({name: self._cpu_of_slices[name](self._requests) for name in order})
        return results


class Slices(Copies):
    """Runs in a worker: three copies of the application, made in the given order."""

    def __init__(self, order: list[str]) -> None:
        clients = {name: instrumented(empty_app(), *processors_of(name))[0] for name in order}
        super().__init__({name: partial(_cpu_of_slice, client) for name, client in clients.items()})


def processors_of(copy: str) -> list[SlowSpanProcessor]:
    """Return the span processors that make a copy what its name says."""
    return [default_processor()] if copy == "slowspan" else []


def measure(options: Options) -> Iterator[Figure]:
    """Measure what is added to the CPU time of an empty request: in µs and as a share."""
    yield from compare("bench.fast_request:Slices", "fast request: CPU time of its thread", options)


def compare(target: str, title: str, options: Options) -> Iterator[Figure]:
    """Compare the copies that a class makes in workers.

    Args:
        target: The class, as ``module:Class``; it takes the order of the copies and has the method ``run``.
        title: What the figures are called.
        options: How to measure.
    """
    results: list[Costs] = []
    for number in range(4 if options.quick else 12):
        order = list(COPIES[number % 3 :] + COPIES[: number % 3])
        with Worker(target, order=order) as worker:
            results += worker.call("run", rounds=ROUNDS)
    for unit, target in (("µs", 5.0), ("%", 2.0)):
        yield Figure(
            name=title,
            unit=unit,
            value=_added("slowspan", unit, results, options),
            target=target,
            control=_added("second control", unit, results, options),
        )


def _added(name: str, unit: str, results: Sequence[Costs], options: Options) -> Interval:
    def added(costs: Costs) -> float:
        more = costs[name] - costs["control"]
        return more / 1000 if unit == "µs" else 100 * more / costs["control"]

    return median_interval([added(costs) for costs in results], options.confidence)


def _cpu_of_slice(client: Client, requests: int) -> float:
    start = time.thread_time_ns()
    for _ in range(requests):
        client.get("/")
    return (time.thread_time_ns() - start) / requests
