"""Switching slowspan on: under ``opentelemetry-instrument``, with one call, or from nothing."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from slowspan.config_sources import load_declared_settings, load_settings
from slowspan.processor import SlowSpanProcessor

if TYPE_CHECKING:
    from collections.abc import Collection

    from slowspan.config_sources import LoadedSettings

_logger = logging.getLogger("slowspan")


class SlowSpanInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # untyped in older releases
    """Adds a :class:`SlowSpanProcessor` to the global tracer provider.

    ``opentelemetry-instrument`` finds it by its entry point ``slowspan``, so
    ``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=slowspan`` switches it off.
    """

    _processor: SlowSpanProcessor | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return no requirement: any library that makes server spans will do."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        # An exception here would keep opentelemetry-instrument from loading all later instrumentations.
        try:
            options = {name: value for name, value in kwargs.items() if name not in _FOREIGN_OPTIONS}
            loaded = load_declared_settings(options, "OpenTelemetry's configuration file")
            self._processor = _add_processor(kwargs.get("tracer_provider"), loaded)
        except Exception:
            _logger.exception("slowspan is off because of an error of its own")

    def _uninstrument(self, **_kwargs: Any) -> None:
        processor, self._processor = self._processor, None
        if processor is not None:
            processor.shutdown()


# What OpenTelemetry itself passes to every instrumentor.
_FOREIGN_OPTIONS = (
    "tracer_provider",
    "meter_provider",
    "logger_provider",
    "skip_dep_check",
    "raise_exception_on_conflict",
)


def _add_processor(provider: Any, loaded: LoadedSettings) -> SlowSpanProcessor | None:
    provider = provider or trace.get_tracer_provider()
    if not hasattr(provider, "add_span_processor"):
        _logger.warning(
            "slowspan is off: the global tracer provider is a %s, which takes no span processors. Where your code "
            "makes its TracerProvider, add one line: provider.add_span_processor(slowspan.SlowSpanProcessor())",
            type(provider).__name__,
        )
        return None
    processor = SlowSpanProcessor.from_loaded(loaded)
    provider.add_span_processor(processor)
    return processor


def instrument(*, tracer_provider: TracerProvider | None = None, **options: Any) -> SlowSpanProcessor | None:
    """Add slowspan to a tracer provider, once in a process.

    Args:
        tracer_provider: The provider; the global one by default.
        **options: Settings by name, as in :class:`slowspan.Settings`.

    Returns:
        The processor (of an earlier call, if there was one); None with a warning in the log when the provider takes
        no processors.

    Raises:
        ConfigError: An option is unknown or wrong.
    """
    return _instrument_once(tracer_provider, load_settings(**options))


def _instrument_once(provider: TracerProvider | None, loaded: LoadedSettings) -> SlowSpanProcessor | None:
    instrumentor = SlowSpanInstrumentor()
    if instrumentor._processor is None or instrumentor._processor.closed:
        instrumentor._processor = _add_processor(provider, loaded)
        instrumentor._is_instrumented_by_opentelemetry = instrumentor._processor is not None
    return instrumentor._processor


def uninstrument() -> None:
    """Switch off what :func:`instrument` or ``opentelemetry-instrument`` switched on."""
    instrumentor = SlowSpanInstrumentor()
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()


def quick_setup(app: Any = None, *, service_name: str | None = None, **options: Any) -> SlowSpanProcessor:
    """Set everything up for an application without OpenTelemetry: provider, Flask instrumentation and slowspan.

    A tracer provider that is there already is used as it is, and an instrumented application is left alone.

    Args:
        app: A ``flask.Flask`` application; None instruments every application made later.
        service_name: Name of the service in reports, when the provider is made here.
        **options: Settings by name, as in :class:`slowspan.Settings`.

    Returns:
        The processor.

    Raises:
        ConfigError: An option is unknown or wrong.
        ImportError: ``opentelemetry-instrumentation-flask`` is not installed (``pip install slowspan[flask]``).
        TypeError: ``app`` is not a Flask application, or the global provider takes no span processors.
    """
    loaded = load_settings(**options)
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider):
        resource = Resource.create({"service.name": service_name} if service_name else {})
        trace.set_tracer_provider(TracerProvider(resource=resource))
    processor = _instrument_once(None, loaded)
    if processor is None:
        raise TypeError(
            f"the global tracer provider is a {type(trace.get_tracer_provider()).__name__}, "
            "which takes no span processors; slowspan needs opentelemetry.sdk.trace.TracerProvider"
        )
    _instrument_flask(app)
    return processor


def _instrument_flask(app: Any) -> None:
    try:
        # Imported here: slowspan depends on no web framework.
        from opentelemetry.instrumentation.flask import FlaskInstrumentor
    except ImportError as error:
        message = "quick_setup needs OpenTelemetry's Flask instrumentation: pip install slowspan[flask]"
        raise ImportError(message) from error
    instrumentor = FlaskInstrumentor()
    if app is None:
        if not instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.instrument()
        return
    if not (hasattr(app, "wsgi_app") and hasattr(app, "before_request")):
        raise TypeError(f"quick_setup takes a flask.Flask application, not {type(app).__name__}")
    if not getattr(app, "_is_instrumented_by_opentelemetry", False):
        instrumentor.instrument_app(app)  # type: ignore[no-untyped-call]
