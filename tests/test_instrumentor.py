"""Switching slowspan on and off: under OpenTelemetry's own instrumentation, or with one call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

import slowspan
from slowspan.instrumentor import SlowSpanInstrumentor, before_instrumentation
from support import FEW_INSTRUMENTATIONS, QUIET, needs_configuration
from watched import ID

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

pytestmark = pytest.mark.usefixtures("switched_off")


def serve_slowly(provider: Any = None) -> None:
    """Make a slow server span."""
    tracer = trace.get_tracer("test", tracer_provider=provider)
    with tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
        time.sleep(0.1)


def server_spans(exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    """Return the exported server spans."""
    return [span for span in exporter.get_finished_spans() if span.kind is SpanKind.SERVER]


# -- Under opentelemetry-instrument, where nobody makes a provider.


@pytest.fixture
def no_configurator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an environment in which nothing sets OpenTelemetry up."""
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_kwargs: ())


@pytest.mark.usefixtures("no_configurator")
def test_a_provider_is_made_where_nobody_does(caplog: pytest.LogCaptureFixture) -> None:
    """Without a configurator slowspan makes the provider, says so, and watches it."""
    before_instrumentation()
    (record,) = caplog.records
    assert "tracer provider, which exports nothing" in record.getMessage()
    SlowSpanInstrumentor().instrument()
    serve_slowly()
    assert SlowSpanInstrumentor()._processor.status().seen == 1
    trace.get_tracer_provider().shutdown()


@pytest.mark.usefixtures("no_configurator")
def test_a_provider_is_made_for_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the setting ``enabled`` has switched off can be switched on at run time, without a configurator too."""
    monkeypatch.setenv("OTEL_PYTHON_SLOWSPAN_ENABLED", "false")
    before_instrumentation()
    SlowSpanInstrumentor().instrument()
    assert not slowspan.status().enabled
    slowspan.enable()
    serve_slowly()
    status = SlowSpanInstrumentor()._processor.status()
    assert (status.enabled, status.seen) == (True, 1)
    trace.get_tracer_provider().shutdown()


@pytest.mark.usefixtures("no_configurator")
def test_a_declarative_file_that_nobody_reads_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a configurator that reads ``OTEL_CONFIG_FILE``: without one its settings do not hold."""
    monkeypatch.setenv("OTEL_CONFIG_FILE", "otel.yaml")
    before_instrumentation()
    assert "exports nothing, and OTEL_CONFIG_FILE is not read: no configurator is installed" in caplog.text
    trace.get_tracer_provider().shutdown()


