"""One channel for alerts: retries, its time limit, and what it says of the outcome."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from reports import make_report
from slowspan.counters import Counters, Drop
from slowspan.delivery import channel as channel_module
from slowspan.delivery.alert_store import Claim
from slowspan.delivery.channel import FIRST_BRAKE, RETRIES, Channel, Telling
from slowspan.notifiers.base import DeliveryError
from slowspan.report.alert import Digest
from support import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slowspan.report.report import Report

CLAIM = Claim("0" * 32, "token", False, 0, 0, 0, 0)
DIGEST = Digest(hour_ns=0, alerts=3, endpoints=(("GET /orders", 3, 2_000_000_000),))


class Scripted:
    """A notifier that does what the script says, one entry for each try; afterwards it delivers."""

    def __init__(self, *script: Exception | Callable[[], object]) -> None:
        self.script = list(script)
        self.times: list[float] = []
        self.delivered: list[Report] = []
        self.digests: list[Digest] = []
        self.instrumented: list[bool] = []

    def notify(self, report: Report) -> None:
        self.times.append(time.monotonic())
        self.instrumented.append(is_instrumentation_enabled())
        step = self.script.pop(0) if self.script else None
        if isinstance(step, BaseException):
            raise step
        if step is not None:
            step()
        self.delivered.append(report)

    def notify_digest(self, digest: Digest) -> None:
        self.digests.append(digest)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True

    def shutdown(self) -> None:
        pass


class Outcomes:
    """Notes what channels say."""

    def __init__(self) -> None:
        self.all: list[DeliveryError | None] = []

    def __call__(self, telling: Telling, name: str, error: DeliveryError | None) -> None:
        self.all.append(error)

    def first(self) -> DeliveryError | None:
        eventually(lambda: self.all)
        return self.all[0]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "FIRST_WAIT", 0.01)


@pytest.fixture
def outcomes() -> Outcomes:
    return Outcomes()


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def make(outcomes: Outcomes, counters: Counters) -> Iterator[Callable[..., Channel]]:
    channels: list[Channel] = []

    def make(notifier: Any, time_limit: float = 30.0, size: int = 10) -> Channel:
        channels.append(
            Channel("pager", notifier, size=size, time_limit=time_limit, counters=counters, outcome=outcomes)
        )
        return channels[-1]

    yield make
    for channel in channels:
        channel.close()
        assert channel.queue.join(30)


def telling(number: int = 1) -> Telling:
    return Telling(make_report(number), CLAIM, {"pager"})


@contextlib.contextmanager
def hanging(make: Callable[..., Channel], **options: Any) -> Iterator[tuple[Channel, Scripted]]:
    """Make a channel of which the first try, with one alert, hangs until the end of the block."""
    release = threading.Event()
    notifier = Scripted(lambda: release.wait(60))
    channel = make(notifier, **options)
    channel.put(telling())
    eventually(lambda: notifier.times)
    try:
        yield channel, notifier
    finally:
        release.set()


def test_delivers_at_the_first_try(make: Callable[..., Channel], outcomes: Outcomes) -> None:
    """A channel that works is called once, with OpenTelemetry's instrumentation suppressed."""
    notifier = Scripted()
    make(notifier).put(telling())
    assert outcomes.first() is None
    assert len(notifier.delivered) == 1
    assert notifier.instrumented == [False]


def test_tries_again(make: Callable[..., Channel], outcomes: Outcomes) -> None:
    """Failures that may pass are tried again at once, three times; then the alert is said to have failed."""
    good = Scripted(ConnectionError("reset"), DeliveryError("busy"), RuntimeError("odd"))
    make(good).put(telling())
    assert outcomes.first() is None
    assert len(good.times) == 1 + RETRIES
    outcomes.all.clear()
    bad = Scripted(*[ConnectionError("refused")] * 10)
    make(bad).put(telling())
    error = outcomes.first()
    assert error.retry
    assert "refused" in str(error)
    assert len(bad.times) == 1 + RETRIES


def test_no_retry_where_it_is_useless(make: Callable[..., Channel], outcomes: Outcomes) -> None:
    """What the notifier says cannot be helped by another try is not tried again."""
    notifier = Scripted(DeliveryError("the token is wrong", retry=False))
    make(notifier).put(telling())
    error = outcomes.first()
    assert (str(error), error.retry) == ("pager: the token is wrong", False)
    assert len(notifier.times) == 1


def test_a_failure_of_one_message_alone(make: Callable[..., Channel], outcomes: Outcomes) -> None:
    """One that is too large says nothing of the next one, which is tried."""
    notifier = Scripted(DeliveryError("the report is too large", retry=False, of_message=True))
    channel = make(notifier)
    for number in range(2):
        channel.put(telling(number))
    eventually(lambda: len(outcomes.all) == 2)
    assert [error is None for error in outcomes.all] == [False, True]
    assert not channel.is_refused()


