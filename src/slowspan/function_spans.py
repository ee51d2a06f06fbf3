"""The span of one call of a profiled function: which provider makes it, who watches it, and how it ends."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, StaticSampler
from opentelemetry.trace import Status, StatusCode

from slowspan import control, native
from slowspan._version import __version__
from slowspan.fork import call_after_fork

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

    from slowspan.processor import SlowSpanProcessor
    from slowspan.recording.turns import Turns
    from slowspan.watcher import SpanWatcher

_logger = logging.getLogger("slowspan")

_INNERMOST = context_api.create_key("slowspan-private-span")


class FunctionSpans:
    """Makes the spans of one function or block. For any thread.

    Args:
        name: The spans' name.
        threshold: Seconds from which on a call is slow; None for the settings' thresholds.
    """

    def __init__(self, name: str, threshold: float | None) -> None:
        self._name = name
        self._threshold = threshold

    def start(self, generator: Any = None) -> FunctionSpan:
        """Start a span in the thread or task that runs the function. Never raises.

        Args:
            generator: The function's generator, of either kind, if it is one.

        Returns:
            The span, not the current one yet: see :meth:`FunctionSpan.attach`.
        """
        span = FunctionSpan()
        try:
            span.start(self._name, _watcher_of(self._threshold), generator)
        except Exception as error:  # noqa: BLE001 - anything raised here would become the function's
            _count(span.watcher, error)
        return span


class FunctionSpan:
    """The span of one call. As a context manager it is the current span, and ends when it is left. Never raises.

    Attributes:
        shown: The span in the application's trace; one that records nothing where it has none.
        watched: The span that slowspan watches: the same, or one of its own where the application records none.
        watcher: Who watches it.
    """

    __slots__ = ("_context", "_token", "_turns", "shown", "watched", "watcher")

    def __init__(self) -> None:
        self.shown: trace.Span = trace.INVALID_SPAN
        self.watched: Span | None = None
        self.watcher: SpanWatcher | None = None
        self._context: Context | None = None
        self._token: Any = None
        self._turns: Turns | None = None

    def start(self, name: str, watcher: SpanWatcher | None, generator: Any) -> None:
        """Start the span, which a watcher that is enabled then watches."""
        tracers = _tracers_now()
        shown = self.shown
        if tracers.shown is not None:
            self.shown = shown = tracers.shown.start_span(name)
        if watcher is None or not watcher.enabled:
            if shown.get_span_context().is_valid:
                self._context = trace.set_span_in_context(shown)
        elif isinstance(shown, Span):
            self._context = trace.set_span_in_context(shown)
            self.watched, self.watcher = shown, watcher
            self._turns = watcher.take_over(shown, generator)
        else:
            self._start_private(name, tracers.private, watcher, generator)

    def _start_private(self, name: str, tracer: Tracer, watcher: SpanWatcher, generator: Any) -> None:
        """Start a span of our own, of the same trace, beside one that the application does not record."""
        current = trace.get_current_span()
        if self.shown.get_span_context().is_valid:
            beside, around = self.shown, trace.set_span_in_context(self.shown)
        else:
            beside, around = current, context_api.get_current()
        outer = context_api.get_value(_INNERMOST)
        parent = around
        if isinstance(outer, _Private) and outer.beside is current:
            parent = trace.set_span_in_context(outer.span, around)
        span = tracer.start_span(name, context=parent)
        self._context = around
        if isinstance(span, Span):  # Else OpenTelemetry has been switched off.
            self._context = context_api.set_value(_INNERMOST, _Private(span, beside), around)
            self.watched, self.watcher = span, watcher
            self._turns = watcher.take_over(span, generator)

    def keep(self, key: str, value: object) -> None:
        """Keep something in the context in which the span is the current one."""
        self._context = context_api.set_value(key, value, self._context)

    def attach(self) -> None:
        """Make it the current span, until ``detach``."""
        if self._context is not None:
            self._token = context_api.attach(self._context)

    def suspend(self) -> None:
        """Make the span current again that was so before ``attach``; the next ``attach`` goes on where this one ends.

        For generators, inside of which other spans may be current when they yield.
        """
        if self._token is not None:
            self._context = context_api.get_current()
            self._detach()

    def resume(self) -> None:
        """Go on after ``suspend`` in an asynchronous generator, whose next item another task may take."""
        self.attach()
        try:
            if self._turns is not None:
                self._turns.begin()
        except Exception as error:  # noqa: BLE001 - anything raised here would become the generator's
            _count(self.watcher, error)

    def _detach(self) -> None:
        if self._turns is not None:
            self._turns.end()
        token, self._token = self._token, None
        try:
            reset = token.var.reset
        except AttributeError:
            if token is not None:
                context_api.detach(token)  # Of a context that is kept elsewhere than in a context variable.
            return
        # As OpenTelemetry does, but for its log: what the garbage collector closes may be closed in another context.
        with contextlib.suppress(ValueError):
            reset(token)

    def __enter__(self) -> FunctionSpan:
        if self._context is not None:
            self._token = context_api.attach(self._context)
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._detach()
        self._context = None  # It may hold this very object.
        try:
            # As OpenTelemetry does: neither a closed generator nor a cancelled task has failed.
            if isinstance(error, Exception):
                self._record(error)
            if self.watched is not None and self.watched is not self.shown:
                self.watched.end()
            self.shown.end()
        except Exception as failure:  # noqa: BLE001 - anything raised here would take the place of the function's
            _count(self.watcher, failure)

    def _record(self, error: Exception) -> None:
        if self.shown.is_recording():
            self.shown.record_exception(error)
            self.shown.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
        if self.watched is not None and self.watched is not self.shown:
            # Nobody sees more of it than that: a report says no exception's text.
            self.watched.set_status(Status(StatusCode.ERROR))


class _Private(NamedTuple):
    """A span of our own provider. It is in the context under our own key, so the application's trace is not touched."""

    span: Span
    beside: trace.Span
    """The application's current span meanwhile. Where another one is current, ours is not the innermost."""


