"""The commands ``list``, ``show --json``, ``open`` and ``prune`` on real files, and how every command ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import webbrowser
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

import slowspan.commands.list as list_module
from profiles import BEFORE, SECOND, default_records, make_profile, make_span
from reports import make_named_profile
from slowspan.commands import slowspan
from slowspan.recording.profile import Frame
from slowspan.report.columns import columns
from slowspan.report.stored import compress_profile

if TYPE_CHECKING:
    from pathlib import Path

    from slowspan.recording.profile import Profile

MINUTE = 60 * SECOND
START_NS = 1_795_290_250_123_456_789
COMMAND = (sys.executable, "-c", "from slowspan.cli import main; main()")


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """Make a report directory with three reports, a minute apart; number 3 is the newest."""
    folder = tmp_path / "reports"
    folder.mkdir(mode=0o700)
    for number in (1, 2, 3):
        store(folder, make_named_profile(number, start_time_ns=START_NS + number * MINUTE))
    return folder


def store(folder: Path, profile: Profile, *, page: bool = True) -> Path:
    path = folder / f"{profile.name}.json.gz"
    path.write_bytes(compress_profile(profile, pause=lambda: None))
    if page:
        path.with_name(f"{profile.name}.html").write_text("page")
    return path


def run(*arguments: str | Path, **options: str) -> Result:
    return CliRunner().invoke(slowspan, [str(argument) for argument in arguments], env={"COLUMNS": "80", **options})


# -- list


def test_list_shows_the_newest_first_in_80_columns(reports: Path) -> None:
    """Time, duration, threshold, endpoint, hottest line and the beginning of the id stand in a line each."""
    result = run("list", "--report-dir", reports)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line[:11] for line in lines] == ["11-21 19:47", "11-21 19:46", "11-21 19:45"]
    assert " ".join(lines[0].split()) == "11-21 19:47 1.42 s > 1 s GET /orders/<id> 71 % pricing.py:41 00000000"
    assert {len(line) for line in lines} == {80}


def test_list_of_wide_letters_stays_in_80_columns(tmp_path: Path) -> None:
    """An endpoint or a function of East Asian letters, which take two columns, moves nothing beside it."""
    frame = Frame("集計" * 20, f"/srv/{'価格' * 20}.py", 1, None, True)
    store(tmp_path, make_named_profile(1, span=make_span(route="/" + "ü中文" * 20)))
    store(tmp_path, make_named_profile(2, samples=[(((frame, 1),), SECOND, 0)]))
    lines = run("list", "--report-dir", tmp_path).stdout.splitlines()
    assert {columns(line) for line in lines} == {80}
    assert all(line.endswith(f"  {'0' * 8}") for line in lines)


def test_list_uses_the_room_of_a_wide_terminal(reports: Path) -> None:
    """Where there is room, the function is named too."""
    assert "71 % pricing.py:41 total_for" in run("list", "--report-dir", reports, COLUMNS="120").stdout


def test_list_reads_only_what_it_shows(reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit bounds the work, not only the output; what was left out is said."""
    read: list[str] = []
    real = list_module.read_stored

    def counting(path: Path) -> Profile:
        read.append(path.name)
        return real(path)

    monkeypatch.setattr(list_module, "read_stored", counting)
    result = run("list", "--limit", "2", "--report-dir", reports)
    assert len(result.stdout.splitlines()) == len(read) == 2
    assert "2 of 3 reports" in result.stderr
    assert len(run("list", "--limit", "0", "--report-dir", reports).stdout.splitlines()) == 3


def test_list_marks_a_running_request(reports: Path) -> None:
    """A partial profile is told from a finished one."""
    store(reports, make_named_profile(4, start_time_ns=START_NS + 4 * MINUTE, running=True))
    assert "1.42 s+ > 1 s" in run("list", "-n", "1", "--report-dir", reports).stdout


