"""The commands of the ``slowspan`` command. Imported when it runs; needs click."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import click

from slowspan._version import __version__
from slowspan.config_sources import load_settings
from slowspan.delivery.naming import PAGE_SUFFIX, PROFILE_SUFFIX, report_of_file
from slowspan.recording.profile import Profile, ProfileFormatError, load_profile
from slowspan.recording.session import RECURSION_LIMIT
from slowspan.report.formats import FORMATS
from slowspan.report.text import render_text

MOST_LISTED = 10
"""Profiles that are named when an id fits several."""

_profile_argument = click.argument("profile", metavar="ID")
_directory_option = click.option(
    "--report-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the reports are. By default what the settings say: the environment, the configuration file.",
)


@click.group(context_settings={"max_content_width": 80})
@click.version_option(__version__)
def slowspan() -> None:
    """Read the profiles of slow requests.

    ID is a profile's id, the beginning of one, or the path of a profile or of its page.
    """
    sys.setrecursionlimit(RECURSION_LIMIT)


@slowspan.command()
@_profile_argument
@_directory_option
def show(profile: str, report_dir: Path | None) -> None:
    """Print a profile: facts, hot lines, call tree."""
    text = render_text(_load(profile, report_dir), shutil.get_terminal_size().columns)
    # A terminal that cannot show a line of the tree still shows the words.
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    click.echo(text, nl=False)


@slowspan.command()
@_profile_argument
@click.option(
    "--format",
    "format_name",
    type=click.Choice(sorted(FORMATS)),
    required=True,
    help="html: the page. json: the profile itself. session: for pyinstrument --load. "
    "speedscope: for speedscope.app. text: what show prints, at full width.",
)
@click.option("--output", "-o", type=click.Path(dir_okay=False, allow_dash=True), default="-", help="A file, or -.")
@_directory_option
def export(profile: str, format_name: str, output: str, report_dir: Path | None) -> None:
    """Write a profile in another format."""
    data = FORMATS[format_name](_load(profile, report_dir)).encode("utf-8")
    if output == "-":
        sys.stdout.buffer.write(data)
        return
    try:
        # Reports are private: a new file is for its owner only.
        with open(output, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(data)
    except OSError as error:
        raise click.ClickException(f"cannot write {output}: {error.strerror}") from error


def _load(reference: str, report_dir: Path | None) -> Profile:
    path = _find(reference, report_dir)
    try:
        return load_profile(path)
    except ProfileFormatError as error:
        raise click.ClickException(f"{path}: {error}") from error
    except OSError as error:
        raise click.ClickException(f"cannot read {path}: {error.strerror}") from error


def _find(reference: str, report_dir: Path | None) -> Path:
    path = Path(reference)
    if path.name.endswith(PAGE_SUFFIX):
        path = path.with_name(path.name.removesuffix(PAGE_SUFFIX) + PROFILE_SUFFIX)
    if path.is_file():
        return path
    directory = report_dir or load_settings().settings.report_dir
    try:
        files = sorted(file for file in directory.iterdir() if _is_profile(file, reference))
    except OSError as error:
        raise click.ClickException(f"cannot read the report directory {directory}: {error.strerror}") from error
    if not files:
        raise click.ClickException(f"no profile {reference!r} in {directory}")
    if len(files) > 1:
        listed = "".join(f"\n  {file.name.removesuffix(PROFILE_SUFFIX)}" for file in files[:MOST_LISTED])
        more = f"\n  and {len(files) - MOST_LISTED} more" if len(files) > MOST_LISTED else ""
        raise click.ClickException(f"{len(files)} profiles begin with {reference!r}:{listed}{more}")
    return files[0]


def _is_profile(file: Path, reference: str) -> bool:
    name = report_of_file(file.name)
    if name is None or not file.name.endswith(PROFILE_SUFFIX):
        return False
    return name == reference or name.rpartition("_")[2].startswith(reference.lower())
