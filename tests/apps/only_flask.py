"""Starts Flask as the documentation says, with nothing installed but ``slowspan[flask]``; fails without a report.

Needs no test library, and no configurator of OpenTelemetry may be installed.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
SECONDS = 60.0


def main() -> None:
    """Serve the example, ask for a slow page, and wait for its report."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    flask = [str(Path(sys.executable).with_name(name)) for name in ("opentelemetry-instrument", "flask")]
    command = [*flask, "--app", "zero_code", "run", "--port", str(port)]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "OTEL_PYTHON_SLOWSPAN_REPORT_DIR": f"{folder}/reports"}
        with subprocess.Popen(command, cwd=EXAMPLES, env=environment) as server:
            try:
                get(f"http://127.0.0.1:{port}/primes/600000")
                wait_for_report(Path(folder, "reports"))
            finally:
                server.terminate()
    print("one command after the installation, and the slow page has a report")


def get(url: str) -> None:
    """Ask for a page of a server that is just starting."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            urllib.request.urlopen(url, timeout=SECONDS).close()
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def wait_for_report(directory: Path) -> None:
    """Wait for a page, or fail."""
    deadline = time.monotonic() + SECONDS
    while not list(directory.glob("*.html")):
        if time.monotonic() > deadline:
            sys.exit("no report has come")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
