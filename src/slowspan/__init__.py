"""Finds out why a slow request was slow, on the OpenTelemetry spans that an application already has."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from slowspan._version import __version__

if TYPE_CHECKING:
    from slowspan.applications import quick_setup
    from slowspan.config import ConfigError, Settings
    from slowspan.control import Status, disable, enable, status
    from slowspan.decorator import profile
    from slowspan.instrumentor import instrument, uninstrument
    from slowspan.notifiers.base import DeliveryError, Notifier
    from slowspan.processor import SlowSpanProcessor
    from slowspan.recording.profile import Profile, ProfileFormatError, load_profile
    from slowspan.report.alert import Alert, Digest
    from slowspan.report.report import Report
    from slowspan.trace_sampler import RecordUnsampled

__all__ = [
    "Alert",
    "ConfigError",
    "DeliveryError",
    "Digest",
    "Notifier",
    "Profile",
    "ProfileFormatError",
    "RecordUnsampled",
    "Report",
    "Settings",
    "SlowSpanProcessor",
    "Status",
    "__version__",
    "disable",
    "enable",
    "instrument",
    "load_profile",
    "profile",
    "quick_setup",
    "status",
    "uninstrument",
]

_HOMES = {
    "Alert": "slowspan.report.alert",
    "ConfigError": "slowspan.config",
    "DeliveryError": "slowspan.notifiers.base",
    "Digest": "slowspan.report.alert",
    "Notifier": "slowspan.notifiers.base",
    "Profile": "slowspan.recording.profile",
    "ProfileFormatError": "slowspan.recording.profile",
    "RecordUnsampled": "slowspan.trace_sampler",
    "Report": "slowspan.report.report",
    "Settings": "slowspan.config",
    "SlowSpanProcessor": "slowspan.processor",
    "Status": "slowspan.control",
    "disable": "slowspan.control",
    "enable": "slowspan.control",
    "instrument": "slowspan.instrumentor",
    "load_profile": "slowspan.recording.profile",
    "profile": "slowspan.decorator",
    "quick_setup": "slowspan.applications",
    "status": "slowspan.control",
    "uninstrument": "slowspan.instrumentor",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: the child process that renders reports needs no OpenTelemetry, and a server that never
    # has a slow request needs no report.
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return __all__
