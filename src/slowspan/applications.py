"""From nothing to reports with one call: a tracer provider, the application's instrumentation, and slowspan."""

from __future__ import annotations

import os
from functools import partial
from importlib import import_module
from inspect import iscoroutinefunction, signature
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from slowspan.config_sources import load_settings
from slowspan.instrumentor import instrument_once
from slowspan.trace_sampler import sampler_of_environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from slowspan.processor import SlowSpanProcessor

P = ParamSpec("P")
T = TypeVar("T")


class FlaskApplication(Protocol):
    """What tells a ``flask.Flask`` from other callables, for type checkers."""

    @property
    def wsgi_app(self) -> Any:
        """The WSGI callable inside."""


class StarletteApplication(Protocol):
    """What tells a ``starlette.applications.Starlette``, and so a ``fastapi.FastAPI``, from other callables."""

    def add_middleware(self, *args: Any, **kwargs: Any) -> None:
        """Put a middleware around what there is."""


class DjangoApplication(Protocol):
    """What tells Django's handlers from other callables."""

    def load_middleware(self, is_async: bool = ...) -> None:
        """Build the chain of middleware from the settings."""


@overload
def quick_setup(
    app: FlaskApplication | StarletteApplication | DjangoApplication | None = None,
    *,
    service_name: str | None = None,
    **options: Any,
) -> SlowSpanProcessor: ...


@overload
def quick_setup(app: Callable[P, T], *, service_name: str | None = None, **options: Any) -> Callable[P, T]: ...


def quick_setup(app: Any = None, *, service_name: str | None = None, **options: Any) -> Any:
    """Set everything up for an application without OpenTelemetry: provider, instrumentation and slowspan.

    A tracer provider that is there already is used as it is, and an instrumented application is left alone. The
    applications of frameworks are instrumented where they are; any other WSGI or ASGI callable is given back inside
    OpenTelemetry's middleware, to be served in its place::

        slowspan.quick_setup(flask_app)
        app = slowspan.quick_setup(app)

    Args:
        app: A Flask, FastAPI or Starlette application; what Django's ``get_wsgi_application`` or
            ``get_asgi_application`` returned; or any WSGI or ASGI callable. None instruments Django where
            ``DJANGO_SETTINGS_MODULE`` is set, and otherwise every Flask application made later.
        service_name: Name of the service in reports, when the provider is made here.
        **options: Settings by name, as in :class:`slowspan.Settings`.

    Returns:
        The processor; for a plain callable, the callable to serve.

    Raises:
        ConfigError: An option is unknown or wrong.
        ImportError: OpenTelemetry's instrumentation for such an application is not installed; the message names the
            command that installs it.
        TypeError: ``app`` is no application, or the global provider takes no span processors.
    """
    loaded = load_settings(**options)
    instrument_app = _instrumentation_for(app)
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        resource = Resource.create({"service.name": service_name} if service_name else {})
        trace.set_tracer_provider(TracerProvider(sampler_of_environment(), resource=resource))
    processor = instrument_once(None, loaded)
    if processor is None:
        raise TypeError(
            f"the global tracer provider is a {type(trace.get_tracer_provider()).__name__}, "
            "which takes no span processors; slowspan needs opentelemetry.sdk.trace.TracerProvider"
        )
    served = instrument_app()
    return processor if served is None else served


def _instrumentation_for(app: Any) -> Callable[[], Any]:
    """Find out how to instrument an application; nothing is changed before the returned function is called.

    No framework is imported for it: by the name of its class an application tells where it comes from.
    """
    if app is None:
        if os.environ.get("DJANGO_SETTINGS_MODULE"):
            return partial(_instrument_all, _load("django").DjangoInstrumentor())
        return partial(_instrument_all, _load("flask").FlaskInstrumentor())
    names = [f"{base.__module__}.{base.__qualname__}" for base in type(app).__mro__]
    if "flask.app.Flask" in names:
        return partial(_instrument_one, _load("flask").FlaskInstrumentor(), app)
    if "fastapi.applications.FastAPI" in names:
        return partial(_instrument_one, _load("fastapi").FastAPIInstrumentor(), app)
    if "starlette.applications.Starlette" in names:
        return partial(_instrument_one, _load("starlette").StarletteInstrumentor(), app)
    if "django.core.handlers.base.BaseHandler" in names:
        is_async = "django.core.handlers.asgi.ASGIHandler" in names
        return partial(_instrument_django, _load("django").DjangoInstrumentor(), app, is_async)
    if any(name in names for name in _MIDDLEWARE):
        return lambda: app
    return partial(_load(_interface(app)).OpenTelemetryMiddleware, app)


_MIDDLEWARE = tuple(f"opentelemetry.instrumentation.{name}.OpenTelemetryMiddleware" for name in ("wsgi", "asgi"))


def _load(name: str) -> Any:
    try:
        # Imported here: slowspan depends on no web framework.
        return import_module(f"opentelemetry.instrumentation.{name}")
    except ImportError as error:
        message = f"quick_setup needs OpenTelemetry's instrumentation for {name}: pip install slowspan[{name}]"
        raise ImportError(message) from error


def _instrument_all(instrumentor: Any) -> None:
    if not instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.instrument()


def _instrument_one(instrumentor: Any, app: Any) -> None:
    # The second name is that of OpenTelemetry's older releases for Starlette, which ask only for their own.
    if not (_is_instrumented(app) or getattr(app, "is_instrumented_by_opentelemetry", False)):
        instrumentor.instrument_app(app)


def _instrument_django(instrumentor: Any, handler: Any, is_async: bool) -> None:
    _instrument_all(instrumentor)
    if not _is_instrumented(handler):
        # The handler took its middleware from the settings when it was made. OpenTelemetry's stands there once,
        # even if it stood there before.
        handler.load_middleware(is_async=is_async)
        handler._is_instrumented_by_opentelemetry = True


def _is_instrumented(app: Any) -> bool:
    return getattr(app, "_is_instrumented_by_opentelemetry", False) is True


def _interface(app: Any) -> str:
    """Return ``wsgi`` or ``asgi``, by what a callable takes.

    Raises:
        TypeError: It is neither.
    """
    if callable(app):
        if iscoroutinefunction(app) or iscoroutinefunction(type(app).__call__):
            return "asgi"
        takes_two, takes_three = (_takes(app, count) for count in (2, 3))
        if takes_two != takes_three:
            return "wsgi" if takes_two else "asgi"
    raise TypeError(
        "quick_setup takes a Flask, FastAPI, Starlette or Django application, a WSGI callable (environ, "
        f"start_response) or an ASGI callable (scope, receive, send), not {type(app).__name__}"
    )


def _takes(app: Callable[..., Any], count: int) -> bool:
    try:
        signature(app).bind(*range(count))
    except (TypeError, ValueError):
        return False
    return True
