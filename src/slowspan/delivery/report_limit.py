"""How many reports of one endpoint are kept in an hour: an outage in which every request is slow must cost little."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from slowspan import native

if TYPE_CHECKING:
    from collections.abc import Callable

HOUR = 3600.0

_MOST_ENDPOINTS = 1000
"""Endpoints that are counted apart; where requests have no route their paths are a stranger's, without number."""


class ReportLimit:
    """Counts the reports of this process by endpoint and hour.

    Asked on the sampler's thread when a request crosses its threshold, or on its own at its end: a microsecond.

    Args:
        per_hour: The most reports of one endpoint in an hour.
        clock: Monotonic time in seconds.
    """

    def __init__(self, per_hour: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_hour = per_hour
        self._clock = clock
        self._lock = native.allocate_lock()
        self._counts: dict[str, int] = {}
        self._hour_ends = clock() + HOUR

    def admits(self, endpoint: str) -> bool:
        """Count a slow request and tell whether its report is kept.

        Args:
            endpoint: Method and route, or what there is. Beyond a thousand of them the others share one count.
        """
        with self._lock:
            now = self._clock()
            if now >= self._hour_ends:
                self._counts.clear()
                self._hour_ends = now + HOUR
            if endpoint not in self._counts and len(self._counts) >= _MOST_ENDPOINTS:
                endpoint = ""
            count = self._counts.get(endpoint, 0) + 1
            self._counts[endpoint] = count
            return count <= self._per_hour
