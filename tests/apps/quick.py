"""Applications of each kind, all with the same page, that know of OpenTelemetry only through ``quick_setup``."""

from __future__ import annotations

import os
import time
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

import slowspan


def wait_here(seconds: float) -> str:
    time.sleep(seconds)
    return f"waited {seconds} s"


def set_up(app: Any) -> Any:
    """Call quick_setup, twice, on top of a provider that writes its spans into the file ``SPANS``."""
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        provider = TracerProvider()
        out = open(os.environ["SPANS"], "a", buffering=1)  # noqa: SIM115
        exporter = ConsoleSpanExporter(out=out, formatter=lambda span: span.to_json(indent=None) + "\n")
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
    first = slowspan.quick_setup(app, threshold=0.1)
    if isinstance(first, slowspan.SlowSpanProcessor):
        assert slowspan.quick_setup(app) is first
        return app
    assert slowspan.quick_setup(first) is first
    return first


def flask() -> Any:
    from flask import Flask

    app = Flask("quick")
    app.get("/wait/<seconds>")(lambda seconds: wait_here(float(seconds)))
    return set_up(app)


def fastapi() -> Any:
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/wait/{seconds}")
    def wait(seconds: float) -> str:
        return wait_here(seconds)

    return set_up(app)


def starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    def wait(request: Request) -> PlainTextResponse:
        return PlainTextResponse(wait_here(float(request.path_params["seconds"])))

    return set_up(Starlette(routes=[Route("/wait/{seconds}", wait)]))


def configure_django() -> None:
    import django
    from django.conf import settings
    from django.http import HttpRequest, HttpResponse
    from django.urls import path

    def wait(request: HttpRequest, seconds: str) -> HttpResponse:
        return HttpResponse(wait_here(float(seconds)))

    patterns = (path("wait/<seconds>", wait),)
    settings.configure(ROOT_URLCONF=patterns, ALLOWED_HOSTS=["*"], SECRET_KEY="for tests", MIDDLEWARE=[])
    django.setup()


def django_wsgi() -> Any:
    configure_django()
    from django.core.wsgi import get_wsgi_application

    return set_up(get_wsgi_application())


def django_asgi() -> Any:
    configure_django()
    from django.core.asgi import get_asgi_application

    return set_up(get_asgi_application())


def django_of_the_environment() -> Any:
    """Set up as a settings module would have it set up: without the application."""
    from django.core.wsgi import get_wsgi_application

    os.environ["DJANGO_SETTINGS_MODULE"] = "quick"
    configure_django()
    set_up(None)
    return get_wsgi_application()


def wsgi() -> Any:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [wait_here(float(environ["PATH_INFO"].rpartition("/")[2])).encode()]

    return set_up(app)


class _Asgi:
    """An ASGI application that is no function."""

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            text = wait_here(float(scope["path"].rpartition("/")[2]))
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": text.encode()})


def asgi() -> Any:
    return set_up(_Asgi())
