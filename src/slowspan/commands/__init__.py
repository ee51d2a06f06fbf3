"""The commands of the ``slowspan`` command. Imported when it runs; needs click."""

from __future__ import annotations

import sys

import click

from slowspan._version import __version__
from slowspan.commands.check import check
from slowspan.commands.list import list_reports
from slowspan.commands.open import open_page
from slowspan.commands.prune import prune
from slowspan.commands.show import export, show
from slowspan.recording.session import RECURSION_LIMIT


@click.group(context_settings={"max_content_width": 80, "help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def slowspan() -> None:
    """Read the profiles of slow requests, and try the configuration.

    ID is a profile's id, the beginning of one, or the path of a profile or of its page.

    Exit status: 0 done, 1 something does not work, 2 wrong use.
    """
    sys.setrecursionlimit(RECURSION_LIMIT)
    # A terminal that cannot show a line of a tree, or a letter of a URL, still shows the rest.
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")


for _command in (check, export, list_reports, open_page, prune, show):
    slowspan.add_command(_command)
