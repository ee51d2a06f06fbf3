"""Thresholds: which one holds for a request."""

from __future__ import annotations

import pytest

from slowspan.config import Settings
from slowspan.semconv import HttpFacts
from slowspan.trigger import Trigger

S = 1_000_000_000


def trigger(thresholds: str, threshold: float = 1.0) -> Trigger:
    return Trigger(Settings(threshold=threshold, thresholds=thresholds))  # type: ignore[arg-type]


def request(path: str | None = None, route: str | None = None, **facts: object) -> HttpFacts:
    return HttpFacts(path=path, route=route, scheme="https", host="shop.example", **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("facts", "name", "seconds"),
    [
        (request("/reports/2024"), "GET", 5),
        (request("/api/orders"), "GET", 0.5),
        (request("/v2/api/orders"), "GET", 1),
        (request("/reports"), "GET", 1),
        (request("/x", route="/reports/<year>"), "GET", 5),
        (request("/reports/1", route="api/<int:pk>"), "GET", 5),
        (HttpFacts(), "process orders", 2),
        (HttpFacts(), "something else", 1),
        (HttpFacts(), "", 1),
    ],
)
def test_patterns_match_the_whole_route_path_or_name(facts: HttpFacts, name: str, seconds: float) -> None:
    """A pattern without "://" means the whole route, the whole path, or the whole name of the span."""
    built = trigger("/reports/.*=5, /api/.*=0.5, process .*=2")
    assert built.threshold_ns(facts, name) == seconds * S


def test_method_by_the_span_name() -> None:
    """The name that instrumentations give, method and route, can be matched too."""
    built = trigger("POST /orders=3")
    assert built.threshold_ns(request("/orders"), "POST /orders") == 3 * S
    assert built.threshold_ns(request("/orders"), "GET /orders") == S


def test_first_match_wins() -> None:
    """The order of the settings decides."""
    built = trigger("/api/slow=9, /api/.*=0.5")
    assert built.threshold_ns(request("/api/slow"), "GET") == 9 * S
    assert trigger("/api/.*=0.5, /api/slow=9").threshold_ns(request("/api/slow"), "GET") == 0.5 * S


def test_url_patterns_are_searched_in_the_full_url() -> None:
    """A pattern with "://" is searched in the URL with host and query."""
    built = trigger(r"://shop\.example/search\?full=1=5")
    assert built.threshold_ns(request("/search", query="full=1"), "GET") == 5 * S
    assert built.threshold_ns(request("/search", query="full=0"), "GET") == S
    assert built.threshold_ns(HttpFacts(), "GET") == S
