"""An SDK provider with slowspan on it, its reports and exported spans in memory, and work for slow requests."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from slowspan import SlowSpanProcessor
from slowspan.recording import stack_sampler
from slowspan.recording.carriers import carrier_of
from slowspan.recording.following import ThreadFollower
from slowspan.recording.runners import runner_here
from slowspan.recording.sight import CarrierGoneError
from slowspan.recording.stacks import all_frames
from slowspan.recording.synthetic import BEFORE_FIRST_SAMPLE
from slowspan.testing import InMemoryNotifier
from slowspan.watcher import SpanWatcher
from support import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from opentelemetry.sdk.trace import ReadableSpan, Span

    from slowspan import Profile
    from slowspan.recording.carriers import Carrier
    from slowspan.recording.recording import Recording
    from slowspan.recording.stacks import FlatStack

ID = "slowspan.profile.id"
URL = "slowspan.profile.url"
SLOW = 0.1
"""Seconds of a request that is slow here, where the threshold is ``THRESHOLD``."""
THRESHOLD = 0.05
LONG = 0.3
"""Seconds that are told apart from others' in a share of the time, on a busy machine too."""
ENOUGH = 3
"""Samples in which a function is sure to have been seen."""


class WatchingProcessor(SlowSpanProcessor):
    """The processor with a notifier that keeps its reports in memory.

    It may use a whole core, so that a slow or busy machine does not thin the samples out.
    """

    notifier: InMemoryNotifier

    def __init__(self, **options: Any) -> None:
        self.notifier = InMemoryNotifier()
        usual = {"threshold": THRESHOLD, "notifiers": "none", "overhead_budget": 1}
        super().__init__(**{**usual, **options})

    def _load_notifiers(self) -> list[tuple[str, InMemoryNotifier]]:
        return [("memory", self.notifier)]

    def profiles(self) -> list[Profile]:
        """Deliver what is waiting; return all profiles so far."""
        self.force_flush()
        return [report.profile for report in self.notifier.reports]

    def profile(self) -> Profile:
        """Deliver what is waiting; return the only profile so far."""
        (profile,) = self.profiles()
        return profile


@dataclass(frozen=True)
class Watched:
    """A provider on which slowspan watches."""

    provider: TracerProvider
    processor: WatchingProcessor
    exporter: InMemorySpanExporter

    def start(self, name: str = "GET /orders/<id>", **options: Any) -> Span:
        """Start a server span."""
        span = self.provider.get_tracer("test").start_span(name, **{"kind": SpanKind.SERVER, **options})
        return span  # type: ignore[return-value]

    def request(self, work: Callable[[], object], name: str = "GET /orders/<id>", **options: Any) -> None:
        """Do some work inside a server span."""
        span = self.start(name, **options)
        try:
            work()
        finally:
            span.end()

    def exported(self) -> list[ReadableSpan]:
        """Return the exported spans, in the order of their ends."""
        return list(self.exporter.get_finished_spans())

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of the only exported span."""
        (span,) = self.exported()
        return dict(span.attributes or {})

    def profiles(self) -> list[Profile]:
        """Deliver what is waiting; return all profiles so far."""
        return self.processor.profiles()

    def profile(self) -> Profile:
        """Deliver what is waiting; return the only profile so far."""
        return self.processor.profile()


@contextlib.contextmanager
def watched(provider: TracerProvider | None = None, **options: Any) -> Iterator[Watched]:
    """Watch a provider's spans until the end of the block.

    Args:
        provider: A new one by default.
        **options: slowspan's settings; ``threshold`` is ``THRESHOLD`` unless given.
    """
    provider = provider or TracerProvider(shutdown_on_exit=False)
    exporter = InMemorySpanExporter()
    stack_sampler.shared._set_wary(False)  # Of what held it up in a test before.
    processor = WatchingProcessor(**options)
    provider.add_span_processor(processor)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    try:
        yield Watched(provider, processor, exporter)
    finally:
        provider.shutdown()


async def handle(shop: Watched, work: Callable[[], Awaitable[object]], name: str = "GET /") -> None:
    """Serve a request in the task that runs this."""
    with shop.provider.get_tracer("test").start_as_current_span(name, kind=SpanKind.SERVER):
        await work()


def wait_here(seconds: float = SLOW) -> None:
    """Wait without computing, and on a busy machine until the sampler has seen it."""
    is_seen = _watch_the_sampler()
    time.sleep(seconds)
    while not is_seen():
        time.sleep(0.01)


def compute_here(seconds: float = SLOW) -> None:
    """Compute without waiting, and on a busy machine until the sampler has seen it."""
    is_seen = _watch_the_sampler()
    end, cpu_end = time.perf_counter() + seconds, time.thread_time() + seconds / 2
    while time.perf_counter() < end or time.thread_time() < cpu_end or not is_seen():
        sum(range(200))


def compute_for(seconds: float) -> None:
    """Compute until that much CPU time is used, however busy the machine is, and seen or not."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(200))


