"""From a finished recording to the notifiers: the queue with its thread, and the lanes behind it."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
import time
import weakref
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from profiles import make_span
from reports import PAGE, in_forked_child, make_named_profile
from slowspan import counters as counters_module
from slowspan.config import Settings
from slowspan.counters import Counters, Drop, DropError
from slowspan.delivery.pipeline import Delivery
from slowspan.delivery.queue import DeliveryQueue
from slowspan.testing import InMemoryNotifier
from support import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from slowspan.notifiers.base import Notifier
    from slowspan.recording.profile import Profile, SpanFacts
    from slowspan.report.report import Report

forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")


@pytest.fixture
def counters() -> Counters:
    return Counters()


class Worker:
    """What a queue hands its items to; can be made to wait."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.threads: set[threading.Thread] = set()
        self.started = threading.Event()
        self.open = threading.Event()
        self.open.set()

    def __call__(self, item: Any) -> None:
        self.threads.add(threading.current_thread())
        self.started.set()
        assert self.open.wait(60)
        if isinstance(item, BaseException):
            raise item
        self.items.append(item)


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.open.set()


@pytest.fixture
def make_queue(worker: Worker, counters: Counters) -> Iterator[Callable[..., DeliveryQueue[Any]]]:
    queues: list[DeliveryQueue[Any]] = []

    def make(size: int = 100, **hooks: Any) -> DeliveryQueue[Any]:
        queues.append(DeliveryQueue(worker, name="slowspan-test", size=size, counters=counters, **hooks))
        return queues[-1]

    yield make
    worker.open.set()
    for queue in queues:
        queue.close()
        queue.join(30)


@pytest.fixture
def queue(make_queue: Callable[..., DeliveryQueue[Any]]) -> DeliveryQueue[Any]:
    return make_queue()


# -- The queue


def test_the_thread_starts_with_the_first_item(queue: DeliveryQueue[Any], worker: Worker) -> None:
    """No thread before it is needed; then one daemon thread, with a name, handles all items in order."""
    assert not [thread for thread in threading.enumerate() if thread.name == "slowspan-test"]
    for number in range(20):
        queue.put(str(number), number)
    assert queue.force_flush()
    assert worker.items == list(range(20))
    (thread,) = worker.threads
    assert thread.daemon
    assert thread.name == "slowspan-test"
    assert thread is not threading.current_thread()


def test_a_queue_of_which_half_is_taken_is_crowded(
    make_queue: Callable[..., DeliveryQueue[Any]], worker: Worker
) -> None:
    """Before items are lost, whoever works on them can make haste."""
    queue = make_queue(size=4)
    worker.open.clear()
    queue.put("at work", 0)
    assert worker.started.wait(60)
    crowded = []
    for number in range(4):
        queue.put(str(number), number)
        crowded.append(queue.is_crowded())
    assert crowded == [False, False, True, True]
    worker.open.set()
    assert queue.force_flush()
    assert not queue.is_crowded()


def test_started_ahead_the_same_thread_is_used(queue: DeliveryQueue[Any], worker: Worker) -> None:
    """Starting ahead of the first item, and again, makes one thread."""
    assert queue.start()
    assert queue.start()
    queue.put("a", 1)
    assert queue.force_flush()
    assert len([thread for thread in threading.enumerate() if thread.name == "slowspan-test"]) == 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(min_value=0, max_value=9), max_size=40), st.integers(min_value=1, max_value=6))
def test_a_full_queue_keeps_the_newest(keys: list[int], size: int) -> None:
    """The queue keeps the newest items, of each key the newest one, in order, and counts the rest."""
    worker, counters = Worker(), Counters()
    worker.open.clear()
    queue: DeliveryQueue[Any] = DeliveryQueue(worker, name="slowspan-test", size=size, counters=counters)
    queue.put("first", "first")
    assert worker.started.wait(30)
    model: OrderedDict[str, tuple[int, int]] = OrderedDict()
    lost = 0
    for number, key in enumerate(keys):
        if str(key) not in model and len(model) == size:
            model.popitem(last=False)
            lost += 1
        model[str(key)] = (key, number)
        queue.put(str(key), (key, number))
    worker.open.set()
    queue.close()
    assert queue.join(30)
    assert worker.items == ["first", *model.values()]
    assert counters.snapshot().drops == ({"queue_full": lost} if lost else {})


