"""A Flask application with ``async def`` views, for tests."""

from __future__ import annotations

from typing import Any

from flask import Flask
from known_parts import blocks, bursts, gather_part, thread_bursts, waits

app = Flask(__name__)


@app.get("/waits/<number>")
async def waiting(number: str) -> dict[str, Any]:
    return await waits(number, gather_part)


@app.get("/blocks/<number>")
def blocking(number: str) -> dict[str, Any]:
    return blocks(number)


@app.get("/bursts/<number>")
async def bursting(number: str) -> dict[str, Any]:
    return await bursts(number)


@app.get("/thread-bursts/<number>")
def bursting_on_a_thread(number: str) -> dict[str, Any]:
    return thread_bursts(number)
