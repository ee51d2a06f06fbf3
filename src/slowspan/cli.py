"""The ``slowspan`` command: reads stored profiles, tries the configuration. The commands are in ``commands/``."""

from __future__ import annotations

import sys

MISSING_CLICK = "The slowspan command needs click: pip install 'slowspan[cli]'\n"


def main() -> None:
    """Run the command with the process's arguments.

    Raises:
        SystemExit: Always: 0 done, 1 something does not work, 2 wrong use or click is missing.
    """
    try:
        import click  # noqa: F401  an optional dependency, which only this command needs
    except ModuleNotFoundError:
        sys.stderr.write(MISSING_CLICK)
        sys.exit(2)
    from slowspan.commands import slowspan

    slowspan(prog_name="slowspan")
