"""Rendering in a child process: what it gives, what it is kept from, and what happens where it cannot run."""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from profiles import default_records, make_profile
from slowspan.recording.profile import read_profile
from slowspan.report import render_child, renderer
from slowspan.report.html import render_page
from slowspan.report.renderer import RETRY_AFTER, ChildRenderer, RenderError, find_python
from slowspan.report.stored import compress_profile

if TYPE_CHECKING:
    from collections.abc import Iterator


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def script(path: Path, text: str) -> str:
    """Write a program that stands in for the interpreter."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def in_child(code: str) -> str:
    """Run code in a child that is started as the renderer starts its own, and return what it printed."""
    paths = renderer._import_path()
    command = [find_python(), "-I", "-S", "-c", f"import sys; sys.path += sys.argv[1:]; {code}", *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def test_the_child_renders_the_same_page_as_this_process() -> None:
    """The page does not depend on where it is rendered."""
    profile = make_profile()
    page = ChildRenderer().render_html(compress_profile(profile), "https://traces.example/t/1")
    assert page.decode() == render_page(profile, "https://traces.example/t/1")


@pytest.fixture
def no_lasting_change() -> Iterator[None]:
    """Keep this process's recursion limit."""
    limit = sys.getrecursionlimit()
    yield
    sys.setrecursionlimit(limit)


def run_main(monkeypatch: pytest.MonkeyPatch, request: bytes) -> bytes:
    """Run the child's entry point in this process; return what it wrote."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(request)))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written))
    render_child.main()
    return written.getvalue()


@pytest.mark.usefixtures("no_lasting_change")
def test_the_entry_point_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the child runs turns a request on its input into a page on its output."""
    page = run_main(monkeypatch, b'{"trace_url": null}\n' + compress_profile(make_profile()))
    assert page.decode() == render_page(make_profile())


@pytest.mark.skipif(not hasattr(os, "nice"), reason="the child is started with its priority on this system")
def test_the_child_steps_back_before_it_imports_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a low priority from its first line on: its imports take as long as the rendering."""
    package = tmp_path / "slowspan" / "report"
    package.mkdir(parents=True)
    (package / "render_child.py").write_text("import os\nniceness = os.nice(0)\ndef main():\n    print(niceness)\n")
    monkeypatch.setattr(renderer, "_import_path", lambda: (str(tmp_path),))
    with renderer._start(find_python()) as process:
        printed, _ = process.communicate(timeout=60)
    assert int(printed) == min(os.nice(0) + renderer.NICENESS, 19)


@pytest.mark.usefixtures("no_lasting_change")
def test_the_entry_point_tells_what_is_wrong_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A profile that cannot be rendered gives a reason and an exit status of its own, no traceback."""
    with pytest.raises(SystemExit) as caught:
        run_main(monkeypatch, b'{"trace_url": null}\nbroken')
    assert caught.value.code == renderer.CANNOT_RENDER
    assert capsys.readouterr().err.startswith("ProfileFormatError: damaged")


