"""The ``slowspan`` command on real files."""

from __future__ import annotations

import gzip
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from profiles import MS, TOTAL, make_profile, make_span
from slowspan import cli
from slowspan.commands import slowspan
from slowspan.recording.profile import Frame, Profile
from slowspan.recording.stacks import MAX_DEPTH
from slowspan.report.columns import columns
from slowspan.report.formats import FORMATS
from slowspan.report.stored import compress_profile
from slowspan.report.text import render_text

ID = make_profile().id


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """Make a report directory with one report in it."""
    folder = tmp_path / "reports"
    folder.mkdir()
    store(folder, make_profile())
    return folder


def store(folder: Path, profile: Profile) -> Path:
    path = folder / f"{profile.name}.json.gz"
    path.write_bytes(compress_profile(profile))
    path.with_name(f"{profile.name}.html").write_text("page")
    return path


def run(*arguments: str | Path, **options: str) -> Result:
    return CliRunner().invoke(slowspan, [str(argument) for argument in arguments], env=options)


def test_show_prints_facts_hot_lines_and_tree_in_80_columns(reports: Path) -> None:
    """A terminal of the usual width shows everything that matters, without a line that wraps."""
    result = run("show", ID, "--report-dir", reports, COLUMNS="80")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "slow request GET /orders/<id> 1.42 s > 1 s"
    assert "   1.01 s   71 %  pricing.py:41 total_for" in lines
    assert "computing 1.22 s (86 %), waiting 180 ms (13 %), not known 20 ms (1 %)" in " ".join(result.stdout.split())
    assert any("Pricing.total_for  pricing.py:36" in line for line in lines)
    assert any("[computed, not seen]  slowspan" in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_a_profile_is_found_by_the_beginning_of_its_id(reports: Path) -> None:
    """As much of an id as makes it unique is enough, in capitals too."""
    assert run("show", ID[:4].upper(), "--report-dir", reports).exit_code == 0


def test_a_profile_is_found_by_its_path_or_that_of_its_page(reports: Path) -> None:
    """The path that the log names leads to the profile beside it."""
    name = make_profile().name
    assert run("show", reports / f"{name}.json.gz").exit_code == 0
    assert run("show", reports / f"{name}.html").exit_code == 0
    assert run("show", name, "--report-dir", reports).exit_code == 0


def test_the_report_directory_comes_from_the_settings(reports: Path) -> None:
    """Without the option the environment says where the reports are."""
    assert run("show", ID, OTEL_PYTHON_SLOWSPAN_REPORT_DIR=str(reports)).exit_code == 0


def test_an_id_that_fits_several_profiles_names_them(reports: Path) -> None:
    """Nothing is guessed: the profiles that fit are listed, not all of thousands."""
    for number in range(12):
        other = f"5f{number:014x}"
        store(reports, make_profile(id=other, name=f"20261121T194411.000Z_GET_orders_id_{other}"))
    result = run("show", "5f", "--report-dir", reports)
    assert result.exit_code == 1
    assert "13 profiles begin with '5f'" in result.stderr
    assert "and 3 more" in result.stderr


def test_an_unknown_id_is_an_error(reports: Path) -> None:
    """The message names the directory that was searched."""
    result = run("show", "abc", "--report-dir", reports)
    assert result.exit_code == 1
    assert f"no profile 'abc' in {reports}" in result.stderr


def test_other_files_in_the_directory_are_left_alone(reports: Path) -> None:
    """A file of another program is never taken for a profile, even if the id is empty."""
    (reports / "notes_5f3a.json.gz").write_bytes(b"x")
    assert run("show", "", "--report-dir", reports).exit_code == 0


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    """The message says what could not be read."""
    result = run("show", ID, "--report-dir", tmp_path / "none")
    assert result.exit_code == 1
    assert "No such file" in result.stderr


def test_a_damaged_profile_is_an_error(tmp_path: Path) -> None:
    """The message names the file and says that it is damaged."""
    path = tmp_path / "profile.json.gz"
    path.write_bytes(gzip.compress(b"{}"))
    result = run("show", path)
    assert result.exit_code == 1
    assert "not a slowspan profile" in result.stderr


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_export_writes_every_format(reports: Path, tmp_path: Path, name: str) -> None:
    """Every format goes to a file and to standard output alike."""
    file = tmp_path / "out"
    arguments = ("export", ID, "--format", name, "--report-dir", reports)
    assert run(*arguments, "--output", file).exit_code == 0
    result = run(*arguments)
    assert result.exit_code == 0
    assert result.stdout_bytes == file.read_bytes()
    assert len(file.read_bytes()) > 500


def test_exported_formats_are_what_they_say() -> None:
    """Pyinstrument's session, speedscope's file and the profile itself have their own marks."""
    profile = make_profile()
    assert len(json.loads(FORMATS["session"](profile))["frame_records"]) == len(profile.samples)
    speedscope = json.loads(FORMATS["speedscope"](profile))
    assert speedscope["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    assert speedscope["profiles"][0]["endValue"] == pytest.approx(1.42)
    assert Profile.from_dict(json.loads(FORMATS["json"](profile))) == profile


@pytest.mark.skipif(os.name == "nt", reason="file modes are POSIX's")
def test_an_exported_file_is_private(reports: Path, tmp_path: Path) -> None:
    """Like a report, it is readable by its owner only."""
    file = tmp_path / "out.html"
    run("export", ID, "--format", "html", "-o", file, "--report-dir", reports)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.skipif(os.name == "nt", reason="file modes are POSIX's")
def test_an_exported_file_is_private_where_a_public_one_was(reports: Path, tmp_path: Path) -> None:
    """The mode and the content of the file that was there do not last."""
    file = tmp_path / "out.json"
    file.write_text("x" * 100_000)
    file.chmod(0o644)
    assert run("export", ID, "--format", "json", "-o", file, "--report-dir", reports).exit_code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert Profile.from_dict(json.loads(file.read_bytes())) == make_profile()


@pytest.mark.skipif(os.name == "nt", reason="needs a named pipe")
def test_export_writes_into_what_is_no_file(reports: Path, tmp_path: Path) -> None:
    """A pipe such as ``/dev/stdout`` can be named too, and keeps its mode."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    pipe.chmod(0o640)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert run("export", ID, "--format", "json", "-o", pipe, "--report-dir", reports).exit_code == 0
        assert Profile.from_dict(json.loads(os.read(reader, 60_000))) == make_profile()
    finally:
        os.close(reader)
    assert stat.S_IMODE(pipe.stat().st_mode) == 0o640


def test_a_file_that_cannot_be_written_is_an_error(reports: Path, tmp_path: Path) -> None:
    """The message names the file."""
    result = run("export", ID, "--format", "json", "-o", tmp_path / "no" / "out", "--report-dir", reports)
    assert result.exit_code == 1
    assert "cannot write" in result.stderr


def test_wrong_use_has_an_exit_status_of_its_own(reports: Path) -> None:
    """An unknown format is a mistake of the caller, not of the data."""
    assert run("export", ID, "--format", "pdf", "--report-dir", reports).exit_code == 2


def test_a_terminal_without_unicode_gets_the_words(reports: Path) -> None:
    """Where a line of the tree cannot be shown, the rest is."""
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "OTEL_PYTHON_SLOWSPAN_REPORT_DIR": str(reports)}
    code = "from slowspan.cli import main; main()"
    shown = subprocess.run([sys.executable, "-c", code, "show", ID], env=env, capture_output=True, timeout=60)
    assert shown.returncode == 0, shown.stderr
    assert b"Pricing.total_for" in shown.stdout


def test_without_click_the_command_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A plain installation has no click; the command says how to get it."""
    monkeypatch.setitem(sys.modules, "click", None)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    assert "pip install 'slowspan[cli]'" in capsys.readouterr().err


def test_text_is_printable_whatever_is_in_the_profile() -> None:
    """No control character of a stranger reaches the terminal, and no name makes a line of its own."""
    evil = "\x1b]0;owned\x07\r\nforged\u202e\ud800"
    frame = Frame(evil, f"/srv/{evil}.py", 1, evil, False)
    profile = make_profile(
        [(((TOTAL, 41), (frame, 1)), 900 * MS, 0)],
        span=make_span(path=evil, parameters=((evil, evil),), service_name=evil),
        notes=(evil,),
    )
    lines = render_text(profile).split("\n")
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("forged") for line in lines)


def test_text_of_deep_stacks_stays_in_its_columns() -> None:
    """Frames too deep for the width are left out, and that is said; a file has them all."""
    path = tuple((TOTAL._replace(name=f"level{depth}"), 1) for depth in range(60))
    profile = make_profile([(path, 900 * MS, 0)])
    narrow, wide = render_text(profile, 80), render_text(profile)
    assert max(map(len, narrow.splitlines())) <= 80
    assert "Deeper frames need a wider terminal" in narrow
    assert "level58" not in narrow
    assert "level58" in wide


def test_text_in_a_file_has_the_deepest_frame(tmp_path: Path) -> None:
    """As deep as a stack is read, no frame is left out of a file."""
    path = tuple((TOTAL._replace(name=f"level{depth}"), 1) for depth in range(MAX_DEPTH))
    stored = store(tmp_path, make_profile([(path, 900 * MS, 0)]))
    text = run("export", stored, "--format", "text").stdout
    assert [line for line in text.splitlines() if ".level" in line][-1].endswith(
        f".level{MAX_DEPTH - 1}  pricing.py:36"
    )
    assert text.count(".level") == MAX_DEPTH
    assert "Deeper frames" not in text


def test_text_of_wide_letters_stays_in_its_columns() -> None:
    """East Asian letters take two columns of a terminal, in facts, hot lines and the tree."""
    wide = "ü中文" * 60
    frame = Frame(wide, f"/srv/{wide}.py", 1, None, True)
    span = make_span(route=f"/{wide}", path=f"/{wide}", parameters=((wide, wide),), service_name=wide)
    profile = make_profile([(((TOTAL, 41), (frame, 1)), 900 * MS, 0)], span=span, notes=(wide,))
    lines = render_text(profile, 80).splitlines()
    assert max(map(columns, lines)) == 80
    assert "".join(line.strip() for line in lines).count("文") >= 4 * 60


def test_text_of_an_empty_profile() -> None:
    """A request whose stack was never read has its facts."""
    text = render_text(make_profile([], duration_ns=2_000 * MS, cpu_time_ns=None), 80)
    assert "No stack of this request was read." in text
    assert "time        2 s" in text
