"""Makes the requests of a framework's own tests server spans, and watches them with slowspan.

Imported when the interpreter starts, by a ``.pth`` file of ``run.py``: so the servers that the tests start as processes
of their own are watched too. ``DOWNSTREAM_MODE`` is ``opentelemetry`` (the baseline: spans, and nobody who watches
them) or ``slowspan``; ``DOWNSTREAM_SUITE`` names the suite, ``DOWNSTREAM_RESULTS`` the directory for the counts.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

DJANGO_MIDDLEWARE = "opentelemetry.instrumentation.django.middleware.otel_middleware._DjangoMiddleware"


def watch(mode: str, suite: str, results: Path) -> None:
    """Set up OpenTelemetry, and slowspan if it is to watch.

    Args:
        mode: ``opentelemetry`` or ``slowspan``.
        suite: The name of the framework.
        results: Where the counts go when the process ends.
    """
    provider = TracerProvider(shutdown_on_exit=False)
    trace.set_tracer_provider(provider)
    if mode == "slowspan":
        _add_slowspan(provider, results)
    INSTRUMENTATIONS[suite](provider)


def _add_slowspan(provider: TracerProvider, results: Path) -> None:
    from slowspan import SlowSpanProcessor

    # The suites assert on what is logged, and on what arrives on standard error.
    logger = logging.getLogger("slowspan")
    logger.propagate = False
    logger.addHandler(logging.FileHandler(results / "slowspan.log"))
    # As much as it can do: every request is a slow one, and sampled without a pause.
    processor = SlowSpanProcessor(
        threshold=0,
        span_kinds="SERVER, CLIENT, INTERNAL, PRODUCER, CONSUMER",
        interval=0.001,
        overhead_budget=1,
        notifiers=("file",),
        report_dir=results / "reports",
    )
    provider.add_span_processor(processor)
    pid = os.getpid()

    def write_counts() -> None:
        if os.getpid() == pid:
            processor.shutdown()
            status = processor.status()
            counts = {"spans": status.seen, "reports": status.reports, "drops": dict(status.drops)}
            (results / f"counts-{pid}.json").write_text(json.dumps(counts))

    atexit.register(write_counts)


def _instrument_flask(provider: TracerProvider) -> None:
    from opentelemetry.instrumentation.flask import FlaskInstrumentor

    FlaskInstrumentor().instrument(tracer_provider=provider)


def _instrument_werkzeug(provider: TracerProvider) -> None:
    """Put OpenTelemetry's middleware where the test client and the development server call an application."""
    import werkzeug.serving
    import werkzeug.test
    from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware

    run_wsgi_app = werkzeug.test.run_wsgi_app
    make_server = werkzeug.serving.BaseWSGIServer.__init__

    def run_instrumented(app: Any, environ: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        # Some tests pass an empty environment, which is no request.
        watched = OpenTelemetryMiddleware(app, tracer_provider=provider) if environ else app
        return run_wsgi_app(watched, environ, *args, **kwargs)

    def make_instrumented(self: Any, host: str, port: int, app: Any, *args: Any, **kwargs: Any) -> None:
        make_server(self, host, port, OpenTelemetryMiddleware(app, tracer_provider=provider), *args, **kwargs)

    werkzeug.test.run_wsgi_app = run_instrumented
    werkzeug.serving.BaseWSGIServer.__init__ = make_instrumented
    # The tests end their servers with it, which would then tell no counts.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())


def _instrument_starlette(provider: TracerProvider) -> None:
    """Put OpenTelemetry's middleware where the test client calls an application: many are no Starlette objects."""
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    from starlette.testclient import _TestClientTransport

    make_transport = _TestClientTransport.__init__

    def make_instrumented(self: Any, app: Any, *args: Any, **kwargs: Any) -> None:
        async def call(*request: Any) -> None:
            await app(*request)

        # Through a function, since the middleware takes a class for an application of the second version of ASGI.
        make_transport(self, OpenTelemetryMiddleware(call, tracer_provider=provider), *args, **kwargs)

    _TestClientTransport.__init__ = make_instrumented


def _instrument_fastapi(provider: TracerProvider) -> None:
    """Do nothing: with a provider set, this FastAPI makes server spans by itself."""


def _instrument_django(provider: TracerProvider) -> None:
    """Put OpenTelemetry's middleware before those that a test chooses."""
    from django.conf import settings
    from django.core.handlers.base import BaseHandler
    from opentelemetry.instrumentation.django import DjangoInstrumentor

    load_middleware = BaseHandler.load_middleware

    def load_instrumented(self: Any, *args: Any, **kwargs: Any) -> None:
        chosen = list(settings.MIDDLEWARE)
        instrumentor = DjangoInstrumentor()
        if not instrumentor.is_instrumented_by_opentelemetry:
            # Here rather than at the start, when there are no settings. It adds itself to those of this moment.
            instrumentor.instrument(tracer_provider=provider)
        settings.MIDDLEWARE = [DJANGO_MIDDLEWARE, *chosen]
        try:
            load_middleware(self, *args, **kwargs)
        finally:
            settings.MIDDLEWARE = chosen

    BaseHandler.load_middleware = load_instrumented


INSTRUMENTATIONS = {
    "flask": _instrument_flask,
    "werkzeug": _instrument_werkzeug,
    "starlette": _instrument_starlette,
    "fastapi": _instrument_fastapi,
    "django": _instrument_django,
}

if os.environ["DOWNSTREAM_MODE"] != "plain":
    watch(os.environ["DOWNSTREAM_MODE"], os.environ["DOWNSTREAM_SUITE"], Path(os.environ["DOWNSTREAM_RESULTS"]))
