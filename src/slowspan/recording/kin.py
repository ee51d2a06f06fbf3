"""Which asyncio tasks a request has started: they are its own work, whether it awaits them or not."""

from __future__ import annotations

import gc
from contextvars import Context
from typing import TYPE_CHECKING, Any

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.sdk.trace import Span
    from opentelemetry.trace import SpanContext

_MAX_KIN = 100
"""Spans of one request that are remembered."""

_READABLE = (ReadableSpan, trace.NonRecordingSpan)
"""Classes of spans whose attributes run no code of the application."""

_OF_FUNCTIONS = "slowspan.function_spans"
"""Where the spans of functions that are in no trace of the application have their place in the context."""


class Kin:
    """Tells which tasks a request has started, itself or through others: they have its spans in their contexts.

    A trace alone does not tell: two requests of one trace can be in the same event loop.
    """

    def __init__(self) -> None:
        # Of spans inside the request's own. What is not known here may be another request's.
        self._span_ids: set[int] = set()

    def learn(self, task: Any, span: Span) -> None:
        """Note the spans in which the request's own task is."""
        for inner in _spans_in(_context_of(task)):
            if inner is not span and _is_later(inner, span):
                self._add(inner.get_span_context().span_id)

    def has(self, task: Any, span: Span) -> bool:
        """Return whether a task works for the request of a span."""
        own = span.get_span_context()
        if own is None:
            return False
        spans = [inner for inner in _spans_in(_context_of(task)) if _is_of_trace(inner, own.trace_id)]
        if not spans:
            return False  # Hardly any other request is of the same trace.
        if any(self._is_inside(inner, own) for inner in spans):
            return True
        # Between the two can be the span of a task that awaits this one.
        for context in _contexts_at(task):
            for inner in _spans_in(context):
                self._is_inside(inner, own)
        return any(self._is_inside(inner, own) for inner in spans)

    def _is_inside(self, inner: trace.Span, own: SpanContext) -> bool:
        """Return whether a span is known to be inside the request's own, and note it."""
        context = inner.get_span_context()
        if context.trace_id != own.trace_id or context.is_remote:
            return False
        if context.span_id == own.span_id or context.span_id in self._span_ids:
            return True
        parent = _parent_of(inner)
        if parent is None:
            return False
        if parent.span_id != own.span_id and parent.span_id not in self._span_ids:
            return False
        self._add(context.span_id)
        return True

    def _add(self, span_id: int) -> None:
        if len(self._span_ids) >= _MAX_KIN:
            self._span_ids.clear()
        self._span_ids.add(span_id)


def _is_of_trace(inner: trace.Span, trace_id: int) -> bool:
    return inner.get_span_context().trace_id == trace_id


def _is_later(inner: Any, span: Span) -> bool:
    """Return whether a span began in the same request after another one, so that it cannot be around that."""
    parent = _parent_of(inner)
    own = span.get_span_context()
    if own is None or parent is None or parent.trace_id != own.trace_id:
        return False
    return bool((getattr(inner, "start_time", None) or 0) >= (span.start_time or 0))


def _parent_of(inner: Any) -> SpanContext | None:
    """Return the parent of a span, if that is in this process."""
    parent: Any = getattr(inner, "parent", None)
    # Not every class of spans means the same by the word.
    is_context = issubclass(type(parent), trace.SpanContext)
    return parent if is_context and not parent.is_remote else None


def _spans_in(context: Mapping[Any, Any]) -> Iterator[trace.Span]:
    """Yield the current span of a context, and what else of spans OpenTelemetry keeps there."""
    kept: Any
    for value in context.values():
        if type(value) is context_api.Context:
            for kept in value.values():
                # By its class alone: asking somebody's object for anything can run their code.
                kind = type(kept)
                if issubclass(kind, _READABLE):
                    yield kept
                elif kind.__module__ == _OF_FUNCTIONS and isinstance(getattr(kept, "span", None), _READABLE):
                    yield kept.span


def _context_of(task: Any) -> Mapping[Any, Any]:
    """Return the context variables of a task, which hands them to the tasks that it starts."""
    ask = getattr(task, "get_context", None)
    if ask is not None:
        context: Mapping[Any, Any] = ask()
        return context
    # Python tells since 3.12 only, but the collector can see it. A task's own comes first.
    return next(iter(_contexts_at(task)), {})


def _contexts_at(task: Any) -> list[Context]:
    """Return a task's context, and that of who awaits it."""
    # Not isinstance: that asks an object of the application for its class, and can run its code.
    return [referent for referent in gc.get_referents(task) if type(referent) is Context]
