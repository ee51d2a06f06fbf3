"""From the end of a slow request to the delivery thread: the sampler hands on, or whoever cannot wait for it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from slowspan.recording import stack_sampler
from slowspan.recording.carriers import ThreadCarrier
from slowspan.recording.late import Late, prune_late
from slowspan.recording.meter import Meter
from slowspan.recording.recording import Recording
from support import eventually
from watched import Watched, wait_until_linked, watched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slowspan import Profile
    from slowspan.recording.finished import Finished
    from slowspan.recording.profile import SpanFacts


@pytest.fixture
def shop() -> Iterator[Watched]:
    """Return a watched provider with the usual settings."""
    with watched() as shop:
        yield shop


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the sampler not notice that a request has ended."""

    def prune_the_others(late: Late, now: int) -> int:
        others = Late()
        others.update({recording: None for recording in late if not recording.ended})
        return prune_late(others, now)

    monkeypatch.setattr("slowspan.recording.stack_sampler.prune_late", prune_the_others)


def slow_request(shop: Watched) -> Recording:
    """Send a slow request; return its recording."""
    span = shop.start()
    wait_until_linked(span)
    recording = shop.processor._watcher._spans.recordings[id(span)]
    span.end()
    return recording


def test_the_sampler_hands_on(shop: Watched) -> None:
    """A slow request is reported without anybody asking for it."""
    slow_request(shop)
    eventually(lambda: len(shop.processor.notifier.reports) == 1)


@pytest.mark.usefixtures("blind")
def test_nothing_is_handed_on_at_the_end(shop: Watched) -> None:
    """The request's thread leaves that to the sampler: to wake another one would take it 30 µs and more."""
    recording = slow_request(shop)
    assert recording.outcome is not None
    assert not shop.processor._delivery._intake._waiting
    assert not shop.processor.notifier.reports


@pytest.mark.usefixtures("blind")
@pytest.mark.parametrize("how", ["force_flush", "shutdown", "disable"])
def test_nobody_waits_for_the_sampler(shop: Watched, how: str) -> None:
    """What has ended is delivered, and not lost, although the sampler has not come by."""
    with watched():  # Another processor, for which the sampler goes on.
        slow_request(shop)
        getattr(shop.processor, how)()
        eventually(lambda: len(shop.processor.notifier.reports) == 1)
    assert not shop.processor.status().drops


def test_the_sampler_has_ended_before_the_request(shop: Watched) -> None:
    """Where no sampler looks any more the end itself hands on."""
    span = shop.start()
    wait_until_linked(span)
    stack_sampler.shared.stop(10)
    span.end()
    eventually(lambda: len(shop.processor.notifier.reports) == 1)


@pytest.mark.usefixtures("blind")
def test_the_sampler_ends_after_the_request(shop: Watched) -> None:
    """A sampler that ends hands on what it has not yet."""
    slow_request(shop)
    stack_sampler.shared.stop(10)
    eventually(lambda: len(shop.processor.notifier.reports) == 1)


def test_a_sampler_that_is_far_away(shop: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the next look comes late the end itself hands on: a process that is killed meanwhile would lose it."""
    monkeypatch.setattr(stack_sampler, "SOON_NS", -(10**18))
    recording = slow_request(shop)
    assert recording.outcome is None
    eventually(lambda: len(shop.processor.notifier.reports) == 1)


def test_what_cannot_be_closed_is_handed_on(shop: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of ours with one request's files costs neither its report nor those of others."""

    def fail(meter: Meter) -> None:
        raise OSError("closed by somebody else")

    with monkeypatch.context() as patch:
        patch.setattr(Meter, "close", fail)
        recordings = [slow_request(shop) for _ in range(2)]
        assert len(shop.profiles()) == 2
        eventually(lambda: not any(recording in stack_sampler.shared.late for recording in recordings))
    assert shop.processor.status().drops == {"internal_error": 2}
    for recording in recordings:
        assert recording.trace is not None
        recording.trace.meter.close()


def test_a_flush_waits_for_what_is_just_being_handed_on() -> None:
    """What the sampler has taken, but not queued yet, is not passed over."""
    taken, go_on = threading.Event(), threading.Event()
    handed_on: list[object] = []

    class FakeSpan:
        start_time = 1

    class Owner:
        def on_ended(self, recording: object) -> None:
            taken.set()
            assert go_on.wait(10)
            handed_on.append(recording)

    late, owner = Late(), Owner()
    recording = Recording(owner, FakeSpan(), ThreadCarrier(0, 0))  # type: ignore[arg-type]
    late[recording] = None
    sampler = threading.Thread(target=late.forget, args=(recording,))
    flushed = threading.Event()
    flush = threading.Thread(target=lambda: (late.hand_on(owner), flushed.set()))  # type: ignore[arg-type, func-returns-value]
    sampler.start()
    assert taken.wait(10)
    flush.start()
    assert not flushed.wait(0.05)
    go_on.set()
    flush.join(10)
    sampler.join(10)
    assert handed_on == [recording]


@pytest.mark.usefixtures("blind")
def test_handed_on_once(shop: Watched) -> None:
    """However many threads ask at the same time, one of them hands on."""
    recordings = [slow_request(shop) for _ in range(3)]
    at_once = threading.Barrier(8)

    def hand_on() -> None:
        at_once.wait()
        for recording in recordings:
            shop.processor._watcher.on_ended(recording)

    threads = [threading.Thread(target=hand_on) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(shop.profiles()) == len(recordings)


def test_what_goes_to_nobody_is_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request beyond the limit on reports wakes nobody, where there is no channel to be told of it."""
    with watched(reports_per_hour=1) as shop:
        slow_request(shop)
        assert len(shop.profiles()) == 1
        submitted: list[str] = []
        monkeypatch.setattr(shop.processor._delivery, "submit_later", lambda id, finish: submitted.append(id))
        slow_request(shop)
        shop.processor.force_flush()
        assert submitted == []
        assert shop.processor.status().slow == 2
        assert shop.processor.status().drops == {"report_limit": 1}


@pytest.mark.usefixtures("blind")
def test_whoever_waits_gets_reports_in_haste(shop: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that a flush or a shutdown waits for is done without pauses: more of it is over within the time limit."""
    delivery = shop.processor._delivery
    resolve = delivery._resolve

    def resolve_when_awaited(finished: Finished, facts: SpanFacts) -> Profile:
        eventually(delivery.in_haste)
        return resolve(finished, facts)

    monkeypatch.setattr(delivery, "_resolve", resolve_when_awaited)
    slow_request(shop)
    assert not delivery.in_haste()
    assert len(shop.profiles()) == 1
    assert not delivery.in_haste()
    shop.processor.shutdown()
    assert delivery.in_haste()
