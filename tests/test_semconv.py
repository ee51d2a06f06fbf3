"""Reading span attributes: old, new and duplicated HTTP conventions, and the facts of a report."""

from __future__ import annotations

from typing import Any

import flask
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, TraceFlags

from slowspan import semconv
from slowspan.config import Settings
from slowspan.redaction import LEFT_OUT
from slowspan.semconv import HttpFacts, endpoint, read_http
from slowspan.span_facts import span_facts

OLD = {
    "http.method": "GET",
    "http.scheme": "http",
    "http.host": "shop.example:8000",
    "http.target": "/orders/7?page=2",
    "http.route": "/orders/<id>",
    "http.status_code": 200,
}
NEW = {
    "http.request.method": "GET",
    "url.scheme": "http",
    "server.address": "shop.example:8000",
    "server.port": 8000,
    "url.path": "/orders/7",
    "url.query": "page=2",
    "http.route": "/orders/<id>",
    "http.response.status_code": 200,
}
FACTS = HttpFacts(
    method="GET",
    scheme="http",
    host="shop.example:8000",
    path="/orders/7",
    query="page=2",
    route="/orders/<id>",
    status_code=200,
)
KEYS = sorted({*OLD, *NEW, "url.full", "http.url", "net.host.name"})


@pytest.mark.parametrize("attributes", [OLD, NEW, {**OLD, **NEW}], ids=["old", "new", "both"])
def test_conventions(attributes: dict[str, Any]) -> None:
    """Old, new and duplicated conventions say the same of one request."""
    http = read_http(attributes)
    assert http == FACTS
    assert http.url == "http://shop.example:8000/orders/7?page=2"
    assert not http.is_websocket


@pytest.mark.parametrize(
    ("attributes", "path", "query"),
    [
        ({"url.path": "/a", "http.target": "/b?c=1"}, "/a", "c=1"),
        ({"http.target": "/b", "http.url": "http://h/c?d=1"}, "/b", "d=1"),
        ({"http.target": "http://h/b?c=1"}, "/b", "c=1"),
        ({"http.target": "/go?to=http://h/x"}, "/go", "to=http://h/x"),
        ({"http.url": "http://h/c?d=1#e", "http.route": "/r"}, "/c", "d=1"),
        ({"url.full": "https://h"}, "/", None),
        ({"http.url": "not a url", "http.route": "/r"}, "/r", None),
        ({"http.route": "/r"}, "/r", None),
        ({"http.route": "orders/<int:number>"}, "/orders/<int:number>", None),
        ({}, None, None),
    ],
)
def test_chain(attributes: dict[str, Any], path: str | None, query: str | None) -> None:
    """The path comes from url.path, else http.target, else the URL, else the route, as a path."""
    http = read_http(attributes)
    assert (http.path, http.query) == (path, query)


def test_url_without_login() -> None:
    """A login in a URL is no part of the host."""
    http = read_http({"http.url": "https://user:pa@ss@shop.example/x"})
    assert (http.scheme, http.host, http.path) == ("https", "shop.example", "/x")


@pytest.mark.parametrize(
    ("attributes", "host"),
    [
        ({"http.host": "shop.example", "http.url": "http://shop.example:8000/x"}, "shop.example:8000"),
        ({"http.host": "127.0.0.1:8000", "http.url": "http://shop.example/x"}, "shop.example"),
        ({"http.host": "shop.example:8000", "http.url": "/go?to=http://a.example/"}, "shop.example:8000"),
        ({"server.address": "shop.example", "server.port": 8000}, "shop.example"),
    ],
    ids=["aiohttp", "ASGI", "Tornado", "a WSGI server behind a proxy"],
)
def test_the_host_is_the_one_that_the_client_named(attributes: dict[str, Any], host: str) -> None:
    """A full URL has host and port of the Host header, which other attributes need not have."""
    assert read_http(attributes).host == host


def test_wrong_types_count_as_missing() -> None:
    """An attribute of a wrong type is passed over for the next in the chain."""
    http = read_http({"url.path": 7, "http.target": "/b", "http.response.status_code": True, "http.status_code": "404"})
    assert (http.path, http.status_code) == ("/b", 404)
    assert read_http({"http.status_code": "not found"}).status_code is None


def test_websocket() -> None:
    """A websocket is told by its scheme, or by its status once it is known."""
    assert read_http({"url.scheme": "WSS"}).is_websocket
    assert read_http({"http.response.status_code": 101}).is_websocket


def test_endpoint() -> None:
    """A request is called by method and route, else by path, else by the span's name."""
    assert endpoint("GET", "/orders/<id>", "name") == "GET /orders/<id>"
    assert endpoint(None, "/x", "name") == "/x"
    assert endpoint("GET", None, "name") == "name"


@given(
    st.dictionaries(
        st.sampled_from(KEYS),
        st.text() | st.integers() | st.booleans() | st.floats() | st.lists(st.text()).map(tuple),
    )
)
def test_any_attributes(attributes: dict[str, Any]) -> None:
    """Whatever the attributes hold, reading them gives facts of the right types."""
    http = read_http(attributes)
    for text in (http.method, http.scheme, http.host, http.path, http.query, http.route):
        assert text is None or (isinstance(text, str) and text)
    assert isinstance(http.url, str)
    facts = span_facts(make_span(attributes), http, Settings())
    assert facts.endpoint.isprintable()


