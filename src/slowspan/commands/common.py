"""What several commands share: finding and reading a report, its facts as JSON, progress."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slowspan.config_sources import load_settings
from slowspan.delivery.naming import PAGE_SUFFIX, PROFILE_SUFFIX, report_of_file
from slowspan.recording.profile import Profile, ProfileFormatError, load_profile
from slowspan.report.summary import hot_lines, time_shares

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from slowspan.report.summary import HotLine

Decorator = Callable[[Callable[..., None]], Callable[..., None]]
"""Gives a command's function one more parameter."""

MOST_LISTED = 10
"""Reports that are named when an id fits several."""

profile_argument: Decorator = click.argument("profile", metavar="ID")
directory_option: Decorator = click.option(
    "--report-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the reports are. By default what the settings say: the environment, the configuration file.",
)
json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


def print_json(value: Any) -> None:
    """Print a value as indented JSON, in ASCII: it passes every terminal and pipe."""
    click.echo(json.dumps(value, indent=2))


def counted(number: int, what: str) -> str:
    """Return a number with its noun: ``1 report``, ``2 reports``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


@contextmanager
def progress(text: str) -> Iterator[None]:
    """Show on a terminal's standard error what is going on, until the end of the block."""
    shown = sys.stderr is not None and sys.stderr.isatty()
    if shown:
        click.echo(f"{text} …", nl=False, err=True)
    try:
        yield
    finally:
        if shown:
            # Back to the line's start, and clear it: what is printed next takes its place.
            click.echo("\r\x1b[K", nl=False, err=True)


def reports_in(directory: Path, suffixes: Collection[str] = (PROFILE_SUFFIX,)) -> list[str]:
    """Return the names of the reports in a directory, oldest first. Reads no file.

    Args:
        directory: The report directory.
        suffixes: What a report must have one file of.

    Raises:
        ClickException: The directory cannot be read.
    """
    try:
        files = [path.name for path in directory.iterdir()]
    except FileNotFoundError:
        raise click.ClickException(
            f"cannot read the report directory {directory}: No such file or directory. "
            "Nothing was written yet, or the application has another report_dir."
        ) from None
    except OSError as error:
        raise click.ClickException(f"cannot read the report directory {directory}: {error.strerror}") from error
    names = {report_of_file(file) for file in files if file.endswith(tuple(suffixes))}
    return sorted(name for name in names if name is not None)


def find_report(
    reference: str, report_dir: Path | None, suffixes: Collection[str] = (PROFILE_SUFFIX,)
) -> tuple[Path, str]:
    """Find the one report that somebody means.

    Args:
        reference: An id, the beginning of one, a report's name, or the path of one of its files.
        report_dir: Where to look; None for the directory of the settings.
        suffixes: What the report must have one file of.

    Returns:
        Its directory, and its files' name without suffix.

    Raises:
        ClickException: There is none, or more than one.
    """
    path = Path(reference)
    for suffix in (PAGE_SUFFIX, PROFILE_SUFFIX):
        name = path.name.removesuffix(suffix)
        if name != path.name and any(path.with_name(name + wanted).is_file() for wanted in suffixes):
            return path.parent, name
    directory = report_dir or load_settings().settings.report_dir
    names = [name for name in reports_in(directory, suffixes) if _is_meant(name, reference)]
    if not names:
        raise click.ClickException(f"no profile {reference!r} in {directory}")
    if len(names) > 1:
        listed = "".join(f"\n  {name}" for name in names[:MOST_LISTED])
        more = f"\n  and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
        raise click.ClickException(f"{len(names)} profiles begin with {reference!r}:{listed}{more}")
    return directory, names[0]


def _is_meant(name: str, reference: str) -> bool:
    return name == reference or name.rpartition("_")[2].startswith(reference.lower())


def find_profile(reference: str, report_dir: Path | None) -> Path:
    """Find the stored profile that somebody means, as ``find_report`` does; any existing file will do."""
    path = Path(reference)
    if not reference.endswith(PAGE_SUFFIX) and path.is_file():
        return path
    directory, name = find_report(reference, report_dir)
    return directory / f"{name}{PROFILE_SUFFIX}"


def read_stored(path: Path) -> Profile:
    """Read a stored profile.

    Raises:
        ClickException: The file cannot be read, or is not a profile.
    """
    try:
        return load_profile(path)
    except ProfileFormatError as error:
        raise click.ClickException(f"{path}: {error}") from error
    except OSError as error:
        raise click.ClickException(f"cannot read {path}: {error.strerror}") from error


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
        "cpu_seconds": line.cpu_ns / 1e9 if line.unknown_ns < line.wall_ns else None,
        "file": line.file or None,
        "line": line.line or None,
        "class": line.class_name,
        "function": line.function,
    }
