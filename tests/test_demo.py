"""The demonstration: it shows what it promises, says what is missing, and leaves no process behind."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import servers
from support import DISABLED, OTHERS, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

WITH_ONE_PAGE = """
import sys
sys.path.append(sys.argv[1])
import demo
demo.ENDPOINTS = [endpoint for endpoint in demo.ENDPOINTS if endpoint.name.startswith("GET /delivery")]
sys.argv[1:] = ["--short"]
sys.exit(demo.main())
"""
SLOW_PAGES = ("GET /orders", "GET /reports/sales", "GET /delivery/<int:order>")


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts a demonstration, the short one, with its files in the test's own folder."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv(DISABLED, ",".join(OTHERS))

    def start_demo(*program: str) -> subprocess.Popen[str]:
        command = [sys.executable, *(program or (str(servers.SHOP / "demo.py"), "--short"))]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start_demo


def processes_started_from(folder: Path) -> list[Path]:
    """Return the processes that have this folder in their environment, where the system can tell."""

    def mentions(process: Path) -> bool:
        try:
            return bytes(folder) in (process / "environ").read_bytes()
        except OSError:
            return False

    return [process for process in Path("/proc").glob("[0-9]*") if mentions(process)]


def test_shows_the_slow_pages(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """Each slow page is printed with its hot line, its report, and the attributes of the exported span."""
    demo = start()
    output, errors = demo.communicate(timeout=180)
    assert demo.returncode == 0, output + errors
    sections = {section.partition("\n")[0]: section for section in output.split("\n\n")}
    for page in SLOW_PAGES:
        section = sections[page]
        assert re.search(r"2 requests, [12] slow", section)
        assert re.search(r"\d+ % own time \S+:\d+", section)
        assert Path(re.search(r"report (\S+)", section)[1]).is_file()
        assert "slowspan.samples" in section
    assert re.search(r"N\+1: 500 × the same at orders\.py:\d+ items_of", sections["GET /orders"])
    assert "0 slow" in sections["GET /"]
    assert "\r" not in output
    assert all(len(line) <= 80 or str(tmp_path) in line for line in output.splitlines())
    assert processes_started_from(tmp_path) == []


def test_says_what_did_not_arrive(start: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without slowspan the demonstration fails and names the attributes that are missing."""
    monkeypatch.setenv(DISABLED, ",".join(["slowspan", *OTHERS]))
    demo = start("-c", WITH_ONE_PAGE, str(servers.SHOP))
    _, errors = demo.communicate(timeout=180)
    assert demo.returncode == 1
    assert "slowspan.profile.id" in errors


def test_ends_its_servers_on_ctrl_c(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """Interrupted in the middle of its requests, the demonstration ends, and its servers with it."""
    demo = start()
    assert demo.stdout is not None
    while "requests answered" not in demo.stdout.readline():
        assert demo.poll() is None
    demo.send_signal(signal.SIGINT)
    _, errors = demo.communicate(timeout=60)
    assert demo.returncode == 130, errors
    assert "Traceback" not in errors
    eventually(lambda: not processes_started_from(tmp_path))