def test_left_alone_after_a_failure_for_good(outcomes: Outcomes, counters: Counters) -> None:
    """For a while nothing is tried, and fails with the last error; each further failure doubles the while."""
    now = [1000.0]
    wrong = DeliveryError("the token is wrong", retry=False)
    notifier = Scripted(wrong, wrong, lambda: None, wrong)
    channel = Channel(
        "pager", notifier, size=10, time_limit=30.0, counters=counters, clock=lambda: now[0], outcome=outcomes
    )

    def put(seconds: float) -> DeliveryError | None:
        now[0] += seconds
        outcomes.all.clear()
        channel.put(telling())
        return outcomes.first()

    assert "the token is wrong" in str(put(0))
    refused = put(FIRST_BRAKE - 10)
    assert (str(refused), refused.retry) == ("pager: the token is wrong (next try in 10 s)", False)
    assert len(notifier.times) == 1
    channel.put_digest(DIGEST)
    eventually(lambda: counters.snapshot().drops == {Drop.NOTIFIER_FAILED: 1})
    assert notifier.digests == []
    assert put(10) is not None
    assert "in 20 s" in str(put(2 * FIRST_BRAKE - 20))
    assert put(20) is None
    assert put(0) is not None
    assert put(FIRST_BRAKE) is None  # a success has reset it
    assert put(0) is None
    channel.close()
    assert channel.queue.join(30)


def test_a_clock_that_is_set_back_leaves_nothing_alone(outcomes: Outcomes, counters: Counters) -> None:
    """A channel is never left alone for longer than the longest while."""
    now = [1e9]
    notifier = Scripted(DeliveryError("the token is wrong", retry=False))
    channel = Channel(
        "pager", notifier, size=10, time_limit=30.0, counters=counters, clock=lambda: now[0], outcome=outcomes
    )
    channel.put(telling(1))
    assert outcomes.first() is not None
    assert channel.is_refused()
    now[0] -= 86_400
    assert not channel.is_refused()
    channel.close()
    assert channel.queue.join(30)


def test_honours_retry_after(make: Callable[..., Channel], outcomes: Outcomes) -> None:
    """The wait that the other side asks for is kept; a long one is left to the outbox."""
    notifier = Scripted(DeliveryError("busy", retry_after=0.3))
    make(notifier).put(telling())
    assert outcomes.first() is None
    assert notifier.times[1] - notifier.times[0] >= 0.3
    outcomes.all.clear()
    patient = Scripted(DeliveryError("busy", retry_after=3600))
    make(patient).put(telling())
    assert outcomes.first().retry_after == 3600
    assert len(patient.times) == 1


def test_time_limit(make: Callable[..., Channel], outcomes: Outcomes, counters: Counters) -> None:
    """A try that hangs is given up; while it hangs the notifier is not called again, afterwards it is."""
    with hanging(make, time_limit=0.05) as (channel, notifier):
        assert "still busy" in str(outcomes.first())
        assert len(notifier.times) == 1
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "slowspan-pager-try"]
    eventually(lambda: not thread.is_alive())
    outcomes.all.clear()
    channel.put(telling())
    assert outcomes.first() is None


def test_closing_does_not_wait_between_tries(
    make: Callable[..., Channel], outcomes: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At shutdown the pause before the next try ends at once, and no further try is made."""
    monkeypatch.setattr(channel_module, "FIRST_WAIT", 30.0)
    notifier = Scripted(*[ConnectionError("refused")] * 10)
    channel = make(notifier)
    channel.put(telling())
    eventually(lambda: notifier.times)
    channel.close()
    assert channel.queue.join(20)
    assert outcomes.first().retry
    assert len(notifier.times) <= 2


def test_what_gives_way_is_not_forgotten(make: Callable[..., Channel], outcomes: Outcomes, counters: Counters) -> None:
    """When more alerts wait than there may, the oldest counts as failed, so that it is kept for later."""
    with hanging(make, size=1) as (channel, _):
        for number in (2, 3):
            channel.put(telling(number))
        assert "too many" in str(outcomes.first())
        assert counters.snapshot().drops == {}
    eventually(lambda: len(outcomes.all) == 3)


def test_what_waits_at_the_end_is_not_forgotten(
    make: Callable[..., Channel], outcomes: Outcomes, counters: Counters
) -> None:
    """What a channel has no time for at shutdown counts as failed, so that it is kept, and is no loss of the queue."""
    with hanging(make) as (channel, _):
        for number in (2, 3, 4):
            channel.put(telling(number))
        channel.close()
        assert not channel.queue.join(0.05)
        assert len(outcomes.all) == 3
        assert "in time" in str(outcomes.all[0])
        assert counters.snapshot().drops == {}


def test_a_digest_is_tried_again(make: Callable[..., Channel], counters: Counters) -> None:
    """A server that is busy at the end of the hour has the message a moment later."""
    notifier = Scripted()
    failures = [DeliveryError("busy"), DeliveryError("busy")]

    def fail_at_first(digest: Digest) -> None:
        if failures:
            raise failures.pop()
        notifier.digests.append(digest)

    notifier.notify_digest = fail_at_first  # type: ignore[method-assign]
    make(notifier).put_digest(DIGEST)
    eventually(lambda: notifier.digests == [DIGEST])
    assert counters.snapshot().drops == {}


def test_digest(make: Callable[..., Channel], counters: Counters) -> None:
    """What was held back is told by those who can; their failure is counted."""
    notifier = Scripted()
    make(notifier).put_digest(DIGEST)
    eventually(lambda: notifier.digests == [DIGEST])
    failing = Scripted()
    failing.notify_digest = lambda digest: 1 / 0
    make(failing).put_digest(DIGEST)
    eventually(lambda: counters.snapshot().drops == {Drop.NOTIFIER_FAILED: 1})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_notifier_that_ends_its_thread(make: Callable[..., Channel], outcomes: Outcomes) -> None:
    """A SystemExit in a notifier is a failure like any other."""

    def leave() -> None:
        raise SystemExit

    make(Scripted(*[leave] * 10)).put(telling())
    assert "was made to end" in str(outcomes.first())