def test_one_failure_does_not_stop_the_next(queue: DeliveryQueue[Any], worker: Worker, counters: Counters) -> None:
    """Exceptions are counted, under their own reason where they have one, and the thread goes on."""
    queue.put("a", ValueError("broken"))
    queue.put("b", DropError(Drop.WRITE_FAILED, "disk full"))
    queue.put("c", "delivered")
    assert queue.force_flush()
    assert worker.items == ["delivered"]
    assert len(worker.threads) == 1
    assert counters.snapshot().drops == {"internal_error": 1, "write_failed": 1}


def test_a_traceback_is_there_for_those_who_ask(queue: DeliveryQueue[Any], caplog: pytest.LogCaptureFixture) -> None:
    """The line on losses is short; with slowspan's logger at DEBUG the traceback is in the log."""
    caplog.set_level(logging.DEBUG, logger="slowspan")
    queue.put("a", ValueError("broken"))
    assert queue.force_flush()
    assert [record.exc_info is not None for record in caplog.records] == [True, False]
    assert "internal_error 1 (slowspan-test: ValueError('broken'))" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_is_made_to_end_is_replaced(
    queue: DeliveryQueue[Any], worker: Worker, counters: Counters
) -> None:
    """Code that calls ``sys.exit`` on our thread costs its own item only."""
    worker.open.clear()
    queue.put("a", SystemExit())
    assert worker.started.wait(30)
    queue.put("b", "delivered")
    worker.open.set()
    eventually(lambda: worker.items == ["delivered"])
    assert counters.snapshot().drops == {"internal_error": 1}


