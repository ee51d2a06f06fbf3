"""``slowspan show`` and ``slowspan export``: one profile in the terminal, or in another format."""

from __future__ import annotations

import os
import shutil
import stat
from typing import TYPE_CHECKING

import click

from slowspan.commands.common import (
    directory_option,
    facts_of,
    find_profile,
    json_option,
    print_json,
    profile_argument,
    read_stored,
)
from slowspan.report.formats import FORMATS
from slowspan.report.text import render_text

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@profile_argument
@json_option
@directory_option
def show(profile: str, as_json: bool, report_dir: Path | None) -> None:
    """Print a profile: facts, hot lines, call tree.

    As JSON: facts, hot lines and shares; export has the call tree.
    """
    path = find_profile(profile, report_dir)
    if as_json:
        print_json(facts_of(read_stored(path), path))
    else:
        click.echo(render_text(read_stored(path), shutil.get_terminal_size().columns), nl=False)


@click.command()
@profile_argument
@click.option(
    "--format",
    "format_name",
    type=click.Choice(sorted(FORMATS)),
    required=True,
    help="html: the page. json: the profile itself. session: for pyinstrument --load. "
    "speedscope: for speedscope.app. text: what show prints, at full width.",
)
@click.option("--output", "-o", type=click.Path(dir_okay=False, allow_dash=True), default="-", help="A file, or -.")
@directory_option
def export(profile: str, format_name: str, output: str, report_dir: Path | None) -> None:
    """Write a profile in another format."""
    data = FORMATS[format_name](read_stored(find_profile(profile, report_dir))).encode("utf-8")
    if output == "-":
        click.echo(data, nl=False)
        return
    try:
        with open(output, "wb", opener=_open_privately) as file:
            file.write(data)
    except OSError as error:
        raise click.ClickException(f"cannot write {output}: {error.strerror}") from error


def _open_privately(path: str, flags: int) -> int:
    """Open a file for its owner only, as reports are, also one that was there; a device or a pipe stays as it is."""
    # Emptied only when it is private: a file of another user, whose mode cannot be changed, keeps its content.
    descriptor = os.open(path, flags & ~os.O_TRUNC, 0o600)
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            if hasattr(os, "fchmod"):
                os.fchmod(descriptor, 0o600)
            os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
