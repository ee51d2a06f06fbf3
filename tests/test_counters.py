"""Counting losses, and the one log line on them."""

from __future__ import annotations

import logging
import os
import re
import threading
from typing import TYPE_CHECKING

import pytest

from reports import in_forked_child
from slowspan.counters import LOG_INTERVAL, Counters, Drop
from support import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counters(clock: Clock) -> Counters:
    return Counters(clock)


@pytest.fixture
def handle_with() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Give slowspan's logger handlers that call a function."""
    added: list[logging.Handler] = []

    def add(function: Callable[[], None]) -> None:
        handler = logging.Handler()
        handler.emit = lambda record: function()  # type: ignore[method-assign]
        logging.getLogger("slowspan").addHandler(handler)
        added.append(handler)

    yield add
    for handler in added:
        logging.getLogger("slowspan").removeHandler(handler)


def test_counts_of_many_threads_add_up(counters: Counters) -> None:
    """Nothing is lost when threads count at the same time."""

    def count() -> None:
        for _ in range(500):
            counters.add("slow")
            counters.add_delivered("file")
            counters.drop(Drop.QUEUE_FULL, 2)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = counters.snapshot()
    assert counts.slow == 4000
    assert counts.delivered == {"file": 4000}
    assert counts.drops == {"queue_full": 8000}
    assert counts.recorded == counts.reports == 0


def test_a_snapshot_does_not_change(counters: Counters) -> None:
    """Whoever holds a snapshot sees the counts of its moment."""
    counters.drop(Drop.QUEUE_FULL)
    before = counters.snapshot()
    counters.drop(Drop.QUEUE_FULL)
    counters.add_delivered("file")
    assert before.drops == {"queue_full": 1}
    assert before.delivered == {}


def test_reasons_are_distinct() -> None:
    """No two reasons share a text, and each is fit for a metric's attribute."""
    reasons = [value for name, value in vars(Drop).items() if name.isupper()]
    assert len(set(reasons)) == len(reasons) >= 10
    assert all(reason.replace("_", "").isalpha() and reason.islower() for reason in reasons)


def test_the_first_loss_is_told_at_once_and_the_rest_once_a_minute(
    counters: Counters, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A burst of losses makes one line, and the losses of the following minute one more."""
    assert counters.line_due_in() is None
    counters.drop(Drop.QUEUE_FULL)
    assert counters.line_due_in() == 0
    counters.log_losses()
    assert caplog.messages == ["slowspan lost 1 profiles or reports: queue_full 1"]
    for _ in range(9):
        counters.drop(Drop.QUEUE_FULL)
        counters.log_losses()
    counters.drop(Drop.WRITE_FAILED, 2, detail="No space left on device")
    assert counters.line_due_in() == LOG_INTERVAL
    assert len(caplog.messages) == 1
    clock.now += LOG_INTERVAL
    counters.log_losses()
    assert caplog.messages[1:] == [
        "slowspan lost 11 profiles or reports: queue_full 9, write_failed 2 (No space left on device)"
    ]
    clock.now += LOG_INTERVAL
    counters.log_losses()
    assert len(caplog.messages) == 2, "nothing new, no line"
    assert counters.snapshot().drops == {"queue_full": 10, "write_failed": 2}, "telling does not forget"


def test_at_shutdown_the_line_does_not_wait(counters: Counters, caplog: pytest.LogCaptureFixture) -> None:
    """The last losses are told before the process ends, whenever the last line was."""
    counters.drop(Drop.QUEUE_FULL)
    counters.log_losses()
    counters.drop(Drop.SHUTDOWN)
    counters.log_losses(now=True)
    assert caplog.messages[1:] == ["slowspan lost 1 profiles or reports: shutdown 1"]


def test_a_detail_stays_on_its_line(counters: Counters, caplog: pytest.LogCaptureFixture) -> None:
    """Text that comes from elsewhere can neither begin a log line nor fill the log."""
    counters.drop(Drop.NOTIFIER_FAILED, detail="pager: first\r\n2026 root: second\x85 third\u2028" + "x" * 5000)
    counters.log_losses()
    (line,) = caplog.messages
    assert len(line.splitlines()) == 1
    assert len(line) < 400


def test_a_log_handler_may_block_and_call_back(
    counters: Counters, handle_with: Callable[[Callable[[], None]], None]
) -> None:
    """No lock is held while logging: a handler that needs another thread, which counts, does not deadlock."""
    finished: list[bool] = []

    def emit() -> None:
        counters.log_losses()
        thread = threading.Thread(target=lambda: counters.drop(Drop.QUEUE_FULL))
        thread.start()
        thread.join(timeout=10)
        finished.append(not thread.is_alive())

    handle_with(emit)
    counters.drop(Drop.QUEUE_FULL)
    counters.log_losses()
    assert finished == [True]


def test_a_log_handler_that_raises_harms_nobody(
    counters: Counters, handle_with: Callable[[Callable[[], None]], None]
) -> None:
    """An exception of a handler does not reach the thread that tells the losses."""

    def emit() -> None:
        raise RuntimeError("broken handler")

    handle_with(emit)
    counters.drop(Drop.QUEUE_FULL)
    counters.log_losses()
    assert counters.line_due_in() is None


def test_counting_may_be_interrupted_by_counting() -> None:
    """A signal handler or finalizer that counts, while its thread counts, does not deadlock."""

    def interrupted_clock() -> float:
        counters.drop(Drop.SPAN_ABANDONED)
        return 0.0

    counters = Counters(interrupted_clock)
    counters.drop(Drop.QUEUE_FULL)
    counters.log_losses()
    assert counters.snapshot().drops == {"queue_full": 1, "span_abandoned": 1}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_forked_child_counts_from_zero(counters: Counters) -> None:
    """A worker's figures are its own; its parent's stay with the parent."""
    counters.add("slow")
    counters.drop(Drop.QUEUE_FULL)

    def child() -> tuple[int, dict[str, int]]:
        counters.drop(Drop.SHUTDOWN)
        counts = counters.snapshot()
        return counts.slow, dict(counts.drops)

    assert in_forked_child(child) == (0, {"shutdown": 1})
    assert counters.snapshot().drops == {"queue_full": 1}


def test_every_reason_is_documented() -> None:
    """Whoever sees a reason in a log or a metric finds its meaning."""
    documented = set(re.findall(r"^\| `(\w+)` \|", (REPOSITORY / "docs" / "notifiers.md").read_text("utf-8"), re.M))
    assert {value for name, value in vars(Drop).items() if name.isupper()} <= documented
