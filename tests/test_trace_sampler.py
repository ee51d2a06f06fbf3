"""Slow requests among those that the trace sampler drops."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    StaticSampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import SpanKind, TraceFlags

from slowspan.report.text import render_text
from slowspan.trace_sampler import RecordUnsampled, make_sampler, sampler_of_environment
from support import FEW_INSTRUMENTATIONS
from watched import wait_here, watched

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.sampling import Sampler


def provider_with(sampler: Sampler) -> TracerProvider:
    return TracerProvider(sampler=sampler, shutdown_on_exit=False)


@pytest.mark.parametrize("dropping", [ALWAYS_OFF, ParentBased(ALWAYS_OFF), TraceIdRatioBased(0)])
def test_a_slow_request_that_is_not_sampled_has_a_report(dropping: Sampler) -> None:
    """Its report has everything, says that the trace was not sampled, and nothing is exported."""
    with watched(provider_with(RecordUnsampled(dropping))) as shop:
        shop.request(wait_here, attributes={"http.method": "GET", "http.route": "/orders/<id>"})
        shop.request(lambda: None)
        profile = shop.profile()
        assert (profile.span.route, profile.span.sampled) == ("/orders/<id>", False)
        assert "not sampled" in render_text(profile, 100)
        assert shop.exported() == []


def test_children_stay_dropped() -> None:
    """A span inside the request is not recorded, and another service is told that the trace is not sampled."""
    with watched(provider_with(RecordUnsampled(ParentBased(ALWAYS_OFF)))) as shop:
        span = shop.start()
        with trace.use_span(span, end_on_exit=True):
            child = shop.provider.get_tracer("test").start_span("SELECT", kind=SpanKind.CLIENT)
            assert not child.is_recording()
            headers: dict[str, str] = {}
            propagate.inject(headers)
        flags = int(headers["traceparent"].rpartition("-")[2], 16)
        assert not flags & TraceFlags.SAMPLED
        assert shop.exported() == []


def test_the_span_begins_without_attributes() -> None:
    """The report and the filters have them all the same; those that the application sets later count."""
    began = {"http.method": "GET", "http.route": "/orders/<id>", "shop.tenant": "large", "broken": object()}
    with watched(provider_with(RecordUnsampled(ALWAYS_OFF)), included_attributes="shop.tenant=large") as shop:
        span = shop.start(attributes=began)
        assert dict(span.attributes) == {}
        wait_here()
        span.set_attributes({"http.method": "POST", "http.status_code": 200})
        span.end()
        request = shop.profile().span
        assert (request.method, request.route, request.status_code) == ("POST", "/orders/<id>", 200)
        shop.request(wait_here, attributes={**began, "shop.tenant": "small"})
        assert len(shop.profiles()) == 1


def test_the_trace_state_is_passed_on() -> None:
    """What the parent's service has sent along reaches the next one."""
    around = propagate.extract({"traceparent": f"00-{7:032x}-{8:016x}-00", "tracestate": "vendor=1,other=2"})
    with watched(provider_with(RecordUnsampled(ParentBased(ALWAYS_ON)))) as shop:
        span = shop.start(context=around, attributes={"http.route": "/"})
        headers: dict[str, str] = {}
        propagate.inject(headers, trace.set_span_in_context(span))
        assert headers["tracestate"] == "vendor=1,other=2"
        span.end()


def test_sampled_requests_are_as_before() -> None:
    """What the other sampler decides to sample is sampled, and what it only records is only recorded."""
    for sampler in (ALWAYS_ON, StaticSampler(Decision.RECORD_ONLY)):
        result = RecordUnsampled(sampler).should_sample(None, 1, "GET", SpanKind.SERVER, {"a": 1})
        assert result.decision is sampler.should_sample(None, 1, "GET").decision
    with watched(provider_with(RecordUnsampled(ALWAYS_ON))) as shop:
        shop.request(wait_here)
        assert len(shop.exported()) == 1
        assert shop.profile().span.sampled


def test_only_requests_are_recorded() -> None:
    """Spans of other kinds stay dropped; which kinds are requests can be said."""
    sampler = RecordUnsampled(ALWAYS_OFF, kinds=[SpanKind.CONSUMER])
    decisions = {kind: sampler.should_sample(None, 1, "name", kind).decision for kind in SpanKind}
    assert decisions.pop(SpanKind.CONSUMER) is Decision.RECORD_ONLY
    assert set(decisions.values()) == {Decision.DROP}
    assert sampler.should_sample(None, 1, "name").decision is Decision.DROP


def test_the_same_traces_are_sampled() -> None:
    """The ratio's choice among traces is untouched."""
    plain, ours = ParentBasedTraceIdRatio(0.5), make_sampler("0.5")
    for trace_id in range(0, 2**64, 2**59):
        sampled = plain.should_sample(None, trace_id, "GET", SpanKind.SERVER).decision.is_sampled()
        assert ours.should_sample(None, trace_id, "GET", SpanKind.SERVER).decision.is_sampled() == sampled
    assert make_sampler("").should_sample(None, 1, "GET").decision.is_sampled()


@pytest.mark.parametrize("ratio", ["often", "1.5", "-1", "nan"])
def test_a_wrong_ratio_is_refused(ratio: str) -> None:
    """The message names the variable, the value and what is allowed."""
    with pytest.raises(ValueError, match=r"OTEL_TRACES_SAMPLER_ARG = .* a ratio from 0 to 1"):
        make_sampler(ratio)


def test_a_provider_that_is_made_here_has_the_sampler_by_its_name(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK by itself does not know the name, and would sample everything."""
    assert sampler_of_environment() is None
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "record_unsampled")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.01")
    sampler = sampler_of_environment()
    assert sampler is not None
    assert sampler.get_description().startswith("RecordUnsampled{ParentBased{root:TraceIdRatioBased{0.01}")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "often")
    assert sampler_of_environment() is None
    assert "OTEL_TRACES_SAMPLER_ARG = 'often' is wrong" in caplog.text


SCRIPT = """
from opentelemetry import trace
print(trace.get_tracer_provider().sampler.get_description())
"""


def test_opentelemetry_finds_it_by_its_name() -> None:
    """``OTEL_TRACES_SAMPLER=record_unsampled`` is all it takes."""
    command = [
        Path(sys.executable).with_name("opentelemetry-instrument"),
        *("--traces_exporter", "none", "--traces_sampler", "record_unsampled", "--traces_sampler_arg", "0.01"),
        *("--metrics_exporter", "none", "--logs_exporter", "none", sys.executable, "-c", SCRIPT),
    ]
    env = {**os.environ, **FEW_INSTRUMENTATIONS}
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.startswith("RecordUnsampled{ParentBased{root:TraceIdRatioBased{0.01}"), result.stderr
