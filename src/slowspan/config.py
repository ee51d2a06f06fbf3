"""The settings: one frozen object, checked when it is made."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from slowspan import config_values as read
from slowspan.redaction import DEFAULT_REDACTED_PARAMETERS

_DAY = 86_400.0
_START_AFTER_SHARE = 10  # the first sample comes no later than after this part of the smallest threshold
_SHOWN_VALUE = 200  # characters of a wrong value in a message


class ConfigError(ValueError):
    """A setting is wrong, or unknown.

    Attributes:
        setting: The setting's name.
        value: The value that was given.
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


def default_report_dir() -> Path:
    """Return the private directory for reports under the system's temporary directory.

    Its name holds the user, so that two users' applications on one machine do not meet.
    """
    # Imported here because it takes as long as all the rest of this module, and many set another directory.
    import tempfile

    user = str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    try:
        parent = tempfile.gettempdir()
    except FileNotFoundError:
        # No directory is writable now. That must not stop the application: the file notifier will say so.
        parent = "/tmp"
    return Path(parent, f"slowspan-{user}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of slowspan. ``docs/configuration.md`` explains each, with its environment variable.

    Every field takes its normal form, and also what the environment and files give: text for numbers and
    truth values, ``"a, b"`` or a list for a tuple, a mapping for ``thresholds``.

    Raises:
        ConfigError: A value is of a wrong type, out of its range, or contradicts another setting.
    """

    enabled: bool = True
    """Whether anything is recorded from the start."""
    threshold: float = 1.0
    """Seconds from which on a request is slow."""
    thresholds: tuple[tuple[str, float], ...] = ()
    """Pairs of regular expression and seconds for routes, paths or URLs; the first that matches wins."""
    engine: str = "thread"
    """``thread``: a background sampler; ``inline``: pyinstrument in the request's thread, for development."""
    start_after: float = 0.05
    """Seconds a request is left alone before it is sampled; see ``start_after_ns``."""
    interval: float = 0.01
    """Mean seconds between two samples of a request."""
    overhead_budget: float = 0.01
    """What the sampler may use, as a share of one core, averaged over ten seconds; it widens the interval for that."""
    hung_after: float = 10.0
    """Seconds after which a request that is still running yields a partial report."""
    fine_switching: bool = True
    """Whether the interpreter's switch interval may be shortened while a late request is sampled."""
    span_kinds: tuple[str, ...] = ("SERVER",)
    """Names of the OpenTelemetry span kinds that are requests."""
    excluded_urls: tuple[str, ...] = ()
    """Regular expressions, searched in the full URL: requests that are left out."""
    included_urls: tuple[str, ...] = ()
    """Regular expressions, searched in the full URL: when there are any, only these requests are recorded."""
    excluded_attributes: tuple[str, ...] = ()
    """Attribute filters ``name`` or ``name=regular expression``: spans that are left out."""
    included_attributes: tuple[str, ...] = ()
    """Attribute filters: when there are any, only spans that match one of them are recorded."""
    report_dir: Path = field(default_factory=default_report_dir)
    """Directory of the reports and stored profiles; created private."""
    retention_count: int = 500
    """The most reports kept."""
    retention_bytes: int = 500_000_000
    """The most bytes of reports kept."""
    retention_age: float = 30 * _DAY
    """Seconds after which a report is deleted."""
    report_url: str | None = None
    """Where people read a report: a URL with ``{id}``, ``{name}`` or ``{file}``."""
    trace_url: str | None = None
    """Where people look at a trace: a URL with ``{trace_id}`` or ``{span_id}``."""
    redacted_parameters: tuple[str, ...] = DEFAULT_REDACTED_PARAMETERS
    """Regular expressions for the names of query parameters whose values are hidden; case does not matter."""
    notifiers: tuple[object, ...] = ("file", "log")
    """The notifiers that are on: names of entry points of the group ``slowspan_notifier``; in code also notifiers,
    classes of notifiers, and functions that take the report."""
    max_samples: int = 2000
    """The most samples kept of one request; a longer one is kept at a coarser resolution."""
    max_recordings: int = 200
    """The most requests sampled at the same time."""
    queue_size: int = 100
    """The most profiles that wait for delivery."""
    flush_timeout: float = 5.0
    """Seconds that delivery may take at the interpreter's exit and at the provider's shutdown."""

    def __post_init__(self) -> None:
        for name in SETTING_NAMES:
            object.__setattr__(self, name, read_setting(name, getattr(self, name)))
        if self.hung_after < self.interval:
            raise ConfigError(
                "hung_after",
                self.hung_after,
                f"at least the interval, {self.interval:g} seconds: a partial report needs a sample",
                related=("interval",),
            )

    @property
    def threshold_ns(self) -> int:
        """The general threshold, in nanoseconds."""
        return seconds_to_ns(self.threshold)

    @property
    def min_threshold_ns(self) -> int:
        """The smallest of all thresholds, in nanoseconds: no shorter request is slow, whatever its route."""
        return seconds_to_ns(min([self.threshold, *(seconds for _, seconds in self.thresholds)]))

    @property
    def start_after_ns(self) -> int:
        """When sampling really starts, in nanoseconds: at a tenth of the smallest threshold at the latest."""
        return min(seconds_to_ns(self.start_after), self.min_threshold_ns // _START_AFTER_SHARE)


def seconds_to_ns(seconds: float) -> int:
    """Turn the seconds of a setting into whole nanoseconds."""
    return round(seconds * 1_000_000_000)


# Zero reports every request: for tests, and to see what a development server does.
_read_threshold = read.number(0, _DAY, "seconds")

_READERS: Mapping[str, Callable[[Any], object]] = {
    "enabled": read.boolean,
    "threshold": _read_threshold,
    "thresholds": read.thresholds(_read_threshold),
    "engine": read.choice("thread", "inline"),
    "start_after": read.number(0, 3600, "seconds"),
    "interval": read.number(0.001, 10, "seconds"),
    "overhead_budget": read.number(0.0001, 1, "cores"),
    "hung_after": read.number(0.1, _DAY, "seconds"),
    "fine_switching": read.boolean,
    "span_kinds": read.span_kinds,
    "excluded_urls": read.patterns,
    "included_urls": read.patterns,
    "excluded_attributes": read.attribute_filters,
    "included_attributes": read.attribute_filters,
    "report_dir": read.directory,
    "retention_count": read.integer(1, 1_000_000),
    "retention_bytes": read.integer(1_000_000, 10**15),
    "retention_age": read.number(60, 3650 * _DAY, "seconds"),
    "report_url": read.link_template("id", "name", "file"),
    "trace_url": read.link_template("trace_id", "span_id"),
    "redacted_parameters": partial(read.patterns, default=DEFAULT_REDACTED_PARAMETERS),
    "notifiers": read.notifiers,
    "max_samples": read.integer(10, 100_000),
    "max_recordings": read.integer(1, 10_000),
    "queue_size": read.integer(1, 10_000),
    "flush_timeout": read.number(0, 300, "seconds"),
}

SETTING_NAMES: tuple[str, ...] = tuple(_READERS)
"""The names of all settings, in the order of ``Settings``."""


def read_setting(name: str, value: object) -> object:
    """Check one setting by itself and bring it to its normal form.

    Args:
        name: One of ``SETTING_NAMES``.
        value: What code, the environment or a file gave.

    Returns:
        The value as ``Settings`` holds it.

    Raises:
        ConfigError: The value is not allowed.
    """
    try:
        return _READERS[name](value)
    except read.NotAllowed as refusal:
        raise ConfigError(name, value, str(refusal)) from None
