"""Which settings are secret: how they are shown, kept out of messages, and read from a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from slowspan.config_values import NotAllowed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slowspan.config import Settings

HIDDEN = "[hidden]"

FILE_SECRETS: tuple[str, ...] = (
    "mattermost_token",
    "mattermost_password",
    "apprise_urls",
    "webhook_url",
    "webhook_secret",
    "alert_store",
)
"""The settings that can also come from a file, as ``mattermost_token_file`` and so on."""

FILE_SUFFIX = "_file"

FILE_NAMES: tuple[str, ...] = tuple(name + FILE_SUFFIX for name in FILE_SECRETS)
"""The names that name such a file."""

# A proxy's URL can hold a login. It needs no file of its own: the settings file can be private.
SECRET_NAMES = frozenset({*FILE_SECRETS, "mattermost_proxy"})
"""The settings whose values are shown nowhere."""

_LEAST_SECRET = 4
_LEAST_PIECE = 8
"""Characters of a part of a secret URL that is taken for a secret by itself; shorter ones are words such as ``api``."""

MAX_SECRET_FILE = 65_536
"""The most bytes of a secret's file."""


def is_hidden(name: str, value: object) -> bool:
    """Tell whether a value must not be shown: a secret's, or a URL with a login, which is allowed nowhere else."""
    if value is None or (isinstance(value, tuple) and not value):
        return False
    return name in SECRET_NAMES or (name.endswith("_url") and "@" in repr(value))


def shown(name: str, value: object) -> str:
    """Return a setting's value for people: ``[hidden]`` when it is a secret that is set.

    Args:
        name: The setting's name.
        value: Its value.

    Returns:
        The value's ``repr``, of any length.
    """
    return HIDDEN if is_hidden(name, value) else repr(value)


def secrets_of(settings: Settings) -> set[str]:
    """Return the settings' secrets, and the parts of secret URLs that libraries quote by themselves."""
    secrets: set[str] = set()
    for name in SECRET_NAMES:
        value = getattr(settings, name)
        for text in (value,) if isinstance(value, str) else value or ():
            secrets |= {text, *secret_parts(text)}
    return secrets


def secret_parts(url: str) -> set[str]:
    """Return a secret URL's parts that libraries quote by themselves: its password, and long words in the rest."""
    scheme, _, rest = url.partition("://")
    if not rest or not scheme:
        return set()
    try:
        parts = urlsplit(url)
        host, password = parts.hostname or "", parts.password or ""
    except ValueError:
        return set()
    pieces = {piece for piece in re.split(r"[/?&=@:#,;+]", rest) if len(piece) >= _LEAST_PIECE}
    # The host helps to find the mistake, and is no secret where the scheme has one.
    return {piece for piece in {*pieces, password} if piece.lower() != host}


def hide(text: str, secrets: Iterable[str]) -> str:
    """Return a text with ``[hidden]`` in the place of each secret; very short ones stay, for they are in any text."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _LEAST_SECRET:
            text = text.replace(secret, HIDDEN)
    return text


def read_secret_file(path: Path) -> str:
    """Read a secret from a file.

    Args:
        path: The file, such as one that a container's orchestration has mounted.

    Returns:
        Its text without the whitespace around it.

    Raises:
        NotAllowed: It cannot be read, is empty or too big, or is no text.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SECRET_FILE + 1)
    except (OSError, ValueError) as error:
        raise NotAllowed(f"it cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > MAX_SECRET_FILE:
        raise NotAllowed(f"it has more than {MAX_SECRET_FILE} bytes")
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        # Without the codec's own words: they quote the file.
        raise NotAllowed("it is no UTF-8 text") from None
    if not text:
        raise NotAllowed("it is empty")
    return text
