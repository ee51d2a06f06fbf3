"""Renders one page in a process of its own: standard input to standard output. Started by ``renderer.py``.

Runs without site-packages' start-up files and without OpenTelemetry.
"""

from __future__ import annotations

import json
import sys

from slowspan.recording.profile import read_profile
from slowspan.recording.session import RECURSION_LIMIT
from slowspan.report.html import render_page
from slowspan.report.renderer import CANNOT_RENDER


def main() -> None:
    """Read a request from standard input, and write the page to standard output.

    The request is a line of JSON, ``{"trace_url": …}``, followed by the stored profile.

    Raises:
        SystemExit: With ``CANNOT_RENDER``; the reason is on standard error.
    """
    sys.setrecursionlimit(RECURSION_LIMIT)
    options = json.loads(sys.stdin.buffer.readline())
    stored = sys.stdin.buffer.read()
    try:
        page = render_page(read_profile(stored), options["trace_url"])
    except Exception as error:  # noqa: BLE001  whatever it is, the parent is to read it in one line
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(CANNOT_RENDER)
    sys.stdout.buffer.write(page.encode("utf-8"))
