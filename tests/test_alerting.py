"""Who is told what: once per window, on every channel, and again when a channel is back."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from profiles import make_span
from reports import PAGE, make_named_profile
from slowspan.config import Settings
from slowspan.counters import Counters, Drop
from slowspan.delivery import channel as channel_module
from slowspan.delivery import queue as queue_module
from slowspan.delivery.alert_limits import LimitsStore
from slowspan.delivery.alert_store import AlertPolicy
from slowspan.delivery.channel import FIRST_BRAKE
from slowspan.delivery.pipeline import Delivery
from slowspan.delivery.queue import DeliveryQueue
from slowspan.delivery.under_way import FIRST_RETRY, LEASE, RENEW
from slowspan.notifiers.base import DeliveryError
from slowspan.report.stored import compress_profile
from slowspan.testing import InMemoryNotifier
from support import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from slowspan.recording.profile import Profile
    from slowspan.report.alert import Digest
    from slowspan.report.report import Report

HOUR = 3600.0
DAY = 24 * HOUR
SECOND = 1_000_000_000


class Clock:
    """Unix time that a test moves."""

    def __init__(self) -> None:
        self.now = 1_795_290_000.0

    def __call__(self) -> float:
        return self.now


class Pager(InMemoryNotifier):
    """A channel that gets alerts, and can be broken for a while."""

    receives = "alerts"

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.digests: list[Digest] = []

    def notify(self, report: Report) -> None:
        if self.error is not None:
            raise self.error
        super().notify(report)

    def notify_digest(self, digest: Digest) -> None:
        if self.error is not None:
            raise self.error
        self.digests.append(digest)

    @property
    def seen_more(self) -> list[int]:
        """What the alerts said, in their order."""
        return [report.alert.seen_more for report in self.reports]


class Finished:
    """What stands in for a finished recording."""

    def __init__(self, profile: Profile, *, kept: bool = True) -> None:
        self.profile = profile
        self.id = profile.id
        self.running = profile.running
        self.duration_ns = profile.duration_ns
        self.kept = kept
        self.withdrawn = False
        self.name = profile.name


class Shop:
    """A delivery with channels, and slow requests for it."""

    def __init__(self, directory: Path, clock: Clock, *channels: Any, **options: Any) -> None:
        self.clock = clock
        self.counters = Counters()
        self.number = 0
        names = [f"{type(channel).__name__.lower()}{index}" for index, channel in enumerate(channels)]
        self.delivery: Delivery[Finished] = Delivery(
            Settings(report_dir=directory, **options),
            self.counters,
            load=lambda: list(zip(names, channels, strict=True)),
            facts=lambda finished: finished.profile.span,
            resolve=lambda finished, span: finished.profile,
            render_html=lambda stored, trace_url=None: PAGE,
            compress=compress_profile,
            clock=clock,
        )

    def slow(self, route: str = "/orders/<id>", seconds: float = 2.0, *, kept: bool = True, **changes: Any) -> None:
        """Let a slow request end, and wait until everybody has been told who is told."""
        self.number += 1
        span = make_span(route=route, **changes.pop("span", {}))
        values = {"number": self.number, "span": span, "duration_ns": round(seconds * SECOND), **changes}
        self.delivery.submit(Finished(make_named_profile(**values), kept=kept))
        assert self.delivery.force_flush(60_000)

    def tick(self) -> None:
        """Let the delivery thread look at what is due."""
        self.delivery._intake.wake()
        assert self.delivery.force_flush(60_000)
        assert self.delivery.force_flush(60_000)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "FIRST_WAIT", 0.001)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_shop(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., Shop]]:
    shops: list[Shop] = []

    def open_shop(*channels: Any, **options: Any) -> Shop:
        shops.append(Shop(tmp_path / "reports", clock, *channels, **options))
        return shops[-1]

    yield open_shop
    for shop in shops:
        shop.delivery.shutdown(30)


@pytest.fixture
def pager() -> Pager:
    return Pager()


# -- Once per window.


def test_an_endpoint_is_told_once_per_window(open_shop: Callable[..., Shop], pager: Pager, clock: Clock) -> None:
    """The first slow request is told, its like are counted, and the next window's first says how many there were."""
    shop = open_shop(pager)
    for _ in range(5):
        shop.slow()
    assert pager.seen_more == [0]
    assert not pager.reports[0].alert.told_before
    clock.now += 11 * DAY
    shop.slow(seconds=1.5)
    assert pager.seen_more == [0, 4]
    again = pager.reports[1].alert
    assert (again.told_before, again.worst_ns, again.since_ns) == (True, 2 * SECOND, 1_795_290_000 * SECOND)