class _Tracers(NamedTuple):
    """What makes spans."""

    provider: trace.TracerProvider
    """The application's, to which the others belong."""
    shown: Tracer | None
    """The application's; None where OpenTelemetry is not set up (yet)."""
    private: Tracer


def _tracers_now() -> _Tracers:
    global _tracers
    tracers = _tracers
    provider = trace.get_tracer_provider()
    if tracers is None or tracers.provider is not provider:
        is_set_up = not isinstance(provider, trace.ProxyTracerProvider)
        shown = provider.get_tracer("slowspan", __version__) if is_set_up else None
        private = _beside(provider).get_tracer("slowspan", __version__)
        tracers = _tracers = _Tracers(provider, shown, private)
    return tracers


_tracers: _Tracers | None = None


def _beside(provider: trace.TracerProvider) -> TracerProvider:
    """Make a provider for spans that the application's does not record: nobody exports them."""
    resource = getattr(provider, "resource", None)
    if not isinstance(resource, Resource):
        # Without the defaults: "unknown_service" tells nobody anything.
        resource = OTELResourceDetector().detect()
    return TracerProvider(sampler=StaticSampler(Decision.RECORD_ONLY), resource=resource, shutdown_on_exit=False)


class _OwnProcessor:
    """Makes a processor from the environment's settings when a function needs one and nobody has made any."""

    def __init__(self) -> None:
        self._processor: SlowSpanProcessor | None = None
        self._tried = False
        self._renew_lock()
        call_after_fork(self._renew_lock)

    def _renew_lock(self) -> None:
        # Reentrant: a collection in the middle of the work here can end a generator and so call a profiled function.
        self._lock = native.RLock()

    def get(self) -> SlowSpanProcessor | None:
        """Return the processor, or None where it cannot be made. Makes it at most once."""
        with self._lock:
            if not self._tried:
                self._tried = True
                try:
                    # Imported here because a program that decorates functions may never call them.
                    from slowspan.processor import SlowSpanProcessor

                    self._processor = SlowSpanProcessor()
                    if control.is_switched_off:
                        self._processor.disable()
                except Exception:
                    _logger.exception("slowspan profiles no functions because of an error of its own")
            processor = self._processor
        return processor if processor is not None and not processor.closed else None


_own_processor = _OwnProcessor()


class _Watchers(NamedTuple):
    """Who watches, as long as ``control.changes`` is the same."""

    changes: int
    by_threshold: dict[float | None, SpanWatcher | None]


_watchers = _Watchers(-1, {})


def _watcher_of(threshold: float | None) -> SpanWatcher | None:
    global _watchers
    watchers = _watchers
    if watchers.changes != control.changes:
        watchers = _watchers = _Watchers(control.changes, {})
    try:
        return watchers.by_threshold[threshold]
    except KeyError:
        # What changes meanwhile makes this answer void.
        return watchers.by_threshold.setdefault(threshold, _find_watcher(threshold))


def _find_watcher(threshold: float | None) -> SpanWatcher | None:
    processor = control.first_processor()
    if processor is None and not control.is_shut_down:
        processor = _own_processor.get()
    return processor.function_watcher(threshold) if processor is not None else None


def _count(watcher: SpanWatcher | None, error: Exception) -> None:
    if watcher is not None:
        watcher.on_error(error)
    else:
        _logger.debug("a function's span failed", exc_info=error)
