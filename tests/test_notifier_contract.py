"""What every registered notifier must do, and how notifiers are found."""

from __future__ import annotations

import contextlib
import logging
import threading
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

import pytest

from http_server import Answer, RecordingServer, closed_port
from mattermost_server import CHANNEL, TEAM, TOKEN, Fault, MattermostServer
from profiles import make_span
from reports import make_report
from slowspan.config import ConfigError, Settings
from slowspan.counters import Counters
from slowspan.notifiers import registry
from slowspan.notifiers.base import DeliveryError, Notifier
from slowspan.notifiers.registry import GROUP, FunctionNotifier, load_notifiers
from slowspan.report.alert import Digest
from slowspan.report.renderer import RenderError
from slowspan.testing import InMemoryNotifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from slowspan.report.report import Report

REGISTERED = sorted({entry_point.name for entry_point in entry_points(group=GROUP)})

SECRETS = (TOKEN, "T0pS3cret")
DIGEST = Digest(hour_ns=1_795_287_600_000_000_000, alerts=7, endpoints=(("GET /a", 7, 3_100_000_000),), host="web-1")


@dataclass
class Outside:
    """Where deliveries can be seen."""

    directory: Path
    caplog: pytest.LogCaptureFixture
    server: RecordingServer
    mattermost: MattermostServer

    def posted(self) -> int:
        """Return how many messages the server of HTTP channels has taken."""
        return sum(bool(request.method == "POST" and request.body) for request in self.server.requests)


@dataclass(frozen=True)
class Kind:
    """How a notifier of ours is set up, and how to see, from outside, how many reports it delivered."""

    delivered: Callable[[Outside], int]
    settings: Callable[[Outside], dict[str, Any]] = lambda outside: {}
    receives: str = "alerts"
    is_remote: bool = True
    """Whether it has another side, which can fail and be checked."""


KINDS: dict[str, Kind] = {
    "file": Kind(lambda outside: len(list(outside.directory.glob("*.html"))), receives="reports", is_remote=False),
    "log": Kind(
        lambda outside: sum(record.name == "slowspan.report" for record in outside.caplog.records),
        receives="reports",
        is_remote=False,
    ),
    "otlp": Kind(Outside.posted, receives="reports"),
    "webhook": Kind(Outside.posted, lambda outside: {"webhook_url": f"{outside.server.url}/T0pS3cret"}),
    "apprise": Kind(Outside.posted, lambda outside: {"apprise_urls": f"json://{outside.server.address}/T0pS3cret"}),
    "mattermost": Kind(
        lambda outside: len(outside.mattermost.posts),
        lambda outside: {
            "mattermost_url": outside.mattermost.url,
            "mattermost_token": TOKEN,
            "mattermost_channel": f"{TEAM}/{CHANNEL}",
        },
    ),
}
"""Every notifier of ours."""


@dataclass
class Observed:
    """A notifier and where its deliveries can be seen."""

    name: str
    notifier: Notifier
    outside: Outside

    @property
    def directory(self) -> Path:
        return self.outside.directory

    @property
    def kind(self) -> Kind:
        return KINDS[self.name]

    def delivered(self) -> int:
        return self.kind.delivered(self.outside)

    def fail_once(self) -> None:
        """Let the next delivery fail on the other side."""
        self.outside.server.answers.append(Answer(400))
        self.outside.mattermost.fail("posts", Fault(400))


@pytest.fixture
def outside(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    caplog.set_level(logging.INFO)
    with RecordingServer() as server, MattermostServer() as mattermost:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"{server.url}/T0pS3cret")
        yield Outside(tmp_path / "reports", caplog, server, mattermost)
    logged = [record.getMessage() for record in caplog.records]
    assert not [line for line in logged for secret in SECRETS if secret in line]


def load_one(name: str, outside: Outside) -> Notifier:
    """Make a notifier as slowspan itself does."""
    counters = Counters()
    settings = Settings(notifiers=(name,), report_dir=outside.directory, **KINDS[name].settings(outside))
    ((loaded_name, notifier),) = load_notifiers(settings, counters)
    assert loaded_name == name
    assert counters.snapshot().drops == {}
    return notifier


@pytest.fixture(params=REGISTERED)
def observed(request: pytest.FixtureRequest, outside: Outside) -> Iterator[Observed]:
    """Each notifier that is registered, as slowspan itself makes it."""
    notifier = load_one(request.param, outside)
    yield Observed(request.param, notifier, outside)
    notifier.shutdown()


@pytest.fixture(params=[name for name in REGISTERED if KINDS[name].is_remote])
def remote(request: pytest.FixtureRequest, outside: Outside) -> Iterator[Observed]:
    """Each notifier that sends reports somewhere."""
    notifier = load_one(request.param, outside)
    yield Observed(request.param, notifier, outside)
    notifier.shutdown()


# -- The contract


