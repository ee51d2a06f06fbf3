"""Which slow requests are one alert: those with the same key."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, NamedTuple

from slowspan.redaction import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from slowspan.recording.profile import SpanFacts
    from slowspan.report.summary import HotLine

PARAMETERS = "parameters"
HOT_LINE = "hot_line"

MOST_PARAMETERS = 20
"""Parameters that count in a key; further ones, in sorted order, make no difference."""

_MOST_CHARACTERS = 200
"""Characters of each part: a path without a route, and a span's name, can be a stranger's text."""

_MOST_TEXT = 300


class AlertKey(NamedTuple):
    """What makes requests the same alert."""

    digest: str
    """32 hexadecimal digits, the same in every process and on every host."""
    text: str
    """The key for people, bounded and safe for one line: ``shop GET /orders/<id> ?page=2``."""


def alert_key(span: SpanFacts, words: tuple[str, ...], hot_line: str = "") -> AlertKey:
    """Return the key of a slow request: service, method, route (else path, else the span's name), and the words' parts.

    On the delivery thread; takes microseconds.

    Args:
        span: The request's facts, of which the parameters are redacted already.
        words: The setting ``alert_key``: ``parameters`` for all query parameters, ``?NAME`` for one, ``hot_line``.
        hot_line: What ``hottest_place`` returns; counts when a word asks for it.

    Returns:
        The key.
    """
    where = span.route or span.path or span.name
    parameters = sorted(set(_counted_parameters(span, words)))[:MOST_PARAMETERS]
    hot = hot_line[:_MOST_CHARACTERS] if HOT_LINE in words else ""
    parts = [span.service_name or "", span.method or "", where[:_MOST_CHARACTERS], parameters, hot]
    # JSON keeps the parts apart, whatever is in them; lone surrogates, which no encoder takes, become escapes.
    digest = hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()[:32]
    query = "&".join(f"{name}={value}" for name, value in parameters)
    words_for_people = (span.service_name, one_line(span.endpoint, _MOST_CHARACTERS), query and f"?{query}", hot)
    return AlertKey(digest, one_line(" ".join(word for word in words_for_people if word), _MOST_TEXT))


def _counted_parameters(span: SpanFacts, words: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for name, value in span.parameters:
        if PARAMETERS in words or f"?{name}" in words:
            yield name[:_MOST_CHARACTERS], value[:_MOST_CHARACTERS]


def hottest_place(hot_lines: Sequence[HotLine]) -> str:
    """Return file and function of the hottest line that is one; "" where there is none.

    Args:
        hot_lines: A report's, hottest first.
    """
    for line in hot_lines:
        if not line.synthetic:
            return f"{line.short_file}:{line.function}"
    return ""