def test_a_system_that_refuses_threads(
    queue: DeliveryQueue[Any], worker: Worker, counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no thread can be started the item is counted as lost, and the next one tries again."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        queue.put("a", 1)
        assert not queue.start()
    assert counters.snapshot().drops == {"no_thread": 1}
    assert queue.force_flush()
    queue.put("b", 2)
    assert queue.force_flush()
    assert worker.items == [2]


def test_putting_never_raises(counters: Counters, make_queue: Callable[..., DeliveryQueue[Any]]) -> None:
    """Even an error of our own stays inside: putting happens on a request's thread."""
    queue = make_queue()
    queue.put([], 1)  # type: ignore[arg-type]  # not hashable
    assert counters.snapshot().drops == {"internal_error": 1}


def test_putting_does_not_wait_for_the_work(queue: DeliveryQueue[Any], worker: Worker) -> None:
    """While an item takes for ever, putting more goes on."""
    worker.open.clear()
    for number in range(1000):
        queue.put(str(number), number)
    assert worker.started.wait(30)
    assert worker.items == []


def test_a_flush_has_a_time_limit(queue: DeliveryQueue[Any], worker: Worker) -> None:
    """A flush waits for what is queued, until its time limit."""
    assert queue.force_flush(), "nothing was ever put"
    worker.open.clear()
    queue.put("a", 1)
    assert not queue.force_flush(timeout_millis=20)
    worker.open.set()
    assert queue.force_flush()
    assert worker.items == [1]


def test_the_flush_hook_runs_after_the_items(
    make_queue: Callable[..., DeliveryQueue[Any]], worker: Worker, counters: Counters
) -> None:
    """The hook gets the remaining milliseconds, on the thread; the flush is as good as its answer."""
    asked: list[tuple[list[Any], int, threading.Thread]] = []
    answers = iter([True, False])

    def flush(timeout_millis: int) -> bool:
        asked.append((list(worker.items), timeout_millis, threading.current_thread()))
        return next(answers)

    queue = make_queue(flush=flush)
    queue.put("a", 1)
    assert queue.force_flush(timeout_millis=60_000)
    assert not queue.force_flush()
    assert not queue.force_flush(), "the hook raised StopIteration"
    (items, timeout_millis, thread), *_ = asked
    assert items == [1]
    assert 0 < timeout_millis <= 60_000
    assert {thread} == worker.threads
    assert counters.snapshot().drops == {"internal_error": 1}


def test_closing_delivers_what_waits(
    make_queue: Callable[..., DeliveryQueue[Any]], worker: Worker, counters: Counters
) -> None:
    """After closing, what was queued is delivered, the hook runs once on the thread, and the thread ends."""
    closed_on: list[threading.Thread] = []
    queue = make_queue(close=lambda: closed_on.append(threading.current_thread()))
    for number in range(50):
        queue.put(str(number), number)
    queue.close()
    queue.close()
    assert queue.join(30)
    assert worker.items == list(range(50))
    assert closed_on == list(worker.threads)
    queue.put("late", 1)
    assert queue.force_flush()
    assert counters.snapshot().drops == {"shutdown": 1}


def test_the_close_hook_runs_even_without_items(make_queue: Callable[..., DeliveryQueue[Any]]) -> None:
    """What was made is released, used or not, and never on the thread that closes."""
    closed_on: list[threading.Thread] = []
    queue = make_queue(close=lambda: closed_on.append(threading.current_thread()))
    queue.close()
    assert queue.join(30)
    (thread,) = closed_on
    assert thread is not threading.current_thread()


def test_closing_has_a_time_limit(queue: DeliveryQueue[Any], worker: Worker, counters: Counters) -> None:
    """What is not delivered in time is counted once, the item that hangs included."""
    worker.open.clear()
    for number in range(5):
        queue.put(str(number), number)
    assert worker.started.wait(30)
    queue.close()
    assert not queue.join(0.02)
    assert counters.snapshot().drops == {"shutdown": 5}
    queue.join(0)
    assert counters.snapshot().drops == {"shutdown": 5}


def test_no_spans_are_made_on_the_thread(make_queue: Callable[..., DeliveryQueue[Any]], worker: Worker) -> None:
    """OpenTelemetry's instrumentation is suppressed for everything that runs there, and only there."""
    enabled: list[bool] = []

    def record(*ignored: int) -> bool:
        enabled.append(is_instrumentation_enabled())
        return True

    queue = make_queue(flush=record, close=record)
    queue.put("a", 1)
    assert queue.force_flush()
    queue.close()
    assert queue.join(30)
    assert enabled == [False, False]
    assert is_instrumentation_enabled()


def test_the_last_item_is_not_kept(queue: DeliveryQueue[Any], worker: Worker) -> None:
    """A waiting thread holds no memory of a profile that was delivered."""

    class Item:
        pass

    item = Item()
    reference = weakref.ref(item)
    queue.put("a", item)
    assert queue.force_flush()
    worker.items.clear()
    del item

    def collected() -> bool:
        gc.collect()
        return reference() is None

    eventually(collected)


def test_losses_are_told_without_further_items(
    queue: DeliveryQueue[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Losses that come within a minute of a line are told when the minute is over, by the waiting thread."""
    monkeypatch.setattr(counters_module, "LOG_INTERVAL", 0.2)
    queue.put("a", ValueError("first"))
    queue.put("b", ValueError("second"))
    eventually(lambda: "ValueError('second')" in caplog.text)
    assert len(caplog.messages) == 2


@forking
def test_a_forked_child_begins_anew(queue: DeliveryQueue[Any], worker: Worker) -> None:
    """A child delivers its own items on its own thread; what was queued at the fork is its parent's."""
    worker.open.clear()
    queue.put("a", "before the fork")
    queue.put("b", "also before")
    assert worker.started.wait(30)

    def child() -> list[Any]:
        worker.items.clear()
        worker.open = threading.Event()
        worker.open.set()
        queue.put("c", "in the child")
        assert queue.force_flush()
        return worker.items

    assert in_forked_child(child) == ["in the child"]
    worker.open.set()
    assert queue.force_flush()
    assert worker.items == ["before the fork", "also before"]


FORKS = """
import sys, threading, warnings
sys.path[:0] = sys.argv[1:]
from test_delivery import Counters, DeliveryQueue, in_forked_child

counters, stop = Counters(), threading.Event()
queue = DeliveryQueue(lambda item: None, name="slowspan-test", size=2, counters=counters)

def put():
    number = 0
    while not stop.is_set():
        number += 1
        queue.put(str(number % 5), number)
        counters.drop("queue_full")

def child():
    queue.put("a", 1)
    counters.drop("write_failed")
    return queue.force_flush(timeout_millis=30_000), dict(counters.snapshot().drops)

threads = [threading.Thread(target=put) for _ in range(2)]
for thread in threads:
    thread.start()
try:
    print({repr(in_forked_child(child)) for _ in range(20)})
finally:
    stop.set()
"""


def run_apart(script: str) -> list[str]:
    """Return what a script prints in an interpreter of its own, which coverage does not trace."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    ended = subprocess.run(
        [sys.executable, "-c", script, *sys.path],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=environment,
    )
    assert "Traceback" not in ended.stderr
    return ended.stdout.splitlines()


@forking
def test_forks_at_any_instant() -> None:
    """A fork while other threads put, count and deliver leaves no lock held in the child."""
    assert run_apart(FORKS) == [str({repr((True, {"write_failed": 1}))})]


# -- The pipeline


@dataclass
class Raw:
    """What stands in for a finished recording."""

    number: int
    changes: dict[str, Any] = field(default_factory=dict)
    kept: bool = True
    withdrawn: bool = False
    name: str = "report"
    duration_ns: int = 1_420_000_000

    @property
    def id(self) -> str:
        return f"{self.number:016x}"

    @property
    def running(self) -> bool:
        return bool(self.changes.get("running"))


def resolve(raw: Raw, span: SpanFacts) -> Profile:
    return make_named_profile(raw.number, span=span, **raw.changes)


class Held(InMemoryNotifier):
    """A notifier that waits until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.started = threading.Event()
        self.open = threading.Event()
        self.flushes: list[int] = []
        self.was_shut_down = threading.Event()

    def notify(self, report: Report) -> None:
        self.started.set()
        assert self.open.wait(60)
        super().notify(report)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        self.flushes.append(timeout_millis)
        return True

    def shutdown(self) -> None:
        super().shutdown()
        self.was_shut_down.set()


class Failing(InMemoryNotifier):
    """A notifier that never delivers."""

    def notify(self, report: Report) -> None:
        raise ConnectionError("refused")

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return False


class Slow(InMemoryNotifier):
    """A notifier that takes its time."""

    def notify(self, report: Report) -> None:
        time.sleep(0.05)
        super().notify(report)


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.open.set()


@pytest.fixture
def make(counters: Counters, tmp_path: Path, held: Held) -> Iterator[Callable[..., Delivery[Raw]]]:
    """Make a delivery to these notifiers."""
    made: list[Delivery[Raw]] = []

    def make(*notifiers: Notifier, **options: Any) -> Delivery[Raw]:
        values: dict[str, Any] = {
            "load": lambda: [(type(n).__name__.lower(), n) for n in notifiers],
            "facts": lambda raw: make_span(),
            "resolve": resolve,
            "render_html": lambda stored, trace_url=None: PAGE,
            "compress": lambda profile: b"stored",
        }
        settings = options.pop("settings", Settings(report_dir=tmp_path))
        made.append(Delivery(settings, counters, **{**values, **options}))
        return made[-1]

    yield make
    held.open.set()
    for delivery in made:
        delivery.shutdown(30)


def test_a_recording_reaches_every_notifier(make: Callable[..., Delivery[Raw]], counters: Counters) -> None:
    """Each notifier gets the same report, made from what was submitted, and each delivery is counted."""
    one, other = InMemoryNotifier(), Slow()
    delivery = make(one, other)
    delivery.submit(Raw(7))
    assert delivery.force_flush()
    assert [report.profile for report in one.reports] == [resolve(Raw(7), make_span())]
    assert one.reports == other.reports
    assert one.reports[0].html() == PAGE
    assert one.reports[0].summary
    counts = counters.snapshot()
    assert counts.reports == 1
    assert counts.delivered == {"inmemorynotifier": 1, "slow": 1}
    assert counts.drops == {}


def test_a_report_knows_its_addresses(make: Callable[..., Delivery[Raw]]) -> None:
    """The report's and the trace's addresses come from the templates, and the page gets the trace's."""
    rendered: list[tuple[bytes, str | None]] = []

    def render_html(stored: bytes, trace_url: str | None = None) -> bytes:
        rendered.append((stored, trace_url))
        return PAGE

    notifier = InMemoryNotifier()
    options = Settings(report_url="https://r.example/{id}", trace_url="https://t.example/{trace_id}/{span_id}")
    delivery = make(notifier, settings=options, render_html=render_html)
    delivery.submit(Raw(7))
    assert delivery.force_flush()
    (report,) = notifier.reports
    span = make_span()
    assert report.url == "https://r.example/0000000000000007"
    assert report.trace_url == f"https://t.example/{span.trace_id}/{span.span_id}"
    report.html()
    assert rendered == [(b"stored", report.trace_url)]


def test_notifiers_are_loaded_once_on_the_delivery_thread(make: Callable[..., Delivery[Raw]]) -> None:
    """Finding notifiers costs milliseconds: not before the first slow request, and never on its thread."""
    loaded_on: list[str] = []
    notifier = InMemoryNotifier()

    def load() -> list[tuple[str, Notifier]]:
        loaded_on.append(threading.current_thread().name)
        return [("memory", notifier)]

    delivery = make(load=load)
    delivery.start()
    assert delivery.force_flush()
    assert loaded_on == []
    for number in range(3):
        delivery.submit(Raw(number))
    assert delivery.force_flush()
    assert loaded_on == ["slowspan-delivery"]
    assert len(notifier.reports) == 3


def test_five_notifiers_of_which_one_hangs_one_fails_and_one_is_slow(
    make: Callable[..., Delivery[Raw]], held: Held, counters: Counters, caplog: pytest.LogCaptureFixture
) -> None:
    """The others have every report while one still hangs, and all losses are counted."""
    good, slow, other = InMemoryNotifier(), Slow(), InMemoryNotifier()
    delivery = make(held, Failing(), slow, good, other)
    for number in range(10):
        delivery.submit(Raw(number))
    eventually(lambda: [len(notifier.reports) for notifier in (good, other, slow)] == [10, 10, 10])
    eventually(lambda: counters.snapshot().drops == {"notifier_failed": 10})
    assert held.reports == ()
    assert "failing: ConnectionError('refused')" in caplog.text
    assert not delivery.force_flush(timeout_millis=50)
    assert not delivery.shutdown(0.05)
    assert counters.snapshot().drops == {"notifier_failed": 10, "shutdown": 10}


def test_a_notifier_that_hangs_costs_bounded_memory(
    make: Callable[..., Delivery[Raw]], held: Held, counters: Counters, tmp_path: Path
) -> None:
    """Behind a notifier that hangs, the oldest reports give way, and the loss is its own."""
    good = InMemoryNotifier()
    delivery = make(held, good, settings=Settings(report_dir=tmp_path, queue_size=3))
    delivery.submit(Raw(0))
    assert held.started.wait(30)
    for number in range(1, 11):
        delivery.submit(Raw(number))
        eventually(lambda expected=number: len(good.reports) == expected + 1)
    held.open.set()
    assert delivery.force_flush()
    assert [report.profile.id[-1] for report in held.reports] == ["0", "8", "9", "a"]
    assert counters.snapshot().drops == {"queue_full": 7}


def test_the_final_report_takes_the_place_of_a_partial_one(
    make: Callable[..., Delivery[Raw]], held: Held, counters: Counters
) -> None:
    """Behind a slow notifier a partial report gives way to the final one; both are one report."""
    delivery = make(held)
    delivery.submit(Raw(1))
    assert held.started.wait(30)
    delivery.submit(Raw(2, {"running": True}))
    delivery.submit(Raw(3))
    assert delivery._intake.force_flush()  # All have been handed on.
    delivery.submit(Raw(2))
    assert delivery._intake.force_flush()
    held.open.set()
    assert delivery.force_flush()
    assert [(report.profile.id[-1], report.profile.running) for report in held.reports] == [
        ("1", False),
        ("2", False),
        ("3", False),
    ]
    assert (counters.snapshot().reports, counters.snapshot().drops) == (3, {})


def test_a_recording_that_cannot_be_resolved_costs_only_itself(
    make: Callable[..., Delivery[Raw]], counters: Counters
) -> None:
    """An error of our own is counted, and the next recording is delivered."""
    notifier = InMemoryNotifier()

    def resolve_some(raw: Raw, span: SpanFacts) -> Profile:
        if raw.number == 1:
            raise KeyError("broken")
        return resolve(raw, span)

    delivery = make(notifier, resolve=resolve_some)
    delivery.submit(Raw(1))
    delivery.submit(Raw(2))
    assert delivery.force_flush()
    assert len(notifier.reports) == 1
    assert counters.snapshot().drops == {"internal_error": 1}


def test_without_notifiers_nothing_is_resolved(make: Callable[..., Delivery[Raw]], counters: Counters) -> None:
    """Somebody who wants the attributes on the span alone does not pay for reports."""

    def resolve_none(raw: Raw, span: SpanFacts) -> Profile:
        raise AssertionError("resolved for nobody")

    delivery = make(resolve=resolve_none)
    delivery.submit(Raw(1))
    assert delivery.force_flush()
    assert counters.snapshot().drops == {}


def test_flush_and_shutdown_reach_the_notifiers(
    make: Callable[..., Delivery[Raw]], held: Held, counters: Counters
) -> None:
    """Every notifier is flushed with the remaining time and shut down once; one that fails is told apart."""
    held.open.set()
    delivery = make(held)
    delivery.submit(Raw(1))
    assert delivery.force_flush(timeout_millis=60_000)
    (timeout_millis,) = held.flushes
    assert 0 < timeout_millis <= 60_000
    assert not held.was_shut_down.is_set()
    assert delivery.shutdown()
    assert held.was_shut_down.is_set()
    assert len(held.reports) == 1
    delivery.submit(Raw(2))
    assert delivery.shutdown(), "again: nothing is left"
    assert counters.snapshot().drops == {"shutdown": 1}


def test_a_notifier_that_cannot_flush_is_told(make: Callable[..., Delivery[Raw]]) -> None:
    """The flush of all is as good as the worst one."""
    delivery = make(InMemoryNotifier(), Failing())
    delivery.submit(Raw(1))
    assert not delivery.force_flush()


def test_shutdown_without_a_slow_request(make: Callable[..., Delivery[Raw]]) -> None:
    """Where nothing was slow, no thread starts and no notifier is loaded, not even at the end."""

    def load() -> list[tuple[str, Notifier]]:
        raise AssertionError("loaded for nothing")

    delivery = make(load=load)
    assert delivery.force_flush()
    assert delivery.shutdown()


def test_without_threads_for_the_notifiers(
    make: Callable[..., Delivery[Raw]], counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only the delivery thread runs, as when Python 3.12 exits, it delivers to the notifiers itself."""
    real_start = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name.startswith("slowspan-") and thread.name != "slowspan-delivery":
            raise RuntimeError("can't create new thread at interpreter shutdown")
        real_start(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    notifier = InMemoryNotifier()
    delivery = make(Failing(), notifier)
    delivery.submit(Raw(1))
    assert delivery.force_flush()
    assert len(notifier.reports) == 1
    assert delivery.shutdown()
    assert counters.snapshot().drops == {"notifier_failed": 1}


@forking
def test_a_forked_child_loads_its_own_notifiers(make: Callable[..., Delivery[Raw]]) -> None:
    """Connections of a parent's notifiers are not shared: a child makes its notifiers anew."""
    made: list[InMemoryNotifier] = []

    def load() -> list[tuple[str, Notifier]]:
        made.append(InMemoryNotifier())
        return [("memory", made[-1])]

    delivery = make(load=load)
    delivery.submit(Raw(1))
    assert delivery.force_flush()

    def child() -> list[int]:
        delivery.submit(Raw(2))
        assert delivery.force_flush()
        assert delivery.shutdown()
        return [len(notifier.reports) for notifier in made]

    assert in_forked_child(child) == [1, 1]
    assert len(made) == 1


AT_EXIT = """
import atexit, sys
sys.path[:0] = sys.argv[1:]
from test_delivery import Counters, Delivery, Raw, Settings, Slow, make_span, resolve

class Printing(Slow):
    def notify(self, report):
        super().notify(report)
        print("notified", report.profile.id[-1], flush=True)

    def shutdown(self):
        print("shut down", flush=True)

delivery = Delivery(
    Settings(), Counters(), load=lambda: [("printing", Printing())], facts=lambda raw: make_span(), resolve=resolve,
    render_html=lambda stored, trace_url=None: b"", compress=lambda profile: b"",
)
atexit.register(delivery.shutdown)
for number in range(3):
    delivery.submit(Raw(number))
"""


def test_what_is_queued_at_interpreter_exit_is_delivered() -> None:
    """A program that ends right after its slow requests has their reports."""
    assert run_apart(AT_EXIT)[:3] == ["notified 0", "notified 1", "notified 2"]
