"""Our attributes reach every exporter, wherever its processor stands and on whatever multi-processor."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import (
    ConcurrentMultiSpanProcessor,
    SpanProcessor,
    SynchronousMultiSpanProcessor,
    TracerProvider,
)
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.trace import SpanKind

from otlp_receiver import OtlpReceiver
from support import eventually
from watched import ID, WatchingProcessor, compute_here, functions, in_thread, wait_here

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from slowspan import Profile

NAMES = {
    "slowspan.profile.id",
    "slowspan.profile.url",
    "slowspan.threshold",
    "slowspan.samples",
    "slowspan.cpu_time",
    "slowspan.ready_time",
    "slowspan.waiting_time",
    "slowspan.unknown_time",
    "slowspan.hot_frames",
}
MULTI_PROCESSORS = [SynchronousMultiSpanProcessor, ConcurrentMultiSpanProcessor]


class CopyingExporter(SpanExporter):
    """Copies a span's attributes when it exports it: what is written later does not arrive."""

    def __init__(self) -> None:
        self.attributes: dict[str, dict[str, Any]] = {}

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Copy."""
        self.attributes.update({span.name: dict(span.attributes or {}) for span in spans})
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Keep what has arrived."""


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    """Return a receiver of spans over HTTP."""
    with OtlpReceiver() as receiver:
        yield receiver


def serve(processors: Sequence[SpanProcessor], multi_processor: type[Any], name: str, work: Any = wait_here) -> None:
    """Make a slow request on a provider with these processors, in this order, and shut it down."""
    provider = TracerProvider(active_span_processor=multi_processor(), shutdown_on_exit=False)
    for processor in processors:
        provider.add_span_processor(processor)
    with provider.get_tracer("test").start_as_current_span(name, kind=SpanKind.SERVER):
        work()
    provider.force_flush()
    provider.shutdown()


def arrange(ours: SpanProcessor, exporting: SpanProcessor, *, ours_first: bool) -> list[SpanProcessor]:
    """Return two processors in one order or the other."""
    return [ours, exporting] if ours_first else [exporting, ours]


@pytest.mark.parametrize("multi_processor", MULTI_PROCESSORS)
@pytest.mark.parametrize("exporting", [SimpleSpanProcessor, BatchSpanProcessor])
@pytest.mark.parametrize("ours_first", [True, False], ids=["ours first", "ours last"])
def test_attributes_reach_an_exporter_that_copies(
    multi_processor: type[Any], exporting: type[Any], ours_first: bool
) -> None:
    """An exporter that copies the span when it exports it has all our attributes."""
    exporter = CopyingExporter()
    ours = WatchingProcessor(report_url="https://reports.example/{id}")
    serve(arrange(ours, exporting(exporter), ours_first=ours_first), multi_processor, "GET /")
    assert set(exporter.attributes["GET /"]) == NAMES
    assert exporter.attributes["GET /"][ID] == ours.profile().id


@pytest.mark.parametrize("multi_processor", MULTI_PROCESSORS)
@pytest.mark.parametrize("exporting", [SimpleSpanProcessor, BatchSpanProcessor])
@pytest.mark.parametrize("ours_first", [True, False], ids=["ours first", "ours last"])
def test_attributes_arrive_over_otlp(
    receiver: OtlpReceiver, multi_processor: type[Any], exporting: type[Any], ours_first: bool
) -> None:
    """All our attributes arrive, with their types, at a receiver of OTLP over HTTP."""
    ours = WatchingProcessor(report_url="https://reports.example/{id}")
    exporter = OTLPSpanExporter(endpoint=f"{receiver.endpoint}/v1/traces")
    name = f"{multi_processor.__name__} {exporting.__name__} {ours_first}"
    serve(arrange(ours, exporting(exporter), ours_first=ours_first), multi_processor, name)
    (span,) = eventually(lambda: [span for span in receiver.spans() if span.name == name])
    profile = ours.profile()
    assert set(span.attributes) == NAMES
    assert span.attributes["slowspan.profile.id"] == profile.id
    assert span.attributes["slowspan.profile.url"] == f"https://reports.example/{profile.id}"
    assert span.attributes["slowspan.threshold"] == pytest.approx(0.05)
    assert span.attributes["slowspan.samples"] == profile.sample_count
    assert isinstance(span.attributes["slowspan.cpu_time"], float)
    assert any(line.endswith(" wait_here") for line in span.attributes["slowspan.hot_frames"])
    assert span.trace_id == profile.span.trace_id


def profile_on_a_pool(ours: SpanProcessor, watching: WatchingProcessor) -> tuple[Profile, int]:
    """Make a slow request on a thread of its own; return its profile and what it computed, in nanoseconds."""
    provider = TracerProvider(active_span_processor=ConcurrentMultiSpanProcessor(), shutdown_on_exit=False)
    provider.add_span_processor(ours)
    computed = []

    def request() -> None:
        with provider.get_tracer("test").start_as_current_span("GET /", kind=SpanKind.SERVER):
            before = time.thread_time_ns()
            compute_here()
            computed.append(time.thread_time_ns() - before)

    in_thread(request)
    provider.shutdown()
    return watching.profile(), computed[0]


def test_processors_on_pool_threads_profile_the_request() -> None:
    """Called on a pool's thread, the processor still finds the request's: its stack and its CPU time."""
    ours = WatchingProcessor()
    profile, computed = profile_on_a_pool(ours, ours)
    assert functions(profile)["compute_here"] > 0.2
    assert "_worker" not in functions(profile)
    # The clock is read from the first sample on.
    assert computed - profile.samples[0].wall_ns <= profile.cpu_time_ns <= computed + 30_000_000
    assert sum(sample.wall_ns for sample in profile.samples) == profile.duration_ns
    assert profile.notes == ()


def test_processor_inside_another_on_pool_threads() -> None:
    """The request's thread is also found where other processors stand between the pool and ours."""
    inner = SynchronousMultiSpanProcessor()
    ours = WatchingProcessor()
    inner.add_span_processor(ours)
    profile, _ = profile_on_a_pool(inner, ours)
    assert functions(profile)["compute_here"] > 0.2
    assert "_worker" not in functions(profile)


def test_request_that_is_itself_served_by_a_pool() -> None:
    """A request on a thread pool's thread, as gunicorn's, is not mistaken for a call by the SDK's pool."""
    ours = WatchingProcessor()
    with ThreadPoolExecutor(1, thread_name_prefix="worker") as pool:
        pool.submit(serve, [ours], SynchronousMultiSpanProcessor, "GET /").result()
    profile = ours.profile()
    assert functions(profile)["wait_here"] > 0.2
    assert functions(profile)["_worker"] > 0.2


def test_same_processor_twice_on_pool_threads() -> None:
    """Added twice to a multi-processor that calls both at once, the processor makes one report of a request."""
    ours = WatchingProcessor()
    serve([ours, ours], ConcurrentMultiSpanProcessor, "GET /")
    assert len(ours.profiles()) == 1
