"""What is raised when a setting is wrong."""

from __future__ import annotations

from slowspan.config_secrets import HIDDEN, is_hidden

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
