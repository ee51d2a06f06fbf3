"""The file notifier with its log line: what a user finds on disk and in the log."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pytest

from profiles import make_span
from reports import PAGE, STORED, make_named_profile, make_report
from slowspan.config import Settings
from slowspan.counters import Drop, DropError
from slowspan.delivery.retention import Retention
from slowspan.delivery.store import ReportDirError, ReportStore
from slowspan.notifiers.file import SWEEP_SHARE, FileNotifier
from slowspan.notifiers.log import LogNotifier
from slowspan.recording.profile import load_profile
from slowspan.report.renderer import ChildRenderer, RenderError
from slowspan.report.report import Report
from slowspan.report.stored import compress_profile

if TYPE_CHECKING:
    from pathlib import Path

    from slowspan.delivery.store import OpenDirectory


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "reports"


@pytest.fixture
def settings(directory: Path) -> Settings:
    return Settings(report_dir=directory, notifiers=("file", "log"))


@pytest.fixture
def notifier(settings: Settings) -> FileNotifier:
    return FileNotifier.from_settings(settings)


def cannot_render(stored: bytes) -> bytes:
    raise RenderError("no child process could be started")


# -- Files


def test_a_report_is_a_page_and_a_profile(notifier: FileNotifier, directory: Path) -> None:
    """Both files bear the report's name, and nothing else is in the directory."""
    report = make_report(1)
    notifier.notify(report)
    name = report.profile.name
    assert sorted(os.listdir(directory)) == [f"{name}.html", f"{name}.json.gz"]
    assert (directory / f"{name}.html").read_bytes() == PAGE
    assert (directory / f"{name}.json.gz").read_bytes() == STORED


def test_a_report_is_withdrawn(notifier: FileNotifier, directory: Path) -> None:
    """Both files go, and nobody else's; once more is no error."""
    for number in (1, 2):
        notifier.notify(make_report(number))
    name = make_report(1).profile.name
    for _ in range(2):
        notifier.withdraw(name)
    assert len(os.listdir(directory)) == 2
    assert not any(file.startswith(name) for file in os.listdir(directory))


def test_the_real_page_and_profile(notifier: FileNotifier, directory: Path) -> None:
    """With the real renderer: the page names the endpoint, and the profile reads back as it was."""
    profile = make_named_profile(1)
    notifier.notify(Report(profile, render_html=ChildRenderer().render_html, compress=compress_profile))
    assert load_profile(directory / f"{profile.name}.json.gz") == profile
    assert "/orders/" in (directory / f"{profile.name}.html").read_text("utf-8")


def test_the_profile_is_written_before_the_page_is_made(notifier: FileNotifier, directory: Path) -> None:
    """A process that is killed while its page is rendered leaves the profile."""
    seen: list[list[str]] = []

    def render_html(stored: bytes) -> bytes:
        seen.append(os.listdir(directory))
        return PAGE

    report = make_report(1, render_html=render_html)
    notifier.notify(report)
    assert seen == [[f"{report.profile.name}.json.gz"]]


def test_the_final_report_replaces_the_partial_one(notifier: FileNotifier, directory: Path) -> None:
    """A request that hung and then ended has one report, the final one."""
    notifier.notify(make_report(1, running=True, render_html=lambda stored: b"still running"))
    notifier.notify(make_report(1))
    assert len(os.listdir(directory)) == 2
    (page,) = directory.glob("*.html")
    assert page.read_bytes() == PAGE


