"""The notifier ``otlp``: records that stand beside their span, through the application's pipeline or an own one."""

from __future__ import annotations

import gzip
import sys
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import _logs, trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.sdk import resources
from opentelemetry.sdk._logs import LoggerProvider, export
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.util._once import Once

from http_server import Answer, RecordingServer, closed_port
from otlp_receiver import plain
from profiles import make_span
from reports import make_report
from slowspan.config import Settings
from slowspan.notifiers.base import DeliveryError
from slowspan.notifiers.otlp import OtlpNotifier
from support import instrumented_requests

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(autouse=True)
def no_logger_provider() -> Iterator[None]:
    """Give each test a process without a global logger provider, and take away the one that it sets."""
    internal: Any = sys.modules[_logs.get_logger_provider.__module__]

    def forget() -> None:
        internal._LOGGER_PROVIDER = None
        internal._LOGGER_PROVIDER_SET_ONCE = Once()

    forget()
    yield
    provider = internal._LOGGER_PROVIDER
    forget()
    if provider is not None:
        provider.shutdown()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordingServer]:
    """Return a server to which the OTLP exporter sends."""
    with RecordingServer() as server:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url + "/T0pS3cret")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=k3y")
        yield server


@pytest.fixture
def notifier() -> Iterator[OtlpNotifier]:
    """Return a notifier that is shut down after the test."""
    made = OtlpNotifier.from_settings(Settings())
    yield made
    made.shutdown()


class Application:
    """An application's own logs pipeline, in memory."""

    def __init__(self) -> None:
        # The exporter's name changed with OpenTelemetry 1.39.
        names = vars(export)
        self.exporter = names.get("InMemoryLogRecordExporter", names.get("InMemoryLogExporter"))()
        self.provider = LoggerProvider(resources.Resource({"service.name": "shop"}))
        self.provider.add_log_record_processor(export.SimpleLogRecordProcessor(self.exporter))
        _logs.set_logger_provider(self.provider)

    def records(self) -> list[Any]:
        return [data.log_record for data in self.exporter.get_finished_logs()]


def received(server: RecordingServer) -> list[tuple[dict[str, Any], Any]]:
    """Return pairs of resource and record of all that arrived."""
    pairs = []
    for request in server.requests:
        packed = request.headers.get("Content-Encoding") == "gzip"
        document = ExportLogsServiceRequest.FromString(gzip.decompress(request.body) if packed else request.body)
        for resource_logs in document.resource_logs:
            resource = {item.key: plain(item.value) for item in resource_logs.resource.attributes}
            pairs += [(resource, record) for scope in resource_logs.scope_logs for record in scope.log_records]
    return pairs


# -- Through the application's pipeline


def test_a_record_in_the_applications_pipeline(notifier: OtlpNotifier) -> None:
    """The record has the span's ids and flags, though no span is current; and the report's facts."""
    application = Application()
    report = make_report(1, url="https://reports.example.com/1")
    notifier.notify(report)
    (record,) = application.records()
    assert f"{record.trace_id:032x}" == TRACE_ID
    assert f"{record.span_id:016x}" == SPAN_ID
    assert record.trace_flags == 1
    assert record.timestamp == report.profile.start_time_ns + report.profile.duration_ns
    assert (record.severity_text, record.severity_number) == ("WARN", _logs.SeverityNumber.WARN)
    assert record.body == report.summary
    attributes = dict(record.attributes)
    assert attributes["slowspan.hot_frames"][0] == "71 % pricing.py:41 total_for"
    del attributes["slowspan.hot_frames"]
    assert attributes == {
        "slowspan.profile.id": report.profile.id,
        "slowspan.profile.url": "https://reports.example.com/1",
        "slowspan.threshold": 1.0,
        "slowspan.cpu_time": pytest.approx(1.22, abs=0.1),
        "slowspan.samples": 21,
        "slowspan.duration": pytest.approx(1.42),
        "slowspan.running": False,
        "http.request.method": "GET",
        "http.route": "/orders/<id>",
        "url.path": "/orders/42",
        "http.response.status_code": 200,
    }


def test_the_current_span_does_not_matter(notifier: OtlpNotifier) -> None:
    """The record belongs to the slow request's span, whatever is current where it is emitted."""
    application = Application()
    provider = TracerProvider()
    with provider.get_tracer("test").start_as_current_span("another"):
        notifier.notify(make_report(1, span=make_span(sampled=False)))
    (record,) = application.records()
    assert f"{record.trace_id:032x}" == TRACE_ID
    assert int(record.trace_flags) == 0
    provider.shutdown()


def test_a_provider_that_is_set_up_later(notifier: OtlpNotifier, receiver: RecordingServer) -> None:
    """Records go through the application's pipeline as soon as it has one, and not twice."""
    notifier.notify(make_report(1))
    application = Application()
    notifier.notify(make_report(2))
    assert len(received(receiver)) == 1
    assert len(application.records()) == 1


def test_a_flush_reaches_the_applications_pipeline(notifier: OtlpNotifier) -> None:
    """What the application's batch processor holds back is sent by a flush of the notifier."""
    application = Application()
    batch = export.BatchLogRecordProcessor(application.exporter, schedule_delay_millis=600_000)
    application.provider._multi_log_record_processor._log_record_processors = (batch,)
    notifier.notify(make_report(1))
    assert application.records() == []
    assert notifier.force_flush()
    assert len(application.records()) == 1


