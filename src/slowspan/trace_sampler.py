"""Slow requests among those that the trace sampler drops: recorded for slowspan, exported by nobody.

A span that a sampler drops is no span at all: no processor hears of it. With a ratio of 1 % that hides 99 of 100 slow
requests. Here the request's own span is recorded without being sampled, so that processors see it, and exporters'
processors pass it over. The children of such a span stay dropped, here and in other services.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.environment_variables import OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG
from opentelemetry.sdk.trace.sampling import Decision, ParentBasedTraceIdRatio, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, TraceState

from slowspan import span_fields

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Link
    from opentelemetry.util.types import Attributes, AttributeValue


NAME = "record_unsampled"
"""What ``OTEL_TRACES_SAMPLER`` calls it."""

_logger = logging.getLogger("slowspan")

# Looked up once: to ask the class for a member costs as much as to compare it.
_DROP = Decision.DROP
_RECORD_ONLY = Decision.RECORD_ONLY

_is_in_use = False


class RecordUnsampled(Sampler):
    """Has the spans of requests recorded that another sampler drops.

    Give it to the tracer provider in the other one's place::

        TracerProvider(sampler=slowspan.RecordUnsampled(ParentBasedTraceIdRatio(0.01)))

    Adds well under a microsecond to a span that is dropped all the same; a request that is recorded costs its span,
    which begins without its attributes. slowspan's reports and filters have them all the same.

    Args:
        sampler: Decides what is sampled, as before.
        kinds: The kinds of spans that are requests.
    """

    def __init__(self, sampler: Sampler, kinds: Collection[SpanKind] = (SpanKind.SERVER, SpanKind.CONSUMER)) -> None:
        global _is_in_use
        _is_in_use = True
        self._sampler = sampler
        # As a tuple, whose members are compared by identity: hashing an enum member costs more.
        self._kinds = tuple(kinds)

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Decide as the other sampler does, but record a request that it drops."""
        result = self._sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)
        if result.decision is _DROP and kind in self._kinds:
            return SamplingResult(_RECORD_ONLY, None, _StateWithAttributes(result.trace_state, attributes))
        return result

    def get_description(self) -> str:
        """Return the sampler's name with the other one's."""
        return f"RecordUnsampled{{{self._sampler.get_description()}}}"


class _StateWithAttributes(TraceState):
    """The trace state of a recorded request, which also has the attributes with which its span began.

    The span itself begins without them: to check and copy them is nearly half of what a span costs, and nobody but
    us reads this one. A sampler has no other way to hand something on to the span that it decides on.
    """

    def __init__(self, state: TraceState | None, attributes: Attributes) -> None:
        super().__init__(list(state.items()) if state else None)
        self.attributes = dict(attributes) if attributes else {}


def attributes_of(span: ReadableSpan) -> Mapping[str, AttributeValue]:
    """Return a span's attributes, with those that :class:`RecordUnsampled` has kept for it. Any thread."""
    own = span_fields.own_attributes(span)
    context = span.context
    if context is None or not isinstance(context.trace_state, _StateWithAttributes):
        return own
    # As the SDK would have made them: what is no attribute's value is left out.
    return BoundedAttributes(attributes={**context.trace_state.attributes, **own})


def is_in_use() -> bool:
    """Tell whether any :class:`RecordUnsampled` has been made in this process."""
    return _is_in_use


def record_unsampled(provider: Any, kinds: Iterable[str]) -> bool:
    """Give a tracer provider a :class:`RecordUnsampled` around the sampler that it has, unless it has one.

    Tracers that were made before keep the sampler that they have.

    Args:
        provider: The SDK's tracer provider.
        kinds: Names of the kinds of spans that are requests.

    Returns:
        Whether it has one now; False for a provider without a sampler.
    """
    sampler = getattr(provider, "sampler", None)
    if not isinstance(sampler, Sampler):
        return False
    if not isinstance(sampler, RecordUnsampled):
        provider.sampler = RecordUnsampled(sampler, [SpanKind[kind] for kind in kinds])
    return True


def sampler_of_environment() -> Sampler | None:
    """Return the sampler of ``OTEL_TRACES_SAMPLER`` where that is ours, for a provider that is made here.

    Only ``opentelemetry-instrument`` asks for samplers of others; the SDK by itself knows no names but its own.
    """
    if os.environ.get(OTEL_TRACES_SAMPLER, "").strip().lower() != NAME:
        return None
    try:
        return make_sampler(os.environ.get(OTEL_TRACES_SAMPLER_ARG, ""))
    except ValueError as error:
        _logger.warning("%s", error)
        return None


def make_sampler(ratio: str) -> RecordUnsampled:
    """Make the sampler ``record_unsampled`` of ``OTEL_TRACES_SAMPLER``.

    Args:
        ratio: ``OTEL_TRACES_SAMPLER_ARG``: as of ``parentbased_traceidratio``, of which this one samples the same
            traces. Empty means 1.

    Raises:
        ValueError: It is no number between 0 and 1; OpenTelemetry logs that, and uses its default.
    """
    try:
        sampler = ParentBasedTraceIdRatio(float(ratio) if ratio.strip() else 1.0)
    except ValueError:
        message = f"OTEL_TRACES_SAMPLER_ARG = {ratio!r} is wrong for record_unsampled; allowed: a ratio from 0 to 1"
        raise ValueError(message) from None
    return RecordUnsampled(sampler)