def test_lengths_are_bounded() -> None:
    """A huge URL is cut before anything else is done with it."""
    http = read_http({"http.target": "/" + "a" * 100_000 + "?" + "b=1&" * 100_000, "http.url": "http://" + "h" * 10**6})
    assert len(http.url) < 10_000
    facts = span_facts(make_span({}, name="n" * 100_000), http, Settings())
    assert len(facts.name) <= 200
    assert facts.path is not None
    assert len(facts.path) <= 500
    assert len(facts.parameters) <= 51


@pytest.mark.parametrize("names", [("url.path", "url.query"), ("http.target",), ("http.url",)])
@pytest.mark.parametrize("path", ["/x", "/" + "x" * 5000])
def test_a_query_that_is_too_long_says_so(names: tuple[str, ...], path: str) -> None:
    """Wherever the query stands and however long the path is, its facts end in a word that more was left out."""
    query = f"page=2&filter={'x' * 4074}&size=12345"
    values = (path, query) if len(names) == 2 else (f"http://h{path}?{query}",)
    http = read_http(dict(zip(names, values, strict=True)))
    assert span_facts(make_span({}), http, Settings()).parameters == (
        ("page", "2"),
        ("filter", "x" * 199 + "…"),
        LEFT_OUT,
    )


def make_span(attributes: dict[str, Any], name: str = "GET /orders/<id>") -> ReadableSpan:
    resource = Resource({"service.name": "shop", "service.version": "1.2"})
    context = SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    return ReadableSpan(name, context=context, resource=resource, attributes=attributes, kind=SpanKind.SERVER)


def test_span_facts() -> None:
    """A report's facts come from the span, its resource and its request."""
    facts = span_facts(make_span(OLD), FACTS, Settings())
    assert (facts.name, facts.kind, facts.sampled, facts.error) == ("GET /orders/<id>", "SERVER", True, False)
    assert (facts.trace_id, facts.span_id) == (f"{0xABC:032x}", f"{0xDEF:016x}")
    assert (facts.method, facts.route, facts.path, facts.status_code) == (
        "GET",
        "/orders/<id>",
        "/orders/7",
        200,
    )
    assert facts.parameters == (("page", "2"),)
    assert (facts.service_name, facts.service_version) == ("shop", "1.2")


def test_span_facts_are_safe_to_show() -> None:
    """Secrets are hidden and no text of a stranger breaks a line."""
    http = HttpFacts(path="/a\nforged", query="token=s3cret&q=a%0Ab")
    facts = span_facts(make_span({}, name="x\u2028y"), http, Settings())
    assert facts.path == "/a\\nforged"
    assert facts.name == "x\\u2028y"
    assert facts.parameters == (("token", "[redacted]"), ("q", "a\\nb"))


def test_a_url_in_the_name_is_redacted() -> None:
    """A span may be called by its URL; its secrets are hidden there too."""
    facts = span_facts(make_span({}, name="GET http://h/x?token=s3cret"), HttpFacts(), Settings())
    assert facts.endpoint == "GET http://h/x?token=[redacted]"


def test_span_facts_of_a_bare_span() -> None:
    """A span without context, attributes or service still has facts."""
    facts = span_facts(ReadableSpan("job", resource=Resource.get_empty()), HttpFacts(), Settings())
    assert (facts.endpoint, facts.trace_id, facts.sampled, facts.service_name) == (
        "job",
        "0" * 32,
        False,
        None,
    )


def test_running_span() -> None:
    """A span of the SDK that is still running can be read, and its error is told by its status."""
    span = TracerProvider().get_tracer("test").start_span("GET", kind=SpanKind.SERVER, attributes=OLD)
    span.set_status(StatusCode.ERROR)
    assert isinstance(span, ReadableSpan)
    facts = span_facts(span, read_http(span.attributes or {}), Settings())
    assert facts.error
    assert facts.endpoint == "GET /orders/<id>"
    span.end()


@pytest.mark.parametrize("mode", ["", "http", "http/dup"])
def test_spans_of_flask(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What OpenTelemetry's Flask instrumentation writes is read alike in every mode of its conventions."""
    from opentelemetry.instrumentation._semconv import _OpenTelemetrySemanticConventionStability as Stability
    from opentelemetry.instrumentation.flask import FlaskInstrumentor
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", mode)
    # The mode is read once in a process.
    monkeypatch.setattr(Stability, "_initialized", False)
    app = flask.Flask("shop")
    app.add_url_rule("/orders/<id>", view_func=lambda id: id, endpoint="order")
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    FlaskInstrumentor().instrument_app(app, tracer_provider=provider)
    seen = []
    app.before_request(lambda: seen.append(flask.request.url))
    app.test_client().get("/orders/7?page=2", base_url="http://shop.example:8000")
    monkeypatch.setattr(Stability, "_initialized", False)
    [span] = exporter.get_finished_spans()
    http = read_http(span.attributes or {})
    assert (http.method, http.path, http.route, http.query, http.status_code) == (
        "GET",
        "/orders/7",
        "/orders/<id>",
        "page=2",
        200,
    )
    assert seen == [http.url]


def test_names_are_our_own() -> None:
    """Every attribute that we set is in our own namespace."""
    names = [value for name, value in vars(semconv).items() if name.isupper() and isinstance(value, str)]
    assert len(names) == 10
    assert all(name.startswith("slowspan.") for name in names)
