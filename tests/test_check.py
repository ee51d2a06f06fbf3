"""``slowspan check``: what works is said to work, what does not is said with its reason, and nothing is given away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from importlib import import_module
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from profiles import make_profile
from slowspan.commands import slowspan
from slowspan.commands.findings import Attempt, without_secrets
from slowspan.commands.sample import sample_profile
from slowspan.config import Settings
from slowspan.notifiers import registry
from slowspan.notifiers.base import DeliveryError
from slowspan.report.summary import hot_lines
from slowspan.report.text import render_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from slowspan.report.report import Report

examine = import_module("slowspan.commands.examine")
check_module = import_module("slowspan.commands.check")

PREFIX = "OTEL_PYTHON_SLOWSPAN_"


class Pager:
    """A third party's notifier that keeps what it is given."""

    told: list[Report]
    found: str | Exception

    def __init__(self) -> None:
        self.is_shut_down = False

    def notify(self, report: Report) -> None:
        self.told.append(report)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True

    def shutdown(self) -> None:
        self.is_shut_down = True


@pytest.fixture
def third_party(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, object], None]:
    """Return a function that registers a notifier as if a package had the entry point."""
    real = registry._entry_points
    added: dict[str, EntryPoint] = {}

    def install(name: str, target: object) -> None:
        class Installed(EntryPoint):
            def load(self) -> object:
                return target

        added[name] = Installed(name, f"third_party:{name}", registry.GROUP)

    monkeypatch.setattr(registry, "_entry_points", lambda: {**real(), **added})
    return install


