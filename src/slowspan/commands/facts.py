"""A profile's facts as a JSON object: what ``show --json`` and ``list --json`` print."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from slowspan.delivery.naming import PAGE_SUFFIX, PROFILE_SUFFIX
from slowspan.report.summary import hot_lines, time_shares

if TYPE_CHECKING:
    from pathlib import Path

    from slowspan.recording.profile import Profile
    from slowspan.report.summary import HotLine


def started_at(profile: Profile) -> datetime:
    """Return when the request started, in UTC."""
    return datetime.fromtimestamp(profile.start_time_ns / 1e9, timezone.utc)


def facts_of(profile: Profile, path: Path) -> dict[str, Any]:
    """Return what is known of a slow request, without its samples. ``docs/commands.md`` documents the shape.

    Args:
        profile: The profile.
        path: Its file.

    Returns:
        An object for JSON; durations in seconds.
    """
    page = path.with_name(path.name.removesuffix(PROFILE_SUFFIX) + PAGE_SUFFIX)
    span = asdict(profile.span)
    span["parameters"] = [list(pair) for pair in profile.span.parameters]
    process = profile.process
    return {
        "id": profile.id,
        "name": profile.name,
        "endpoint": profile.span.endpoint,
        "started": started_at(profile).isoformat(timespec="milliseconds"),
        "duration": profile.duration_ns / 1e9,
        "threshold": profile.threshold_ns / 1e9,
        "running": profile.running,
        "cpu_time": None if profile.cpu_time_ns is None else profile.cpu_time_ns / 1e9,
        "shares": {share.name.replace(" ", "_"): share.share for share in time_shares(profile)},
        "hot_lines": [_hot_line(line) for line in hot_lines(profile)],
        "samples": profile.sample_count,
        "engine": profile.engine,
        "span": span,
        "process": {"host": process.host, "pid": process.pid, "thread": process.thread_name, "python": process.python},
        "notes": list(profile.notes),
        "profile": str(path),
        "page": str(page) if page.is_file() else None,
    }


def _hot_line(line: HotLine) -> dict[str, Any]:
    return {
        "share": line.share,
        "seconds": line.wall_ns / 1e9,
        "cpu_seconds": line.cpu_ns / 1e9,
        "file": line.file or None,
        "line": line.line or None,
        "class": line.class_name,
        "function": line.function,
    }
