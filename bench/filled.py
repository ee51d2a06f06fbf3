"""Long recordings without the wait: samples fed into a trace as the stack sampler would have done."""

from __future__ import annotations

import random
import sys
import threading
import time
from typing import Any

from opentelemetry.sdk.trace import Span

from bench.call_tree import Path, call, random_path
from slowspan.recording.meter import Meter
from slowspan.recording.trace import COMPUTING, WAITING, Accounts, Trace
from slowspan.stand_in import StandIn

PLACES = 40
"""Different places at which a request is seen."""


def filled_trace(samples: int, depth: int, seconds: float, *, seed: int = 0, max_samples: int = 2000) -> Trace:
    """Make a trace of a request whose outer half of the stack stays while the inner one visits ``PLACES``.

    Args:
        samples: How many, evenly spread.
        depth: Frames of each stack.
        seconds: The request's age.
        seed: Which places.
        max_samples: The setting.
    """
    rng = random.Random(seed)
    outer = random_path(depth - depth // 2, rng)
    stacks = [_stack(outer + random_path(depth // 2, rng)) for _ in range(PLACES)]
    meter = Meter(threading.get_native_id(), shared=False)
    meter.close()
    trace = Trace(max_samples, meter)
    step = int(seconds * 1e9 / samples)
    cpu = 0
    for number in range(1, samples + 1):
        computes = rng.random() < 0.5
        cpu += step if computes else 0
        stack = rng.choice(stacks)
        with trace.lock:
            trace.add(number * step, Accounts(cpu, 0), list(stack), 1, COMPUTING if computes else WAITING)
    return trace


def give_trace(span: Span, trace: Trace) -> None:
    """Give a filled trace to a running span; do what the sampler does when it is beyond its threshold."""
    # The sampler takes it first, and stands in for its end: two that take the same span would lose it.
    while not isinstance(span.end, StandIn):
        time.sleep(0.001)
    watcher = span.end.owner
    while id(span) not in watcher._spans.recordings or watcher._spans.recordings[id(span)].trace is None:
        time.sleep(0.001)
    recording = watcher._spans.recordings[id(span)]
    recording.trace = trace
    watcher.on_threshold(recording, time.time_ns() - recording.start_ns)


def _stack(path: Path) -> list[Any]:
    def leaf() -> list[Any]:
        flat: list[Any] = []
        frame = sys._getframe()
        for _ in path:
            frame = frame.f_back  # type: ignore[assignment]
            flat += (frame.f_code, frame.f_lasti)
        return flat

    return call(path, leaf)  # type: ignore[return-value]