def test_the_notifiers_of_slowspan_are_registered() -> None:
    """The built-in notifiers are entry points like anybody's, and each is observed here."""
    assert set(REGISTERED) == set(KINDS)


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


# -- What a notifier may have beside the protocol's methods


def test_what_it_receives(observed: Observed) -> None:
    """A notifier where people are told receives alerts, one that keeps things receives every report."""
    assert getattr(observed.notifier, "receives", "alerts") == observed.kind.receives


def test_who_gets_alerts_gets_digests(observed: Observed) -> None:
    """What was held back is told by every channel of ours that tells alerts, and not after the shutdown."""
    notify_digest = getattr(observed.notifier, "notify_digest", None)
    assert (notify_digest is not None) == (observed.kind.receives == "alerts")
    if notify_digest is not None:
        notify_digest(DIGEST)
        assert observed.delivered() == 1
        observed.notifier.shutdown()
        notify_digest(DIGEST)
        assert observed.delivered() == 1


def test_a_failure_does_not_last(remote: Observed) -> None:
    """What the other side refuses is a DeliveryError without a secret in it; the next report is delivered."""
    remote.fail_once()
    with pytest.raises(DeliveryError) as raised:
        remote.notifier.notify(make_report(1))
    assert not [secret for secret in SECRETS if secret in str(raised.value)]
    assert "\n" not in str(raised.value)
    before = remote.delivered()
    remote.notifier.notify(make_report(2))
    assert remote.delivered() == before + 1


def test_checking_tells_nobody(remote: Observed) -> None:
    """A check returns one line on what it found, and delivers nothing."""
    line = remote.notifier.check()  # type: ignore[attr-defined]
    assert line == line.strip()
    assert "\n" not in line
    assert not [secret for secret in SECRETS if secret in line]
    assert remote.delivered() == 0


@pytest.mark.parametrize(
    ("name", "setting"), [("webhook", "webhook_url"), ("mattermost", "mattermost_url"), ("otlp", None)]
)
def test_a_check_of_nobody(name: str, setting: str | None, outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody listens, a check raises a DeliveryError."""
    away = f"http://127.0.0.1:{closed_port()}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", away)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    changes = {setting: away} if setting else {}
    settings = Settings(notifiers=(name,), **{**KINDS[name].settings(outside), **changes})
    ((_, notifier),) = load_notifiers(settings, Counters())
    with pytest.raises(DeliveryError):
        notifier.check()  # type: ignore[attr-defined]
    notifier.shutdown()


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
    assert [name for name, _ in loaded] == ["Pager", "Pager-2", "ConfiguredPager", "call", "log"]
    notifiers = [notifier for _, notifier in loaded]
    assert notifiers[0] is pager
    assert type(notifiers[1]) is Pager
    assert isinstance(notifiers[2], ConfiguredPager)
    assert notifiers[2].settings.threshold == 1.0
    assert isinstance(notifiers[3], FunctionNotifier)


def test_no_name_comes_twice() -> None:
    """Two notifiers of one class, or functions of one name, are two channels, each by the same name at every start."""
    pagers = Pager(), Pager(), Pager()
    loaded = load(*pagers, call, call)
    assert [name for name, _ in loaded] == ["Pager", "Pager-2", "Pager-3", "call", "call-2"]
    assert [notifier for _, notifier in loaded[:3]] == list(pagers)
    # One that is off gives its name to no other, which would be told what waits for it.
    assert [name for name, _ in load(BrokenPager, type("BrokenPager", (Pager,), {}))] == ["BrokenPager-2"]

    def log(report: Report) -> None: ...

    assert [name for name, _ in load(log, "log")] == ["log-2", "log"]


def test_an_unknown_name_is_told_with_the_nearest(caplog: pytest.LogCaptureFixture) -> None:
    """A mistyped name turns nothing else off; the warning names the nearest one and all there are."""
    counters = Counters()
    assert [name for name, _ in load("fil", "log", counters=counters)] == ["log"]
    (line,) = caplog.messages
    assert line.startswith("the notifier 'fil' is off: there is no such notifier; did you mean 'file'? Installed: ")
    assert "file, log" in line
    assert counters.snapshot().drops == {"notifier_failed": 1}
    load("0123456789")
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


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyError("PAGER_URL"), "KeyError('PAGER_URL')"),
        (ConfigError("pager", "x", "a URL"), str(ConfigError("pager", "x", "a URL"))),
    ],
)
def test_an_error_of_a_notifier_says_what_it_is(error: Exception, told: str, caplog: pytest.LogCaptureFixture) -> None:
    """The text of a KeyError is only the key; an error of slowspan's own explains itself."""

    class Pager:
        def __init__(self) -> None:
            raise error

    assert load(Pager) == []
    assert caplog.messages == [f"the notifier 'Pager' is off: {told}"]
    assert bool(caplog.records[0].exc_info) is isinstance(error, KeyError)


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
