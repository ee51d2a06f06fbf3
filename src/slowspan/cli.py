"""The ``slowspan`` command: reads stored profiles, tries the configuration. The commands are in ``commands/``."""

from __future__ import annotations

import os
import sys

MISSING_CLICK = "The slowspan command needs click: pip install 'slowspan[cli]'\n"


def main() -> None:
    """Run the command with the process's arguments.

    Raises:
        SystemExit: Always: 0 done, 1 something does not work, 2 wrong use.
    """
    try:
        import click  # noqa: F401  an optional dependency, which only this command needs
    except ModuleNotFoundError:
        sys.stderr.write(MISSING_CLICK)
        sys.exit(1)
    from slowspan.commands import slowspan

    try:
        slowspan(prog_name="slowspan")
    except OSError as error:
        # The output is a disk that is full, for one. A closed pipe does not come here.
        sys.stderr.write(f"Error: {error}\n")
        _discard_output()
        sys.exit(1)


def _discard_output() -> None:
    """Let what standard output did not take go nowhere: the interpreter would try it again at its end, and complain."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
