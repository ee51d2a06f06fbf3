"""Readers of the settings of alerts and channels.

A refusal never quotes the value: most of these hold secrets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar
from urllib.parse import urlsplit

from slowspan.config_values import NotAllowed, texts, to_float

_T = TypeVar("_T")

_UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_MAX_PARAMETER_NAME = 64  # names of parameters are cut there in profiles, so a longer one would never be found

# A comma or whitespace separates only where a URL begins behind it: Apprise's URLs hold commas and spaces
# themselves. The look-behind keeps a long row of separators from taking quadratic time.
_BETWEEN_URLS = re.compile(r"(?<![\s,])[\s,]+(?=[a-z0-9]{1,32}://)", re.IGNORECASE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_TEAM_AND_CHANNEL = re.compile(r"[a-z0-9][a-z0-9-]{0,63}/~?[a-z0-9_.-]{1,64}")

MATTERMOST_ID = re.compile(r"[a-z0-9]{26}")
"""What an id of Mattermost matches wholly."""


def optional(read: Callable[[object], _T]) -> Callable[[object], _T | None]:
    """Make a reader that leaves None, which means that nobody has set it, as it is."""
    return lambda value: None if value is None else read(value)


def duration(minimum: float, maximum: float) -> Callable[[object], float]:
    """Make a reader of durations: seconds as a number, or text with a unit, such as ``10d``, ``36h`` or ``90m``."""

    def read(value: object) -> float:
        number, unit = value, ""
        if isinstance(value, str):
            text = value.strip().lower()
            number, unit = (text[:-1], text[-1:]) if text[-1:] in _UNIT_SECONDS else (text, "")
        seconds = to_float(number) * _UNIT_SECONDS[unit]
        if minimum <= seconds <= maximum:
            return seconds
        raise NotAllowed(f"seconds from {minimum:.12g} to {maximum:.12g}, or text such as '10d', '36h', '90m', '600s'")

    return read


def alert_key(value: object) -> tuple[str, ...]:
    """Read what an alert's key has beside the endpoint: ``parameters``, ``?NAME``, ``hot_line``.

    ``endpoint``, and empty text, stand for the endpoint alone.
    """
    allowed = "'parameters', '?NAME' for a parameter that counts, 'hot_line', or 'endpoint' for the endpoint alone"
    words: list[str] = []
    for entry in texts(value, allowed):
        # The name of a parameter is taken as it is: in a URL its case counts.
        word = entry.strip()
        word = word if word.startswith("?") else word.lower()
        if word == "endpoint":
            continue
        if word not in ("parameters", "hot_line") and not _is_parameter(word):
            raise NotAllowed(allowed)
        words.append(word)
    return tuple(dict.fromkeys(words))


def _is_parameter(word: str) -> bool:
    name = word[1:]
    return word.startswith("?") and 0 < len(name) <= _MAX_PARAMETER_NAME and name.isprintable() and name == name.strip()


def web_url(*schemes: str, login: bool = False, query: bool = False) -> Callable[[object], str]:
    """Make a reader of the URL of a server.

    Args:
        schemes: The schemes that are allowed, in lower case.
        login: Whether it may hold a login, ``//user:password@host``.
        query: Whether it may hold a query.

    Returns:
        The reader; its result has no slash at the end unless there is a query.
    """
    allowed = f"a URL that starts with {' or '.join(f'{scheme}://' for scheme in schemes)} and has a host"
    forbidden = [word for word, is_allowed in (("login", login), ("query", query)) if not is_allowed]
    if forbidden:
        allowed += f", without {' and '.join(forbidden)}"

    def read(value: object) -> str:
        text = value.strip() if isinstance(value, str) else ""
        if not text or not text.isprintable() or " " in text or "\\" in text:
            raise NotAllowed(allowed)
        try:
            parts = urlsplit(text)
            # Asking for the port checks it.
            usable = parts.scheme.lower() in schemes and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or "#" in text or (not login and "@" in parts.netloc) or (not query and "?" in text):
            raise NotAllowed(allowed)
        return text if query else text.rstrip("/")

    return read


def secret_text(value: object) -> str:
    """Read a password or a key; spaces count."""
    if isinstance(value, str) and value.strip() and value.isprintable():
        return value
    raise NotAllowed("text on one line, in YAML and TOML within quotes")


def word(value: object) -> str:
    """Read text without any whitespace inside, such as a token or a login."""
    text = value.strip() if isinstance(value, str) else ""
    if text and text.isprintable() and " " not in text:
        return text
    raise NotAllowed("text without spaces and line breaks, in YAML and TOML within quotes")


def mattermost_channel(value: object) -> str:
    """Read a channel of Mattermost: its id, or the names of team and channel as they stand in its address."""
    text = value.strip() if isinstance(value, str) else ""
    if MATTERMOST_ID.fullmatch(text) or _TEAM_AND_CHANNEL.fullmatch(text):
        return text
    raise NotAllowed(
        "the channel's id (26 lower-case letters and digits), or 'team/channel' with both names as they stand in the "
        "channel's address, for example 'shop/town-square'"
    )


def apprise_urls(value: object) -> tuple[str, ...]:
    """Read URLs of Apprise: a list, or text where whitespace or a comma stands before each further URL."""
    allowed = "URLs of Apprise, each with '://', as a list, or as text with a comma or whitespace between them"
    if isinstance(value, str):
        entries: list[object] = [*_BETWEEN_URLS.split(value.strip(", \t\r\n\v\f"))]
    elif isinstance(value, Collection) and not isinstance(value, (bytes, bytearray, Mapping)):
        entries = list(value)
    else:
        raise NotAllowed(allowed)
    urls: list[str] = []
    for entry in entries:
        url = entry.strip() if isinstance(entry, str) else "\0"
        if url and (not url.isprintable() or not re.match(r"[a-z0-9]+://", url, re.IGNORECASE)):
            raise NotAllowed(allowed)
        urls.append(url)
    return tuple(dict.fromkeys(url for url in urls if url))


def store_uri(value: object) -> str:
    """Read the URI of the alert state's store."""
    text = value.strip() if isinstance(value, str) else ""
    if _SCHEME.match(text) and text.isprintable() and " " not in text:
        return text
    raise NotAllowed(
        "a URI with '://', for example 'redis://host:6379/0', 'rediss://…', 'redis+cluster://…', "
        "'redis+sentinel://…', 'valkey://…', 'memcached://host:11211' or 'memory://'"
    )
