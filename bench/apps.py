"""Flask applications with OpenTelemetry's instrumentation, called through WSGI without a server or a test client.

Without them because both would make every request dearer and slowspan's share of it smaller.
"""

from __future__ import annotations

import io
import sqlite3
import tempfile
import threading
from pathlib import Path
from typing import Any

from flask import Flask, render_template_string, request
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import Sampler

ROWS = 2000

PAGE = """<!doctype html><title>Orders</title><table>
{% for order in orders %}<tr class="{{ loop.cycle('odd', 'even') }}">
<td>{{ order.id }}</td><td>{{ order.customer|title }}</td><td>{{ "%.2f"|format(order.cents / 100) }}</td></tr>
{% endfor %}</table>"""

ORDERS_SHOWN = 1700
"""Makes a page take about 25 ms. ``?rows=N`` shows fewer."""

TREES = 6
"""Of 65 000 calls each; makes a call-heavy response take about 40 ms."""


class Client:
    """Sends GET requests to a WSGI application on the calling thread."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def get(self, path: str, query: str = "") -> bytes:
        environ = {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "localhost",
            "HTTP_USER_AGENT": "bench",
            "REMOTE_ADDR": "127.0.0.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        status = ""

        def start_response(line: str, headers: object, error: object = None) -> None:
            nonlocal status
            status = line

        response = self._app(environ, start_response)
        try:
            body = b"".join(response)
        finally:
            if hasattr(response, "close"):
                response.close()
        assert status.startswith("200"), status
        return body


def instrumented(
    app: Flask, *processors: SpanProcessor, sampler: Sampler | None = None
) -> tuple[Client, TracerProvider]:
    """Instrument an application for a provider of its own.

    The provider always has a processor that does nothing: so the control pays for calling one, too.
    """
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    provider.add_span_processor(SpanProcessor())
    for processor in processors:
        provider.add_span_processor(processor)
    FlaskInstrumentor().instrument_app(app, tracer_provider=provider)
    return Client(app), provider


def empty_app() -> Flask:
    """Make an application whose only page is empty."""
    app = Flask("empty")

    @app.get("/")
    def empty() -> str:
        return ""

    return app


def pages_app() -> Flask:
    """Make an application with a page of SQLite and Jinja and a call-heavy one.

    ``?times=N`` makes a request do its work N times.
    """
    app = Flask("pages")
    directory = app.extensions["directory"] = tempfile.TemporaryDirectory(prefix="slowspan-bench-")
    database = Path(directory.name, "orders.db")
    _fill(database)
    connections = threading.local()

    @app.get("/orders")
    def orders() -> str:
        if not hasattr(connections, "own"):
            connections.own = sqlite3.connect(database)
            connections.own.row_factory = sqlite3.Row
        body = ""
        for _ in range(int(request.args.get("times", "1"))):
            found = connections.own.execute(
                "SELECT * FROM orders ORDER BY cents DESC, id LIMIT ?",
                (int(request.args.get("rows", ORDERS_SHOWN)),),
            ).fetchall()
            body = render_template_string(PAGE, orders=found)
        return body

    @app.get("/calls")
    def calls() -> str:
        total = 0
        for _ in range(TREES * int(request.args.get("times", "1"))):
            total += _tree(15)
        return str(total)

    return app


def _fill(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, cents INTEGER)")
        rows = ((f"customer {n % 97}", n * 7919 % 100_000) for n in range(ROWS))
        connection.executemany("INSERT INTO orders (customer, cents) VALUES (?, ?)", rows)
    connection.close()


def _tree(depth: int) -> int:
    if not depth:
        return _leaf("a,b")
    return _tree(depth - 1) + _tree(depth - 1)


def _leaf(text: str) -> int:
    return len(text.split(","))