def test_other_endpoints_and_parameters_are_told_apart(open_shop: Callable[..., Shop], pager: Pager) -> None:
    """Another route or another parameter is another alert; ``alert_key`` can leave the parameters out."""
    shop = open_shop(pager)
    for page in ("1", "2"):
        shop.slow(span={"parameters": (("page", page),)})
        shop.slow("/basket", span={"parameters": (("page", page),)})
    assert len(pager.reports) == 4
    coarse = Pager()
    shop = open_shop(coarse, alert_key=(), alert_store="memory://")
    for page in ("1", "2"):
        shop.slow(span={"parameters": (("page", page),)})
    assert len(coarse.reports) == 1


def test_a_much_slower_request_is_told_again(open_shop: Callable[..., Shop], pager: Pager) -> None:
    """Inside the window one is told again that takes ``realert_ratio`` times the worst that was told."""
    shop = open_shop(pager)
    for seconds in (2.0, 3.9, 4.1, 5.0, 8.0, 8.2):
        shop.slow(seconds=seconds)
    assert [report.profile.duration_ns / SECOND for report in pager.reports] == [2.0, 4.1, 8.2]


def test_processes_on_one_directory_tell_once(open_shop: Callable[..., Shop]) -> None:
    """Workers that share a report directory, as after a restart too, share what has been told."""
    pagers = [Pager() for _ in range(3)]
    for pager in pagers:
        shop = open_shop(pager)
        shop.slow()
        shop.delivery.shutdown(30)
    assert [len(pager.reports) for pager in pagers] == [1, 0, 0]


def test_a_request_that_still_runs_is_told_once(open_shop: Callable[..., Shop], pager: Pager) -> None:
    """Its renewed partial profiles, and the final one, are no further alerts, however much longer it has taken."""
    shop = open_shop(pager)
    for seconds, running in ((10.0, True), (20.0, True), (45.0, False)):
        shop.slow(number=1, seconds=seconds, running=running)
    assert [report.profile.running for report in pager.reports] == [True]


def test_a_request_that_becomes_much_slower_while_it_runs(
    open_shop: Callable[..., Shop], pager: Pager, clock: Clock
) -> None:
    """Where it was not told at first it is once it is due, by a later partial profile or its end, and counted once."""
    shop = open_shop(pager)
    shop.slow(seconds=8.0)
    shop.slow(number=2, seconds=10.0, running=True)
    shop.slow(number=3, seconds=10.0, running=True)
    assert len(pager.reports) == 1
    shop.slow(number=2, seconds=600.0)
    assert [(report.profile.duration_ns / SECOND, report.profile.running) for report in pager.reports] == [
        (8.0, False),
        (600.0, False),
    ]
    assert pager.seen_more == [0, 1]
    shop.slow(number=3, seconds=601.0)
    assert len(pager.reports) == 2
    clock.now += 11 * DAY
    shop.slow()
    assert pager.seen_more == [0, 1, 0]


def test_the_end_of_a_told_request_is_the_measure(open_shop: Callable[..., Shop], pager: Pager) -> None:
    """After one that was told when it had run for ten seconds, and took ten minutes, twenty are nothing new."""
    shop = open_shop(pager)
    shop.slow(number=1, seconds=10.0, running=True)
    shop.slow(number=1, seconds=600.0)
    shop.slow(number=2, seconds=20.0)
    assert len(pager.reports) == 1
    shop.slow(number=3, seconds=1201.0)
    assert len(pager.reports) == 2


