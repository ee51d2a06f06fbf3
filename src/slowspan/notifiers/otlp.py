"""The notifier ``otlp``: an OpenTelemetry log record of each report, for back ends that show logs beside traces."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from slowspan import semconv
from slowspan._version import __version__
from slowspan.notifiers.base import DeliveryError
from slowspan.notifiers.http import reason, shown_address
from slowspan.redaction import one_line
from slowspan.report.summary import describe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.resources import Resource

    from slowspan.config import Settings
    from slowspan.recording.profile import SpanFacts
    from slowspan.report.report import Report

DURATION = "slowspan.duration"
RUNNING = "slowspan.running"
TRACE_URL = "slowspan.trace.url"

_MAX_TEXT = 500


class OtlpNotifier:
    """Emits a log record that carries the trace and span id of the slow request.

    Records go through the application's own logger provider where it has one, to wherever its logs go. Without one they
    are sent by OTLP over HTTP, one request each, to where the ``OTEL_EXPORTER_OTLP_*`` variables say.
    """

    receives = "reports"

    def __init__(self) -> None:
        self._own: _OwnProvider | None = None
        self._unflushed: Any = None
        self._is_shut_down = False

    @classmethod
    def from_settings(cls, settings: Settings) -> OtlpNotifier:  # noqa: ARG003 -- the notifiers' common form
        """Make the notifier; its own settings are OpenTelemetry's."""
        return cls()

    def notify(self, report: Report) -> None:
        """Emit the record.

        Raises:
            DeliveryError: The application has no logger provider, and the notifier's own exporter is missing or failed.
        """
        if self._is_shut_down:
            return
        provider = _application_provider()
        if provider is not None:
            _emit(provider, report)
            self._unflushed = provider
            return
        if self._own is None:
            self._own = _OwnProvider(report.profile.span)
        self._own.send(report)

    def check(self) -> str:
        """Send an empty request, which the OTLP specification tells servers to accept.

        Returns:
            Where records go.

        Raises:
            DeliveryError: The server cannot be reached, or refuses.
        """
        if _application_provider() is not None:
            return "records go through the application's own logger provider"
        exporter = _make_exporter()
        problem = _export(exporter, ())
        exporter.shutdown()
        if problem is not None:
            raise DeliveryError(problem)
        return f"sends log records to {_shown_endpoint()}"

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Have the application's logger provider send what it still holds back."""
        provider, self._unflushed = self._unflushed, None
        flush = getattr(provider, "force_flush", None)
        return flush is None or flush(timeout_millis) is not False

    def shutdown(self) -> None:
        """Emit no more, and close the connection of the own exporter; the application's provider goes on."""
        self._is_shut_down = True
        own, self._own = self._own, None
        if own is not None:
            own.provider.shutdown()


class _OwnProvider:
    """A logger provider for applications that have none.

    Each record is exported at once, on the delivery thread, so that a failure is known and counted: a batch processor
    would swallow it, and would add a thread.
    """

    def __init__(self, span: SpanFacts) -> None:
        # Imported where it is used: many applications have no logs signal.
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor

        self._exporter = _RememberingExporter(_make_exporter())
        self.provider = LoggerProvider(_resource(span), shutdown_on_exit=False)
        processor: Any = SimpleLogRecordProcessor
        self.provider.add_log_record_processor(processor(self._exporter))

    def send(self, report: Report) -> None:
        self._exporter.problem = "the OpenTelemetry SDK is switched off (OTEL_SDK_DISABLED)"
        _emit(self.provider, report)
        if self._exporter.problem is not None:
            raise DeliveryError(self._exporter.problem)


class _RememberingExporter:
    """Passes records on and remembers how that went, because processors do not tell."""

    def __init__(self, exporter: Any) -> None:
        self._exporter = exporter
        self.problem: str | None = None

    def export(self, batch: Sequence[Any]) -> Any:
        self.problem = _export(self._exporter, batch)

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002 -- the exporters' signature
        return True

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _make_exporter() -> Any:
    try:
        # Imported late because it imports requests and protobuf, and is an extra of its own.
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    except ImportError:
        raise DeliveryError('the OTLP exporter is missing: pip install "slowspan[otlp]"', retry=False) from None
    return OTLPLogExporter()


