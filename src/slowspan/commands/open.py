"""``slowspan open``: a report's page in the browser."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from slowspan.commands.common import directory_option, find_report, profile_argument, read_stored
from slowspan.config_sources import load_settings
from slowspan.counters import DropError
from slowspan.delivery.naming import PAGE_SUFFIX, PROFILE_SUFFIX, trace_url
from slowspan.delivery.store import ReportStore
from slowspan.report.html import render_page

if TYPE_CHECKING:
    from pathlib import Path


@click.command("open")
@profile_argument
@click.option("--print", "print_only", is_flag=True, help="Only print the page's path.")
@directory_option
def open_page(profile: str, print_only: bool, report_dir: Path | None) -> None:
    """Open a report's page in the browser, and print its path.

    A page that is missing is made from the profile. Over ssh and without a display the path is only
    printed; set BROWSER to open it anyhow.
    """
    directory, name = find_report(profile, report_dir, (PAGE_SUFFIX, PROFILE_SUFFIX))
    page = (directory / f"{name}{PAGE_SUFFIX}").absolute()
    if not page.is_file():
        _make_page(page, directory / f"{name}{PROFILE_SUFFIX}")
    click.echo(str(page))
    if print_only:
        return
    reason = no_browser()
    if reason is None and not _open(page):
        reason = "no browser could be started"
    if reason is not None:
        click.echo(f"Not opened: {reason}. Copy the page to where a browser is; it needs no other file.", err=True)


def no_browser() -> str | None:
    """Return why a browser would not be seen by whoever sits at this terminal, or None."""
    if os.environ.get("BROWSER"):
        return None
    if os.environ.get("SSH_CONNECTION"):
        return "this is an ssh session"
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no display"
    return None


def _open(page: Path) -> bool:
    # Imported here because it looks for every browser there is.
    import webbrowser

    return webbrowser.open(page.as_uri())


def _make_page(page: Path, stored: Path) -> None:
    profile = read_stored(stored)
    link = trace_url(load_settings().settings, profile.span.trace_id, profile.span.span_id)
    try:
        # As the file notifier writes it: privately, and whole or not at all.
        ReportStore(page.parent).write(page.name, render_page(profile, link).encode("utf-8"))
    except DropError as error:
        elsewhere = f"slowspan export {stored} --format html --output FILE"
        raise click.ClickException(f"{error}. To make the page elsewhere: {elsewhere}") from error
