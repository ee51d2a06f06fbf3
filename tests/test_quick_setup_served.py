"""``quick_setup`` of every kind of application, under the servers that people use."""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import servers
from slowspan import load_profile
from support import APPS, eventually
from watched import ID

if TYPE_CHECKING:
    from slowspan import Profile

SCRIPTS = Path(sys.executable).parent


def command(kind: str, server: str, port: int) -> list[str]:
    """Return the command that serves an application of ``apps/quick.py``."""
    if server == "uvicorn":
        options = ["--factory", f"--app-dir={APPS}", f"--port={port}", "--lifespan=off"]
        return [str(SCRIPTS / "uvicorn"), *options, f"quick:{kind}"]
    return [str(SCRIPTS / "gunicorn"), f"--bind=127.0.0.1:{port}", f"--chdir={APPS}", f"quick:{kind}()"]


@pytest.mark.parametrize(
    ("kind", "server", "endpoint"),
    [
        ("flask", "gunicorn", "GET /wait/<seconds>"),
        ("fastapi", "uvicorn", "GET /wait/{seconds}"),
        ("starlette", "uvicorn", "GET /wait/{seconds}"),
        ("django_wsgi", "gunicorn", "GET wait/<seconds>"),
        ("django_asgi", "uvicorn", "GET wait/<seconds>"),
        ("django_of_the_environment", "gunicorn", "GET wait/<seconds>"),
        ("wsgi", "gunicorn", "GET /wait/0.2"),
        ("asgi", "uvicorn", "GET /wait/0.2"),
    ],
)
def test_quick_setup_of(kind: str, server: str, endpoint: str, tmp_path: Path) -> None:
    """One slow request has one report, and its span, exported by the provider that was there, the profile's id."""
    port = servers.free_port()
    url, reports, spans = f"http://127.0.0.1:{port}", tmp_path / "reports", tmp_path / "spans"
    env = {"OTEL_PYTHON_SLOWSPAN_REPORT_DIR": str(reports), "SPANS": str(spans)}
    with servers.running(command(kind, server, port), url=f"{url}/wait/0", log=tmp_path / "log", env=env):
        with urllib.request.urlopen(f"{url}/wait/0.2", timeout=60) as response:
            assert b"waited 0.2 s" in response.read()
        urllib.request.urlopen(f"{url}/wait/0.01", timeout=60).close()
        eventually(lambda: list(reports.glob("*.html")))
        server_spans = eventually(lambda: exported(spans, 3))
    profile = only_profile_of_slow(reports)
    assert profile.span.endpoint == endpoint
    assert profile.span.path == "/wait/0.2"
    # A server that is not ready at once is asked for the first page more than once.
    assert len([span for span in server_spans if "/wait/0." in str(span["attributes"])]) == 2
    (slow,) = [span for span in server_spans if "/wait/0.2" in str(span["attributes"])]
    assert slow["attributes"][ID] == profile.id
    assert slow["attributes"]["slowspan.threshold"] == pytest.approx(0.1)


def exported(spans: Path, at_least: int) -> list[dict[str, Any]]:
    """Return the exported server spans, when there are so many."""
    lines = [json.loads(line) for line in spans.read_text().splitlines()]
    found = [span for span in lines if span["kind"] == "SpanKind.SERVER"]
    return found if len(found) >= at_least else []


def only_profile_of_slow(reports: Path) -> Profile:
    """Return the profile of the slow request; on a busy machine a fast one can have been slow as well."""
    profiles = [load_profile(path) for path in reports.glob("*.json.gz")]
    (profile,) = [profile for profile in profiles if profile.span.path == "/wait/0.2"]
    return profile
