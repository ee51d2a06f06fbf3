"""The setting ``record_unsampled``: slow requests are reported too of those that the trace sampler drops."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, ParentBasedTraceIdRatio, TraceIdRatioBased
from opentelemetry.trace import SpanKind

import slowspan
from otlp_receiver import OtlpReceiver
from servers import exporting_to
from slowspan import load_profile, trace_sampler
from support import DISABLED, FEW_INSTRUMENTATIONS, OTHERS, eventually, needs_configuration, served
from watched import wait_here

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.sampling import Sampler

    from slowspan.recording.profile import SpanFacts

RECORDING = {"record_unsampled": True, "threshold": 0.05, "notifiers": "none"}


pytestmark = pytest.mark.usefixtures("switched_off")


@pytest.mark.parametrize(
    "dropping",
    [ALWAYS_OFF, ParentBased(ALWAYS_OFF), TraceIdRatioBased(0), ParentBasedTraceIdRatio(0)],
    ids=["off", "parent, off", "ratio", "parent, ratio"],
)
def test_instrument_records_what_is_dropped(dropping: Sampler) -> None:
    """Whatever sampler drops them, slow requests are seen; nothing is exported, and children stay dropped."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=dropping, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    processor = slowspan.instrument(tracer_provider=provider, **RECORDING)
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
        wait_here()
        assert not tracer.start_span("SELECT", kind=SpanKind.CLIENT).is_recording()
    assert processor is not None
    assert processor.status().slow == 1
    assert exporter.get_finished_spans() == ()
    provider.shutdown()


def test_off_by_default() -> None:
    """Without the setting the provider keeps its sampler."""
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    slowspan.instrument(tracer_provider=provider, notifiers="none")
    assert provider.sampler is ALWAYS_OFF
    provider.shutdown()


def test_kinds_of_the_settings() -> None:
    """The kinds of span that are recorded are those that are requests by the setting ``span_kinds``."""
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    slowspan.instrument(tracer_provider=provider, span_kinds="CONSUMER, INTERNAL", **RECORDING)
    tracer = provider.get_tracer("test")
    recorded = {kind for kind in SpanKind if tracer.start_span("a span", kind=kind).is_recording()}
    assert recorded == {SpanKind.CONSUMER, SpanKind.INTERNAL}
    provider.shutdown()


def test_never_wrapped_twice() -> None:
    """A sampler that records unsampled requests already stays as it is, also when slowspan is switched on again."""
    ours = slowspan.RecordUnsampled(ALWAYS_OFF)
    provider = TracerProvider(sampler=ours, shutdown_on_exit=False)
    slowspan.instrument(tracer_provider=provider, **RECORDING)
    slowspan.uninstrument()
    slowspan.instrument(tracer_provider=provider, **RECORDING)
    assert provider.sampler is ours
    provider.shutdown()


def test_provider_without_a_sampler(caplog: pytest.LogCaptureFixture) -> None:
    """Of a foreign provider that shows no sampler the log says that the setting has no effect."""

    class Foreign:
        def add_span_processor(self, processor: object) -> None: ...

    processor = slowspan.instrument(tracer_provider=Foreign(), **RECORDING)  # type: ignore[arg-type]
    assert processor is not None
    (record,) = caplog.records
    assert record.getMessage() == "record_unsampled has no effect: a Foreign has no sampler"


def test_quick_setup_records_what_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """With quick_setup it works out of the box: the sampler is in its place before any tracer is made."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        wait_here()
        return [b"served"]

    wrapped = slowspan.quick_setup(app, **RECORDING)
    environ = {"REQUEST_METHOD": "GET", "wsgi.url_scheme": "http", "SERVER_NAME": "shop", "SERVER_PORT": "80"}
    assert list(wrapped(environ, lambda *_: None)) == [b"served"]
    assert slowspan.status().slow >= 1


def test_processor_added_by_hand(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A processor cannot reach its provider's sampler: the log says so, unless the sampler is there already."""
    monkeypatch.setattr(trace_sampler, "_is_in_use", False)
    slowspan.SlowSpanProcessor(**RECORDING).shutdown()
    (record,) = caplog.records
    assert "TracerProvider(sampler=slowspan.RecordUnsampled(...))" in record.getMessage()
    slowspan.RecordUnsampled(ALWAYS_OFF)
    slowspan.SlowSpanProcessor(**RECORDING).shutdown()
    assert len(caplog.records) == 1


# -- Under opentelemetry-instrument.

SHOW = """
from opentelemetry import trace
from opentelemetry.instrumentation.flask import FlaskInstrumentor
print(trace.get_tracer_provider().sampler.get_description().partition(",")[0])
"""
PLAIN = "ParentBased{root:TraceIdRatioBased{0.01}"
RECORDED = f"RecordUnsampled{{{PLAIN}"
SWITCH = {"OTEL_PYTHON_SLOWSPAN_RECORD_UNSAMPLED": "true"}
NO_EXPORT = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
RATIO = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}