def test_the_end_of_a_request_whose_alert_waits(open_shop: Callable[..., Shop], pager: Pager, clock: Clock) -> None:
    """The same holds where the request ends before the channel is back."""
    pager.error = ConnectionError("refused")
    shop = open_shop(pager)
    shop.slow(number=1, seconds=10.0, running=True)
    shop.slow(number=1, seconds=600.0)
    pager.error = None
    clock.now += FIRST_RETRY + 1
    shop.tick()
    eventually(lambda: pager.reports)
    shop.tick()
    shop.slow(number=2, seconds=20.0)
    assert len(pager.reports) == 1


def test_limit_on_alerts_per_hour(open_shop: Callable[..., Shop], pager: Pager, clock: Clock) -> None:
    """A stranger who varies the path cannot flood a channel; one message at the end of the hour says what was held."""
    clock.now -= clock.now % HOUR
    shop = open_shop(pager, alerts_per_hour=3)
    for number in range(10):
        shop.slow(f"/{number % 5}")
    assert len(pager.reports) == 3
    assert shop.counters.snapshot().drops[Drop.ALERT_LIMIT] == 4
    assert pager.digests == []
    clock.now += HOUR + 1
    shop.tick()
    (digest,) = pager.digests
    assert digest.alerts == 4
    assert sorted(count for _, count, _ in digest.endpoints) == [2, 2]
    shop.tick()
    assert len(pager.digests) == 1
    shop.slow("/4")
    assert len(pager.reports) == 4


def test_alerts_without_a_kept_report(open_shop: Callable[..., Shop], pager: Pager) -> None:
    """Beyond the limit on reports nothing is kept, but slow requests go on to be counted and told."""
    everything = InMemoryNotifier()
    shop = open_shop(pager, everything, report_url="https://reports.example/{id}")
    shop.slow(kept=False)
    shop.slow()
    assert pager.seen_more == [0]
    assert pager.reports[0].url is None
    assert len(everything.reports) == 1


def test_a_digest_needs_no_further_alert(open_shop: Callable[..., Shop], pager: Pager, clock: Clock) -> None:
    """The message on what was held back comes when the hour is over, also if everything is quiet by then."""
    clock.now += HOUR - clock.now % HOUR - 0.3
    shop = open_shop(pager, alerts_per_hour=1)
    shop.slow("/told")
    shop.tick()
    shop.slow("/held")
    assert pager.digests == []
    clock.now += 1
    eventually(lambda: pager.digests)


def held_back(shop: Shop, clock: Clock) -> None:
    """Hold an alert back, and let the hour pass."""
    clock.now -= clock.now % HOUR
    shop.slow("/told")
    shop.slow("/held")
    clock.now += HOUR + 1


def test_a_digest_that_nobody_was_told_is_tried_again(
    open_shop: Callable[..., Shop], pager: Pager, clock: Clock
) -> None:
    """When all channels are away at the end of the hour each is told once one is back; nothing is lost."""
    other = Pager()
    shop = open_shop(pager, other, alerts_per_hour=1)
    held_back(shop, clock)
    for channel in (pager, other):
        channel.error = ConnectionError("refused")
    shop.tick()
    for pause in (FIRST_RETRY, 2 * FIRST_RETRY, 4 * FIRST_RETRY):
        assert (pager.digests, other.digests) == ([], [])
        clock.now += pause + 1
        pager.error = ConnectionError("refused") if pause < 4 * FIRST_RETRY else None
        shop.tick()
    eventually(lambda: pager.digests)
    assert shop.delivery.force_flush(60_000)
    other.error = None
    clock.now += HOUR
    shop.tick()
    assert [digest.alerts for digest in pager.digests] == [1]
    # As ever, one that has failed where another has not is a counted loss.
    assert other.digests == []
    assert shop.counters.snapshot().drops == {Drop.ALERT_LIMIT: 1, Drop.NOTIFIER_FAILED: 1}