@pytest.fixture(autouse=True)
def quick_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare most tests the half second of a real profile."""
    monkeypatch.setattr(check_module, "sample_profile", lambda settings: make_profile())


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Begin each test without settings, but for the report directory."""
    for name in os.environ:
        if name.startswith(("OTEL_", "SLOWSPAN_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv(f"{PREFIX}REPORT_DIR", str(tmp_path / "reports"))


def run(*arguments: str, **settings: str) -> Result:
    environment = {f"{PREFIX}{name.upper()}": value for name, value in settings.items()}
    return CliRunner().invoke(slowspan, ["check", *arguments], env={"COLUMNS": "80", **environment})


def findings(result: Result) -> dict[str, dict[str, Any]]:
    """Return the findings of ``check --json`` by name."""
    return {finding["name"]: finding for finding in json.loads(result.stdout)["findings"]}


def test_all_is_well(tmp_path: Path) -> None:
    """A plain installation works: status 0, no FAIL, every line within 80 columns, no colour."""
    result = run(retention_count="100")
    assert result.exit_code == 0, result.output
    assert "FAIL" not in result.stdout
    assert "All is well." in result.stdout
    assert "set   retention_count     100, from environment" in result.stdout
    assert "\x1b" not in result.output
    width = max(
        len(line) for line in result.stdout.splitlines() if str(tmp_path) not in line and sys.prefix not in line
    )
    assert width <= 80


def test_json_has_a_finding_for_each_line() -> None:
    """Scripts get the same findings, with area, name, state, text and seconds."""
    result = run("--json", threshold="0.5")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["ok"] is True
    assert {frozenset(finding) for finding in document["findings"]} == {
        frozenset(("area", "name", "state", "text", "seconds"))
    }
    named = findings(result)
    assert named["threshold"] == {
        "area": "settings",
        "name": "threshold",
        "state": "set",
        "text": f"0.5, from environment {PREFIX}THRESHOLD",
        "seconds": None,
    }
    assert {named[name]["state"] for name in ("python", "opentelemetry", "profiling", "report_dir", "alert store")} == {
        "ok"
    }


def test_a_setting_from_a_file_names_the_file(tmp_path: Path) -> None:
    """Whoever wonders where a value comes from is told."""
    file = tmp_path / "slowspan.json"
    file.write_text('{"threshold": 0.25}')
    assert findings(run("--json", config=str(file)))["threshold"]["text"] == f"0.25, from file {file}"


def test_a_channel_that_is_off_names_what_would_switch_it_on() -> None:
    """Who sets a channel up is told which setting is missing, or that ``notifiers`` leaves it out."""
    named = findings(run("--json", webhook_url="http://127.0.0.1:1", notifiers="file, log"))
    assert named["mattermost"]["text"] == "mattermost_url is not set"
    assert named["webhook"]["text"] == "not among the setting notifiers"
    assert named["notifiers"]["text"] == f"file, log, from environment {PREFIX}NOTIFIERS"


def test_a_wrong_setting_is_an_error() -> None:
    """What only warns in the application fails here."""
    result = run(threshold="fast")
    assert result.exit_code == 1
    assert "FAIL" in result.stdout
    assert "is wrong" in " ".join(result.stdout.split())
    assert result.stdout.splitlines()[-1] == "Not all is well: FAIL stands 1 time above."


def test_an_unknown_name_is_an_error() -> None:
    """A typing mistake in a variable's name is told, with the nearest name."""
    text = " ".join(run(intervall="1").stdout.split())
    assert f"environment {PREFIX}INTERVALL is ignored" in text
    assert "interval, the nearest name" in text


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this platform has no owners and modes of files")
def test_a_directory_that_must_not_be_written(tmp_path: Path) -> None:
    """Whether it can be written is found out by writing."""
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    if os.geteuid() == 0:  # who may write everywhere, but does not write into what is another user's
        os.chown(folder, 12345, 12345)
    result = run("--json", report_dir=str(folder), alert_store="memory://")
    found = findings(result)["report_dir"]
    assert (result.exit_code, found["state"]) == (1, "fail")
    assert "Permission denied" in found["text"] or "belongs to the user" in found["text"]


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    """The message of the report directory says what to do, and the status is 1."""
    file = tmp_path / "file"
    file.write_text("")
    result = run("--json", report_dir=str(file))
    assert result.exit_code == 1
    assert findings(result)["report_dir"]["text"].endswith("set report_dir to another path")


def test_trying_the_directory_leaves_nothing(tmp_path: Path) -> None:
    """No probe and no report stays behind."""
    run(alert_store="memory://")
    assert list((tmp_path / "reports").iterdir()) == []


def test_a_store_that_cannot_be_reached() -> None:
    """A server that is away is told, without the password."""
    result = run("--json", alert_store="redis://:hunter22hunter@127.0.0.1:1/0", notify_timeout="10")
    found = findings(result)["alert store"]
    assert found["state"] == "fail"
    assert "hunter22hunter" not in result.output


def test_no_setting_shows_its_secret() -> None:
    """Secrets that are set are said to be set, and no more."""
    result = run(
        "--json", mattermost_token="xoxtoken123456", mattermost_url="http://127.0.0.1:1", mattermost_channel="a/b"
    )
    assert "xoxtoken123456" not in result.output
    assert findings(result)["mattermost_token"]["text"].startswith("[hidden], from environment")


def test_secrets_in_errors_are_hidden() -> None:
    """Libraries quote URLs and their parts in errors."""
    settings = Settings(
        webhook_url="https://user:pa55@hooks.example.com/services/T0123456/Babcdefgh?key=9876543210",
        webhook_secret="sign-with-this",
    )
    for text in (
        "POST https://user:pa55@hooks.example.com/services/T0123456/Babcdefgh?key=9876543210 failed",
        "host='hooks.example.com': Max retries with url: /services/T0123456/Babcdefgh",
        "wrong key 9876543210, password pa55, signature sign-with-this",
    ):
        hidden = without_secrets(text, settings)
        assert not any(secret in hidden for secret in ("T0123456", "Babcdefgh", "9876543210", "pa55", "sign-with"))
    assert "hooks.example.com" in without_secrets("host='hooks.example.com'", settings)
    assert without_secrets("two\nlines\x1b[0m", settings) == "two lines\\x1b[0m"


def test_switched_off_by_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable that keeps the instrumentor out is a usual reason for no reports at all."""
    monkeypatch.setenv("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "flask, slowspan")
    result = run("--json")
    assert result.exit_code == 0
    assert findings(result)["instrumentor"]["state"] == "off"
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert findings(run("--json"))["OTEL_SDK_DISABLED"]["state"] == "fail"


def test_switched_off_by_the_setting() -> None:
    """``enabled = false`` is no failure."""
    result = run("--json", enabled="false")
    assert result.exit_code == 0
    assert findings(result)["profiling"]["state"] == "off"


def test_an_interpreter_that_cannot_be_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is told."""
    monkeypatch.setattr(examine, "unavailable", lambda: "this is a free-threaded interpreter")
    found = findings(run("--json"))["profiling"]
    assert (found["state"], found["text"]) == ("fail", "this is a free-threaded interpreter; use another interpreter")


def test_no_profile_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a profile nothing can be sent, and that is said."""
    monkeypatch.setattr(check_module, "sample_profile", lambda settings: None)
    result = run("--send", "--json", notifiers="log")
    assert result.exit_code == 1
    assert findings(result)["profiling"]["state"] == "fail"
    assert "nothing was sent" in findings(result)["--send"]["text"]


# -- channels


def test_each_notifier_is_tried_by_its_own_check(third_party: Callable[[str, object], None]) -> None:
    """One that has a check says what it found; one that has none can only be tried by sending."""

    class Checked(Pager):
        def check(self) -> str:
            return "reaches the pager of the night shift"

    third_party("checked", Checked)
    third_party("plain", Pager)
    Pager.told = []
    result = run("--json", notifiers="checked,plain")
    named = findings(result)
    assert result.exit_code == 0
    assert (named["checked"]["state"], named["checked"]["text"]) == ("ok", "reaches the pager of the night shift")
    assert (named["plain"]["state"], named["plain"]["text"]) == ("untried", "cannot be tried without --send")
    assert named["file"]["state"] == "off"
    assert Pager.told == []


def test_a_check_that_fails_says_what_to_do(third_party: Callable[[str, object], None]) -> None:
    """The notifier's own words are shown; one that is broken does not hide the others."""

    class Wrong(Pager):
        def check(self) -> str:
            raise DeliveryError("401: make a new token", retry=False)

    class Broken(Pager):
        def check(self) -> str:
            raise KeyError("x")

    third_party("wrong", Wrong)
    third_party("broken", Broken)
    result = run("--json", notifiers="broken,wrong,nobody,log")
    named = findings(result)
    assert result.exit_code == 1
    assert named["wrong"]["text"] == "401: make a new token"
    assert named["broken"]["text"].startswith("KeyError: 'x'")
    assert "there is no such notifier" in named["nobody"]["text"]
    assert named["log"]["state"] != "fail"


def test_only_alerts_are_said_to_be_tried_again(third_party: Callable[[str, object], None]) -> None:
    """A notifier for reports has one try only, and nobody is told otherwise."""

    class Alerts(Pager):
        def check(self) -> str:
            raise DeliveryError("503: overloaded")

    class Reports(Alerts):
        receives = "reports"

    third_party("alerts", Alerts)
    third_party("reports", Reports)
    named = findings(run("--json", notifiers="alerts,reports"))
    assert named["alerts"]["text"] == "503: overloaded (A real alert would be tried again.)"
    assert named["reports"]["text"] == "503: overloaded"


def test_send_tells_every_channel_once(third_party: Callable[[str, object], None]) -> None:
    """The test alert is marked, has a page, and each channel says how long it took."""
    third_party("pager", Pager)
    Pager.told = []
    result = run("--send", "--json", notifiers="pager", trace_url="https://traces.example.com/{trace_id}")
    named = findings(result)
    assert result.exit_code == 0, result.output
    assert named["pager"]["text"].startswith("test alert sent in ")
    assert named["pager"]["seconds"] >= 0
    (report,) = Pager.told
    assert report.alert is not None
    assert report.alert.is_test
    assert len(report.alert.key) == 32
    assert report.trace_url == f"https://traces.example.com/{report.profile.span.trace_id}"
    assert report.html().startswith(b"<!DOCTYPE html>")


def test_send_to_a_function(third_party: Callable[[str, object], None]) -> None:
    """A plain function is a channel too."""
    told: list[Report] = []
    third_party("function", told.append)
    assert findings(run("--send", "--json", notifiers="function"))["function"]["state"] == "ok"
    assert len(told) == 1


def test_send_writes_a_real_report(tmp_path: Path) -> None:
    """The file notifier writes page and profile, which ``slowspan list`` then shows."""
    result = run("--send", notifiers="file")
    assert result.exit_code == 0, result.output
    assert sorted(path.suffix for path in (tmp_path / "reports").glob("2*")) == [".gz", ".html"]


@pytest.fixture
def hanging(third_party: Callable[[str, object], None]) -> Iterator[None]:
    """Install a notifier that does not come back while the test runs."""
    release = threading.Event()

    def hang(report: Report) -> None:
        release.wait(60)

    third_party("hanging", hang)
    yield
    release.set()


@pytest.mark.usefixtures("hanging")
def test_one_that_hangs_and_one_that_fails_take_nothing_from_the_others(
    third_party: Callable[[str, object], None],
) -> None:
    """Every channel is tried at the same time, and has notify_timeout seconds."""

    def failing(report: Report) -> None:
        raise DeliveryError("503: the server is busy")

    third_party("failing", failing)
    third_party("pager", Pager)
    Pager.told = []
    started = time.monotonic()
    result = run("--send", "--json", notifiers="hanging,failing,pager", notify_timeout="1")
    assert time.monotonic() - started < 30
    named = findings(result)
    assert result.exit_code == 1
    assert "no answer within notify_timeout, 1 s" in named["hanging"]["text"]
    assert named["failing"]["text"] == "503: the server is busy (A real alert would be tried again.)"
    assert named["pager"]["state"] == "ok"
    assert len(Pager.told) == 1


def test_not_flushed_is_not_delivered(third_party: Callable[[str, object], None]) -> None:
    """A notifier that only takes the alert has not delivered it."""

    class Lazy(Pager):
        def force_flush(self, timeout_millis: int = 30000) -> bool:
            return False

    third_party("lazy", Lazy)
    Pager.told = []
    assert "did not deliver it" in findings(run("--send", "--json", notifiers="lazy"))["lazy"]["text"]


def test_no_notifier_at_all() -> None:
    """``none`` is allowed, and is said to tell nobody."""
    result = run("--json", notifiers="none")
    assert result.exit_code == 0
    assert findings(result)["none"]["state"] == "off"


def test_an_attempt_ends_even_without_an_exception_of_the_usual_kind() -> None:
    """A library that calls ``sys.exit`` is a failure, not a hang."""
    with pytest.raises(SystemExit):
        Attempt(lambda: sys.exit(3), 30, "exits").result()


# -- the sample


def test_the_sample_is_really_profiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment says of sampling traces, the test alert has lines, and names that explain it."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    profile = sample_profile(Settings(report_dir=tmp_path / "reports"))
    assert profile is not None
    assert profile.sample_count > 1
    text = render_text(profile)
    assert "GET /slowspan-check" in text
    assert "message=only a test" in text
    assert "this_is_only_a_test" in text
    assert {line.function for line in hot_lines(profile)} & {
        "waiting_as_for_a_database",
        "computing_as_a_busy_loop_does",
    }
    assert not (tmp_path / "reports").exists()


def test_no_sample_without_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """With OpenTelemetry's SDK switched off there is nothing to wait for."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert sample_profile(Settings()) is None


def test_check_in_a_process_of_its_own(tmp_path: Path) -> None:
    """The whole command, as a person runs it: exit status, standard output, nothing but the log line on stderr."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
        f"{PREFIX}REPORT_DIR": str(tmp_path / "reports"),
        "COLUMNS": "80",
    }
    code = "from slowspan.cli import main; main()"
    command = [sys.executable, "-c", code, "check", "--send"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("test alert sent in") == 2
    assert "slow request GET /slowspan-check" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
