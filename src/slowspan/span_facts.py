"""What a report says of its span."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.trace import StatusCode

from slowspan.recording.profile import SpanFacts
from slowspan.recording.span_tree import shown_name
from slowspan.redaction import one_line, redact_parameters, secret_names
from slowspan.span_fields import name_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from slowspan.config import Settings
    from slowspan.semconv import Attributes, HttpFacts

_MAX_NAME = 200
_MAX_METHOD = 32
_MAX_PATH = 500


def span_facts(span: ReadableSpan, http: HttpFacts, settings: Settings) -> SpanFacts:
    """Gather what a report says of a span: redacted, bounded, every text safe for one line.

    Args:
        span: A running or ended span of the SDK.
        http: ``read_http`` of its attributes.
        settings: For ``redacted_parameters``.

    Returns:
        The facts for the profile.
    """
    context = span.context
    resource: Attributes = span.resource.attributes
    secret = secret_names(settings.redacted_parameters)
    return SpanFacts(
        name=shown_name(name_of(span), secret),
        kind=span.kind.name,
        trace_id=format(context.trace_id if context else 0, "032x"),
        span_id=format(context.span_id if context else 0, "016x"),
        sampled=bool(context and context.trace_flags.sampled),
        method=_shown(http.method, _MAX_METHOD),
        route=_shown(http.route, _MAX_NAME),
        path=_shown(http.path, _MAX_PATH),
        parameters=redact_parameters(http.query or "", secret),
        status_code=http.status_code,
        error=span.status.status_code is StatusCode.ERROR,
        service_name=_text(resource, "service.name"),
        service_version=_text(resource, "service.version"),
    )


def _shown(text: str | None, limit: int) -> str | None:
    return one_line(text, limit) if text else None


def _text(resource: Attributes, key: str) -> str | None:
    value = resource.get(key)
    return one_line(value, _MAX_NAME) if isinstance(value, str) and value else None
