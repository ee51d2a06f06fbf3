"""Which spans are recorded."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.trace import SpanKind

from slowspan.config import Settings
from slowspan.selection import Selection
from slowspan.semconv import HttpFacts, read_http

ORDERS = {
    "http.scheme": "http",
    "http.host": "shop.example:8000",
    "http.target": "/orders?page=2",
    "tenant": "acme",
}


def selects(attributes: dict[str, Any], *, so_far: bool = False, **settings: Any) -> bool:
    return Selection(Settings(**settings)).selects(read_http(attributes), attributes, so_far=so_far)


def test_kinds() -> None:
    """Server spans are requests; other kinds when they are asked for."""
    assert Selection(Settings()).kinds == {SpanKind.SERVER}
    assert Selection(Settings(span_kinds=("SERVER", "CONSUMER"))).kinds == {
        SpanKind.SERVER,
        SpanKind.CONSUMER,
    }


def test_everything_by_default() -> None:
    """Without filters every request is selected, also one without any attribute."""
    assert selects(ORDERS)
    assert selects({})


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("orders", True),
        ("shop.example:8000/orders", True),
        (r"page=\d", True),
        ("^http://[^/]+/orders", True),
        ("health, orders,", True),
        ("health,", False),
        ("/orders$", False),
    ],
)
def test_urls(pattern: str, matches: bool) -> None:
    """URL patterns are searched in the full URL; a trailing comma matches nothing."""
    assert selects(ORDERS, excluded_urls=pattern) is not matches
    assert selects(ORDERS, included_urls=pattern) is matches


def test_excluded_goes_before_included() -> None:
    """What both lists match is left out."""
    assert selects(ORDERS, included_urls="orders", excluded_urls="page=3")
    assert not selects(ORDERS, included_urls="orders", excluded_urls="page=2")


def test_spans_without_a_url() -> None:
    """No URL pattern matches a span without a URL: it is not excluded, and not included."""
    assert selects({"messaging.system": "kafka"}, excluded_urls=".*")
    assert not selects({"messaging.system": "kafka"}, included_urls=".*")


def test_what_can_still_come() -> None:
    """A URL or an attribute that is to be there need not be there yet; what is there already decides."""
    assert selects({}, so_far=True, included_urls="orders")
    assert selects(ORDERS, so_far=True, included_attributes="user")
    assert not selects(ORDERS, so_far=True, included_urls="carts")
    assert not selects({"tenant": "acme"}, so_far=True, included_urls="orders", excluded_attributes="tenant")


@pytest.mark.parametrize(
    ("attributes", "text", "matches"),
    [
        ({"tenant": "acme"}, "tenant", True),
        ({"tenant": "acme"}, "tenant=acme", True),
        ({"tenant": "acme"}, "tenant = ^ac", True),
        ({"tenant": "acme"}, "tenant=^me", False),
        ({"tenant": "acme"}, "user", False),
        ({"tenant": "acme"}, "user, tenant", True),
        ({"count": 12}, "count=^12$", True),
        ({"beta": True}, "beta=true", True),
        ({"beta": False}, "beta=true", False),
        ({"roles": ("reader", "admin")}, "roles=^admin$", True),
        ({"roles": ("reader",)}, "roles=^admin$", False),
        ({"roles": ()}, "roles=.*", False),
        ({"q": "a=b"}, "q=^a=b$", True),
    ],
)
def test_attributes(attributes: dict[str, Any], text: str, matches: bool) -> None:
    """A filter is a name, or a name with a pattern that is searched in the value or in any element."""
    assert selects(attributes, excluded_attributes=text) is not matches
    assert selects(attributes, included_attributes=text) is matches


def test_urls_and_attributes_must_both_agree() -> None:
    """Several entries of one list are alternatives; lists of two sorts narrow each other."""
    assert selects(ORDERS, included_urls="orders", included_attributes="tenant=acme, tenant=globex")
    assert not selects(ORDERS, included_urls="orders", included_attributes="tenant=globex")
    assert not selects(ORDERS, included_urls="carts", included_attributes="tenant=acme")


@pytest.mark.parametrize("attributes", [{"url.scheme": "wss"}, {"http.scheme": "ws"}, {"http.status_code": 101}])
def test_websockets_are_left_out(attributes: dict[str, Any]) -> None:
    """A websocket's span lasts as long as the connection, which is not a slow request."""
    assert not selects(attributes)


def test_attributes_are_not_iterated() -> None:
    """Another thread may change the attributes while they are read, so only single keys are asked for."""

    class Keyed(dict[str, Any]):
        def __iter__(self) -> Any:
            raise AssertionError("iterated")

        keys = items = values = __iter__  # type: ignore[assignment]

    attributes = Keyed(ORDERS)
    selection = Selection(Settings(included_attributes=("tenant=acme",), excluded_attributes=("user",)))
    assert selection.selects(HttpFacts(path="/"), attributes)
    assert read_http(attributes).path == "/orders"
