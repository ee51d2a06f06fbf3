"""A Flask application for gunicorn's gevent worker, for tests: each request runs in a greenlet of its own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from flask import Flask
from known_parts import SCALE, Parts, block_part, compute_part, lead_in, marked, queue_part

if TYPE_CHECKING:
    from collections.abc import Callable

app = Flask(__name__)

SECONDS = 0.03
"""CPU time of what computes."""


def step_part(seconds: float = SECONDS, steps: int = 10) -> None:
    """Compute in small steps, and let the other greenlets run after each."""
    for _ in range(steps):
        compute_part(seconds / steps)
        time.sleep(0)


PAGES: dict[str, tuple[float, tuple[Callable[[], None], ...]]] = {
    "waits": (0, (block_part, queue_part)),
    "blocks": (SECONDS, (block_part, compute_part, queue_part)),
    "steps": (SECONDS, (step_part, block_part)),
}
"""By name: the seconds that a page computes, and its parts."""


@app.get("/")
def front() -> str:
    return "here"


@app.get("/<page>/<number>")
def serve(page: str, number: str) -> dict[str, Any]:
    computing, parts_of_page = PAGES[page]

    def request() -> dict[str, Any]:
        parts = Parts()
        parts.call(lead_in, number)
        for part in parts_of_page:
            parts.call(part)
        # The thread's clock goes on while a greenlet waits and others compute.
        return {**parts.facts(), "computing": computing * SCALE}

    answer: dict[str, Any] = marked(request, number)()
    return answer
