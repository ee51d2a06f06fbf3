"""What one tick of the stack sampler costs, and which part of it: a tool for whoever changes the sampler.

    python -m bench.profile_tick [--threads 1 4 16 64] [--depth 60] [--state waiting|changing|computing]

For each number of late requests it prints

- the thread CPU time of one tick in microseconds, as it is (no part wrapped): *hot*, ticks one after the
  other, when stacks hardly change and the caches are warm, and *cold*, after 10 ms of sleep, which is how
  the sampler lives;
- the parts of a cold tick, each without the parts below it. Wrapping costs time itself: about 0.5 µs a
  call, which lands in the part above. Compare parts with each other, and the totals with the line before;
- what the real sampler thread then used over two seconds: its share of a core by the kernel's count and its
  own, ticks per second, and the interval it settled on.

``waiting`` threads sleep at the same place. ``changing`` ones sleep 1 ms each at ever new places, so that
the innermost third of each stack is new at every tick. ``computing`` ones compete for the interpreter lock:
then a tick's wall time is mostly waiting for it, and the CPU time of the tick is what counts.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind

from bench.call_tree import call, random_path
from slowspan.processor import SlowSpanProcessor
from slowspan.recording import gauge, meter, sampling, stack_sampler, stacks, switching, trace

TICKS = 150
REAL_SECONDS = 2.0

PARTS: list[tuple[Any, str]] = [
    (stack_sampler, "collect_late"),
    (stack_sampler, "give_up_reused_threads"),
    (stack_sampler, "prune_late"),
    (switching.FineSwitching, "update"),
    (stack_sampler, "sample"),
    (sampling, "_look"),
    (stacks, "flatten"),
    (sampling, "_sample_one"),
    (gauge.ThreadGauge, "cpu_ns"),
    (gauge.ThreadGauge, "is_ready"),
    (gauge.ThreadGauge, "delay_ns"),
    (sampling, "stopped_by_force"),
    (sampling, "_look_again"),
    (sampling, "_add"),
    (trace.Trace, "add"),
    (stacks.StackTable, "intern"),
    (trace.Trace, "_settle"),
]
"""Where each part is called from: a class, or the module that uses the name. Those that exist no more are named."""


class Late:
    """Threads with late requests.

    Args:
        count: How many.
        depth: Frames of each stack.
        state: ``waiting``, ``changing`` or ``computing``.
    """

    def __init__(self, count: int, depth: int, state: str) -> None:
        self._stopping = False
        self._provider = TracerProvider()
        self._provider.add_span_processor(SlowSpanProcessor(threshold=100.0, notifiers=()))
        self._tracer = self._provider.get_tracer("bench")
        run = {"waiting": self._wait, "changing": self._change, "computing": self._compute}[state]
        self._threads = [threading.Thread(target=self._serve, args=(run, depth, n)) for n in range(count)]
        for thread in self._threads:
            thread.start()
        while len(stack_sampler.shared.late) < count:
            time.sleep(0.01)

    def stop(self) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join()
        self._provider.shutdown()

    def _serve(self, run: Callable[[int, random.Random], None], depth: int, seed: int) -> None:
        with self._tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            while not self._stopping:
                run(depth, random.Random(seed))

    def _wait(self, depth: int, rng: random.Random) -> None:
        def leaf() -> None:
            while not self._stopping:
                time.sleep(0.2)

        call(random_path(depth, rng), leaf)

    def _change(self, depth: int, rng: random.Random) -> None:
        inner = depth // 3

        def leaf() -> None:
            while not self._stopping:
                call(random_path(inner, rng), partial(time.sleep, 0.001))

        call(random_path(depth - inner, rng), leaf)

    def _compute(self, depth: int, rng: random.Random) -> None:
        def leaf() -> None:
            x = 0
            while not self._stopping:
                x += 1

        call(random_path(depth, rng), leaf)


class Split:
    """CPU time by part while it is installed, each part without the parts that it calls."""

    def __init__(self) -> None:
        self.ns: dict[str, int] = defaultdict(int)
        self.calls: dict[str, int] = defaultdict(int)
        self.gone: list[str] = []
        self._inner = [0]
        self._originals: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Split:
        for owner, name in PARTS:
            original = getattr(owner, name, None)
            if original is None:
                self.gone.append(name)
                continue
            self._originals.append((owner, name, original))
            setattr(owner, name, self._wrap(name, original))
        return self

    def __exit__(self, *_: object) -> None:
        for owner, name, original in self._originals:
            setattr(owner, name, original)

    def _wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        inner = self._inner

        def timed(*args: Any, **kwargs: Any) -> Any:
            inner.append(0)
            start = time.thread_time_ns()
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.thread_time_ns() - start
                self.ns[name] += spent - inner.pop()
                self.calls[name] += 1
                inner[-1] += spent

        return timed


def stop_thread() -> None:
    """End the sampler's thread but take on its recordings, so that this thread can make its ticks."""
    sampler = stack_sampler.shared
    recordings = list(sampler.late)
    sampler.stop()
    for recording in recordings:
        recording.trace = trace.Trace(
            recording.owner.max_samples,
            meter.Meter(recording.carrier.native_id, shared=recording.follower.shares_thread),
        )
        sampler.late[recording] = None


