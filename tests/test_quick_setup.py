"""``quick_setup``: what it sets up, what it leaves alone, and what it refuses."""

from __future__ import annotations

import functools
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastapi
import flask
import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware as AsgiMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.starlette import StarletteInstrumentor
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware as WsgiMiddleware
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from starlette.applications import Starlette

import slowspan
from support import QUIET
from watched import ID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.sdk.trace import ReadableSpan

pytestmark = pytest.mark.usefixtures("switched_off")


def make_app() -> flask.Flask:
    """Return an application with one slow page."""
    app = flask.Flask("shop")

    @app.get("/orders/<int:number>")
    def order(number: int) -> str:
        time.sleep(0.1)
        return str(number)

    return app


def server_spans(exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    """Return the exported server spans."""
    return [span for span in exporter.get_finished_spans() if span.kind is SpanKind.SERVER]


@pytest.fixture
def flask_instrumented() -> Iterator[None]:
    """Undo the instrumentation of Flask itself."""
    yield
    if FlaskInstrumentor().is_instrumented_by_opentelemetry:
        FlaskInstrumentor().uninstrument()


def test_quick_setup_from_nothing(tmp_path: Path) -> None:
    """Without any OpenTelemetry one call makes the provider, instruments the application and keeps profiles."""
    app = make_app()
    processor = slowspan.quick_setup(app, service_name="shop", threshold=0.05, report_dir=tmp_path / "reports")
    assert app.test_client().get("/orders/7").data == b"7"
    trace.get_tracer_provider().force_flush()
    (stored,) = (tmp_path / "reports").glob("*.json.gz")
    profile = slowspan.load_profile(stored)
    assert profile.span.endpoint == "GET /orders/<int:number>"
    assert profile.span.service_name == "shop"
    assert "order" in {frame.name for frame in profile.frames}
    assert processor.status().reports == 1
    assert len(list((tmp_path / "reports").glob("*.html"))) == 1


def test_quick_setup_knows_the_sampler_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """``OTEL_TRACES_SAMPLER=record_unsampled`` also holds where slowspan itself makes the provider."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "record_unsampled")
    slowspan.quick_setup(make_app())
    assert isinstance(trace.get_tracer_provider().sampler, slowspan.RecordUnsampled)


def test_quick_setup_respects_a_provider(exporter: InMemorySpanExporter) -> None:
    """A provider that is there is used as it is, with its exporters."""
    provider = trace.get_tracer_provider()
    app = make_app()
    slowspan.quick_setup(app, **QUIET)
    assert trace.get_tracer_provider() is provider
    app.test_client().get("/orders/7")
    (span,) = server_spans(exporter)
    assert ID in span.attributes


def test_quick_setup_respects_an_instrumented_application(exporter: InMemorySpanExporter) -> None:
    """An application that is instrumented already has one span per request, as before, and calls may repeat."""
    app = make_app()
    FlaskInstrumentor().instrument_app(app)
    assert slowspan.quick_setup(app, **QUIET) is slowspan.quick_setup(app, **QUIET)
    app.test_client().get("/orders/7")
    (span,) = server_spans(exporter)
    assert ID in span.attributes


def test_quick_setup_of_all_applications(exporter: InMemorySpanExporter, flask_instrumented: None) -> None:
    """Without an application, every one that is made later is instrumented."""
    slowspan.quick_setup(**QUIET)
    slowspan.quick_setup(**QUIET)
    make_app().test_client().get("/orders/7")
    (span,) = server_spans(exporter)
    assert ID in span.attributes


def test_quick_setup_with_a_wrong_setting() -> None:
    """A wrong setting raises, with its name, before anything is set up."""
    with pytest.raises(slowspan.ConfigError, match="threshold"):
        slowspan.quick_setup(make_app(), threshold=-1)
    assert trace._TRACER_PROVIDER is None


def test_quick_setup_on_a_foreign_provider() -> None:
    """A global provider that takes no processors is refused with what is needed instead."""
    trace.set_tracer_provider(trace.NoOpTracerProvider())
    with pytest.raises(TypeError, match="NoOpTracerProvider"):
        slowspan.quick_setup(make_app(), **QUIET)


# -- Other applications than Flask's; tests/test_quick_setup_served.py serves them.


@pytest.mark.parametrize(
    ("make", "instrument"),
    [
        (fastapi.FastAPI, FastAPIInstrumentor.instrument_app),
        (Starlette, StarletteInstrumentor.instrument_app),
    ],
    ids=["fastapi", "starlette"],
)
def test_instrumented_application_is_left_alone(make: Callable[[], Any], instrument: Callable[[Any], None]) -> None:
    """What OpenTelemetry has instrumented already gets no second middleware."""
    app = make()
    instrument(app)
    before = list(app.user_middleware)
    assert slowspan.quick_setup(app, **QUIET) is slowspan.quick_setup(app)
    assert app.user_middleware == before


def plain_wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    return []


async def plain_asgi(scope: dict[str, Any], receive: Any, send: Any) -> None: ...


def returning_awaitable(scope: dict[str, Any], receive: Any, send: Any) -> Any:
    return plain_asgi(scope, receive, send)


class WsgiObject:
    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        return []


class AsgiObject:
    async def __call__(self, *call: Any) -> None: ...


def with_setting(setting: int, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    return []


@pytest.mark.parametrize(
    ("app", "middleware"),
    [
        (plain_wsgi, WsgiMiddleware),
        (functools.partial(with_setting, 1), WsgiMiddleware),
        (WsgiObject(), WsgiMiddleware),
        (plain_asgi, AsgiMiddleware),
        (returning_awaitable, AsgiMiddleware),
        (functools.partial(plain_asgi), AsgiMiddleware),
        (AsgiObject(), AsgiMiddleware),
    ],
    ids=["wsgi", "wsgi partial", "wsgi object", "asgi", "returns awaitable", "asgi partial", "asgi object"],
)
def test_plain_callable_is_wrapped_once(app: Any, middleware: type) -> None:
    """A plain callable is given back inside OpenTelemetry's middleware for its interface, and that as it is."""
    wrapped = slowspan.quick_setup(app, **QUIET)
    assert type(wrapped) is middleware
    assert slowspan.quick_setup(wrapped) is wrapped
    assert slowspan.status().enabled


@pytest.mark.parametrize(
    "app",
    [{}, "flask", len, lambda *call: None, flask.Flask, object()],
    ids=["dict", "text", "builtin", "ambiguous", "class", "object"],
)
def test_quick_setup_of_something_else(app: Any) -> None:
    """What is no application is refused by name of its type, before anything is set up."""
    with pytest.raises(TypeError, match=rf"an ASGI callable .*, not {type(app).__name__}$"):
        slowspan.quick_setup(app, **QUIET)
    assert trace._TRACER_PROVIDER is None


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("flask", make_app),
        ("fastapi", fastapi.FastAPI),
        ("starlette", Starlette),
        ("wsgi", lambda: plain_wsgi),
        ("asgi", lambda: plain_asgi),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_missing_instrumentation(name: str, make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without OpenTelemetry's instrumentation the error names what to install, before anything is set up."""
    monkeypatch.setitem(sys.modules, f"opentelemetry.instrumentation.{name}", None)
    with pytest.raises(ImportError, match=rf"pip install slowspan\[{name}\]"):
        slowspan.quick_setup(make(), **QUIET)
    assert trace._TRACER_PROVIDER is None


def test_missing_instrumentation_of_django(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Django's settings are named, an application that is not given is Django's."""
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "shop.settings")
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.django", None)
    with pytest.raises(ImportError, match=r"pip install slowspan\[django\]"):
        slowspan.quick_setup(**QUIET)


def test_no_framework_is_imported() -> None:
    """Setting up a plain callable loads no web framework."""
    code = """
import sys
import slowspan
def app(environ, start_response):
    return []
slowspan.quick_setup(app, notifiers="none")
print(sorted({"flask", "fastapi", "starlette", "django", "werkzeug", "asgiref"} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == "[]\n"