def test_without_a_page_the_profile_is_kept(
    notifier: FileNotifier, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no page can be made, the loss has its own reason, and the log says how to make it later."""
    notifier.notify(make_report(1, running=True, render_html=lambda stored: b"still running"))
    caplog.clear()
    with pytest.raises(DropError) as failure:
        notifier.notify(make_report(1, render_html=cannot_render))
    assert failure.value.reason == Drop.RENDER_FAILED
    (profile,) = directory.iterdir()
    assert profile.name.endswith(".json.gz"), "and no page that says that the request still runs"
    (line,) = caplog.messages
    assert str(profile) in line
    assert "no child process could be started" in line
    assert "slowspan export 0000000000000001 --format html" in line


def test_a_refused_directory_is_told(notifier: FileNotifier, directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The slow request is in the log even where no report can be kept, with the reason and the remedy."""
    directory.parent.joinpath("elsewhere").mkdir()
    directory.symlink_to(directory.parent / "elsewhere")
    with pytest.raises(ReportDirError):
        notifier.notify(make_report(1))
    (line,) = caplog.messages
    assert line.startswith("slow request GET /orders/<id>")
    assert "is a symbolic link: set report_dir" in line


def test_any_other_error_is_told_too(notifier: FileNotifier, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever fails, the slow request has its line, and the error goes on to whoever counts it."""

    def fail(stored: bytes) -> bytes:
        raise MemoryError

    with pytest.raises(MemoryError):
        notifier.notify(make_report(1, render_html=fail))
    assert caplog.messages[0].endswith(" · MemoryError()")


def test_nothing_in_a_url_leaves_the_directory_or_the_line(
    notifier: FileNotifier, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A path made to escape makes ordinary files and one log line."""
    evil = "/../../../tmp/evil\r\n2026-11-21 root: all is well\u2028\x1b[2J"
    notifier.notify(make_report(1, span=make_span(route=None, path=evil, name=evil)))
    (line,) = caplog.messages
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line
    assert len(os.listdir(directory)) == 2
    assert os.listdir(directory.parent) == ["reports"]


# -- The log line


def test_one_line_per_report_with_its_path(
    notifier: FileNotifier, settings: Settings, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With both notifiers on, there is one line, written when the page can be opened, with its path."""
    report = make_report(1)
    other = LogNotifier.from_settings(settings)
    other.notify(report)
    notifier.notify(report)
    (record,) = caplog.records
    assert record.name == "slowspan.report"
    assert record.levelno == logging.WARNING
    assert record.getMessage() == f"{report.summary} · report {directory / report.profile.name}.html"
    assert report.summary.startswith("slow request GET /orders/<id> 1.42 s > 1 s · ")
    fields = vars(record)
    assert fields["slowspan_id"] == report.profile.id
    assert fields["slowspan_trace_id"] == report.profile.span.trace_id
    assert fields["slowspan_report"] == f"{directory / report.profile.name}.html"


def test_the_line_has_the_address_where_there_is_one(notifier: FileNotifier, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody who reads logs on another machine needs a link, not a path."""
    notifier.notify(make_report(1, url="https://reports.example/1"))
    assert caplog.messages[0].endswith(" · report https://reports.example/1")


@pytest.mark.parametrize(("on", "lines"), [(("file",), 0), (("log",), 1), (("file", "log"), 1)])
def test_the_line_is_there_exactly_when_log_is_on(
    directory: Path, on: tuple[str, ...], lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Which notifiers are on decides what there is: files, a line, or both."""
    settings = Settings(report_dir=directory, notifiers=on)
    made = {"file": FileNotifier.from_settings(settings), "log": LogNotifier.from_settings(settings)}
    for name in on:
        made[name].notify(make_report(1))
    assert len(caplog.messages) == lines
    assert directory.exists() == ("file" in on)


# -- Retention


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class SlowRetention(Retention):
    """A retention that takes a tenth of a second."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(count=2, size=10**9, age=10**9)
        self._monotonic = clock
        self.sweeps = 0

    def sweep(self, directory: OpenDirectory) -> int:
        self.sweeps += 1
        self._monotonic.now += 0.1
        return super().sweep(directory)


def test_old_reports_are_deleted(directory: Path) -> None:
    """The newest reports are kept, as many as the settings say, page and profile."""
    notifier = FileNotifier.from_settings(Settings(report_dir=directory, retention_count=3))
    for number in range(10):
        notifier.notify(make_report(number, start_time_ns=number * 10**9))
    assert notifier.force_flush()
    assert sorted({int(name.split("_")[-1][:16], 16) for name in os.listdir(directory)}) == [7, 8, 9]
    assert len(os.listdir(directory)) == 6


def test_deleting_takes_a_bounded_share_of_the_time(directory: Path) -> None:
    """What a sweep costs decides how long there is none; a shutdown makes up for it."""
    clock = Clock()
    retention = SlowRetention(clock)
    notifier = FileNotifier(ReportStore(directory), retention, clock=clock)
    for number in range(5):
        notifier.notify(make_report(number))
    assert retention.sweeps == 1
    clock.now += 0.1 / SWEEP_SHARE
    notifier.notify(make_report(5))
    notifier.notify(make_report(6))
    assert retention.sweeps == 2
    notifier.shutdown()
    assert retention.sweeps == 3
    assert len(os.listdir(directory)) == 4


def test_a_directory_that_cannot_be_swept_is_told_once(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """That old files cannot be deleted does not cost the new report, and is not repeated for each."""

    class StuckRetention(SlowRetention):
        def sweep(self, directory: OpenDirectory) -> int:
            raise PermissionError(13, "Permission denied", "old.html")

    clock = Clock()
    notifier = FileNotifier(ReportStore(directory), StuckRetention(clock), clock=clock)
    for number in range(3):
        notifier.notify(make_report(number))
    assert len(os.listdir(directory)) == 6
    (line,) = caplog.messages
    assert f"cannot delete old reports in {directory}" in line
    assert "old.html" in line
