"""The settings: one frozen object, checked when it is made."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from slowspan import config_channels as channel
from slowspan import config_values as read
from slowspan.config_checks import ConfigError, check_together
from slowspan.config_secrets import shown
from slowspan.redaction import DEFAULT_REDACTED_PARAMETERS

__all__ = [
    "CHANNEL_SETTINGS",
    "SETTING_NAMES",
    "ConfigError",
    "Settings",
    "default_report_dir",
    "read_setting",
    "seconds_to_ns",
]

_DAY = 86_400.0
_START_AFTER_SHARE = 10  # the first sample comes no later than after this part of the smallest threshold


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


CHANNEL_SETTINGS = {"mattermost": "mattermost_url", "apprise": "apprise_urls", "webhook": "webhook_url"}
"""The setting that switches a channel on, unless ``notifiers`` is given."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
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
    """Pairs of regular expression and seconds for routes, paths, URLs or span names; the first that matches wins."""
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
    record_unsampled: bool = False
    """Whether slow requests are also reported of those that the trace sampler drops."""
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
    alert_window: float = 10 * _DAY
    """Seconds for which an alert is not told again."""
    alert_key: tuple[str, ...] = ("parameters",)
    """What, beside the endpoint, makes one alert: ``parameters``, ``?NAME`` for one parameter, ``hot_line``."""
    realert_ratio: float = 2.0
    """A request so many times as slow as the worst one told is told again within the window."""
    alerts_per_hour: int = 30
    """The most alerts told in an hour; one message at its end sums up the others."""
    reports_per_hour: int = 60
    """The most reports kept of one endpoint in an hour, by each process."""
    alert_store: str | None = None
    """URI of the store that tells what has been told; None: SQLite in the report directory."""
    mattermost_url: str | None = None
    """The Mattermost server's address, with the sub-path if it has one."""
    mattermost_token: str | None = None
    """Access token of a bot or user; secret."""
    mattermost_login: str | None = None
    """User name or email address, where there is no token."""
    mattermost_password: str | None = None
    """The login's password; secret."""
    mattermost_channel: str | None = None
    """The channel's id, or ``team/channel``."""
    mattermost_ca_file: Path | None = None
    """Certificates (PEM) that the Mattermost server's certificate is checked against, instead of the usual ones."""
    mattermost_proxy: str | None = None
    """URL of the proxy before the Mattermost server; secret."""
    mattermost_threads: bool = True
    """Whether a later alert of a key goes into the thread of the first one."""
    apprise_urls: tuple[str, ...] = ()
    """URLs of Apprise, one for each service; secret."""
    webhook_url: str | None = None
    """Where each alert is posted as JSON; secret."""
    webhook_secret: str | None = None
    """Key of the webhook's signature; secret."""
    notify_timeout: float = 30.0
    """Seconds that a channel may take for one try."""
    notifiers: tuple[object, ...] = None  # type: ignore[assignment]  # None until all are read
    """The notifiers that are on: names of entry points of the group ``slowspan_notifier``; in code also notifiers,
    classes of notifiers, and functions that take the report. Not given: file, log, and each channel configured."""
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
        if self.notifiers is None:
            configured = [name for name, setting in CHANNEL_SETTINGS.items() if getattr(self, setting)]
            object.__setattr__(self, "notifiers", ("file", "log", *configured))
        check_together(self)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={shown(name, getattr(self, name))}" for name in SETTING_NAMES)
        return f"Settings({values})"

    @property
    def threshold_ns(self) -> int:
        """The general threshold, in nanoseconds."""
        return seconds_to_ns(self.threshold)

    @property
    def min_threshold_ns(self) -> int:
        """The smallest of all thresholds, in nanoseconds: no shorter request is slow, whatever its route."""
        return seconds_to_ns(min([self.threshold, *(seconds for _, seconds in self.thresholds)]))

    @property
    def longest_ns(self) -> int:
        """Twice the longest of all thresholds, and of ``hung_after``, in nanoseconds."""
        return 2 * seconds_to_ns(max([self.threshold, self.hung_after, *(seconds for _, seconds in self.thresholds)]))

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
    "record_unsampled": read.boolean,
    "excluded_urls": read.patterns,
    "included_urls": read.patterns,
    "excluded_attributes": read.attribute_filters,
    "included_attributes": read.attribute_filters,
    "report_dir": read.path("a directory"),
    "retention_count": read.integer(1, 1_000_000),
    "retention_bytes": read.integer(1_000_000, 10**15),
    "retention_age": read.number(60, 3650 * _DAY, "seconds"),
    "report_url": read.link_template("id", "name", "file"),
    "trace_url": read.link_template("trace_id", "span_id"),
    "redacted_parameters": partial(read.patterns, default=DEFAULT_REDACTED_PARAMETERS),
    "alert_window": channel.duration(60, 3650 * _DAY),
    "alert_key": channel.alert_key,
    "realert_ratio": read.number(1, 1000, "times"),
    "alerts_per_hour": read.integer(1, 10_000),
    "reports_per_hour": read.integer(1, 1_000_000),
    "alert_store": channel.optional(channel.store_uri),
    "mattermost_url": channel.optional(channel.web_url("https", "http")),
    "mattermost_token": channel.optional(channel.word),
    "mattermost_login": channel.optional(channel.word),
    "mattermost_password": channel.optional(channel.secret_text),
    "mattermost_channel": channel.optional(channel.mattermost_channel),
    "mattermost_ca_file": channel.optional(read.path("a file")),
    "mattermost_proxy": channel.optional(channel.web_url("http", "https", "socks5", "socks5h", login=True)),
    "mattermost_threads": read.boolean,
    "apprise_urls": channel.apprise_urls,
    "webhook_url": channel.optional(channel.web_url("https", "http", login=True, query=True)),
    "webhook_secret": channel.optional(channel.secret_text),
    "notify_timeout": read.number(1, 600, "seconds"),
    "notifiers": channel.optional(read.notifiers),
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
