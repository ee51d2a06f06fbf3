"""An application whose threads eventlet replaces, for tests: before or after slowspan has come.

``python eventlet_parts.py PORT`` serves a Flask application, under ``opentelemetry-instrument``;
``python eventlet_parts.py ORDER`` runs requests without a server, and prints what came of it.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import eventlet


def serve(port: int) -> None:
    """Serve, with slowspan there since the interpreter started."""
    eventlet.monkey_patch()
    # Imported only now, as in every application that eventlet serves.
    from eventlet import wsgi
    from flask import Flask

    import slowspan

    app = Flask(__name__)
    threads = len(sys._current_frames())

    @app.get("/")
    def front() -> str:
        return "here"

    @app.get("/waits/<int:number>")
    def waits(number: int) -> dict[str, int]:
        time.sleep(0.3)
        return {"number": number}

    @app.get("/status")
    def status() -> dict[str, Any]:
        told = slowspan.status()
        new = len(sys._current_frames()) - threads
        return {"unavailable": told.unavailable, "enabled": told.enabled, "slow": told.slow, "threads": new}

    wsgi.server(eventlet.listen(("127.0.0.1", port)), app, log_output=False)


def run(order: str) -> None:
    """Run requests in greenlets, and one outside of them.

    Args:
        order: Before what eventlet comes: ``import``, ``processor``, or ``more-requests`` after some.
    """
    if order == "import":
        eventlet.monkey_patch()
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import SpanKind

    import slowspan

    if order == "processor":
        eventlet.monkey_patch()
    provider = TracerProvider()
    provider.add_span_processor(slowspan.SlowSpanProcessor(threshold=0.05, notifiers="none"))
    tracer = provider.get_tracer("test")

    def request(number: int) -> int:
        with tracer.start_as_current_span("request", kind=SpanKind.SERVER):
            time.sleep(0.2)
        return number

    if order == "more-requests":
        request(0)
        provider.force_flush()
        eventlet.monkey_patch()
    before = slowspan.status()
    threads = len(sys._current_frames())
    start = time.perf_counter()
    answers = [greenlet.wait() for greenlet in [eventlet.spawn(request, number) for number in range(5)]]
    seconds = time.perf_counter() - start
    answers.append(request(5))
    provider.force_flush()
    new = len(sys._current_frames()) - threads
    provider.shutdown()
    after = slowspan.status()
    facts = {
        "answers": answers,
        "seconds": seconds,
        "unavailable": after.unavailable,
        "reports": after.reports - before.reports,
        "threads": max(new, 0),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        serve(int(sys.argv[1]))
    else:
        run(sys.argv[1])