def measure_ticks(pause: float) -> float:
    """Return the median CPU time of a tick in microseconds, each after ``pause`` seconds of sleep."""
    costs = []
    for _ in range(TICKS):
        if pause:
            time.sleep(pause)
        stack_sampler.shared._sample_at_ns = 0  # Each tick takes a sample.
        start = time.thread_time_ns()
        stack_sampler.shared._tick()
        costs.append(time.thread_time_ns() - start)
    return statistics.median(costs) / 1000


def measure_parts() -> None:
    with Split() as split:
        total = 0
        for _ in range(TICKS):
            time.sleep(0.01)
            start = time.thread_time_ns()
            stack_sampler.shared._tick()
            total += time.thread_time_ns() - start
    rest = total - sum(split.ns.values())
    print(f"  cold, wrapped {total / TICKS / 1000:8.1f} µs on average, of which")
    for name, spent in sorted({**split.ns, "the tick itself": rest}.items(), key=lambda part: -part[1]):
        calls = f"{split.calls[name] / TICKS:6.1f} calls" if name in split.calls else ""
        print(f"    {name:<22}{spent / TICKS / 1000:8.1f} µs {spent / total:6.1%} {calls}")
    if split.gone:
        print(f"    exist no more: {', '.join(split.gone)}")


def measure_thread() -> None:
    """Let the sampler's own thread run and print what it uses."""
    sampler = stack_sampler.shared
    ticks = sampler._tick_number
    sampler.wake()
    time.sleep(0.2)
    (thread,) = (t for t in threading.enumerate() if t.name == "slowspan-sampler")
    cpu, start, ticks = gauge.thread_cpu_ns(thread.native_id or 0), time.perf_counter_ns(), sampler._tick_number
    time.sleep(REAL_SECONDS)
    after, elapsed = gauge.thread_cpu_ns(thread.native_id or 0), time.perf_counter_ns() - start
    assert cpu is not None
    assert after is not None
    print(
        f"  the thread: {(after - cpu) / elapsed:.2%} of a core, by its own account {sampler.cost():.2%};"
        f" {(sampler._tick_number - ticks) / elapsed * 1e9:.0f} ticks/s, interval {sampler.interval * 1000:.1f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--depth", type=int, default=60)
    parser.add_argument("--state", choices=("waiting", "changing", "computing"), default="changing")
    options = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, {options.state} threads, stacks of {options.depth} frames")
    for count in options.threads:
        late = Late(count, options.depth, options.state)
        try:
            stop_thread()
            hot, cold = measure_ticks(0), measure_ticks(0.01)
            print(f"{count} late: a tick takes {hot:.1f} µs hot, {cold:.1f} µs cold: {cold / count:.1f} µs a request")
            measure_parts()
            measure_thread()
        finally:
            late.stop()


if __name__ == "__main__":
    main()
