"""What ``slowspan check`` looks at besides the channels: the interpreter, the settings, the storage."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from functools import partial
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import TYPE_CHECKING

from slowspan._version import __version__
from slowspan.commands.common import counted, reports_in
from slowspan.commands.findings import Attempt, Finding, warnings_of_slowspan, without_secrets
from slowspan.config import SETTING_NAMES
from slowspan.config_secrets import HIDDEN, is_hidden
from slowspan.config_sources import load_settings
from slowspan.counters import DropError
from slowspan.delivery.alert_fallback import make_store
from slowspan.delivery.naming import PROFILE_SUFFIX, report_name, temporary_file
from slowspan.delivery.store import ReportStore
from slowspan.instrumentor import is_left_out, is_sdk_disabled
from slowspan.recording.stack_sampler import unavailable
from slowspan.redaction import one_line
from slowspan.report.summary import describe, hot_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slowspan.config import Settings
    from slowspan.config_sources import LoadedSettings
    from slowspan.recording.profile import Profile

DISABLED = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"

_VALUE_LIMIT = 300
_PROBE = b"slowspan check\n"


def examine_environment() -> Iterator[Finding]:
    """Tell of the interpreter, of OpenTelemetry, and of how slowspan gets switched on."""
    user = f", user {os.geteuid()}" if hasattr(os, "geteuid") else ""
    python = f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}{user}"
    yield Finding("environment", "python", "ok", python)
    yield Finding("environment", "slowspan", "ok", __version__)
    versions = ", ".join(f"{name} {_version(f'opentelemetry-{name}')}" for name in ("api", "sdk", "instrumentation"))
    yield Finding("environment", "opentelemetry", "ok", versions)
    if is_sdk_disabled():
        yield Finding("environment", "OTEL_SDK_DISABLED", "fail", "is set: OpenTelemetry makes no spans. Unset it.")
    yield _instrumentor()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


def _instrumentor() -> Finding:
    name = "instrumentor"
    if is_left_out():
        return Finding("environment", name, "off", f"{DISABLED} keeps opentelemetry-instrument from switching it on")
    if not [point for point in entry_points(group="opentelemetry_instrumentor") if point.name == "slowspan"]:
        problem = "opentelemetry-instrument cannot find slowspan: install it with pip into this environment"
        return Finding("environment", name, "fail", problem)
    return Finding("environment", name, "ok", "opentelemetry-instrument switches slowspan on")


def examine_settings() -> tuple[LoadedSettings, list[Finding]]:
    """Read the settings as a worker would, and tell of each that is not a default."""
    with warnings_of_slowspan() as messages:
        loaded = load_settings()
    settings = loaded.settings
    findings = [
        Finding("settings", name, "set", f"{_value(name, settings)}, from {origin}")
        for name, origin in loaded.origins.items()
        if origin != "default"
    ]
    if not findings:
        findings.append(Finding("settings", "all", "ok", f"the defaults of all {len(SETTING_NAMES)} settings"))
    findings += [Finding("settings", "wrong", "fail", without_secrets(message, settings)) for message in messages]
    return loaded, findings


def _value(name: str, settings: Settings) -> str:
    value = getattr(settings, name)
    if is_hidden(name, value):
        text = HIDDEN
    elif isinstance(value, tuple):
        text = ", ".join(str(item) if isinstance(item, str) else repr(item) for item in value) or "none"
    else:
        text = str(value)
    return one_line(text, _VALUE_LIMIT)


def examine_sampling(
    settings: Settings, make_sample: Callable[[Settings], Profile | None]
) -> tuple[Finding, Profile | None]:
    """Profile a slow function of our own, to see that profiling works here.

    Returns:
        The finding, and the profile if there is one.
    """
    reason = unavailable()
    with warnings_of_slowspan() as messages:
        profile = make_sample(settings)
    if not settings.enabled:
        return Finding("environment", "profiling", "off", "the setting enabled is false"), profile
    if reason is not None:
        return Finding("environment", "profiling", "fail", f"{reason}; use another interpreter"), profile
    if profile is None or not profile.sample_count:
        problem = "; ".join(messages) or "no profile came of a slow test function"
        return Finding("environment", "profiling", "fail", without_secrets(problem, settings)), profile
    hottest = describe(hot_lines(profile, 1)[0])
    text = f"a test function was seen {profile.sample_count} times; hottest line {hottest}"
    return Finding("environment", "profiling", "ok", text), profile


def examine_report_dir(settings: Settings) -> Finding:
    """Write a file into the report directory and delete it; the directory is made if need be."""
    directory = settings.report_dir
    store = ReportStore(directory)
    name = temporary_file(report_name(0, "check", "0" * 16) + PROFILE_SUFFIX)
    try:
        with store.opened() as opened:
            try:
                with os.fdopen(opened.create(name), "wb") as file:
                    file.write(_PROBE)
            finally:
                opened.remove(name)
        free = shutil.disk_usage(directory).free
        kept = len(reports_in(directory))
    except DropError as error:
        return Finding("storage", "report_dir", "fail", str(error))
    except OSError as error:
        return Finding("storage", "report_dir", "fail", f"cannot write into {directory}: {error.strerror or error}")
    text = f"{directory} can be written; {counted(kept, 'report')}, {free / 1e9:.1f} GB free"
    return Finding("storage", "report_dir", "ok", text)


def examine_alert_store(settings: Settings) -> Finding:
    """Reach and write the alert store, within ``notify_timeout``."""
    attempt = Attempt(partial(_check_store, settings), settings.notify_timeout, "alert-store")
    try:
        text = attempt.result()
    except TimeoutError:
        problem = f"no answer within {settings.notify_timeout:g} s (notify_timeout)"
    except Exception as error:  # noqa: BLE001 - a store's client is somebody else's code
        problem = str(error) or type(error).__name__
    else:
        return Finding("storage", "alert store", "ok", without_secrets(text, settings), attempt.seconds)
    problem = f"{problem.rstrip('.')}. Each process would tell alerts by itself until it is back."
    return Finding("storage", "alert store", "fail", without_secrets(problem, settings), attempt.seconds)


def _check_store(settings: Settings) -> str:
    store = make_store(settings)
    try:
        return store.check(time.time())
    finally:
        store.close()