def test_list_json_has_the_facts_of_each(reports: Path) -> None:
    """Scripts get the objects that ``show --json`` prints, newest first."""
    listed = json.loads(run("list", "--json", "--report-dir", reports).stdout)
    shown = json.loads(run("show", "0" * 15 + "3", "--json", "--report-dir", reports).stdout)
    assert [entry["id"][-1] for entry in listed] == ["3", "2", "1"]
    assert listed[0] == shown


def test_list_goes_on_after_a_damaged_profile(reports: Path) -> None:
    """One file that cannot be read does not hide the others."""
    newest = sorted(reports.glob("*.json.gz"))[-1]
    newest.write_bytes(b"\x1f\x8bno gzip")
    result = run("list", "--report-dir", reports)
    assert result.exit_code == 0
    assert result.stdout.startswith("11-21 19:47  cannot be read")
    assert {len(line) for line in result.stdout.splitlines()} == {80}
    assert "damaged" in json.loads(run("list", "--json", "--report-dir", reports).stdout)[0]["error"]


def test_list_of_an_empty_directory_is_no_error(tmp_path: Path) -> None:
    """Nothing slow yet is good news."""
    result = run("list", "--report-dir", tmp_path)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "No reports in" in result.stderr
    assert json.loads(run("list", "--json", "--report-dir", tmp_path).stdout) == []


def test_a_missing_directory_is_explained(tmp_path: Path) -> None:
    """The usual mistake is another configuration than the application's."""
    result = run("list", "--report-dir", tmp_path / "none")
    assert result.exit_code == 1
    assert "another report_dir" in result.stderr
    assert not (tmp_path / "none").exists()


def test_no_text_of_a_stranger_steers_the_terminal(tmp_path: Path) -> None:
    """A URL with control characters stays on its line."""
    evil = "\x1b]0;owned\x07\r\nforged\u202e"
    store(tmp_path, make_named_profile(1, span=make_span(route=None, path=evil)))
    (line,) = run("list", "--report-dir", tmp_path, COLUMNS="200").stdout.splitlines()
    assert line.isprintable()


# -- show --json


def test_show_json_has_facts_hot_lines_and_shares(reports: Path) -> None:
    """Durations are seconds, shares are of 0 to 1, files that are missing are null."""
    profile = make_profile()
    path = store(reports, profile, page=False)
    shown = json.loads(run("show", path, "--json").stdout)
    assert (shown["id"], shown["endpoint"], shown["running"]) == (profile.id, "GET /orders/<id>", False)
    assert shown["started"] == "2026-11-21T19:44:10.123+00:00"
    assert (shown["duration"], shown["threshold"]) == (1.42, 1.0)
    assert sum(shown["shares"].values()) == pytest.approx(1)
    assert shown["hot_lines"][0] | {"seconds": 1.008, "cpu_seconds": 1.008} == {
        "share": pytest.approx(0.71, abs=0.01),
        "seconds": 1.008,
        "cpu_seconds": 1.008,
        "file": "/srv/shop/pricing.py",
        "line": 41,
        "class": "Pricing",
        "function": "total_for",
    }
    assert shown["span"]["parameters"] == [["page", "2"], ["token", "[redacted]"]]
    assert (shown["profile"], shown["page"]) == (str(path), None)


def test_show_json_does_not_know_what_no_sample_tells(reports: Path) -> None:
    """Of time before the first sample nobody knows whether it was computing."""
    path = store(reports, make_profile([(((BEFORE, 0),), SECOND, 0), *default_records()[1:]]), page=False)
    shown = {
        line["function"]: line["cpu_seconds"] for line in json.loads(run("show", path, "--json").stdout)["hot_lines"]
    }
    assert shown["[before the first sample]"] is None
    assert shown["total_for"] == 1.008


