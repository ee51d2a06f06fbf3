"""``slowspan list``: the newest reports, a line each."""

from __future__ import annotations

import shutil
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from slowspan.commands.common import (
    counted,
    directory_option,
    facts_of,
    json_option,
    print_json,
    progress,
    read_stored,
    reports_in,
    started_at,
)
from slowspan.config_sources import load_settings
from slowspan.delivery.naming import PROFILE_SUFFIX
from slowspan.redaction import one_line
from slowspan.report.columns import columns, pad
from slowspan.report.summary import describe, format_duration, hot_lines

if TYPE_CHECKING:
    from pathlib import Path

    from slowspan.recording.profile import Profile

DEFAULT_LIMIT = 20
"""Profiles that are read. One takes 3 ms, one of 2 000 samples 80 ms: a full directory would take half a minute."""

SHOWN_ID = 8
"""Digits of an id that are shown: enough to tell a million apart, and any command takes the beginning of an id."""

_MOMENT = len("11-21 19:44  ")
_TIMES = len(" 1.42 s+ > 1.42 s   ")
_FIXED = _MOMENT + _TIMES + 2 + 2 + SHOWN_ID
"""Columns that everything but the endpoint and the hottest line takes, with the gaps."""

_LEAST = 12


@click.command("list")
@click.option(
    "--limit",
    "-n",
    type=click.IntRange(min=0),
    default=DEFAULT_LIMIT,
    show_default=True,
    help="How many at most; 0: all, which takes 3 to 80 ms for each.",
)
@json_option
@directory_option
def list_reports(limit: int, as_json: bool, report_dir: Path | None) -> None:
    """List the slow requests, newest first.

    A line has the start (UTC), the duration and the threshold, the endpoint, the hottest line and the
    beginning of the id, which is enough for the other commands. A "+" after the duration: the request was
    still running.
    """
    directory = report_dir or load_settings().settings.report_dir
    names = reports_in(directory)
    newest = names[: -limit - 1 : -1] if limit else names[::-1]
    paths = [directory / f"{name}{PROFILE_SUFFIX}" for name in newest]
    if as_json:
        with progress(f"reading {counted(len(paths), 'profile')}"):
            objects = [_object(path) for path in paths]
        print_json(objects)
        return
    room = max(shutil.get_terminal_size().columns - _FIXED, 2 * _LEAST)
    for path in paths:
        # Each as soon as it is read: who has seen enough need not wait for the others.
        click.echo(_line(path, room))
    if not names:
        click.echo(f"No reports in {directory}.", err=True)
    elif len(names) > len(newest):
        click.echo(f"{len(newest)} of {counted(len(names), 'report')}; --limit 0 lists all.", err=True)


def _object(path: Path) -> dict[str, Any]:
    try:
        return facts_of(read_stored(path), path)
    except click.ClickException as error:
        name = path.name.removesuffix(PROFILE_SUFFIX)
        return {"id": name.rpartition("_")[2], "name": name, "profile": str(path), "error": error.message}


def _line(path: Path, room: int) -> str:
    left = room // 2
    right = room - left
    try:
        profile = read_stored(path)
    except click.ClickException:
        name = path.name.removesuffix(PROFILE_SUFFIX)
        started = datetime.strptime(name[:15], "%Y%m%dT%H%M%S")
        return f"{started:%m-%d %H:%M}  {'cannot be read':<{_TIMES + 2 + room}}  {name.rpartition('_')[2][:SHOWN_ID]}"
    duration = format_duration(profile.duration_ns)
    mark = "+" if profile.running else " "
    threshold = f"> {format_duration(profile.threshold_ns)}"
    endpoint = pad(one_line(profile.span.endpoint, left), left)
    return (
        f"{started_at(profile):%m-%d %H:%M}  {duration:>7}{mark} {threshold:<9}  "
        f"{endpoint}  {pad(_hottest(profile, right), right)}  {profile.id[:SHOWN_ID]}"
    )


def _hottest(profile: Profile, room: int) -> str:
    lines = hot_lines(profile, 1)
    if not lines:
        return ""
    text = describe(lines[0])
    if columns(text) > room and not lines[0].synthetic:
        text = text.removesuffix(lines[0].function)
    return one_line(text.rstrip(), room)
