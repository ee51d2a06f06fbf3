"""The small examples: each way of switching slowspan on ends in a report."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

import servers
from slowspan import load_profile
from support import FEW_INSTRUMENTATIONS, REPOSITORY, eventually

SCRIPTS = Path(sys.executable).parent
UNDER_OPENTELEMETRY = [SCRIPTS / "opentelemetry-instrument"]


@pytest.mark.parametrize(
    ("example", "launcher"),
    [("zero_code", UNDER_OPENTELEMETRY), ("quick_setup", []), ("existing_provider", [])],
)
def test_example_writes_a_report(example: str, launcher: list[str], tmp_path: Path) -> None:
    """A slow request to the example, served as its first lines say, leaves a profile of its function."""
    port = servers.free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        *launcher,
        SCRIPTS / "flask",
        "--app",
        REPOSITORY / "examples" / example,
        "run",
        f"--port={port}",
    ]
    environment = {
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        **FEW_INSTRUMENTATIONS,
        "OTEL_PYTHON_SLOWSPAN_THRESHOLD": "0.5",
        # Not the page with which the server is asked whether it is up, which can be slow as well.
        "OTEL_PYTHON_SLOWSPAN_INCLUDED_URLS": "/primes/",
        "OTEL_PYTHON_SLOWSPAN_REPORT_DIR": str(tmp_path / "reports"),
    }
    with servers.running(list(map(str, command)), url=url, log=tmp_path / "log", env=environment):
        urllib.request.urlopen(f"{url}/primes/400000", timeout=60).close()
        (page,) = eventually(lambda: list(tmp_path.glob("reports/*.html")))
    profile = load_profile(page.with_suffix(".json.gz"))
    assert profile.span.route == "/primes/<int:limit>"
    assert "primes" in {frame.name for frame in profile.frames}


def test_functions_write_reports(tmp_path: Path) -> None:
    """The program without a server leaves a profile of each function and block that was slow, and of no other."""
    ours = {"OTEL_PYTHON_SLOWSPAN_REPORT_DIR": str(tmp_path), "OTEL_PYTHON_SLOWSPAN_FLUSH_TIMEOUT": "60"}
    environment = {**os.environ, **ours}
    subprocess.run([sys.executable, REPOSITORY / "examples" / "functions.py"], env=environment, check=True, timeout=120)
    profiles = [load_profile(file) for file in sorted(tmp_path.glob("*.json.gz"))]
    assert {profile.span.name for profile in profiles} == {"__main__.primes", "read the orders", "nightly import"}
