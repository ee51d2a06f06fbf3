"""What the notifiers that speak HTTP share: limits, what a person is told of a failure, and no secret in it.

Imports no HTTP library: each notifier brings its own.
"""

from __future__ import annotations

import socket
import ssl
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from slowspan.redaction import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slowspan.config import Settings

CONNECT_TIMEOUT = 10.0
"""The most seconds for a connection: a server that takes longer than that is not there."""

MAX_RETRY_AFTER = 3600.0
"""The most seconds that a server can make us wait."""

_SHARE_OF_LIMIT = 0.9
_MAX_CAUSES = 10
_SHOWN = 100


def time_limit(settings: Settings) -> float:
    """Return the seconds that a notifier gives one try.

    Less than ``notify_timeout``, the limit on the whole try: then the reason is told, and no thread is left waiting.
    """
    return _SHARE_OF_LIMIT * settings.notify_timeout


def shown_address(url: str) -> str:
    """Return scheme and host of a URL, on one line; all the rest may be a secret."""
    parts = urlsplit(url)
    return one_line(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", _SHOWN)


def retry_after(text: str | None, now: float | None = None) -> float | None:
    """Read a ``Retry-After``: seconds, or a date.

    Args:
        text: The header's value, whatever it is.
        now: Unix time in seconds; None for the clock's.

    Returns:
        Seconds from 0 to ``MAX_RETRY_AFTER``; None where nothing sensible was said.
    """
    if text is None:
        return None
    # Imported late because it is heavy; the HTTP libraries have loaded it by then.
    from email.utils import parsedate_to_datetime

    text = text.strip()
    try:
        if text.isascii() and text.replace(".", "", 1).isdecimal():
            seconds = float(text)
        else:
            seconds = parsedate_to_datetime(text).timestamp() - (time.time() if now is None else now)
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def is_tls_error(error: BaseException) -> bool:
    """Tell whether it was TLS that failed, such as a certificate of an unknown CA."""
    return any(isinstance(cause, ssl.SSLError) for cause in _causes(error))


def is_unknown_host(error: BaseException) -> bool:
    """Tell whether the host's name could not be resolved."""
    return any(isinstance(cause, socket.gaierror) for cause in _causes(error))


def reason(error: BaseException) -> str:
    """Say in a few words why a request failed.

    Never quotes a URL, as the messages of requests and urllib3 do: the words are the operating system's and OpenSSL's.
    """
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return one_line(cause.verify_message, _SHOWN)
        if isinstance(cause, ssl.SSLError) and cause.reason:
            return cause.reason.replace("_", " ").lower()
    for cause in causes:
        if isinstance(cause, ConnectionResetError):  # http.client's error on a connection that ends is one as well
            return "the connection was closed"
        if isinstance(cause, OSError) and cause.strerror:
            return one_line(cause.strerror[:1].lower() + cause.strerror[1:], _SHOWN)
        if isinstance(cause, TimeoutError):
            return "no answer in time"
    return type(error).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(_MAX_CAUSES):
        if error is None:
            return
        yield error
        # urllib3 holds the cause of an error that it does not raise, as behind a proxy, among the arguments.
        held = (argument for argument in error.args if isinstance(argument, BaseException))
        error = error.__cause__ or error.__context__ or next(held, None)