@pytest.mark.usefixtures("no_configurator")
@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_SDK_DISABLED", "true"), ("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "slowspan")]
)
def test_no_provider_is_made_against_the_environment(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has switched OpenTelemetry or slowspan off gets no provider."""
    monkeypatch.setenv(name, value)
    before_instrumentation()
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


@pytest.mark.usefixtures("no_configurator")
def test_a_disabled_sdk_is_told_as_the_cause(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Who has switched OpenTelemetry off is not told to add a line."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    before_instrumentation()
    SlowSpanInstrumentor().instrument()
    assert caplog.messages == ["slowspan is off: OTEL_SDK_DISABLED is set, so OpenTelemetry makes no spans"]


def test_no_provider_is_made_beside_a_configurator() -> None:
    """Where one is installed, it has its reasons."""
    assert entry_points(group="opentelemetry_configurator")
    before_instrumentation()
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


# -- instrument() and uninstrument().


def test_instrument_takes_the_global_provider(exporter: InMemorySpanExporter) -> None:
    """One call, and slow spans of the global provider have profiles."""
    processor = slowspan.instrument(**QUIET)
    assert processor.settings.threshold == 0.05
    serve_slowly()
    assert ID in server_spans(exporter)[0].attributes
    assert slowspan.status().slow >= 1


def test_instrument_once(exporter: InMemorySpanExporter, caplog: pytest.LogCaptureFixture) -> None:
    """A second call changes nothing and returns the processor of the first; the log names what it would change."""
    first = slowspan.instrument(**QUIET)
    assert first is slowspan.instrument(**QUIET) is slowspan.instrument()
    assert caplog.records == []
    assert first is slowspan.instrument(threshold=9, interval=0.02)
    (record,) = caplog.records
    assert "no effect: threshold, interval." in record.getMessage()
    assert SlowSpanInstrumentor().is_instrumented_by_opentelemetry


def test_instrument_after_a_shutdown() -> None:
    """A processor that was shut down with its provider is not handed out again: another provider gets a new one."""
    first_provider, second_provider = TracerProvider(shutdown_on_exit=False), TracerProvider(shutdown_on_exit=False)
    first = slowspan.instrument(tracer_provider=first_provider, **QUIET)
    first_provider.shutdown()
    second = slowspan.instrument(tracer_provider=second_provider, **QUIET)
    assert first.closed
    assert second is not first
    serve_slowly(second_provider)
    assert second.status().slow == 1
    second_provider.shutdown()


def test_instrument_a_given_provider() -> None:
    """With a provider given, the global one is not touched."""
    provider = TracerProvider(shutdown_on_exit=False)
    processor = slowspan.instrument(tracer_provider=provider, **QUIET)
    serve_slowly(provider)
    assert processor.status().slow == 1
    assert trace._TRACER_PROVIDER is None
    provider.shutdown()


def test_uninstrument_and_again(exporter: InMemorySpanExporter) -> None:
    """Switched off no span is touched; switched on again, with other settings, they are."""
    slowspan.instrument(**QUIET)
    slowspan.uninstrument()
    serve_slowly()
    assert dict(server_spans(exporter)[0].attributes) == {}
    slowspan.uninstrument()
    slowspan.instrument(**{**QUIET, "threshold": 0.06})
    serve_slowly()
    assert server_spans(exporter)[1].attributes["slowspan.threshold"] == pytest.approx(0.06)


def test_wrong_setting_raises(exporter: InMemorySpanExporter) -> None:
    """A wrong or unknown setting in code raises at the call, and nothing is switched on."""
    with pytest.raises(slowspan.ConfigError, match="interval"):
        slowspan.instrument(interval=-1)
    with pytest.raises(slowspan.ConfigError, match="threshold"):
        slowspan.instrument(treshold=1)
    assert not SlowSpanInstrumentor().is_instrumented_by_opentelemetry
    assert slowspan.instrument(**QUIET) is not None


def test_no_provider_yet(caplog: pytest.LogCaptureFixture) -> None:
    """Where there is no SDK provider the log says what to do; once there is one, the call works."""
    assert slowspan.instrument(**QUIET) is None
    (record,) = caplog.records
    assert "ProxyTracerProvider" in record.getMessage()
    assert "provider.add_span_processor(slowspan.SlowSpanProcessor())" in record.getMessage()
    trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
    assert slowspan.instrument(**QUIET) is not None


# -- As opentelemetry-instrument calls it.


def test_instrumentor_requires_nothing() -> None:
    """Whatever libraries are installed, OpenTelemetry finds no conflict with the instrumentor."""
    assert tuple(SlowSpanInstrumentor().instrumentation_dependencies()) == ()


def test_instrumentor_never_raises_for_settings(
    exporter: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong or unknown setting from a declarative file is a warning; the others hold."""
    SlowSpanInstrumentor().instrument(threshold=0.05, notifiers="none", interval="often", treshold=1)
    messages = [record.getMessage() for record in caplog.records]
    assert any("interval" in message and "often" in message for message in messages)
    assert any("treshold" in message and "threshold, the nearest" in message for message in messages)
    serve_slowly()
    assert ID in server_spans(exporter)[0].attributes


def test_instrumentor_never_raises_for_the_environment(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing in the environment, nor a settings file that is not there, keeps slowspan from starting."""
    monkeypatch.setenv("OTEL_PYTHON_SLOWSPAN_CONFIG", "/nowhere/slowspan.toml")
    monkeypatch.setenv("OTEL_PYTHON_SLOWSPAN_SPAN_KINDS", "SERVANT")
    monkeypatch.setenv("OTEL_PYTHON_SLOWSPAN_EXCLUDED_URLS", "(")
    monkeypatch.setenv("OTEL_PYTHON_SLOWSPAN_REPORT_DIR", "/proc/nowhere")
    SlowSpanInstrumentor().instrument()
    assert slowspan.status().enabled
    text = caplog.text
    for name in ("/nowhere/slowspan.toml", "SPAN_KINDS", "EXCLUDED_URLS"):
        assert name in text


def test_instrumentor_never_raises_for_errors_of_ours(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of our own at start-up is logged and leaves slowspan off: other instrumentations must load."""

    def fail(*args: object) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(slowspan.SlowSpanProcessor, "from_loaded", fail)
    SlowSpanInstrumentor().instrument()
    assert "broken on purpose" in caplog.text
    serve_slowly()
    assert dict(server_spans(exporter)[0].attributes) == {}


def test_instrumentor_takes_what_opentelemetry_passes(
    exporter: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    """The arguments that OpenTelemetry passes to every instrumentor are no settings, and no unknown ones."""
    provider = TracerProvider(shutdown_on_exit=False)
    SlowSpanInstrumentor().instrument(
        tracer_provider=provider, meter_provider=None, logger_provider=None, skip_dep_check=True, **QUIET
    )
    serve_slowly(provider)
    assert slowspan.status().slow >= 1
    assert caplog.records == []
    provider.shutdown()


# -- OpenTelemetry's declarative configuration file.

DECLARED = """
file_format: "1.0"
propagator:
  composite: [{tracecontext: }]
tracer_provider:
  processors:
    - simple: {exporter: {console: }}
instrumentation/development:
  python:
    slowspan:
      threshold: 0.25
      thresholds: {/reports/.*: 5}
      excluded_urls: [health, metrics]
      interval: often
      notifiers: none
"""

SHOW = """
import json
from slowspan.instrumentor import SlowSpanInstrumentor, before_instrumentation
processor = SlowSpanInstrumentor()._processor
names = ("threshold", "thresholds", "excluded_urls", "interval", "notifiers", "start_after")
print(json.dumps({name: getattr(processor.settings, name) for name in names}))
"""


@needs_configuration
def test_declarative_configuration_file(tmp_path: Path) -> None:
    """Settings under ``instrumentation/development: python: slowspan:`` hold, before those of the environment."""
    file = tmp_path / "otel.yaml"
    file.write_text(DECLARED)
    result = subprocess.run(
        [Path(sys.executable).with_name("opentelemetry-instrument"), sys.executable, "-c", SHOW],
        env={
            **os.environ,
            **FEW_INSTRUMENTATIONS,
            "OTEL_CONFIG_FILE": str(file),
            "OTEL_PYTHON_SLOWSPAN_THRESHOLD": "9",
            "OTEL_PYTHON_SLOWSPAN_START_AFTER": "0.01",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(result.stdout) == {
        "threshold": 0.25,
        "thresholds": [["/reports/.*", 5.0]],
        "excluded_urls": ["health", "metrics"],
        "interval": 0.01,
        "notifiers": [],
        "start_after": 0.01,
    }
    assert "interval" in result.stderr
    assert "often" in result.stderr