def test_the_applications_pipeline_outlives_the_notifier(notifier: OtlpNotifier) -> None:
    """Shutting the notifier down leaves the application's logs alone."""
    application = Application()
    notifier.notify(make_report(1))
    notifier.shutdown()
    notifier.notify(make_report(2))
    OtlpNotifier().notify(make_report(3))
    assert len(application.records()) == 2


# -- Over its own exporter


def test_a_record_over_the_wire(notifier: OtlpNotifier, receiver: RecordingServer) -> None:
    """Without a pipeline of the application's, the record arrives at the configured OTLP server."""
    notifier.notify(make_report(1))
    assert notifier.force_flush()
    (request,) = receiver.requests
    assert (request.path, request.headers["api-key"]) == ("/T0pS3cret/v1/logs", "k3y")
    ((resource, record),) = received(receiver)
    assert (resource["service.name"], resource["service.version"]) == ("shop", "1.4.0")
    assert (record.trace_id.hex(), record.span_id.hex(), record.flags) == (TRACE_ID, SPAN_ID, 1)
    assert (record.severity_text, record.severity_number) == ("WARN", 13)
    assert record.body.string_value == make_report(1).summary
    attributes = {item.key: plain(item.value) for item in record.attributes}
    assert attributes["slowspan.profile.id"] == make_report(1).profile.id
    assert attributes["slowspan.threshold"] == 1.0


def test_the_resource_of_the_traces(
    notifier: OtlpNotifier, receiver: RecordingServer, no_global_provider: None
) -> None:
    """What the application's traces say of their origin, its records say as well."""
    trace.set_tracer_provider(TracerProvider(resource=resources.Resource({"deployment.environment": "test"})))
    notifier.notify(make_report(1))
    ((resource, _),) = received(receiver)
    assert resource["deployment.environment"] == "test"
    assert resource["service.name"] == "shop"


def test_a_provider_without_an_exporter(notifier: OtlpNotifier, receiver: RecordingServer) -> None:
    """A pipeline that leads nowhere, as of ``OTEL_LOGS_EXPORTER=none``, does not swallow the record."""
    _logs.set_logger_provider(LoggerProvider())
    notifier.notify(make_report(1))
    assert len(received(receiver)) == 1


@pytest.mark.parametrize("status", [400, 401, 404])
def test_refused(notifier: OtlpNotifier, receiver: RecordingServer, status: int) -> None:
    """A refusal is an error of the delivery, told without the path; the next record is not affected."""
    receiver.answers = [Answer(status)]
    with pytest.raises(DeliveryError, match="did not take the record") as raised:
        notifier.notify(make_report(1))
    assert "T0pS3cret" not in str(raised.value)
    notifier.notify(make_report(2))
    assert len(receiver.requests) == 2


def test_the_sdk_is_switched_off(
    notifier: OtlpNotifier, receiver: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where OpenTelemetry sends nothing, the notifier says so."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with pytest.raises(DeliveryError, match="OTEL_SDK_DISABLED"):
        notifier.notify(make_report(1))


def test_without_the_exporter(notifier: OtlpNotifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra that is missing is named."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http._log_exporter", None)
    with pytest.raises(DeliveryError, match=r"slowspan\[otlp\]") as raised:
        notifier.notify(make_report(1))
    assert not raised.value.retry


def test_a_hostile_request(notifier: OtlpNotifier, receiver: RecordingServer) -> None:
    """Texts that cannot be encoded, or have no end, are made harmless first."""
    notifier.notify(make_report(1, span=make_span(route="\ud800\r\n" + "x" * 10_000, path=None, service_name="\udfff")))
    ((_, record),) = received(receiver)
    (route,) = [item.value.string_value for item in record.attributes if item.key == "http.route"]
    assert len(route) <= 500
    assert route.isprintable()


# -- Checking


def test_check_sends_no_record(notifier: OtlpNotifier, receiver: RecordingServer) -> None:
    """An empty request shows whether the server is there and takes the headers."""
    assert notifier.check() == f"sends log records to {receiver.url}"
    assert len(receiver.requests) == 1
    assert received(receiver) == []
    receiver.answers = [Answer(401)]
    with pytest.raises(DeliveryError, match="did not take"):
        notifier.check()


def test_check_of_a_server_that_is_away(notifier: OtlpNotifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that cannot be reached is told by scheme and host."""
    port = closed_port()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", f"http://user:pa55word@127.0.0.1:{port}/T0pS3cret")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with pytest.raises(DeliveryError, match=f"http://127.0.0.1:{port} did not take"):
        notifier.check()


def test_check_of_the_applications_pipeline(notifier: OtlpNotifier) -> None:
    """Nothing is sent through a pipeline that is not ours."""
    application = Application()
    assert "application's own" in notifier.check()
    assert application.records() == []


def test_no_trace_headers(notifier: OtlpNotifier, receiver: RecordingServer) -> None:
    """On a delivery thread the export makes no span and carries no trace."""
    with (
        instrumented_requests() as (tracer, exporter),
        tracer.start_as_current_span("request"),
        suppress_instrumentation(),
    ):
        notifier.notify(make_report(1))
    assert [span.name for span in exporter.get_finished_spans()] == ["request"]
    assert "traceparent" not in receiver.requests[0].headers
