"""Which spans are requests that we record: by kind, URL and attributes, in OpenTelemetry's forms."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from opentelemetry.trace import SpanKind

if TYPE_CHECKING:
    from opentelemetry.util.http import ExcludeList

    from slowspan.config import Settings
    from slowspan.semconv import Attributes, HttpFacts

_MAX_VALUE = 4096  # characters of an attribute that a filter searches
_MAX_ELEMENTS = 100  # elements of an array attribute that a filter searches


class Selection:
    """The filters of one ``Settings``, compiled. Immutable, for any thread.

    Attributes:
        kinds: The kinds of span that are requests: the one check for every span.
        has_filters: Whether anything but the kind and a websocket matters.
    """

    def __init__(self, settings: Settings) -> None:
        self.kinds: frozenset[SpanKind] = frozenset(SpanKind[name] for name in settings.span_kinds)
        self._excluded_urls = _url_list(settings.excluded_urls)
        self._included_urls = _url_list(settings.included_urls)
        self._excluded_attributes = [_AttributeFilter(text) for text in settings.excluded_attributes]
        self.has_filters: bool = any(
            (settings.excluded_urls, settings.included_urls, settings.excluded_attributes, settings.included_attributes)
        )
        self._included_attributes = [_AttributeFilter(text) for text in settings.included_attributes]

    def selects(self, http: HttpFacts, attributes: Attributes, *, so_far: bool = False) -> bool:
        """Tell whether a span of a right kind is recorded.

        Runs the user's regular expressions: for requests that are late or slow, not for every one.

        Args:
            http: ``read_http(attributes)``.
            attributes: The span's attributes.
            so_far: Whether attributes can still come, so that one that is to be there, or that tells the URL, need not
                be there yet.

        Returns:
            False for a websocket, for whatever an ``excluded_…`` setting matches, and, when there are
            ``included_…`` settings, for whatever they do not match. A span without a URL is matched by no URL
            pattern. Several patterns of one setting are alternatives; URLs and attributes must both agree.
        """
        if http.is_websocket:
            return False
        if not self.has_filters:
            return True
        return self._selects_url(http.url, so_far) and self._selects_attributes(attributes, so_far)

    def _selects_url(self, url: str, so_far: bool) -> bool:
        if not url:
            return so_far or self._included_urls is None
        if self._excluded_urls is not None and self._excluded_urls.url_disabled(url):
            return False
        return self._included_urls is None or self._included_urls.url_disabled(url)

    def _selects_attributes(self, attributes: Attributes, so_far: bool) -> bool:
        if any(entry.matches(attributes) for entry in self._excluded_attributes):
            return False
        included = self._included_attributes
        return so_far or not included or any(entry.matches(attributes) for entry in included)


class _AttributeFilter:
    """``name`` (it is there) or ``name=regular expression`` (found in its value, or in any element of it)."""

    def __init__(self, text: str) -> None:
        name, separator, pattern = text.partition("=")
        self._name = name.strip()
        self._pattern = re.compile(pattern.strip()) if separator else None

    def matches(self, attributes: Attributes) -> bool:
        value = attributes.get(self._name)
        if value is None or self._pattern is None:
            return value is not None
        elements = value[:_MAX_ELEMENTS] if isinstance(value, (list, tuple)) else (value,)
        return any(self._pattern.search(_as_text(element)) for element in elements)


def _as_text(value: object) -> str:
    # As OpenTelemetry's backends and JSON show it, not as Python does.
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)[:_MAX_VALUE]


def _url_list(patterns: tuple[str, ...]) -> ExcludeList | None:
    if not patterns:
        return None
    # Imported here because it takes milliseconds, and most applications filter no URLs.
    from opentelemetry.util.http import ExcludeList

    return ExcludeList(list(patterns))
