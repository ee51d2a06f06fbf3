"""Starts Flask as the documentation says, with nothing installed but ``slowspan[flask]``; fails without a report.

Needs no test library, and no configurator of OpenTelemetry may be installed.
"""

from __future__ import annotations

import sys
import tempfile
import time
import urllib.request
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
SECONDS = 60.0


def main() -> None:
    """Serve the example, ask for a slow page, and wait for its report."""
    # Imported here because the path leads there only now: it is a program's module, of no package.
    sys.path.insert(0, str(EXAMPLES / "shop"))
    import servers

    port = servers.free_port()
    pages = f"http://127.0.0.1:{port}/primes"
    flask = [str(Path(sys.executable).with_name(name)) for name in ("opentelemetry-instrument", "flask")]
    command = [*flask, "--app", str(EXAMPLES / "zero_code.py"), "run", "--port", str(port)]
    with tempfile.TemporaryDirectory() as folder:
        reports = Path(folder, "reports")
        environment = {"OTEL_PYTHON_SLOWSPAN_REPORT_DIR": str(reports)}
        with servers.running(command, url=f"{pages}/10", log=Path(folder, "log"), env=environment):
            urllib.request.urlopen(f"{pages}/600000", timeout=SECONDS).close()
            wait_for_report(reports)
    print("one command after the installation, and the slow page has a report")


def wait_for_report(directory: Path) -> None:
    """Wait for a page, or fail."""
    deadline = time.monotonic() + SECONDS
    while not list(directory.glob("*.html")):
        if time.monotonic() > deadline:
            sys.exit("no report has come")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
