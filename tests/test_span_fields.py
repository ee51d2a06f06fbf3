"""Fields of the SDK's spans are read past their properties, and by them where a release keeps them elsewhere."""

from __future__ import annotations

from types import FunctionType
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from slowspan import SlowSpanProcessor, span_fields
from slowspan.span_fields import reads_fields
from watched import ID, wait_here, watched


def fields(span: Any) -> tuple[Any, ...]:
    """Return a span's fields, as the processor reads them."""
    return span._kind, span._context, span._start_time, span._end_time


def properties(span: ReadableSpan) -> tuple[Any, ...]:
    """Return what the properties say of them."""
    return tuple(getattr(span, name) for name in ("kind", "context", "start_time", "end_time"))


def test_values_are_those_of_the_properties() -> None:
    """The installed release keeps each field of a running span and of an ended one where it is read."""
    before = fields.__code__
    assert reads_fields(fields) is fields
    assert fields.__code__ is before
    with watched() as shop:
        span = shop.start()
        assert fields(span) == properties(span)
        span.end()
        (ended,) = shop.exported()
        assert fields(ended) == properties(ended)
    assert None not in fields(ended)


class OtherSpan(ReadableSpan):
    """A span of a release that keeps its times elsewhere, and something else in the place of the kind."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._kind = "SERVER"
        self._times = self.__dict__.pop("_start_time"), self.__dict__.pop("_end_time")

    kind = property(lambda _: SpanKind.SERVER)
    start_time = property(lambda self: self._times[0])
    end_time = property(lambda self: self._times[1])


def test_fields_that_are_kept_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an attribute is missing, or is something else than its property, the property is read."""
    monkeypatch.setattr(span_fields, "ReadableSpan", OtherSpan)
    read = reads_fields(FunctionType(fields.__code__, {}))
    assert read.__code__.co_names == ("kind", "_context", "start_time", "end_time")
    assert read(OtherSpan("later", kind=SpanKind.SERVER, start_time=1, end_time=2)) == (SpanKind.SERVER, None, 1, 2)


def test_a_processor_that_reads_properties(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor's callbacks work with such a release, too."""
    monkeypatch.setattr(span_fields, "ReadableSpan", OtherSpan)
    for name in ("on_start", "on_end"):
        method = getattr(SlowSpanProcessor, name)
        changed = reads_fields(FunctionType(method.__code__, method.__globals__, name, method.__defaults__))
        assert changed.__code__.co_names != method.__code__.co_names
        monkeypatch.setattr(SlowSpanProcessor, name, changed)
    with watched() as shop:
        shop.request(wait_here)
        assert shop.attributes()[ID] == shop.profile().id
        assert shop.processor.status().drops == {}