def test_it_can_be_used_from_any_thread() -> None:
    """Pages of several threads are rendered at the same time."""
    stored = compress_profile(make_profile())
    child, pages = ChildRenderer(), []
    threads = [threading.Thread(target=lambda: pages.append(child.render_html(stored))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(pages)) == 1
    assert len(pages) == 3


def test_the_child_imports_no_opentelemetry() -> None:
    """The child is pyinstrument, a few files of ours and the standard library."""
    modules = set(json.loads(in_child("import json, slowspan.report.render_child; print(json.dumps([*sys.modules]))")))
    assert "slowspan.report.html" in modules
    assert not {name for name in modules if name.split(".")[0] in {"opentelemetry", "flask", "click", "site"}}


def test_the_child_runs_no_start_up_code_of_the_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sitecustomize on PYTHONPATH, as opentelemetry-instrument puts there, is not run in the child."""
    marker = tmp_path / "ran"
    (tmp_path / "sitecustomize.py").write_text(f"open({str(marker)!r}, 'w')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    ChildRenderer().render_html(compress_profile(make_profile()))
    assert not marker.exists()


@pytest.mark.skipif(os.name == "nt", reason="a script stands in for the interpreter")
class TestStandIns:
    """Programs that are not, or no longer, a Python that works."""

    def test_the_child_has_a_clean_environment_and_its_own_session(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No variable of the application reaches the child, and a terminal's Ctrl-C does not."""
        monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
        monkeypatch.setenv("SECRET_KEY", "hunter2")
        program = script(tmp_path / "python", f"env > {tmp_path}/env; ps -o sid= -p $$ > {tmp_path}/sid")
        with pytest.raises(RenderError):
            ChildRenderer(python=program).render_html(b"")
        names = {line.split("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
        assert names <= {"LD_LIBRARY_PATH", "PATH", "PWD", "SHLVL", "_", "OLDPWD"}
        assert int((tmp_path / "sid").read_text()) != os.getsid(0)

    def test_nothing_of_the_request_is_on_the_command_line(self, tmp_path: Path) -> None:
        """Other users of the machine see command lines: the trace's address is not there."""
        program = script(tmp_path / "python", f'echo "$@" > {tmp_path}/arguments')
        with pytest.raises(RenderError):
            ChildRenderer(python=program).render_html(b"", "https://traces.example/secret")
        assert "traces.example" not in (tmp_path / "arguments").read_text()

    def test_a_child_that_hangs_is_killed(self, tmp_path: Path) -> None:
        """After the time limit the child is gone and the caller goes on."""
        program = script(tmp_path / "python", f"echo $$ > {tmp_path}/pid; exec sleep 600")
        with pytest.raises(RenderError, match=r"longer than 0\.5 s"):
            ChildRenderer(python=program, timeout=0.5).render_html(b"")
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)

    def test_the_reason_of_a_failure_is_bounded(self, tmp_path: Path) -> None:
        """However much a child writes to standard error, a short reason remains."""
        program = script(tmp_path / "python", "head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1")
        with pytest.raises(RenderError, match=r"status 1: x+…$") as caught:
            ChildRenderer(python=program).render_html(b"")
        assert len(caught.value.reason) < 1000

    def test_half_a_page_is_no_page(self, tmp_path: Path) -> None:
        """A child that ends early, even without an error, has not rendered."""
        program = script(tmp_path / "python", "echo '<!DOCTYPE html><html><body>'")
        with pytest.raises(RenderError):
            ChildRenderer(python=program).render_html(b"")

    def test_a_page_counts_although_the_exit_status_is_lost(self, tmp_path: Path) -> None:
        """Applications that collect or ignore all children hide exit statuses; a whole page is enough."""
        program = script(tmp_path / "python", "echo '<!DOCTYPE html><html></html>'; exit 1")
        assert ChildRenderer(python=program).render_html(b"").startswith(b"<!DOCTYPE html>")

    def test_after_a_failure_no_child_is_tried_for_a_while(self, tmp_path: Path) -> None:
        """Where children cannot run, every report costs nothing, and later it is tried again."""
        clock = Clock()
        program = script(tmp_path / "python", f"echo run >> {tmp_path}/runs; exit 1")
        child = ChildRenderer(python=program, clock=clock)
        assert child.available
        for _ in range(3):
            with pytest.raises(RenderError):
                child.render_html(b"")
            assert not child.available
        assert (tmp_path / "runs").read_text().count("run") == 1
        clock.now += RETRY_AFTER
        assert child.available
        with pytest.raises(RenderError):
            child.render_html(b"")
        assert (tmp_path / "runs").read_text().count("run") == 2


def test_where_no_process_can_be_started_it_says_so(tmp_path: Path) -> None:
    """A missing program or a forbidding sandbox is told in one sentence."""
    child = ChildRenderer(python=str(tmp_path / "python"))
    with pytest.raises(RenderError, match="no child process could be started"):
        child.render_html(b"")
    assert not child.available


def test_a_damaged_profile_is_no_reason_to_stop_trying() -> None:
    """The child ran: only this profile cannot be rendered."""
    child = ChildRenderer()
    with pytest.raises(RenderError, match="ProfileFormatError: damaged slowspan profile"):
        child.render_html(b"{")
    assert child.available


def test_this_interpreter_is_found() -> None:
    """Under a plain interpreter that one is started."""
    assert find_python() == sys.executable


@pytest.mark.parametrize("executable", ["/usr/bin/uwsgi", "/usr/sbin/apache2", "/opt/shop/python-server", "", None])
def test_another_program_is_never_started(monkeypatch: pytest.MonkeyPatch, executable: str | None) -> None:
    """In an embedded interpreter the installed Python of this version is found, never the program itself."""
    monkeypatch.setattr(sys, "executable", executable)
    assert Path(find_python()).name == f"python{sys.version_info[0]}.{sys.version_info[1]}"
    monkeypatch.setattr(sys, "exec_prefix", "")
    monkeypatch.setattr(sys, "base_exec_prefix", "/nowhere")
    with pytest.raises(FileNotFoundError, match="is not a Python interpreter"):
        find_python()


def test_a_packed_program_is_never_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that was frozen with its interpreter would start itself again."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    child = ChildRenderer()
    with pytest.raises(RenderError):
        child.render_html(b"")
    assert not child.available


def test_without_pyinstrument_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-installed package gives a reason, not a traceback."""
    monkeypatch.setattr(renderer, "find_spec", lambda name: None)
    renderer._import_path.cache_clear()
    with pytest.raises(RenderError, match="pyinstrument is not installed"):
        ChildRenderer().render_html(b"")


def test_the_stored_profile_is_read_back_equal() -> None:
    """Compressing in slices loses nothing, and standard gzip reads it."""
    profile = make_profile()
    stored = compress_profile(profile)
    assert read_profile(stored) == profile
    assert json.loads(gzip.decompress(stored)) == json.loads("".join(profile.json_slices()))


def test_the_stored_profile_depends_on_nothing_but_the_profile() -> None:
    """The same profile gives the same bytes."""
    assert compress_profile(make_profile()) == compress_profile(make_profile())


def test_other_threads_may_run_between_slices() -> None:
    """However long a profile is, there can be a pause at each hundred rows."""
    pauses: list[None] = []
    records = default_records()
    profile = make_profile([records[turn % len(records)] for turn in range(5000)])
    compress_profile(profile, pause=lambda: pauses.append(None))
    assert len(pauses) >= 5000 / 100
