"""Which requests are slow: the threshold of a request by its route, path, name or URL."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from slowspan.config import seconds_to_ns

if TYPE_CHECKING:
    from slowspan.config import Settings
    from slowspan.semconv import HttpFacts


class Trigger:
    """The thresholds of one ``Settings``, compiled. Immutable, for any thread."""

    def __init__(self, settings: Settings) -> None:
        self._threshold_ns = settings.threshold_ns
        self._thresholds = [
            (re.compile(pattern), "://" in pattern, seconds_to_ns(seconds)) for pattern, seconds in settings.thresholds
        ]

    def threshold_ns(self, http: HttpFacts, name: str) -> int:
        """Return the threshold of one request.

        Runs the user's regular expressions: for requests over the smallest threshold, not for every one.

        Args:
            http: The request's facts; of a span without HTTP, empty ones.
            name: The span's name, for example ``GET /orders/<id>``.

        Returns:
            Nanoseconds: those of the first pattern that matches the whole route, the whole path or the whole
            name, or, when the pattern holds ``://``, is found in the full URL; else the general threshold.
        """
        for pattern, is_url, threshold_ns in self._thresholds:
            if is_url:
                if pattern.search(http.url):
                    return threshold_ns
            elif any(text and pattern.fullmatch(text) for text in (http.route, http.path, name)):
                return threshold_ns
        return self._threshold_ns
