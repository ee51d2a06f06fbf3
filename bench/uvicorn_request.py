"""Proves that a request which ends soon pays next to nothing on an event loop either.

Three copies of an empty FastAPI application, two controls and one with slowspan, as in ``fast_request``. Each request
is a task of its own on one running loop, as uvicorn makes one; uvicorn's own work of parsing and writing is left out,
since it would make every request dearer and slowspan's share of it smaller.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from bench.fast_request import Copies, compare, processors_of
from bench.figures import Figure, Options

SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.3"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/",
    "raw_path": b"/",
    "query_string": b"",
    "root_path": "",
    "headers": [(b"host", b"localhost"), (b"user-agent", b"bench")],
    "client": ("127.0.0.1", 50_000),
    "server": ("127.0.0.1", 80),
}


class Slices(Copies):
    """Runs in a worker: three copies of the application, made in the given order, on one event loop."""

    def __init__(self, order: list[str]) -> None:
        loop = asyncio.new_event_loop()
        apps = {name: empty_app(*processors_of(name)) for name in order}
        super().__init__({name: partial(_cpu_of_slice, loop, app) for name, app in apps.items()})


def empty_app(*processors: SpanProcessor) -> FastAPI:
    """Make an application whose only page is empty, with OpenTelemetry and a provider of its own."""
    app = FastAPI()

    @app.get("/", response_class=PlainTextResponse)
    async def empty() -> str:
        return ""

    provider = TracerProvider(shutdown_on_exit=False)
    # Does nothing: so the controls pay for calling one, too.
    provider.add_span_processor(SpanProcessor())
    for processor in processors:
        provider.add_span_processor(processor)
    # Without the spans of the single messages, which would double what a request costs.
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider, exclude_spans=["receive", "send"])
    return app


def measure(options: Options) -> Iterator[Figure]:
    """Measure what is added to the CPU time of an empty request: in µs and as a share."""
    yield from compare("bench.uvicorn_request:Slices", "fast request on asyncio: CPU time of its thread", options)


def _cpu_of_slice(loop: asyncio.AbstractEventLoop, app: FastAPI, requests: int) -> float:
    async def send_requests() -> float:
        start = time.thread_time_ns()
        for _ in range(requests):
            await loop.create_task(_request(app))
        return (time.thread_time_ns() - start) / requests

    return loop.run_until_complete(send_requests())


async def _request(app: FastAPI) -> None:
    status = 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)

    await app({**SCOPE, "headers": list(SCOPE["headers"]), "state": {}}, receive, send)
    assert status == 200, status
