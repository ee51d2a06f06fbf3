"""``slowspan show``: one profile in the terminal."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import click

from slowspan.commands.common import (
    directory_option,
    find_profile,
    json_option,
    print_json,
    profile_argument,
    read_stored,
)
from slowspan.commands.facts import facts_of
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