def test_a_digest_is_given_up(open_shop: Callable[..., Shop], pager: Pager, clock: Clock) -> None:
    """After a day, or when the process ends, it is a counted loss."""
    shop = open_shop(pager, alerts_per_hour=1, alert_store="memory://")
    held_back(shop, clock)
    pager.error = ConnectionError("refused")
    shop.tick()
    assert Drop.NOTIFIER_FAILED not in shop.counters.snapshot().drops
    shop.delivery.shutdown(30)
    assert shop.counters.snapshot().drops[Drop.NOTIFIER_FAILED] == 1
    pager.error = None
    shop = open_shop(pager, alerts_per_hour=1, alert_store="memory://")
    held_back(shop, clock)
    pager.error = ConnectionError("refused")
    for _ in range(30):
        shop.tick()
        clock.now += HOUR + 1
    assert shop.counters.snapshot().drops[Drop.NOTIFIER_FAILED] == 1
    assert pager.digests == []


def test_ticks_come_under_load(pager: Pager) -> None:
    """What is to be done at its time is done although there is always another slow request."""
    ticks: list[float] = []
    counters = Counters()

    def handle(number: int) -> None:
        if len(ticks) < 3:
            queue.put("next", number + 1)

    def tick() -> float:
        ticks.append(0.0)
        return 0.0 if len(ticks) < 3 else HOUR

    queue: DeliveryQueue[int] = DeliveryQueue(handle, name="slowspan-test", size=5, counters=counters, tick=tick)
    queue.put("first", 0)
    eventually(lambda: len(ticks) == 3)
    queue.close()
    assert queue.join(30)


def test_a_tick_that_fails_is_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error there is counted, and not the end of it."""
    monkeypatch.setattr(queue_module, "_TICK_AFTER_ERROR", 0.01)
    counters = Counters()
    ticks: list[int] = []

    def tick() -> None:
        ticks.append(1)
        if len(ticks) == 1:
            raise ValueError("odd")

    queue: DeliveryQueue[int] = DeliveryQueue(print, name="slowspan-test", size=5, counters=counters, tick=tick)
    queue.start()
    eventually(lambda: len(ticks) == 2)
    queue.close()
    assert queue.join(30)
    assert counters.snapshot().drops == {Drop.INTERNAL_ERROR: 1}


# -- Every channel.


def test_five_channels_of_which_two_work(open_shop: Callable[..., Shop]) -> None:
    """One hangs, one refuses, one is slow: the two others have the alert meanwhile."""
    release = threading.Event()

    class Hanging(Pager):
        def notify(self, report: Report) -> None:
            release.wait(60)

    class Refusing(Pager):
        def notify(self, report: Report) -> None:
            raise ConnectionRefusedError("refused")

    class Slow(Pager):
        def notify(self, report: Report) -> None:
            release.wait(60)
            super().notify(report)

    good = Pager(), Pager()
    shop = open_shop(Hanging(), Refusing(), good[0], Slow(), good[1])
    shop.delivery.submit(Finished(make_named_profile(1)))
    try:
        eventually(lambda: all(pager.reports for pager in good))
    finally:
        release.set()
    assert shop.delivery.force_flush(60_000)
    counts = shop.counters.snapshot()
    assert {name for name, count in counts.delivered.items() if count} >= {"pager2", "slow3", "pager4"}
    assert counts.failed == {"refusing1": 1}


def test_a_claim_is_kept_while_its_channel_is_busy(open_shop: Callable[..., Shop], pager: Pager, clock: Clock) -> None:
    """However long the only channel takes, no other process tells the same alert meanwhile."""
    release = threading.Event()

    class Slow(Pager):
        def notify(self, report: Report) -> None:
            release.wait(60)
            super().notify(report)

    slow = Slow()
    shop = open_shop(slow)
    shop.delivery.submit(Finished(make_named_profile(1)))
    eventually(lambda: any(thread.name == "slowspan-slow0-try" for thread in threading.enumerate()))
    try:
        other = open_shop(pager)
        for _ in range(10):
            clock.now += RENEW
            shop.delivery._intake.wake()
            assert shop.delivery._intake.force_flush(60_000)
            assert shop.delivery._intake.force_flush(60_000)
            other.delivery.submit(Finished(make_named_profile(2)))
            assert other.delivery.force_flush(60_000)
    finally:
        release.set()
    eventually(lambda: slow.reports)
    assert pager.reports == ()


def test_no_secret_in_a_strangers_error(
    open_shop: Callable[..., Shop], pager: Pager, caplog: pytest.LogCaptureFixture
) -> None:
    """A library's error that quotes a secret URL is logged without what is secret in it."""
    url = "https://hooks.example.com/services/T0123456789abcdef"
    pager.error = OSError(f"cannot reach {url}")
    shop = open_shop(pager, webhook_url=url, notifiers=())
    shop.slow()
    assert "cannot reach" in caplog.text
    assert "T0123456789abcdef" not in caplog.text


