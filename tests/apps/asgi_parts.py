"""The pages of FastAPI and Starlette, for tests. ``MIDDLEWARE`` in the environment puts one in between."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import StreamingResponse
from known_parts import blocks, bursts, fetch_part, gather_part, group_part, thread_bursts, waits
from opentelemetry.instrumentation.starlette import StarletteInstrumentor
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

app = FastAPI()

if os.environ.get("MIDDLEWARE"):

    @app.middleware("http")
    async def between(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        return await call_next(request)


@app.get("/waits/{number}")
async def waiting(number: str) -> dict[str, Any]:
    return await waits(number, gather_part, group_part, fetch_part)


@app.get("/blocks/{number}")
def blocking(number: str) -> dict[str, Any]:
    return blocks(number)


@app.get("/bursts/{number}")
async def bursting(number: str) -> dict[str, Any]:
    return await bursts(number)


@app.get("/thread-bursts/{number}")
def bursting_on_a_thread(number: str) -> dict[str, Any]:
    return thread_bursts(number)


@app.get("/steps/{number}")
async def steps(number: str) -> dict[str, Any]:
    """Go on in small steps, for half a second at least."""
    held = 0.0
    end = time.perf_counter() + 0.5
    while (start := time.perf_counter()) < end:
        await short_wait()
        held += max(time.perf_counter() - start - 0.02, 0)
    return {"held": held}


async def short_wait() -> None:
    await asyncio.sleep(0.01)


@app.get("/rude/{seconds}")
async def rude(seconds: float) -> None:
    await asyncio.sleep(0.15)
    hold_the_loop(seconds)


def hold_the_loop(seconds: float) -> None:
    time.sleep(seconds)


@app.get("/stream/{number}")
async def stream(number: str) -> StreamingResponse:
    return StreamingResponse(async_lines(), media_type="text/plain")


@app.get("/events/{number}")
async def events(number: str) -> StreamingResponse:
    return StreamingResponse(async_lines(), media_type="text/event-stream")


@app.get("/sync-stream/{number}")
def sync_stream(number: str) -> StreamingResponse:
    return StreamingResponse(sync_lines(), media_type="text/plain")


async def async_lines() -> AsyncIterator[str]:
    for number in range(4):
        await between_lines()
        yield f"data: {number}\n\n"


async def between_lines() -> None:
    await asyncio.sleep(0.08)


def sync_lines() -> Iterator[str]:
    for number in range(4):
        wait_between_lines()
        yield f"data: {number}\n\n"


def wait_between_lines() -> None:
    time.sleep(0.08)


@app.websocket("/socket")
async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await asyncio.sleep(0.3)
    await websocket.close()


async def starlette_page(request: Request) -> JSONResponse:
    return JSONResponse(await waits(request.path_params["number"], gather_part, group_part, fetch_part))


starlette_app = Starlette(routes=[Route("/waits/{number}", starlette_page)])
# Older releases of it take no newer Starlette unless they are told to; told twice it does nothing.
StarletteInstrumentor.instrument_app(starlette_app)
