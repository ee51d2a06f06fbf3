"""Counters in a server that several hosts share: what ``limits`` offers, with short timeouts and clear errors.

Imported late: it is for fleets only.
"""

from __future__ import annotations

import math
import threading
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, unquote

from slowspan.config_secrets import HIDDEN
from slowspan.fork import call_after_fork
from slowspan.redaction import REDACTED

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

NETWORK_TIMEOUT = 1.5
"""Seconds for connecting, and for each answer: a server on the same network needs a thousandth of that."""

_SOON = 0.5
"""Seconds within which a call that failed is made once more: the server had closed an idle connection."""

_MEMCACHED_RELATIVE = 30 * 86_400
"""The most seconds that memcached takes as a duration: it takes more for a Unix time."""


_PACKAGES = {
    "redis": ("redis", "'slowspan[redis]'"),
    "valkey": ("valkey", "'slowspan[valkey]'"),
    "memcached": ("pymemcache", "'slowspan[memcached]'"),
    "mongodb": ("pymongo", "'limits[mongodb]'"),
}


class AlertStoreError(Exception):
    """The store cannot be used; the message says why, and holds no secret."""


class SharedCounters:
    """Counters that expire, by name, in the server that a URI names.

    Thread-safe, and usable in a forked child, which has connections of its own. Every method raises
    ``AlertStoreError`` when the server cannot be used.

    Args:
        uri: Address as ``limits`` takes it; may hold a password.

    Raises:
        AlertStoreError: A package is missing, or the URI is not understood.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._kind, login, rest = _split(uri)
        # An unencoded question mark begins the options for some, and what follows the last @ may be a password's end.
        shown = HIDDEN if "?" in login else rest.partition("?")[0].partition("#")[0]
        self.place: str = f"{self._kind}://{shown}"
        """The address without login."""
        self._start_anew()
        _storage_class(uri)
        call_after_fork(self._start_anew)

    def _start_anew(self) -> None:
        self._lock = threading.Lock()
        self._storage: Any = None

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Raise a counter, which begins at 0, and return its value.

        Args:
            key: Its name.
            expiry: Seconds after which it ends, counted from when it began.
            amount: What to add; with the value at most ``2 ** 53``.
        """
        if self._kind == "memcached" and expiry > _MEMCACHED_RELATIVE:
            expiry += math.ceil(time.time())
        return int(self._call(lambda storage: storage.incr(f"slowspan:{key}", expiry, amount)))

    def get(self, key: str) -> int:
        """Return a counter's value, 0 when there is none."""
        return int(self._call(lambda storage: storage.get(f"slowspan:{key}")))

    def clear(self, key: str) -> None:
        """End a counter."""
        self._call(lambda storage: storage.clear(f"slowspan:{key}"))

    def _call(self, operation: Callable[[Any], T]) -> T:
        started = time.monotonic()
        try:
            try:
                return operation(self._opened())
            except Exception:
                if time.monotonic() - started > _SOON:
                    raise
                return operation(self._opened())
        except AlertStoreError:
            raise
        except Exception as error:  # noqa: BLE001 -- each client has exceptions of its own
            # Not chained: a client's error can quote the address, and somebody may log the chain.
            raise AlertStoreError(f"{self.place}: {_without_secrets(error, self._uri)}") from None

    def _opened(self) -> Any:
        with self._lock:
            if self._storage is None:
                self._storage = _storage_class(self._uri)(self._uri, **_options(self._kind))
            return self._storage

    def close(self) -> None:
        """Close the connections; a later call opens them again."""
        with self._lock:
            storage, self._storage = self._storage, None
        client: Any = getattr(storage, "storage", None)
        if hasattr(client, "close"):
            client.close()


def _storage_class(uri: str) -> Any:
    """Return the class of ``limits`` for a URI, once all that it needs is there."""
    scheme = _split(uri)[0]
    needed = (one for name, one in _PACKAGES.items() if scheme.startswith(name))
    package, extra = next(needed, ("limits", _PACKAGES["redis"][1]))
    missing = AlertStoreError(f"alert_store needs a package: pip install {extra}")
    try:
        # Imported here because only fleets need it, and it takes a quarter of a second.
        schemes = import_module("limits.storage").SCHEMES
    except ImportError:
        raise missing from None
    if scheme not in schemes or scheme.startswith("async+"):
        known = ", ".join(sorted(name for name in schemes if not name.startswith("async+")))
        raise AlertStoreError(f"alert_store has an unknown scheme, {scheme!r}; known are {known}")
    try:
        import_module(package)
    except ImportError:
        raise missing from None
    return schemes[scheme]


def _options(scheme: str) -> dict[str, Any]:
    """Return the client's options: short timeouts, and no retries that would wait for seconds."""
    if scheme == "memcached":
        # An answer to each deletion, so that it has happened when the call returns.
        return {"connect_timeout": NETWORK_TIMEOUT, "timeout": NETWORK_TIMEOUT, "default_noreply": False}
    if scheme.startswith("mongodb"):
        milliseconds = round(NETWORK_TIMEOUT * 1000)
        return {"serverSelectionTimeoutMS": milliseconds, "socketTimeoutMS": milliseconds}
    timeouts: dict[str, Any] = {"socket_connect_timeout": NETWORK_TIMEOUT, "socket_timeout": NETWORK_TIMEOUT}
    if "sentinel" in scheme:
        # A replica lags behind: whoever asks it does not see what has just been told, and tells it again.
        return {**timeouts, "sentinel_kwargs": dict(timeouts), "use_replicas": False}
    if "cluster" in scheme:
        return timeouts
    package = "valkey" if scheme.startswith("valkey") else "redis"
    no_retry = import_module(f"{package}.retry").Retry(import_module(f"{package}.backoff").NoBackoff(), 0)
    return {**timeouts, "retry": no_retry}


def _split(uri: str) -> tuple[str, str, str]:
    """Return a URI's scheme, its login, and the rest.

    The login is all before the last ``@``. By the rules an unencoded ``/``, ``?`` or ``#`` ends it, but whoever has one
    in a password by mistake must not have the password in the log.
    """
    scheme, _, address = uri.partition("://")
    login, _, rest = address.rpartition("@")
    return scheme.lower(), login, rest


def _without_secrets(error: Exception, uri: str) -> str:
    """Return what a client says, without what is secret in the URI."""
    _, login, rest = _split(uri)
    if any(character in login for character in "/?#[]"):
        # The client took parts of it for host and port, and may quote each of them by itself.
        return f"{type(error).__name__}; in a password write / as %2F, ? as %3F, # as %23, [ as %5B, ] as %5D, @ as %40"
    text = str(error)
    password = login.partition(":")[2]
    options = [value for name, value in parse_qsl(rest.partition("?")[2]) if "pass" in name.lower()]
    for secret in (uri, login, password, unquote(password), *options):
        if secret:
            text = text.replace(secret, REDACTED)
    return " ".join(text.split())[:300]