def test_a_failure_for_good_is_a_loss(open_shop: Callable[..., Shop], pager: Pager, clock: Clock) -> None:
    """A wrong token is counted and named, and silences nothing: the next slow request is told again."""
    pager.error = DeliveryError("the token is wrong", retry=False)
    shop = open_shop(pager)
    shop.slow()
    assert shop.counters.snapshot().drops == {Drop.NOTIFIER_FAILED: 1}
    pager.error = None
    clock.now += FIRST_BRAKE + 1
    shop.slow()
    assert len(pager.reports) == 1


def test_a_wrong_token_is_tried_rarely(open_shop: Callable[..., Shop], pager: Pager, clock: Clock) -> None:
    """Each try may be a failed login: the channel is left alone for a while, and each alert of it is a counted loss."""
    tries: list[float] = []

    class Refusing(Pager):
        def notify(self, report: Report) -> None:
            tries.append(clock.now)
            raise DeliveryError("the token is wrong", retry=False)

    shop = open_shop(Refusing())
    for number in range(50):
        shop.slow(f"/{number}")
    assert len(tries) == 1
    assert shop.counters.snapshot().drops == {Drop.NOTIFIER_FAILED: 50}
    assert shop.counters.snapshot().failed == {"refusing0": 50}
    for count, pause in enumerate((60, 120, 240, 480, 960, 1920, 3600, 3600), start=1):
        clock.now += pause - 1
        shop.slow()
        assert len(tries) == count
        clock.now += 1
        shop.slow()
        assert len(tries) == count + 1
    # No other channel is left alone with it, and the claims were given back.
    other = open_shop(pager)
    other.slow()
    assert len(pager.reports) == 1


def test_what_waits_is_not_thrown_at_a_channel_that_refuses(
    open_shop: Callable[..., Shop], pager: Pager, clock: Clock
) -> None:
    """Alerts in the outbox wait until the channel takes something again."""
    pager.error = ConnectionError("refused")
    shop = open_shop(pager)
    for number in range(5):
        shop.slow(f"/{number}")
    pager.error = DeliveryError("the token is wrong", retry=False)
    clock.now += FIRST_RETRY + 1
    shop.tick()
    eventually(lambda: shop.counters.snapshot().drops == {Drop.NOTIFIER_FAILED: 1})
    pager.error = None
    for _ in range(5):
        clock.now += FIRST_BRAKE + LEASE
        shop.tick()
    eventually(lambda: len(pager.reports) == 4)
    assert shop.counters.snapshot().drops == {Drop.NOTIFIER_FAILED: 1}


