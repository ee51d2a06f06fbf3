"""From settings to the options of ``mattermostdriver``; what is wrong with them is said at once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from slowspan.config_channels import mattermost_channel, web_url
from slowspan.config_values import NotAllowed
from slowspan.notifiers.registry import NotifierError

if TYPE_CHECKING:
    from collections.abc import Callable


def make_driver(options: dict[str, object]) -> Any:
    """Return ``mattermostdriver``'s driver with our own client.

    Raises:
        NotifierError: The package is not installed.
    """
    # Imported here because it takes a quarter of a second, and only this notifier needs it.
    try:
        from mattermostdriver import Driver

        from slowspan.notifiers.mattermost_client import MattermostClient
    except ImportError as error:
        raise NotifierError(f"it needs a package ({error.name}): pip install 'slowspan[mattermost]'") from error
    return Driver(options, client_cls=MattermostClient)


def address(url: str) -> dict[str, object]:
    """Return the driver's options for an address.

    Raises:
        NotifierError: It is none. The message does not quote it: somebody may have put a password there.
    """
    parts = urlsplit(_read("mattermost_url", web_url("https", "http"), url))
    host = parts.hostname or ""
    path = parts.path.rstrip("/").removesuffix("/api/v4")
    return {
        "scheme": parts.scheme,
        "url": f"[{host}]" if ":" in host else host,
        "port": parts.port or (443 if parts.scheme == "https" else 80),
        "basepath": f"{path}/api/v4",
    }


def account(token: str | None, login: str | None, password: str | None) -> dict[str, object]:
    """Return the driver's options for an account; a token comes before login and password.

    Raises:
        NotifierError: There is neither, or the token cannot be one.
    """
    if token is None and (login is None or password is None):
        raise NotifierError("it needs mattermost_token, or mattermost_login and mattermost_password")
    if token is not None and not re.fullmatch(r"[!-~]+", token.strip()):
        raise NotifierError("mattermost_token holds characters that no token has: was it copied wholly?")
    # The empty mfa_token, because the driver would send a null for it, which Mattermost's API does not allow.
    return {"token": token and token.strip(), "login_id": login, "password": password, "mfa_token": ""}


def channel_parts(channel: str) -> tuple[str, str]:
    """Return the names of team and channel, or two empty ones for a channel's id.

    Raises:
        NotifierError: It is neither ``team/channel`` nor an id.
    """
    team, slash, name = _read("mattermost_channel", mattermost_channel, channel).partition("/")
    return (team, name.removeprefix("~")) if slash else ("", "")


def _read(setting: str, read: Callable[[object], str], value: str) -> str:
    """Check what code has given as the setting of that name would be checked."""
    try:
        return read(value)
    except NotAllowed as refusal:
        raise NotifierError(f"{setting} must be {refusal}") from None
