"""``slowspan prune``: deletes the oldest reports now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from slowspan.commands.common import counted, directory_option, json_option, print_json, reports_in
from slowspan.config_sources import load_settings
from slowspan.counters import DropError
from slowspan.delivery.naming import PAGE_SUFFIX, PROFILE_SUFFIX, report_of_file
from slowspan.delivery.retention import Retention
from slowspan.delivery.store import OpenDirectory, ReportStore

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path


class _Watched(OpenDirectory):
    """Keeps account of what is deleted in a directory, and deletes nothing in a dry run."""

    def __init__(self, directory: OpenDirectory, *, dry_run: bool) -> None:
        self._directory = directory
        self._dry_run = dry_run
        self._sizes: dict[str, os.DirEntry[str]] = {}
        self.deleted: dict[str, int] = {}

    def entries(self) -> Iterator[os.DirEntry[str]]:
        for entry in self._directory.entries():
            self._sizes[entry.name] = entry
            yield entry

    def remove(self, file_name: str) -> None:
        if not self._dry_run:
            self._directory.remove(file_name)
        # A report's page and profile count as one; what a dead process left half written, by itself.
        name = report_of_file(file_name) or file_name
        # The entry has been looked at by now, and remembers.
        size = self._sizes[file_name].stat(follow_symlinks=False).st_size
        self.deleted[name] = self.deleted.get(name, 0) + size


@click.command()
@click.option(
    "--keep",
    type=click.IntRange(min=0),
    metavar="COUNT",
    help="Keep so many of the newest instead of retention_count; 0 deletes all.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@json_option
@directory_option
def prune(keep: int | None, dry_run: bool, as_json: bool, report_dir: Path | None) -> None:
    """Delete the oldest reports now.

    What is beyond retention_count, retention_bytes or retention_age goes, as it does after each new report.
    """
    settings = load_settings().settings
    directory = report_dir or settings.report_dir
    suffixes = (PAGE_SUFFIX, PROFILE_SUFFIX)
    before = set(reports_in(directory, suffixes))
    retention = Retention(
        count=settings.retention_count if keep is None else keep,
        size=settings.retention_bytes,
        age=settings.retention_age,
    )
    problem = None
    try:
        with ReportStore(directory.absolute()).opened() as opened:
            watched = _Watched(opened, dry_run=dry_run)
            try:
                retention.sweep(watched)
            except OSError as error:
                problem = f"not everything in {directory} could be deleted: {error.strerror}"
    except DropError as error:
        raise click.ClickException(str(error)) from error
    _tell(watched.deleted, len(before - set(watched.deleted)), dry_run=dry_run, as_json=as_json)
    if problem is not None:
        raise click.ClickException(problem)


def _tell(deleted: dict[str, int], kept: int, *, dry_run: bool, as_json: bool) -> None:
    size = sum(deleted.values())
    if as_json:
        named = [{"name": name, "bytes": bytes_} for name, bytes_ in deleted.items()]
        print_json({"dry_run": dry_run, "deleted": named, "bytes": size, "kept": kept})
        return
    for name in deleted:
        click.echo(name)
    done = "would be deleted" if dry_run else "deleted"
    click.echo(f"{counted(len(deleted), 'report')} {done}, {size / 1e6:.1f} MB; {kept} kept", err=True)