def _export(exporter: Any, batch: Sequence[Any]) -> str | None:
    """Export a batch; return what went wrong, or None."""
    try:
        if exporter.export(batch).name == "SUCCESS":
            return None
        why = "the log of opentelemetry.exporter says why"
    except Exception as error:  # noqa: BLE001 -- the exporter's errors are of many kinds, and may quote the whole URL
        why = reason(error)
    return f"{_shown_endpoint()} did not take the record: {why}"


def _application_provider() -> Any:
    """Return the application's logger provider, or None where it has none that sends anything anywhere."""
    # Imported where it is used: see _OwnProvider.
    from opentelemetry._logs import get_logger_provider

    provider = get_logger_provider()
    if type(provider).__module__.startswith("opentelemetry._logs"):
        return None  # the API's placeholders
    processors = getattr(provider, "_multi_log_record_processor", None)
    if getattr(processors, "_log_record_processors", None) == ():
        # opentelemetry-instrument sets up such a provider for OTEL_LOGS_EXPORTER=none; whoever switched this notifier
        # on wants its records nevertheless.
        return None
    return provider


def _emit(provider: Any, report: Report) -> None:
    """Emit a record through a provider of any version from 1.28 on."""
    # Imported where it is used: see _OwnProvider.
    from opentelemetry._logs import Logger, SeverityNumber
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    profile = report.profile
    flags = TraceFlags(TraceFlags.SAMPLED if profile.span.sampled else TraceFlags.DEFAULT)
    trace_id, span_id = int(profile.span.trace_id, 16), int(profile.span.span_id, 16)
    logger = provider.get_logger("slowspan", __version__)
    values: dict[str, Any] = {
        "timestamp": profile.start_time_ns + profile.duration_ns,
        "severity_text": "WARN",
        "severity_number": SeverityNumber.WARN,
        "body": report.summary,
        "attributes": _attributes(report),
    }
    if "timestamp" in (Logger.emit.__kwdefaults__ or {}):
        span = NonRecordingSpan(SpanContext(trace_id, span_id, is_remote=False, trace_flags=flags))
        logger.emit(**values, context=set_span_in_context(span, Context()))
        return
    # Before 1.38 only a whole record can be emitted, of a class that is gone since 1.39.
    from opentelemetry.sdk import _logs

    make_record: Any = vars(_logs)["LogRecord"]
    resource = getattr(logger, "resource", None)
    logger.emit(make_record(**values, trace_id=trace_id, span_id=span_id, trace_flags=flags, resource=resource))


def _attributes(report: Report) -> dict[str, Any]:
    profile, span = report.profile, report.profile.span
    attributes: dict[str, Any] = {
        semconv.PROFILE_ID: profile.id,
        semconv.PROFILE_URL: report.url,
        semconv.THRESHOLD: profile.threshold_ns / 1e9,
        semconv.CPU_TIME: None if profile.cpu_time_ns is None else profile.cpu_time_ns / 1e9,
        semconv.SAMPLES: profile.sample_count,
        semconv.HOT_FRAMES: [one_line(describe(line), _MAX_TEXT) for line in report.hot_lines] or None,
        DURATION: profile.duration_ns / 1e9,
        RUNNING: profile.running,
        TRACE_URL: report.trace_url,
        "http.request.method": _text(span.method),
        "http.route": _text(span.route),
        "url.path": _text(span.path),
        "http.response.status_code": span.status_code,
    }
    return {name: value for name, value in attributes.items() if value is not None}


def _resource(span: SpanFacts) -> Resource:
    """Return the resource of the application's traces, so that back ends put the records beside them."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.trace import get_tracer_provider

    resource = getattr(get_tracer_provider(), "resource", None)
    if not isinstance(resource, Resource):
        resource = Resource.create()
    facts = {"service.name": _text(span.service_name), "service.version": _text(span.service_version)}
    return resource.merge(Resource({name: value for name, value in facts.items() if value}))


def _shown_endpoint() -> str:
    """Return scheme and host of the endpoint as the exporter reads it; the rest may be a secret."""
    url = (
        os.environ.get("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT")
        or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        or "http://localhost:4318"
    )
    return shown_address(url)


def _text(text: str | None) -> str | None:
    return None if text is None else one_line(text, _MAX_TEXT)
