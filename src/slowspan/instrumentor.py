"""Switching slowspan on for a tracer provider: under ``opentelemetry-instrument``, or with one call."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.instrumentation.environment_variables import OTEL_PYTHON_DISABLED_INSTRUMENTATIONS
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]
from opentelemetry.sdk.environment_variables import OTEL_SDK_DISABLED
from opentelemetry.sdk.trace import TracerProvider

from slowspan.config_sources import CODE, load_declared_settings, load_settings
from slowspan.processor import SlowSpanProcessor
from slowspan.trace_sampler import record_unsampled, sampler_of_environment

if TYPE_CHECKING:
    from collections.abc import Collection

    from slowspan.config_sources import LoadedSettings

_OTEL_CONFIG_FILE = "OTEL_CONFIG_FILE"
"""OpenTelemetry's own constant is in newer releases only."""

_logger = logging.getLogger("slowspan")


class SlowSpanInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # untyped in older releases
    """Adds a :class:`SlowSpanProcessor` to the global tracer provider.

    ``opentelemetry-instrument`` finds it by its entry point ``slowspan``, so
    ``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=slowspan`` switches it off.
    """

    _processor: SlowSpanProcessor | None = None
    _loaded: LoadedSettings | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return no requirement: any library that makes server spans will do."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        # An exception here would keep opentelemetry-instrument from loading all later instrumentations.
        try:
            options = {name: value for name, value in kwargs.items() if name not in _FOREIGN_OPTIONS}
            loaded, self._loaded = self._loaded, None
            if loaded is None or options:
                loaded = load_declared_settings(options, "OpenTelemetry's configuration file")
            self._processor = _add_processor(kwargs.get("tracer_provider"), loaded)
        except Exception:
            _logger.exception("slowspan is off because of an error of its own")

    def _uninstrument(self, **_kwargs: Any) -> None:
        processor, self._processor = self._processor, None
        if processor is not None:
            processor.shutdown()


def before_instrumentation() -> None:
    """Have unsampled requests recorded, if the settings say so: ``opentelemetry-instrument`` calls this early.

    Tracers keep the sampler that their provider had when they were made, and other instrumentors make theirs next.
    """
    # An exception here would keep opentelemetry-instrument from loading anything.
    try:
        instrumentor = SlowSpanInstrumentor()
        # The declarative file has switched it on already, with settings that only it knows.
        if not is_left_out() and not instrumentor.is_instrumented_by_opentelemetry:
            # Kept for the instrumentor, so that what is wrong in them is told once.
            instrumentor._loaded = load_declared_settings({}, "")
            settings = instrumentor._loaded.settings
            # Also where the setting enabled is false: at run time enable() only switches on what is there.
            _provide()
            if settings.record_unsampled:
                record_unsampled(trace.get_tracer_provider(), settings.span_kinds)
    except Exception:
        _logger.exception("slowspan cannot have unsampled requests recorded because of an error of its own")


def _provide() -> None:
    """Make the tracer provider where nobody else does: without a configurator the SDK is never set up."""
    # Imported here because only this start asks.
    from importlib.metadata import entry_points

    # Where one is installed, there is no provider because its user wants none, or because it failed.
    if (
        isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
        and not entry_points(group="opentelemetry_configurator")
        and not is_sdk_disabled()
    ):
        trace.set_tracer_provider(TracerProvider(sampler_of_environment()))
        unread = f", and {_OTEL_CONFIG_FILE} is not read" if os.environ.get(_OTEL_CONFIG_FILE) else ""
        _logger.warning(
            "slowspan has made OpenTelemetry's tracer provider, which exports nothing%s: no configurator is installed, "
            "such as that of opentelemetry-distro. If your code makes a provider, set "
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=slowspan and add a slowspan.SlowSpanProcessor() to it",
            unread,
        )


def is_left_out() -> bool:
    """Return whether the environment tells ``opentelemetry-instrument`` to do without slowspan."""
    names = os.environ.get(OTEL_PYTHON_DISABLED_INSTRUMENTATIONS, "").split(",")
    return not {"slowspan", "*"}.isdisjoint(name.strip() for name in names)


def is_sdk_disabled() -> bool:
    """Return whether the environment switches OpenTelemetry's SDK off."""
    return os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true"


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
        if is_sdk_disabled():
            _logger.warning("slowspan is off: %s is set, so OpenTelemetry makes no spans", OTEL_SDK_DISABLED)
            return None
        _logger.warning(
            "slowspan is off: the global tracer provider is a %s, which takes no span processors. Where your code "
            "makes its TracerProvider, add one line: provider.add_span_processor(slowspan.SlowSpanProcessor())",
            type(provider).__name__,
        )
        return None
    settings = loaded.settings
    if settings.record_unsampled and not record_unsampled(provider, settings.span_kinds):
        _logger.warning("record_unsampled has no effect: a %s has no sampler", type(provider).__name__)
    processor = SlowSpanProcessor.from_loaded(loaded)
    provider.add_span_processor(processor)
    return processor


def instrument(*, tracer_provider: TracerProvider | None = None, **options: Any) -> SlowSpanProcessor | None:
    """Add slowspan to a tracer provider, once in a process.

    With ``record_unsampled`` it also takes the place of the provider's sampler: call it before tracers are made, since
    they keep the sampler that the provider had then.

    Args:
        tracer_provider: The provider; the global one by default.
        **options: Settings by name, as in :class:`slowspan.Settings`.

    Returns:
        The processor (of an earlier call, if there was one); None with a warning in the log when the provider takes
        no processors.

    Raises:
        ConfigError: An option is unknown or wrong.
    """
    return instrument_once(tracer_provider, load_settings(**options))


def instrument_once(provider: TracerProvider | None, loaded: LoadedSettings) -> SlowSpanProcessor | None:
    """Do what :func:`instrument` does, with settings that have been put together already."""
    instrumentor = SlowSpanInstrumentor()
    processor = instrumentor._processor
    if processor is None or processor.closed:
        instrumentor._processor = _add_processor(provider, loaded)
        instrumentor._is_instrumented_by_opentelemetry = instrumentor._processor is not None
        return instrumentor._processor
    ignored = [
        name
        for name, origin in loaded.origins.items()
        if origin == CODE and getattr(loaded.settings, name) != getattr(processor.settings, name)
    ]
    if ignored:
        _logger.warning(
            "slowspan is on already, and these settings of a later call have no effect: %s. Set them in the "
            "environment instead, or call slowspan.uninstrument() first",
            ", ".join(ignored),
        )
    return processor


def uninstrument() -> None:
    """Switch off what :func:`instrument` or ``opentelemetry-instrument`` switched on."""
    instrumentor = SlowSpanInstrumentor()
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()
