"""An application for tests, which knows nothing of slowspan: its page has a span of its own inside the request's."""

import time

from flask import Flask
from opentelemetry import trace

app = Flask(__name__)


@app.get("/wait/<seconds>")
def wait(seconds: str) -> dict[str, bool]:
    """Wait inside a child span, and tell whether it is recorded."""
    with trace.get_tracer("with_child").start_as_current_span("waiting") as span:
        time.sleep(float(seconds))
        return {"child is recorded": span.is_recording()}
