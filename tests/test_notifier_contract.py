"""What every registered notifier must do, and how notifiers are found."""

from __future__ import annotations

import contextlib
import logging
import threading
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

import pytest

from profiles import make_span
from reports import make_report
from slowspan.config import Settings
from slowspan.counters import Counters
from slowspan.notifiers import registry
from slowspan.notifiers.base import Notifier
from slowspan.notifiers.registry import GROUP, FunctionNotifier, load_notifiers
from slowspan.report.renderer import RenderError
from slowspan.testing import InMemoryNotifier

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slowspan.report.report import Report

REGISTERED = sorted({entry_point.name for entry_point in entry_points(group=GROUP)})

OBSERVED: dict[str, Callable[[Observed], int]] = {
    "file": lambda observed: len(list(observed.directory.glob("*.html"))),
    "log": lambda observed: sum(record.name == "slowspan.report" for record in observed.caplog.records),
}
"""How to see, from outside, how many reports a notifier delivered. Every notifier of ours has an entry."""


@dataclass
class Observed:
    """A notifier and where its deliveries can be seen."""

    name: str
    notifier: Notifier
    directory: Path
    caplog: pytest.LogCaptureFixture

    def delivered(self) -> int:
        return OBSERVED[self.name](self)


@pytest.fixture(params=REGISTERED)
def observed(request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Observed:
    """Each notifier that is registered, as slowspan itself makes it."""
    name = request.param
    directory = tmp_path / "reports"
    counters = Counters()
    caplog.set_level(logging.INFO)
    ((loaded_name, notifier),) = load_notifiers(Settings(notifiers=(name,), report_dir=directory), counters)
    assert loaded_name == name
    assert counters.snapshot().drops == {}
    return Observed(name, notifier, directory, caplog)


# -- The contract


def test_the_notifiers_of_slowspan_are_registered() -> None:
    """The built-in notifiers are entry points like anybody's, and each is observed here."""
    assert {"file", "log"} <= set(REGISTERED)
    assert set(REGISTERED) == set(OBSERVED)


def test_it_is_a_notifier(observed: Observed) -> None:
    """It has the protocol's methods."""
    assert isinstance(observed.notifier, Notifier)


def test_making_it_delivers_nothing(observed: Observed) -> None:
    """Loading a notifier has no effect outside: no directory, no message."""
    assert not observed.directory.exists()
    assert observed.delivered() == 0


def test_it_delivers(observed: Observed) -> None:
    """Each report is delivered once a flush has returned True."""
    for number in range(3):
        observed.notifier.notify(make_report(number))
    assert observed.notifier.force_flush(timeout_millis=30_000)
    assert observed.delivered() == 3


def test_it_delivers_a_partial_report_and_its_final_one(observed: Observed) -> None:
    """A report of a request that still runs is followed by another one of the same id."""
    observed.notifier.notify(make_report(1, running=True))
    observed.notifier.notify(make_report(1))
    assert observed.notifier.force_flush()
    assert observed.delivered() in {1, 2}


def test_it_takes_whatever_a_stranger_sends(observed: Observed) -> None:
    """Hostile texts and missing facts are delivered like any other report."""
    evil = "</script>\r\n\0\u2028../../{0}%s@all`\ud800"
    hostile = make_span(name=evil, method=evil, route=evil, path=evil, parameters=((evil, evil),), service_name=evil)
    bare = make_span(method=None, route=None, path=None, status_code=None, service_name=None, parameters=())
    observed.notifier.notify(make_report(1, span=hostile))
    observed.notifier.notify(make_report(2, span=bare))
    assert observed.notifier.force_flush()
    assert observed.delivered() == 2


def test_a_flush_before_the_first_report(observed: Observed) -> None:
    """There is nothing to deliver, so everything is delivered."""
    assert observed.notifier.force_flush(timeout_millis=0) is True


def test_after_shutdown_nothing_is_delivered(observed: Observed) -> None:
    """Shutdown may come twice; after it a report is left undelivered, and a flush has nothing to do."""
    observed.notifier.notify(make_report(1))
    observed.notifier.shutdown()
    observed.notifier.shutdown()
    observed.notifier.notify(make_report(2))
    assert observed.notifier.force_flush() is True
    assert observed.delivered() == 1


def test_it_may_be_shut_down_unused(observed: Observed) -> None:
    """A notifier that never got a report is shut down like any other."""
    observed.notifier.shutdown()
    assert observed.delivered() == 0


def test_calls_may_come_from_different_threads(observed: Observed) -> None:
    """One call at a time, but from any thread: a thread that ended is replaced by another one."""
    for number in range(3):
        thread = threading.Thread(target=observed.notifier.notify, args=(make_report(number),))
        thread.start()
        thread.join()
    assert observed.notifier.force_flush()
    assert observed.delivered() == 3


def test_a_page_that_cannot_be_made_is_an_ordinary_failure(observed: Observed) -> None:
    """A notifier that needs the page raises, or delivers without it; the next report is not affected."""

    def cannot_render(stored: bytes) -> bytes:
        raise RenderError("no child process could be started")

    with contextlib.suppress(Exception):
        observed.notifier.notify(make_report(1, render_html=cannot_render))
    before = observed.delivered()
    observed.notifier.notify(make_report(2))
    assert observed.delivered() == before + 1


# -- Finding them


def load(*wanted: Any, counters: Counters | None = None) -> list[tuple[str, Notifier]]:
    settings = Settings()
    # From code, the setting also takes what is not a name.
    object.__setattr__(settings, "notifiers", wanted)
    return load_notifiers(settings, counters or Counters())


def test_names_keep_their_order() -> None:
    """The notifiers come in the order of the setting."""
    assert [name for name, _ in load("log", "file")] == ["log", "file"]
    assert load() == []


class Pager:
    """A notifier without ``from_settings``."""

    def notify(self, report: Report) -> None: ...

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True

    def shutdown(self) -> None: ...


class ConfiguredPager(Pager):
    """A notifier that reads the settings."""

    settings: Settings

    @classmethod
    def from_settings(cls, settings: Settings) -> ConfiguredPager:
        pager = cls()
        pager.settings = settings
        return pager


class BrokenPager(Pager):
    """A notifier that cannot be made."""

    def __init__(self) -> None:
        raise OSError("no pager here")


def call(report: Report) -> None:
    """Stand in for a plain function of somebody else."""


def test_what_code_may_give() -> None:
    """Notifiers, classes with and without ``from_settings``, functions and names can be mixed."""
    pager = Pager()
    loaded = load(pager, Pager, ConfiguredPager, call, "log")
    assert [name for name, _ in loaded] == ["Pager", "Pager", "ConfiguredPager", "call", "log"]
    notifiers = [notifier for _, notifier in loaded]
    assert notifiers[0] is pager
    assert type(notifiers[1]) is Pager
    assert isinstance(notifiers[2], ConfiguredPager)
    assert notifiers[2].settings.threshold == 1.0
    assert isinstance(notifiers[3], FunctionNotifier)


def test_an_unknown_name_is_told_with_the_nearest(caplog: pytest.LogCaptureFixture) -> None:
    """A mistyped name turns nothing else off; the warning names the nearest one and all there are."""
    counters = Counters()
    assert [name for name, _ in load("fil", "log", counters=counters)] == ["log"]
    (line,) = caplog.messages
    assert line.startswith("the notifier 'fil' is off: there is no such notifier; did you mean 'file'? Installed: ")
    assert "file, log" in line
    assert counters.snapshot().drops == {"notifier_failed": 1}
    load("mattermost")
    assert "did you mean" not in caplog.messages[1]


def test_slowspan_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """In a program packed without metadata no notifier is found; the warning says why."""
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: ())
    assert load("file") == []
    assert "none, not even slowspan's own: is slowspan installed?" in caplog.text


