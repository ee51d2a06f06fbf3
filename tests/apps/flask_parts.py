"""A Flask application with an ``async def`` view, for tests."""

from __future__ import annotations

from typing import Any

from flask import Flask
from known_parts import blocks, gather_part, waits

app = Flask(__name__)


@app.get("/waits/<number>")
async def waiting(number: str) -> dict[str, Any]:
    return await waits(number, gather_part)


@app.get("/blocks/<number>")
def blocking(number: str) -> dict[str, Any]:
    return blocks(number)
