"""How many reports of one endpoint are kept in an hour."""

from __future__ import annotations

import threading

from slowspan.delivery import report_limit
from slowspan.delivery.report_limit import HOUR, ReportLimit


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_each_endpoint_and_hour_has_its_own_count() -> None:
    """The limit holds for each endpoint by itself, and begins anew with the next hour."""
    clock = Clock()
    limit = ReportLimit(2, clock)
    assert [limit.admits("GET /a") for _ in range(4)] == [True, True, False, False]
    assert limit.admits("GET /b")
    clock.now = HOUR - 1
    assert not limit.admits("GET /a")
    clock.now = HOUR
    assert [limit.admits("GET /a") for _ in range(3)] == [True, True, False]


def test_endpoints_without_number(monkeypatch) -> None:
    """Beyond so many endpoints, as a stranger's paths can be, the others share one count."""
    monkeypatch.setattr(report_limit, "_MOST_ENDPOINTS", 3)
    limit = ReportLimit(2, Clock())
    assert [limit.admits(f"GET /{n}") for n in range(10)] == [True] * 5 + [False] * 5
    assert limit.admits("GET /0")


def test_threads_share_the_limit() -> None:
    """However many threads ask, no more are admitted."""
    limit = ReportLimit(50, Clock())
    admitted: list[bool] = []
    threads = [
        threading.Thread(target=lambda: admitted.extend(limit.admits("GET /") for _ in range(50))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(admitted) == 50
