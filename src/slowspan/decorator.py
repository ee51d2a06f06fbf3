"""Profiles for functions and blocks of code: ``@slowspan.profile`` and ``with slowspan.profile("name")``."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from opentelemetry import context as context_api

from slowspan.config import read_setting
from slowspan.function_spans import FunctionSpan, FunctionSpans

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Generator

    from opentelemetry.trace import Span

_logger = logging.getLogger("slowspan")

F = TypeVar("F", bound="Callable[..., Any] | classmethod[Any, Any, Any]")

_MOST_THRESHOLDS = 64
"""Different thresholds of functions in a process: the sampler looks after each of them apart."""

_BLOCK = context_api.create_key("slowspan-profiled-block")


@overload
def profile(name: str | None = None, /, *, threshold: float | None = None) -> Profiling: ...


@overload
def profile(function: F, /) -> F: ...


def profile(subject: Any = None, /, *, threshold: float | None = None) -> Any:
    """Profile a function, or a block of code, whenever it is slow.

    As a decorator, with or without arguments, or around a block::

        @slowspan.profile
        def load_orders(): ...

        @slowspan.profile("nightly import", threshold=60)
        def run(): ...

        with slowspan.profile("rates", threshold=0.2):
            ...

    Takes functions, methods, class and static methods, generators, coroutines and asynchronous generators. Each call
    makes a span in the application's trace; without OpenTelemetry it is profiled all the same. Results, exceptions
    and signatures stay as they are.

    Args:
        subject: The name of the span, by default the function's with its module; or the function itself.
        threshold: Seconds from which on a call is slow; the settings ``threshold`` and ``thresholds`` by default.

    Returns:
        The decorated function; or, where only a name or a threshold is given, what decorates one or is entered.

    Raises:
        ConfigError: ``threshold`` is not allowed.
        TypeError: ``subject`` is neither a name nor a function.
    """
    if subject is None or isinstance(subject, str):
        return Profiling(subject, threshold)
    return Profiling(None, threshold)(subject)


class Profiling:
    """What :func:`profile` returns for a name or a threshold: decorates functions, and is entered around a block."""

    def __init__(self, name: str | None, threshold: float | None) -> None:
        self._name = name
        self._threshold = _known_threshold(threshold)
        self._spans = FunctionSpans(name, self._threshold) if name else None
        self._last_entered: FunctionSpan | None = None

    def __call__(self, function: F) -> F:
        """Return the function, profiled.

        Raises:
            TypeError: It is no function.
        """
        if isinstance(function, (classmethod, staticmethod)):
            return type(function)(self(function.__func__))
        if not callable(function) or isinstance(function, type):
            raise TypeError(f"slowspan.profile takes a function or a name, not {type(function).__name__}")
        spans = FunctionSpans(self._name or _name_of(function), self._threshold)
        if inspect.isasyncgenfunction(function):
            return _async_generator(function, spans)  # type: ignore[return-value]
        if inspect.iscoroutinefunction(function):
            return _coroutine(function, spans)  # type: ignore[return-value]
        if inspect.isgeneratorfunction(function):
            return _generator(function, spans)  # type: ignore[return-value]
        return _function(function, spans)  # type: ignore[return-value]

    def __enter__(self) -> Span:
        """Begin to profile a block.

        Returns:
            Its span in the application's trace; one that records nothing where OpenTelemetry is not set up.

        Raises:
            TypeError: It was made without a name.
        """
        if self._spans is None:
            raise TypeError('a profiled block needs a name: with slowspan.profile("nightly import"):')
        span = self._spans.start()
        # The same object may be entered in many threads and tasks at once; each has its context.
        span.keep(_BLOCK, (self, span))
        span.attach()
        self._last_entered = span
        return span.shown

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """End the block; an exception is written on its span and goes on."""
        entered: Any = context_api.get_value(_BLOCK)
        # Without it, the block is left in another context than the one in which it was entered.
        span = entered[1] if entered is not None and entered[0] is self else self._last_entered
        self._last_entered = None
        if span is not None:
            span.__exit__(kind, error, traceback)


def _name_of(function: Callable[..., Any]) -> str:
    # A partial or an instance with __call__ has no name of its own.
    named: Any = function if hasattr(function, "__qualname__") else getattr(function, "func", type(function))
    return ".".join(filter(None, (named.__module__, named.__qualname__)))


_thresholds: set[float] = set()


def _known_threshold(threshold: float | None) -> float | None:
    """Check a threshold; return it, or the nearest known one when there are too many different ones."""
    if threshold is None or (isinstance(threshold, float) and threshold in _thresholds):
        return threshold
    checked = read_setting("threshold", threshold)
    assert isinstance(checked, float)
    # An integer may be there as a float.
    if checked in _thresholds or len(_thresholds) < _MOST_THRESHOLDS:
        _thresholds.add(checked)
        return checked
    nearest = min(_thresholds, key=lambda known: abs(known - checked))
    _logger.warning(
        "slowspan.profile takes %d different thresholds in a process; %g s is used instead of %g s",
        _MOST_THRESHOLDS,
        nearest,
        checked,
    )
    return nearest


# One wrapper for each kind, as short as can be: its frame is in every traceback of the function.


def _function(function: Callable[..., Any], spans: FunctionSpans) -> Callable[..., Any]:
    @functools.wraps(function)
    def profiled(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        with spans.start():
            return function(*args, **kwargs)

    return profiled


def _coroutine(
    function: Callable[..., Coroutine[Any, Any, Any]], spans: FunctionSpans
) -> Callable[..., Coroutine[Any, Any, Any]]:
    @functools.wraps(function)
    async def profiled(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        with spans.start():
            return await function(*args, **kwargs)

    return profiled


def _generator(
    function: Callable[..., Generator[Any, Any, Any]], spans: FunctionSpans
) -> Callable[..., Generator[Any, Any, Any]]:
    @functools.wraps(function)
    def profiled(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        __tracebackhide__ = True
        generator = function(*args, **kwargs)
        step: Callable[[Any], Any] = generator.send
        value: Any = None
        with spans.start(generator) as span:
            try:
                while True:
                    try:
                        item = step(value)
                    except StopIteration as end:
                        return end.value
                    span.suspend()
                    try:
                        value = yield item
                        step = generator.send
                    except BaseException as error:  # noqa: BLE001 - the generator's to handle, whatever it is
                        value = error
                        step = generator.throw
                    span.attach()
            finally:
                value = None  # An exception holds this frame: they would keep each other alive.

    return profiled


def _async_generator(
    function: Callable[..., AsyncGenerator[Any, Any]], spans: FunctionSpans
) -> Callable[..., AsyncGenerator[Any, Any]]:
    @functools.wraps(function)
    async def profiled(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        __tracebackhide__ = True
        generator = function(*args, **kwargs)
        step: Callable[[Any], Any] = functools.partial(_first_step, generator)
        value: Any = None
        with spans.start(generator) as span:
            try:
                while True:
                    try:
                        item = await step(value)
                    except StopAsyncIteration:
                        return
                    span.suspend()
                    try:
                        value = yield item
                        step = generator.asend
                    except BaseException as error:  # noqa: BLE001 - the generator's to handle, whatever it is
                        value = error
                        step = generator.athrow
                    span.resume()
            finally:
                value = None  # As above.

    return profiled


def _first_step(generator: AsyncGenerator[Any, Any], value: Any) -> Any:
    # The event loop closes at its end every generator that it has seen begin, all at the same time. It sees the outer
    # one, which closes this one.
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return generator.asend(value)
    finally:
        sys.set_asyncgen_hooks(*hooks)
