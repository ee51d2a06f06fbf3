"""What is raised when a setting is wrong, and the checks of settings against each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slowspan.config_secrets import HIDDEN, is_hidden

if TYPE_CHECKING:
    from slowspan.config import Settings

_MATTERMOST = (
    "mattermost_url",
    "mattermost_token",
    "mattermost_login",
    "mattermost_password",
    "mattermost_channel",
    "mattermost_ca_file",
    "mattermost_proxy",
)

_SHOWN_VALUE = 200  # characters of a wrong value in a message


class ConfigError(ValueError):
    """A setting is wrong, or unknown.

    Attributes:
        setting: The setting's name.
        value: The value that was given; ``[hidden]`` instead of a secret.
        allowed: What is allowed instead, in words.
        problem: What is the matter.
        related: The other settings of a contradiction between settings.
    """

    def __init__(
        self,
        setting: str,
        value: object,
        allowed: str,
        *,
        problem: str = "is wrong",
        related: tuple[str, ...] = (),
    ) -> None:
        # Hidden here and not when shown: error trackers show an error's arguments and attributes too.
        value = HIDDEN if is_hidden(setting, value) else value
        super().__init__(setting, value, allowed)
        self.setting = setting
        self.value = value
        self.allowed = allowed
        self.problem = problem
        self.related = related

    def __str__(self) -> str:
        shown = repr(self.value)
        if len(shown) > _SHOWN_VALUE:
            shown = shown[:_SHOWN_VALUE] + "…"
        return f"slowspan setting {self.setting} = {shown} {self.problem}; allowed: {self.allowed}"


def check_together(settings: Settings) -> None:
    """Check what readers of single settings cannot see.

    Args:
        settings: Settings of which each is in its normal form.

    Raises:
        ConfigError: Some contradict each other, or one needs another; ``related`` names the others, also those
            that are missing.
    """
    if settings.hung_after < settings.interval:
        raise ConfigError(
            "hung_after",
            settings.hung_after,
            f"at least the interval, {settings.interval:g} seconds: a partial report needs a sample",
            related=("interval",),
        )
    if settings.webhook_secret is not None and settings.webhook_url is None:
        raise ConfigError(
            "webhook_secret",
            settings.webhook_secret,
            "with webhook_url only",
            problem="has no use: webhook_url is not set",
            related=("webhook_url",),
        )
    _check_mattermost(settings)


def _check_mattermost(settings: Settings) -> None:
    given = [name for name in _MATTERMOST if getattr(settings, name) is not None]
    if not given:
        return
    if settings.mattermost_url is None:
        raise _incomplete(settings, given[0], "mattermost_url, the server's address")
    if settings.mattermost_token is not None:
        logins = tuple(name for name in ("mattermost_login", "mattermost_password") if name in given)
        if logins:
            raise ConfigError(
                "mattermost_token",
                settings.mattermost_token,
                "either mattermost_token, or mattermost_login and mattermost_password",
                problem=f"contradicts {' and '.join(logins)}",
                related=logins,
            )
    elif settings.mattermost_login is None or settings.mattermost_password is None:
        raise _incomplete(settings, "mattermost_url", "mattermost_token, or mattermost_login and mattermost_password")
    if settings.mattermost_channel is None:
        raise _incomplete(settings, "mattermost_url", "mattermost_channel: an id, or team/channel")


def _incomplete(settings: Settings, name: str, missing: str) -> ConfigError:
    return ConfigError(
        name,
        getattr(settings, name),
        f"together with {missing}",
        problem="is not enough for Mattermost",
        related=tuple(other for other in _MATTERMOST if other != name),
    )