def _watch_the_sampler() -> Callable[[], bool]:
    """Return a function that tells whether a few samples have come since now, if any are to be expected."""
    deadline = time.monotonic() + 30
    counts = {recording: _count(recording) for recording in _recordings_here()}

    def is_seen() -> bool:
        # In the order in which a request goes through them: the other way round it could slip past both.
        is_on_its_way = _is_young_here()
        awaited = [r for r in _recordings_here() if _count(r) < counts.get(r, 0) + ENOUGH]
        return not (is_on_its_way or awaited) or time.monotonic() > deadline

    return is_seen


def _carrier_here() -> Carrier | None:
    runner = runner_here()
    return carrier_of(runner) if runner is not None else None


def _recordings_here() -> list[Recording]:
    here, thread_id = _carrier_here(), threading.get_ident()
    late = [r for r in list(stack_sampler.shared.late) if r.lost is None]
    # In an event loop that a request runs the task here is not what carries the request.
    return [r for r in late if r.carrier == here] or [r for r in late if r.carrier.thread_id == thread_id]


def _is_young_here() -> bool:
    sampler, here = stack_sampler.shared, _carrier_here()
    watchers = list(sampler._watchers)
    young = [carrier_of(runner) for watcher in watchers for _, runner, *_ in list(watcher.young.values()) if runner]
    # On its way from there to the sampler's late ones it is in neither.
    between = [
        recording.carrier
        for watcher in watchers
        if isinstance(watcher, SpanWatcher)
        for recording in list(watcher._spans.recordings.values())
        if recording not in sampler.late and recording.lost is None and recording.selected is not False
    ]
    return not sampler.parked and (here in young or here in between)


def _count(recording: Recording) -> int:
    return recording.trace.sample_count if recording.trace is not None else 0


def wait_until_linked(span: Span) -> None:
    """Wait until the profile's id is on the running span: it has crossed its threshold and is being sampled."""
    eventually(lambda: ID in (span.attributes or {}))


def functions(profile: Profile) -> dict[str, float]:
    """Return the share of the sampled time that was spent inside each function, callees included.

    The time before the first sample is left out, but for its own share of the duration: on a busy machine the first
    sample can come late.
    """
    times: dict[str, int] = {}
    for sample in profile.samples:
        for name in {frame.name for frame, _ in profile.stack_frames(sample.stack)}:
            times[name] = times.get(name, 0) + sample.wall_ns
    before = times.pop(BEFORE_FIRST_SAMPLE, 0)
    sampled = profile.duration_ns - before
    return {
        BEFORE_FIRST_SAMPLE: before / profile.duration_ns,
        **{name: time_ns / sampled for name, time_ns in times.items()},
    }


def paths(profile: Profile) -> dict[tuple[str, ...], float]:
    """Return the stacks as function names, root first, with their seconds."""
    seconds: dict[tuple[str, ...], float] = {}
    for sample in profile.samples:
        path = tuple(frame.name for frame, _ in profile.stack_frames(sample.stack))
        seconds[path] = seconds.get(path, 0.0) + sample.wall_ns / 1e9
    return seconds


def seconds_below(profile: Profile, *names: str) -> float:
    """Return the seconds of all stacks in which the functions stand in this order."""
    total = 0.0
    for path, seconds in paths(profile).items():
        rest = iter(path)
        total += seconds if all(name in rest for name in names) else 0.0
    return total


def read_stacks(thread_ids: set[int]) -> dict[int, tuple[FlatStack, int]]:
    """Read the stacks of some threads as the sampler does; return them with the innermost line of each."""
    stacks = {}
    with all_frames() as frames:
        for thread_id in thread_ids:
            with contextlib.suppress(CarrierGoneError):
                sight = ThreadFollower(thread_id).look(frames)
                stacks[thread_id] = (sight.flat, sight.line)
    return stacks


def in_thread(work: Callable[[], object]) -> None:
    """Run a function in a new thread and wait for its end.

    Raises:
        BaseException: What the function raised.
    """
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
