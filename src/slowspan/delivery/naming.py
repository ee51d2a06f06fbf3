"""How reports are named, and where they are found."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slowspan.config import Settings

PAGE_SUFFIX = ".html"
PROFILE_SUFFIX = ".json.gz"

ALERT_STATE = "alerts.sqlite3"
"""The file beside the reports that says who has been told what, and what could not be told yet."""

_ALERT_STATE_FILE = re.compile(rf"{re.escape(ALERT_STATE)}(?:-wal|-shm|-journal|\.corrupt)?", re.ASCII)

_MAX_ENDPOINT = 80
"""Characters of the endpoint in a name; with time, id and suffix a file name has at most 127."""

_LAST_SECOND = 253_402_300_799
"""The end of the year 9999: beyond it a name would have another form, and ``gmtime`` may refuse."""

_HARMLESS = re.compile(r"[^A-Za-z0-9]+")
_REPORT_FILE = re.compile(
    r"(\d{8}T\d{6}\.\d{3}Z_[A-Za-z0-9_]{1,80}_[0-9a-f]{16})(?:\.html|\.json\.gz)",
    re.ASCII,
)
_TEMPORARY_FILE = re.compile(rf"\.{_REPORT_FILE.pattern}\.[0-9a-f]{{16}}\.tmp", re.ASCII)


def report_name(start_time_ns: int, endpoint: str, id: str) -> str:
    """Name a report by its time, endpoint and id, so that names sort by time and never meet.

    Cheap enough for a request's thread. The endpoint may come from a stranger's URL: only its letters and
    digits get into the name.

    Args:
        start_time_ns: Unix time of the span's start, in nanoseconds.
        endpoint: Method and route, or path.
        id: The profile's id, 16 hexadecimal digits.

    Returns:
        The file name without extension, for example ``20261121T193204.123Z_GET_orders_id_1a2b3c4d5e6f7a8b``.
    """
    seconds, rest = divmod(max(0, start_time_ns), 1_000_000_000)
    moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime(min(seconds, _LAST_SECOND)))
    # Cut first: the work must not grow with the URL.
    words = _HARMLESS.sub("_", endpoint[: 4 * _MAX_ENDPOINT]).strip("_")[:_MAX_ENDPOINT] or "request"
    return f"{moment}.{rest // 1_000_000:03d}Z_{words}_{id}"


def report_of_file(file_name: str) -> str | None:
    """Return the name of the report to which a file belongs, or None when the file is not one of ours."""
    match = _REPORT_FILE.fullmatch(file_name)
    return match.group(1) if match else None


def is_alert_state(file_name: str) -> bool:
    """Tell whether a file belongs to the alert state."""
    return _ALERT_STATE_FILE.fullmatch(file_name) is not None


def temporary_file(file_name: str) -> str:
    """Return a fresh name for a report's file while it is being written; no reader takes it for a report."""
    return f".{file_name}.{os.urandom(8).hex()}.tmp"


def is_temporary_file(file_name: str) -> bool:
    """Tell whether a file is a report that is being written, or was when its process died."""
    return _TEMPORARY_FILE.fullmatch(file_name) is not None


def report_path(settings: Settings, name: str) -> Path:
    """Return where the file notifier writes the page of a report; known before the page exists."""
    return settings.report_dir / f"{name}{PAGE_SUFFIX}"


def report_url(settings: Settings, id: str, name: str) -> str | None:
    """Return the address of a report's page, made from the setting ``report_url``, or None without it."""
    if settings.report_url is None:
        return None
    return settings.report_url.format(id=id, name=name, file=f"{name}{PAGE_SUFFIX}")


def report_link(settings: Settings, id: str, name: str) -> str | None:
    """Return where a report can be read: by ``report_url``, else the file's own address, else None.

    Cheap enough for a request's thread, and known before the report exists.
    """
    url = report_url(settings, id, name)
    if url is None and "file" in settings.notifiers:
        return report_path(settings, name).absolute().as_uri()
    return url


def trace_url(settings: Settings, trace_id: str, span_id: str) -> str | None:
    """Return the address of a trace, made from the setting ``trace_url``, or None without it."""
    if settings.trace_url is None:
        return None
    return settings.trace_url.format(trace_id=trace_id, span_id=span_id)