@pytest.mark.parametrize("wrong", [BrokenPager, object(), 42, type("Half", (), {"notify": call})])
def test_what_cannot_be_made_is_left_out(wrong: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A notifier that fails to load is logged with its reason and counted; the others are on."""
    counters = Counters()
    assert [name for name, _ in load(wrong, Pager, counters=counters)] == ["Pager"]
    assert counters.snapshot().drops == {"notifier_failed": 1}
    assert len(caplog.records) == 1


def test_a_class_without_all_methods_is_told_which(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever writes a notifier reads what is missing."""
    load(type("Half", (), {"notify": call, "shutdown": call}))
    assert "it has no method force_flush" in caplog.text


def test_an_entry_point_that_cannot_be_imported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another package's missing dependency is told with its traceback, and harms nobody."""
    broken = EntryPoint("pager", "package_that_does_not_exist:Pager", GROUP)
    monkeypatch.setattr(registry, "_entry_points", lambda: {"pager": broken})
    assert load("pager") == []
    assert "No module named 'package_that_does_not_exist'" in caplog.messages[0]
    assert caplog.records[0].exc_info


def test_a_function_is_called_until_shutdown() -> None:
    """A plain function serves as a notifier."""
    calls: list[Report] = []
    notifier = FunctionNotifier(calls.append)
    report = make_report(1)
    notifier.notify(report)
    assert notifier.force_flush()
    notifier.shutdown()
    notifier.notify(report)
    assert calls == [report]


def test_the_notifier_for_tests() -> None:
    """The notifier for users' tests keeps reports until it is cleared, and those alone until shutdown."""
    notifier = InMemoryNotifier()
    assert isinstance(notifier, Notifier)
    first, second, third = (make_report(number) for number in range(3))
    notifier.notify(first)
    assert notifier.reports == (first,)
    notifier.clear()
    notifier.notify(second)
    assert notifier.force_flush()
    notifier.shutdown()
    notifier.notify(third)
    assert notifier.reports == (second,)
