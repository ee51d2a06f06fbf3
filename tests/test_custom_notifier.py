"""The example of a third party's notifier: installed as any package is, found by its name, told an alert."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from http_server import Answer, RecordingServer
from support import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

APPLICATION = """
import time
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind
from slowspan import SlowSpanProcessor

provider = TracerProvider()
provider.add_span_processor(SlowSpanProcessor())
with provider.get_tracer("test").start_as_current_span("GET /slow", kind=SpanKind.SERVER):
    time.sleep(0.3)
assert provider.force_flush()
provider.shutdown()
"""

CHECK = """
from slowspan import Settings
from slowspan.counters import Counters
from slowspan.notifiers.registry import load_notifiers
((name, notifier),) = load_notifiers(Settings(notifiers=("pager",)), Counters())
print(name, notifier.check())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory into which the example has been built and installed, from a copy of its source."""
    source = tmp_path_factory.mktemp("source") / "custom_notifier"
    shutil.copytree(REPOSITORY / "examples" / "custom_notifier", source)
    target = tmp_path_factory.mktemp("installed")
    if find_spec("pip") is not None:
        installer = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    elif (uv := shutil.which("uv")) is not None:
        installer = [uv, "pip", "install", f"--python={sys.executable}"]
    else:
        pytest.skip("needs pip: python -m ensurepip")
    options = ["--quiet", "--no-deps", f"--target={target}"]
    if find_spec("hatchling") is not None:
        # Otherwise the installer downloads it.
        options.append("--no-build-isolation")
    subprocess.run([*installer, *options, str(source)], check=True, timeout=120)
    return target


@pytest.fixture
def pager() -> Iterator[RecordingServer]:
    with RecordingServer() as server:
        yield server


def run(code: str, installed: Path, pager: RecordingServer, folder: Path) -> str:
    """Run a program that has the example on its path; return what it printed and logged."""
    path = os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "PAGER_URL": f"{pager.url}/T0pS3cret",
        "OTEL_PYTHON_SLOWSPAN_NOTIFIERS": "pager",
        "OTEL_PYTHON_SLOWSPAN_THRESHOLD": "0.1",
        "OTEL_PYTHON_SLOWSPAN_REPORT_DIR": str(folder / "reports"),
    }
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def test_it_is_told_an_alert(installed: Path, pager: RecordingServer, tmp_path: Path) -> None:
    """An application that names it in a setting has its slow request told."""
    run(APPLICATION, installed, pager, tmp_path)
    (request,) = pager.requests
    assert (request.method, request.path) == ("POST", "/T0pS3cret")
    assert request.body.decode().startswith("slow request GET /slow ")


def test_it_can_be_checked(installed: Path, pager: RecordingServer, tmp_path: Path) -> None:
    """The optional members are found, too, and tell nobody anything."""
    assert run(CHECK, installed, pager, tmp_path).strip() == "pager the pager answers"
    assert [request.method for request in pager.requests] == ["HEAD"]


def test_its_failure_is_a_counted_loss(installed: Path, pager: RecordingServer, tmp_path: Path) -> None:
    """What the pager refuses is told in slowspan's log, without the secret URL."""
    pager.answers = [Answer(403)]
    logged = run(APPLICATION.replace("assert ", ""), installed, pager, tmp_path)
    assert "the pager answered 403" in logged
    assert "T0pS3cret" not in logged