def test_a_failure_that_is_no_channels(open_shop: Callable[..., Shop], pager: Pager) -> None:
    """When an alert cannot even be kept it is not under way for ever: the next slow request is told."""
    pager.error = ConnectionError("refused")
    shop = open_shop(pager)
    shop.delivery._compress = lambda profile: b"" + None  # type: ignore[operator]
    shop.slow()
    assert shop.counters.snapshot().drops[Drop.OUTBOX_FULL] == 1
    pager.error = None
    shop.slow()
    assert len(pager.reports) == 1


# -- When a channel is away.


def test_a_channel_that_was_away(open_shop: Callable[..., Shop], pager: Pager, clock: Clock) -> None:
    """It gets each alert once, late, with the time at which it happened; meanwhile the like are only counted."""
    pager.error = ConnectionError("refused")
    shop = open_shop(pager)
    started = clock.now
    for _ in range(3):
        shop.slow("/orders")
        shop.slow("/basket")
    while clock.now < started + HOUR:
        clock.now += FIRST_RETRY
        shop.tick()
    assert pager.reports == ()
    pager.error = None
    clock.now += HOUR
    shop.tick()
    eventually(lambda: len(pager.reports) == 2)
    assert sorted(report.profile.span.route for report in pager.reports) == ["/basket", "/orders"]
    profile = pager.reports[0].profile
    assert pager.reports[0].alert.late_ns == profile.start_time_ns + profile.duration_ns
    assert pager.reports[0].html() == PAGE
    for _ in range(3):
        clock.now += HOUR
        shop.tick()
        shop.slow("/orders")
    assert len(pager.reports) == 2
    assert shop.counters.snapshot().drops == {}


