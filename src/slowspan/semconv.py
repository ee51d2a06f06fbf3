"""Reading span attributes (old, new and duplicated HTTP conventions), and the names of our own.

The names of OpenTelemetry's attributes are spelt out here: importing its conventions costs milliseconds, and
the old ones live in private modules that move.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from slowspan.redaction import MAX_QUERY

PROFILE_ID: Final = "slowspan.profile.id"
"""16 hexadecimal digits: the profile's id, also in its file names."""

PROFILE_URL: Final = "slowspan.profile.url"
"""Where the report can be read."""

PROFILE_DROPPED: Final = "slowspan.profile.dropped"
"""Why no report was kept of the slow request; there only where none was."""

THRESHOLD: Final = "slowspan.threshold"
"""The threshold that the request passed, in seconds."""

HOT_FRAMES: Final = "slowspan.hot_frames"
"""Array of the lines with most own time: ``62 % orders.py:41 load_orders``."""

CPU_TIME: Final = "slowspan.cpu_time"
"""Time that the request's thread computed from the first sample on, in seconds."""

WAITING_TIME: Final = "slowspan.waiting_time"
"""Time from the first sample on in which the request waited, in seconds."""

READY_TIME: Final = "slowspan.ready_time"
"""Time from the first sample on in which the request could have computed, had others not held a processor, the
interpreter lock or the event loop, in seconds."""

UNKNOWN_TIME: Final = "slowspan.unknown_time"
"""Time before the first sample, and after the last one where the thread was lost, in seconds: with the three others it
is the request's."""

SAMPLES: Final = "slowspan.samples"
"""Number of stack readings."""

Attributes = Mapping[str, object]
"""A span's attributes. Another thread may change them: read single keys, never iterate."""

MAX_URL: Final = 65_536
"""Characters of a URL that are read: what servers take at most, so that none of these cuts a query unnoticed."""

_MAX_NAME = 200
_MAX_METHOD = 32
_MAX_SCHEME = 32
_MAX_HOST = 300
_MAX_PATH = 2048
_MAX_READ_QUERY = MAX_QUERY + 1  # one more tells that it is too long

_STATUS_CODE = ("http.response.status_code", "http.status_code")
_SWITCHING_PROTOCOLS = 101


class HttpFacts(NamedTuple):
    """What a span says of its HTTP request; None where it says nothing. Bounded, but not redacted."""

    method: str | None = None
    scheme: str | None = None
    host: str | None = None
    """The host as the client named it, with the port where it named one."""
    path: str | None = None
    """The path, or the route where the instrumentation knows no path."""
    query: str | None = None
    """At most one character more than ``MAX_QUERY``, by which a longer one is known."""
    route: str | None = None
    status_code: int | None = None

    @property
    def url(self) -> str:
        """The full URL as OpenTelemetry's instrumentations match it, or "" for a span without a path."""
        if self.path is None:
            return ""
        url = f"{self.scheme or 'http'}://{self.host or ''}{self.path}"
        return f"{url}?{self.query}" if self.query else url

    @property
    def is_websocket(self) -> bool:
        """Whether the span covers a websocket's whole connection, which is long without being slow."""
        return self.scheme in {"ws", "wss"} or self.status_code == _SWITCHING_PROTOCOLS


def is_switched(attributes: Attributes) -> bool:
    """Return whether the answer was to go on as a websocket: what only the end of a span can tell."""
    return _whole(attributes, *_STATUS_CODE) == _SWITCHING_PROTOCOLS


def read_http(attributes: Attributes) -> HttpFacts:
    """Read the HTTP request from a span's attributes, of the old conventions, the new ones, or both.

    Attributes of a wrong type count as missing. Takes microseconds; any thread.

    Args:
        attributes: The attributes of a running or ended span.

    Returns:
        The facts, bounded in length.
    """
    target_path, target_query = _split_target(_text(attributes, MAX_URL, "http.target"))
    url_scheme, url_host, url_path, url_query = split_url(_text(attributes, MAX_URL, "url.full", "http.url"))
    route = _text(attributes, _MAX_PATH, "http.route")
    path = _text(attributes, _MAX_PATH, "url.path") or target_path or url_path
    if route and not path:
        # Django's routes begin without a slash.
        path = "/" + route.lstrip("/")
    query = _text(attributes, _MAX_READ_QUERY, "url.query") or target_query or url_query
    scheme = _text(attributes, _MAX_SCHEME, "url.scheme", "http.scheme") or url_scheme
    # The URL first, which is made of the Host header: the server itself may stand behind a proxy. Elsewhere some
    # instrumentations write the server's own address, or leave out the port that the client named.
    host = url_host or _text(attributes, _MAX_HOST, "http.host", "server.address", "net.host.name")
    return HttpFacts(
        method=_text(attributes, _MAX_METHOD, "http.request.method", "http.method") or None,
        scheme=scheme[:_MAX_SCHEME].lower() or None,
        host=host[:_MAX_HOST] or None,
        path=path[:_MAX_PATH] or None,
        query=query[:_MAX_READ_QUERY] or None,
        route=route or None,
        status_code=_whole(attributes, *_STATUS_CODE),
    )


def endpoint(method: str | None, where: str | None, name: str) -> str:
    """Return what people call a request.

    Args:
        method: The HTTP method, if any.
        where: Its route, or else its path, if any.
        name: The span's name.

    Returns:
        Method and route or path; the span's name where there is neither.
    """
    if where is None:
        return name
    return f"{method} {where}" if method else where


def _text(attributes: Attributes, limit: int, *keys: str) -> str:
    """Return the first of some attributes that is a text with anything in it, else ""."""
    for key in keys:
        value = attributes.get(key)
        if isinstance(value, str) and value:
            return value[:limit]
    return ""


def _whole(attributes: Attributes, *keys: str) -> int | None:
    for key in keys:
        value = attributes.get(key)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def _split_target(target: str) -> tuple[str, str]:
    """Split a request target into path and query; a proxy's client sends a whole URL as the target."""
    if not target.startswith("/") and "://" in target:
        return split_url(target)[2:]
    path, _, query = target.partition("?")
    return path, query


def split_url(url: str) -> tuple[str, str, str, str]:
    """Split a URL into scheme, host, path and query, without a login. Unlike urllib's, it never raises.

    Args:
        url: Any text.

    Returns:
        Four texts, all empty if there is no scheme.
    """
    scheme, separator, rest = url.partition("://")
    # What stands before a URL in the query of a path is no scheme.
    if not separator or any(mark in scheme for mark in "/?#"):
        return "", "", "", ""
    rest, _, query = rest.partition("#")[0].partition("?")
    authority, slash, path = rest.partition("/")
    return scheme, authority.rpartition("@")[2], slash + path or "/", query
