"""From the end of a slow request to the delivery thread: the sampler hands on, or whoever cannot wait for it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from slowspan.recording import stack_sampler
from support import eventually
from watched import Watched, wait_until_linked, watched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slowspan.recording.recording import Recording


@pytest.fixture
def shop() -> Iterator[Watched]:
    """Return a watched provider with the usual settings."""
    with watched() as shop:
        yield shop


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the sampler not notice that a request has ended."""
    monkeypatch.setattr("slowspan.recording.late.forget_late", lambda *_: None)


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
    """The request's thread leaves that to the sampler: to wake another one costs more than all the rest."""
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