def instrumented(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run code under ``opentelemetry-instrument``."""
    return subprocess.run(
        [Path(sys.executable).with_name("opentelemetry-instrument"), sys.executable, "-c", code],
        env={**os.environ, **NO_EXPORT, **FEW_INSTRUMENTATIONS, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


@pytest.mark.parametrize(
    ("env", "description"),
    [
        ({}, PLAIN),
        (SWITCH, RECORDED),
        ({**SWITCH, "OTEL_TRACES_SAMPLER": "record_unsampled"}, RECORDED),
        ({**SWITCH, DISABLED: ", ".join(["slowspan", *OTHERS])}, PLAIN),
    ],
    ids=["not asked for", "asked for", "named as the sampler too", "slowspan disabled"],
)
def test_sampler_under_opentelemetry_instrument(env: dict[str, str], description: str) -> None:
    """The provider's sampler is replaced once, if the settings say so and slowspan is on."""
    result = instrumented(SHOW, **{**RATIO, **env})
    assert result.stdout.strip() == description, result.stderr


def test_settings_file_and_wrong_settings(tmp_path: Path) -> None:
    """A settings file can ask for it; what is wrong in the settings, which are read early for it, is told once."""
    file = tmp_path / "slowspan.json"
    file.write_text(json.dumps({"record_unsampled": True, "interval": "often"}))
    result = instrumented(SHOW, OTEL_PYTHON_SLOWSPAN_CONFIG=str(file), **RATIO)
    assert result.stdout.strip() == RECORDED
    assert result.stderr.count("often") == 1


DECLARED = """
file_format: "1.0"
propagator:
  composite: [{tracecontext: }]
tracer_provider:
  sampler: {parent_based: {root: {trace_id_ratio_based: {ratio: 0.01}}}}
  processors:
    - simple: {exporter: {console: }}
instrumentation/development:
  python:
    slowspan: {record_unsampled: true, notifiers: none}
"""


@needs_configuration
def test_declarative_configuration_file(tmp_path: Path) -> None:
    """OpenTelemetry's declarative file can ask for it."""
    file = tmp_path / "otel.yaml"
    file.write_text(DECLARED)
    result = instrumented(SHOW, OTEL_CONFIG_FILE=str(file))
    assert result.stdout.strip() == RECORDED, result.stderr


FLAGS_OF_CALLERS = ["01", "01", "01", "00", "00", "00", None, None, None]
"""Sampled by the caller, dropped by the caller, and left to the ratio of 1 %."""


def test_served_by_gunicorn(tmp_path: Path) -> None:
    """Of a real server all slow requests have reports; only the sampled ones are exported, with their children."""
    with OtlpReceiver() as receiver:
        # Not the page with which the server is asked whether it is up, which can be slow as well.
        only = {"OTEL_PYTHON_SLOWSPAN_THRESHOLD": "0.1", "OTEL_PYTHON_SLOWSPAN_INCLUDED_URLS": "/wait/"}
        ours = {**SWITCH, **only}
        env = {**exporting_to(receiver.endpoint, service="shop"), **RATIO, **ours}
        with served("with_child:app", tmp_path, env=env, threads=len(FLAGS_OF_CALLERS)) as server:

            def request(number: int) -> bool:
                flags = FLAGS_OF_CALLERS[number]
                headers = {"traceparent": f"00-{number + 1:032x}-{1:016x}-{flags}"} if flags else {}
                url = urllib.request.Request(f"{server.url}/wait/0.2", headers=headers)
                with urllib.request.urlopen(url, timeout=60) as response:
                    recorded: bool = json.load(response)["child is recorded"]
                    return recorded

            with ThreadPoolExecutor(len(FLAGS_OF_CALLERS)) as pool:
                children = list(pool.map(request, range(len(FLAGS_OF_CALLERS))))
            eventually(lambda: len(server.pages()) == len(FLAGS_OF_CALLERS))
            facts = [load_profile(path).span for path in server.profiles()]
            sampled = [fact.trace_id for fact in facts if fact.sampled]
            eventually(lambda: len(of_these(receiver, facts)) >= 2 * len(sampled))
            pages = [page.read_text() for page in server.pages()]
    assert children[:6] == [True, True, True, False, False, False]
    assert {f"{number:032x}" for number in (1, 2, 3)} <= set(sampled)
    assert sum(children) == len(sampled)
    # Pages and profiles have the same names, and so the same order.
    assert ["(not sampled)" in page for page in pages] == [not fact.sampled for fact in facts]
    # After the server has ended nothing more can come.
    assert sorted(of_these(receiver, facts)) == sorted(2 * sampled)


def of_these(receiver: OtlpReceiver, facts: list[SpanFacts]) -> list[str]:
    """Return the traces of the exported spans, as far as they are those of these requests."""
    traces = {fact.trace_id for fact in facts}
    return [span.trace_id for span in receiver.spans() if span.trace_id in traces]