@pytest.mark.parametrize("kind", ["sqlite", "limits"])
def test_two_channels_that_come_back_one_after_the_other(
    open_shop: Callable[..., Shop], pager: Pager, clock: Clock, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is told what it is owed, also when the store knows by then that the key was told."""
    if kind == "limits":
        store = LimitsStore("memory://", AlertPolicy())
        monkeypatch.setattr("slowspan.delivery.alerting.make_store", lambda _settings: store)
    second = Pager()
    pager.error = second.error = ConnectionError("no network")
    shop = open_shop(pager, second)
    shop.slow()
    pager.error = None
    for _ in range(3):
        clock.now += HOUR
        shop.tick()
    eventually(lambda: len(pager.reports) == 1)
    second.error = None
    for _ in range(3):
        clock.now += HOUR
        shop.tick()
    eventually(lambda: len(second.reports) == 1)
    assert len(pager.reports) == 1


def test_only_the_channel_that_was_away_is_told_late(
    open_shop: Callable[..., Shop], pager: Pager, clock: Clock
) -> None:
    """The others have been told, and are not told twice."""
    broken = Pager()
    broken.error = ConnectionError("refused")
    shop = open_shop(pager, broken)
    shop.slow()
    broken.error = None
    clock.now += FIRST_RETRY + 1
    shop.tick()
    eventually(lambda: broken.reports)
    assert len(pager.reports) == 1


def test_a_channel_that_is_back_and_refuses(open_shop: Callable[..., Shop], pager: Pager, clock: Clock) -> None:
    """An alert that waited, and then failed for good, silences nothing."""
    pager.error = ConnectionError("refused")
    shop = open_shop(pager)
    shop.slow()
    pager.error = DeliveryError("the token is wrong", retry=False)
    clock.now += FIRST_RETRY + 1
    shop.tick()
    eventually(lambda: shop.counters.snapshot().drops == {Drop.NOTIFIER_FAILED: 1})
    pager.error = None
    clock.now += FIRST_BRAKE + 1
    shop.tick()
    shop.slow()
    assert len(pager.reports) == 1


def test_what_waited_is_told_a_few_at_a_time(open_shop: Callable[..., Shop], pager: Pager, clock: Clock) -> None:
    """After a long outage the waiting alerts are not all in memory at once, and each is told once."""
    pager.error = DeliveryError("down for the night", retry_after=HOUR)
    shop = open_shop(pager)
    for number in range(25):
        shop.slow(f"/{number}")
    alerter = shop.delivery._receivers.alerter
    most = 0

    def notify(report: Report) -> None:
        nonlocal most
        most = max(most, len(alerter._under_way._tellings))
        InMemoryNotifier.notify(pager, report)

    pager.notify = notify  # type: ignore[method-assign]
    clock.now += 2 * HOUR
    shop.tick()
    eventually(lambda: len(pager.reports) >= 25)
    shop.tick()
    assert len({report.profile.span.route for report in pager.reports}) == len(pager.reports) == 25
    assert most <= 10


def test_a_damaged_alert_in_the_outbox(open_shop: Callable[..., Shop], pager: Pager, clock: Clock) -> None:
    """It is given up and counted; the others are told, and its like can be again."""
    pager.error = ConnectionError("refused")
    shop = open_shop(pager)
    shop.slow("/damaged")
    shop.slow("/whole")
    outbox = shop.delivery._receivers.alerter._outbox
    outbox._run(lambda connection: connection.execute("UPDATE outbox SET stored = 'x' WHERE id = 1"))
    pager.error = None
    clock.now += FIRST_RETRY + 1
    shop.tick()
    eventually(lambda: pager.reports)
    assert shop.counters.snapshot().drops == {Drop.INTERNAL_ERROR: 1}
    shop.tick()
    shop.slow("/damaged")
    assert [report.profile.span.route for report in pager.reports] == ["/whole", "/damaged"]


def test_undelivered_alerts_survive_a_restart(open_shop: Callable[..., Shop], pager: Pager, clock: Clock) -> None:
    """What could not be told before a shutdown is told by the next process, before it has a slow request of its own."""
    pager.error = ConnectionError("refused")
    first = open_shop(pager)
    first.slow()
    first.delivery.shutdown(30)
    clock.now += HOUR
    second_pager = Pager()
    second = open_shop(second_pager)
    second.delivery.start()
    eventually(lambda: second_pager.reports)
    assert second_pager.reports[0].alert.late_ns
    second.slow()
    assert len(second_pager.reports) == 1


def test_a_killed_process_leaves_its_alerts(open_shop: Callable[..., Shop], pager: Pager, clock: Clock) -> None:
    """What a process was telling when it was killed another one tells, to the channels that had not been told."""
    release = threading.Event()

    class Slow(Pager):
        def notify(self, report: Report) -> None:
            release.wait(60)

    shop = open_shop(Slow(), pager)
    shop.delivery.submit(Finished(make_named_profile(1)))
    eventually(lambda: pager.reports)
    alerter = shop.delivery._receivers.alerter
    assert shop.delivery._intake.force_flush(60_000)
    late = Pager(), Pager()
    other = open_shop(*late)
    other.delivery._load = lambda: [("slow0", late[0]), ("pager1", late[1])]
    other.delivery.start()
    try:
        clock.now += LEASE - 1
        other.tick()
        assert late[0].reports == ()
        # From here on as if the first process had been killed: it renews nothing any more.
        clock.now += 2
        other.tick()
        eventually(lambda: late[0].reports)
        other.slow()
    finally:
        alerter._outbox.later = alerter._outbox.add = alerter._outbox.done = lambda *_: None
        release.set()
    assert len(late[0].reports) == 1
    assert late[1].reports == ()


@pytest.mark.parametrize("was_told", [False, True])
def test_what_was_left_is_not_told_beside_its_like(
    open_shop: Callable[..., Shop], pager: Pager, clock: Clock, was_told: bool
) -> None:
    """After minutes without any process the next slow request is told; the one from before only where it is owed."""
    release = threading.Event()

    class Slow(Pager):
        def notify(self, report: Report) -> None:
            release.wait(60)

    shop = open_shop(Slow(), *([pager] if was_told else []))
    shop.delivery.submit(Finished(make_named_profile(1)))
    eventually(lambda: any(thread.name == "slowspan-slow0-try" for thread in threading.enumerate()))
    eventually(lambda: len(pager.reports) == was_told)
    assert shop.delivery._intake.force_flush(60_000)
    late = Pager()
    other = open_shop(late)
    other.delivery._load = lambda: [("slow0", late)]
    try:
        # From here on as if the first process had been killed, with the whole machine.
        other.slow("/basket")
        clock.now += 600
        other.slow(seconds=20.0)
        other.tick()
        other.tick()
    finally:
        outbox = shop.delivery._receivers.alerter._outbox
        outbox.later = outbox.add = outbox.done = outbox.note_told = lambda *_: None
        release.set()
    told = [(report.profile.span.route, bool(report.alert.late_ns)) for report in late.reports]
    assert told[:2] == [("/basket", False), ("/orders/<id>", False)]
    assert told[2:] == [("/orders/<id>", True)] * was_told


def test_a_channel_is_left_alone_as_long_as_it_asked(open_shop: Callable[..., Shop], clock: Clock) -> None:
    """The renewals for one that is still busy do not shorten the wait of another that has said when to come back."""
    release = threading.Event()

    class Slow(Pager):
        def notify(self, report: Report) -> None:
            release.wait(60)

    busy = Pager()
    busy.error = DeliveryError("busy", retry_after=HOUR)
    shop = open_shop(Slow(), busy)
    shop.delivery.submit(Finished(make_named_profile(1)))
    eventually(lambda: shop.counters.snapshot().failed == {"pager1": 1})
    outbox = shop.delivery._receivers.alerter._outbox
    try:
        eventually(lambda: outbox.next_due(clock.now, ["pager1"]) == clock.now + HOUR)
        clock.now += RENEW
        shop.delivery._intake.wake()
        eventually(lambda: outbox.next_due(clock.now, ["slow0"]) == clock.now + LEASE)
        assert outbox.next_due(clock.now, ["pager1"]) == clock.now - RENEW + HOUR
    finally:
        release.set()


def test_a_hanging_channel_at_shutdown(open_shop: Callable[..., Shop], pager: Pager, clock: Clock) -> None:
    """What a channel has not answered when the time is up waits for the next process."""
    release = threading.Event()

    class Hanging(Pager):
        def notify(self, report: Report) -> None:
            release.wait(60)

    shop = open_shop(Hanging())
    shop.delivery.submit(Finished(make_named_profile(1)))
    eventually(lambda: any(thread.name == "slowspan-hanging0-try" for thread in threading.enumerate()))
    try:
        assert not shop.delivery.shutdown(0.2)
        assert shop.counters.snapshot().drops == {}
    finally:
        release.set()
    clock.now += HOUR

    class Hanging0(Pager):
        pass

    late = Hanging0()
    other = open_shop(late)
    other.delivery._load = lambda: [("hanging0", late)]
    other.delivery.start()
    eventually(lambda: late.reports)


def test_an_unusable_state_stops_nothing(
    open_shop: Callable[..., Shop], pager: Pager, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a report directory that cannot be used alerts are told all the same, and the log says it once."""
    (tmp_path / "reports").write_text("a file where the directory should be")
    shop = open_shop(pager)
    for _ in range(3):
        shop.slow()
    shop.slow("/basket")
    assert len(pager.reports) == 2
    assert sum("alert state" in record.getMessage() for record in caplog.records) == 1


def test_an_alert_that_can_be_neither_told_nor_kept(
    open_shop: Callable[..., Shop], pager: Pager, tmp_path: Path
) -> None:
    """With the channel away and no place to keep it an alert is lost, and counted, but silences nothing."""
    (tmp_path / "reports").write_text("a file where the directory should be")
    pager.error = ConnectionError("refused")
    shop = open_shop(pager)
    shop.slow()
    assert shop.counters.snapshot().drops == {Drop.OUTBOX_FULL: 1}
    pager.error = None
    shop.slow()
    assert len(pager.reports) == 1