# -- open


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect what a browser would show, on a machine with a display and without ssh."""
    urls: list[str] = []

    def open_url(url: str) -> bool:
        urls.append(url)
        return True

    monkeypatch.setattr(webbrowser, "open", open_url)
    monkeypatch.setenv("DISPLAY", ":0")
    for name in ("SSH_CONNECTION", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    return urls


def test_open_shows_the_page_in_a_browser(reports: Path, opened: list[str]) -> None:
    """The path is printed too, and the browser gets the file's address."""
    page = sorted(reports.glob("*.html"))[-1]
    result = run("open", "0000000000000003", "--report-dir", reports)
    assert (result.exit_code, result.stdout) == (0, f"{page}\n")
    assert opened == [page.as_uri()]


def test_open_can_only_print(reports: Path, opened: list[str]) -> None:
    """With ``--print`` no browser starts."""
    assert run("open", "0000000000000003", "--print", "--report-dir", reports).stdout.endswith(".html\n")
    assert opened == []


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [("SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 22", "ssh session"), ("DISPLAY", "", "no display")],
)
def test_open_says_why_it_opens_nothing(
    reports: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch, variable: str, value: str, reason: str
) -> None:
    """Over ssh and without a display the path is all there is; BROWSER overrules that."""
    if variable == "DISPLAY" and not sys.platform.startswith("linux"):
        pytest.skip("other systems need no DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    arguments = ("open", "0000000000000003", "--report-dir", reports)
    result = run(*arguments, **{variable: value})
    assert result.exit_code == 0
    assert reason in result.stderr
    assert opened == []
    run(*arguments, **{variable: value, "BROWSER": "firefox"})
    assert len(opened) == 1


def test_open_says_that_no_browser_started(reports: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a browser is no error: the path was printed."""
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    result = run("open", "0000000000000003", "--report-dir", reports)
    assert result.exit_code == 0
    assert "no browser could be started" in result.stderr


def test_open_makes_a_missing_page(reports: Path) -> None:
    """The page is made from the profile, private like every report."""
    profile = make_profile()
    store(reports, profile, page=False)
    result = run("open", profile.id, "--print", "--report-dir", reports)
    page = reports / f"{profile.name}.html"
    assert (result.exit_code, result.stdout) == (0, f"{page}\n"), result.stderr
    assert page.read_bytes().startswith(b"<!DOCTYPE html>")
    assert page.stat().st_mode & 0o077 == 0 or os.name == "nt"


def test_open_takes_a_page_whose_profile_is_gone(reports: Path) -> None:
    """What can be shown is shown."""
    stored = sorted(reports.glob("*.json.gz"))[-1]
    stored.unlink()
    assert run("open", "0000000000000003", "--print", "--report-dir", reports).exit_code == 0


@pytest.mark.skipif(os.name == "nt", reason="file modes are POSIX's")
def test_open_says_how_to_make_the_page_elsewhere(tmp_path: Path) -> None:
    """A directory that reports must not be written into is left alone."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    profile = make_profile()
    path = store(folder, profile, page=False)
    result = run("open", path, "--print")
    assert result.exit_code == 1
    assert "slowspan export" in result.stderr
    assert not list(folder.glob("*.html"))


# -- prune


def test_prune_applies_the_retention(reports: Path) -> None:
    """The settings' limits hold; page and profile go together, and what went is said."""
    result = run("prune", "--report-dir", reports, OTEL_PYTHON_SLOWSPAN_RETENTION_COUNT="1")
    assert result.exit_code == 0, result.output
    assert [name[-1] for name in result.stdout.split()] == ["1", "2"]
    assert "2 reports deleted" in result.stderr
    assert "1 kept" in result.stderr
    assert len(list(reports.iterdir())) == 2


def test_prune_deletes_nothing_within_the_limits(reports: Path) -> None:
    """A report that may stay stays."""
    result = run("prune", "--report-dir", reports)
    assert (result.exit_code, result.stdout) == (0, "")
    assert len(list(reports.iterdir())) == 6


def test_prune_dry_run_only_says_what_would_go(reports: Path) -> None:
    """It names exactly what a real run then deletes."""
    arguments = ("prune", "--keep", "1", "--json", "--report-dir", reports)
    dry = json.loads(run(*arguments, "--dry-run").stdout)
    assert len(list(reports.iterdir())) == 6
    real = json.loads(run(*arguments).stdout)
    assert dry == real | {"dry_run": True}
    assert [len(real["deleted"]), real["kept"], real["bytes"]] == [2, 1, sum(e["bytes"] for e in real["deleted"])]
    assert len(list(reports.iterdir())) == 2


def test_prune_leaves_other_files_alone(reports: Path) -> None:
    """Even when nothing is kept, only reports go: the alert state stays, for one."""
    (reports / "alerts.sqlite3").write_bytes(b"state")
    (reports / "notes.html").write_text("mine")
    assert run("prune", "--keep", "0", "--report-dir", reports).exit_code == 0
    assert sorted(path.name for path in reports.iterdir()) == ["alerts.sqlite3", "notes.html"]


def test_prune_makes_no_directory(tmp_path: Path) -> None:
    """A wrong path is an error, not a new directory."""
    assert run("prune", "--report-dir", tmp_path / "none").exit_code == 1
    assert not (tmp_path / "none").exists()


# -- how every command ends


def test_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    """``slowspan export … | head`` ends without a word."""
    profile = make_profile()
    path = store(tmp_path, replace(profile, notes=("x" * 1000,) * 1000))
    reader, writer = os.pipe()
    os.close(reader)
    command = [*COMMAND, "export", str(path), "--format", "json"]
    with os.fdopen(writer, "wb") as pipe:
        ended = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, timeout=60)
    assert ended.stderr == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
@pytest.mark.parametrize("arguments", [("list",), ("export", "0000000000000003", "--format", "json"), ("--help",)])
def test_a_full_disk_is_no_traceback(reports: Path, arguments: tuple[str, ...]) -> None:
    """Output that cannot be written is one line on standard error, and exit status 1."""
    env = {**os.environ, "OTEL_PYTHON_SLOWSPAN_REPORT_DIR": str(reports)}
    with open("/dev/full", "wb") as full:
        ended = subprocess.run([*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, env=env, timeout=60)
    (line,) = ended.stderr.decode().splitlines()
    assert (ended.returncode, "No space left on device" in line) == (1, True)


BUSY = """
import time
from importlib import import_module
from slowspan.cli import main

def read_slowly(path):
    print("reading", flush=True)
    time.sleep(60)

import_module("slowspan.commands.show").read_stored = read_slowly
main()
"""


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is a signal on POSIX only")
def test_ctrl_c_is_no_traceback(reports: Path) -> None:
    """An interrupted command says so in a word."""
    path = next(reports.glob("*.json.gz"))
    command = [sys.executable, "-c", BUSY, "export", str(path), "--format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"reading\n"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 1
    assert errors.split() == [b"Aborted!"]


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_long_work_shows_itself_on_a_terminal(reports: Path) -> None:
    """Progress goes to standard error, is wiped away, and only a terminal sees it."""
    terminal, stderr = os.openpty()
    command = [*COMMAND, "list", "--json", "--report-dir", str(reports)]
    try:
        listed = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, timeout=60).stdout
        os.set_blocking(terminal, False)
        seen = os.read(terminal, 10_000).decode()
    finally:
        os.close(stderr)
        os.close(terminal)
    assert len(json.loads(listed)) == 3
    assert seen.startswith("reading 3 profiles")
    assert seen.endswith("\r\x1b[K")
    assert subprocess.run(command, capture_output=True, timeout=60).stderr == b""


def test_help_fits_80_columns() -> None:
    """Every command explains itself in a terminal of the usual width."""
    for arguments in ((), *((name,) for name in slowspan.commands)):
        result = run(*arguments, "--help")
        assert result.exit_code == 0
        assert max(map(len, result.stdout.splitlines())) <= 80
