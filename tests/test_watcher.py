"""Spans that live in unusual ways: ended twice, never, elsewhere; watched twice; on threads that end or go on."""

from __future__ import annotations

import _thread
import asyncio
import gc
import itertools
import logging
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import MethodType
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.trace import SpanKind

from slowspan.recording import carriers, stack_sampler
from slowspan.recording.carriers import known_threads, this_thread
from slowspan.recording.synthetic import BEFORE_FIRST_SAMPLE, NOT_SAMPLED
from support import eventually
from watched import (
    ID,
    SLOW,
    THRESHOLD,
    Watched,
    WatchingProcessor,
    compute_here,
    functions,
    in_thread,
    wait_here,
    wait_until_linked,
    watched,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan, Span

    from slowspan.recording.recording import Young


@pytest.fixture
def shop(stood_in_for: None) -> Iterator[Watched]:
    """Return a watched provider with the usual settings."""
    with watched() as shop:
        yield shop


@pytest.fixture
def young_shop() -> Iterator[Watched]:
    """Return a watched provider on which no request becomes late, so that none is stood in for."""
    with watched(threshold=60, start_after=60) as shop:
        yield shop


# -- Watched more than once.


def test_same_processor_added_twice() -> None:
    """A processor that was added twice to a provider watches each span once and makes one report of it."""
    with watched() as shop:
        shop.provider.add_span_processor(shop.processor)
        shop.request(wait_here)
        assert len(shop.profiles()) == 1
        assert shop.processor.status().seen == shop.processor.status().slow == 1


def test_two_processors_on_one_provider(shop: Watched) -> None:
    """Of two processors of ours on one provider the first one acts, and the other leaves the span to it."""
    second = WatchingProcessor()
    shop.provider.add_span_processor(second)
    shop.request(wait_here)
    assert len(shop.profiles()) == 1
    assert second.profiles() == []
    assert second.status().drops == {"watched_already": 1}
    assert shop.processor.status().drops == {}


def test_one_processor_on_two_providers(shop: Watched) -> None:
    """A processor that was added to two providers serves both."""
    other = TracerProvider(shutdown_on_exit=False)
    other.add_span_processor(shop.processor)
    shop.request(wait_here, name="first")
    with other.get_tracer("test").start_as_current_span("second", kind=SpanKind.SERVER):
        wait_here()
    assert [profile.span.name for profile in shop.profiles()] == ["first", "second"]


def test_two_providers_with_their_own_thresholds() -> None:
    """Two providers with a processor each go by their own settings, side by side."""
    with watched(threshold=0.05) as impatient, watched(threshold=20) as patient:
        span = impatient.start("impatient")
        other = patient.start("patient", context=trace.set_span_in_context(span))
        wait_until_linked(span)
        other.end()
        span.end()
        assert impatient.profile().span.name == "impatient"
        assert functions(impatient.profile())["wait_until_linked"] > 0.2
        assert patient.profiles() == []


# -- Ends.


def test_ended_twice(shop: Watched, caplog: pytest.LogCaptureFixture) -> None:
    """A second end makes no second report; the SDK says what it says without us."""
    span = shop.start()
    wait_here()
    span.end()
    end_time = span.end_time
    span.end()
    assert span.end_time == end_time
    assert len(shop.exported()) == len(shop.profiles()) == 1
    assert shop.processor.status().slow == 1
    assert [r.getMessage() for r in caplog.records] == ["Calling end() on an ended span."]


def test_ended_twice_through_a_kept_method(shop: Watched) -> None:
    """A kept ``span.end`` that is called twice, the second time late, makes one report with one duration."""
    span = shop.start()
    end = span.end
    wait_here()
    end()
    wait_here()
    end()
    profile = shop.profile()
    assert profile.duration_ns == span.end_time - span.start_time
    assert sum(sample.wall_ns for sample in profile.samples) == profile.duration_ns
    assert shop.processor.status().slow == 1


def test_a_kept_method_does_not_end_a_later_request_of_the_trace(shop: Watched) -> None:
    """Called a second time it leaves the request alone that has begun in the same trace since."""
    parent = trace.set_span_in_context(shop.start("parent", kind=SpanKind.INTERNAL))
    first = shop.start(context=parent)
    end = first.end
    end()
    second = shop.start(context=parent)
    end()
    wait_here()
    second.end()
    assert shop.profile().duration_ns == second.end_time - second.start_time


def test_time_after_a_loss_is_said_to_be_unknown(shop: Watched) -> None:
    """When the thread has ended before its span, nothing is told of the time after that."""
    spans: list[Span] = []

    def begin() -> None:
        spans.append(shop.start())
        wait_here()

    in_thread(begin)
    ended = time.time_ns()
    time.sleep(2 * SLOW)
    spans[0].end()
    attributes = shop.attributes()
    after = (spans[0].end_time - ended) / 1e9
    assert attributes["slowspan.unknown_time"] >= 0.9 * after
    assert attributes["slowspan.waiting_time"] <= (spans[0].end_time - spans[0].start_time) / 1e9 - 0.9 * after


def test_the_name_of_a_thread_that_ends_with_its_request(shop: Watched) -> None:
    """A server that makes a thread for each request has ended it when the report is made."""
    thread = threading.Thread(target=lambda: shop.request(wait_here), name="request-7")
    thread.start()
    thread.join()
    assert shop.profile().process.thread_name == "request-7"


def test_ended_by_many_threads_at_once(shop: Watched) -> None:
    """When several threads end a span at the same moment there is one report, and its times still add up."""
    for _ in range(20):
        span = shop.start()
        end = span.end
        barrier = threading.Barrier(4)

        def finish(barrier: threading.Barrier = barrier, end: Any = end) -> None:
            barrier.wait()
            end()

        threads = [threading.Thread(target=finish) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(THRESHOLD + 0.01)
        finish()
        for thread in threads:
            thread.join()
    profiles = shop.profiles()
    assert len(profiles) == len({profile.id for profile in profiles}) == 20
    assert shop.processor.status().slow == 20
    for profile in profiles:
        assert sum(sample.wall_ns for sample in profile.samples) == profile.duration_ns


def test_kept_end_after_the_span_variable_is_gone(shop: Watched) -> None:
    """A bound ``span.end`` keeps its span alive as the SDK's own does: the request is recorded to its end."""
    end = shop.start().end
    gc.collect()
    wait_here()
    gc.collect()
    end()
    assert len(shop.exported()) == len(shop.profiles()) == 1


def test_ended_through_the_class(shop: Watched) -> None:
    """A slow span that somebody ends past us, by the class's own method, is reported, and the loss is counted."""
    span = shop.start()
    wait_until_linked(span)
    type(span).end(span)
    assert stack_sampler.live_recordings() == len(stack_sampler.shared.late)
    (exported,) = shop.exported()
    assert exported.attributes[ID] == shop.profile().id
    assert "slowspan.samples" not in exported.attributes
    assert shop.processor.status().drops == {"not_linked": 1}
    early = shop.start()
    type(early).end(early)
    eventually(lambda: stack_sampler.live_recordings() == 0)
    assert len(shop.profiles()) == 1


def test_a_fast_request_is_not_touched(young_shop: Watched) -> None:
    """Nobody stands in for the end of a span before it is late."""
    span = young_shop.start()
    assert "end" not in vars(span)
    span.end()
    assert young_shop.processor._watcher.young == {}
    assert young_shop.processor.status().seen == 1


def test_slow_before_the_sampler_came(young_shop: Watched, caplog: pytest.LogCaptureFixture) -> None:
    """A request that is slow by its times, but was never looked at, is reported; on its span it cannot be written."""
    span = young_shop.start(start_time=time.time_ns() - 1_000_000)
    span.end(end_time=span.start_time + 61_000_000_000)
    assert young_shop.profile().duration_ns == 61_000_000_000
    assert ID not in young_shop.attributes()
    assert young_shop.processor.status().drops == {"not_linked": 1}
    assert {record.name for record in caplog.records} <= {"slowspan"}


def test_requests_after_one_that_went_past_the_sampler(young_shop: Watched) -> None:
    """Where the sampler came too late once, the ends of the next requests are stood in for from their starts."""
    span = young_shop.start()
    span.end(end_time=span.start_time + 61_000_000_000)
    span = young_shop.start()
    assert "end" in vars(span)
    span.end(end_time=span.start_time + 61_000_000_000)
    first, second = young_shop.exported()
    assert ID not in first.attributes
    assert second.attributes[ID] in [profile.id for profile in young_shop.profiles()]


def test_a_request_that_holds_the_interpreter_lock_to_its_end() -> None:
    """Its profile is on its span: from the second request on, if the sampler was held up by the first one."""
    with watched(threshold=0.4) as shop:
        for _ in range(3):
            span = shop.start()
            sum(range(60_000_000))  # One call in C that gives the lock to nobody.
            while time.time_ns() < span.start_time + 500_000_000:
                sum(range(1_000_000))
            span.end()
        assert all("slowspan.samples" in span.attributes for span in shop.exported()[1:])
        assert len(shop.profiles()) == 3


def test_an_end_that_is_under_way_when_the_request_becomes_late(young_shop: Watched) -> None:
    """The sampler leaves the request to the end that has begun, whether that has come to the processors or not."""
    watching = young_shop.processor._watcher
    for before_on_end in (True, False):
        span = young_shop.start()
        ((key, young),) = watching.young.items()
        end, on_end = span.end, young_shop.processor.on_end

        def meanwhile(ended: ReadableSpan, young: Young = young, key: object = key, on_end: Any = on_end) -> None:
            assert watching._spans.move_on(key, young) is None
            on_end(ended)

        if before_on_end:
            young_shop.processor.on_end = meanwhile
            end()
            del young_shop.processor.on_end
        else:
            end()
            assert watching._spans.move_on(key, young) is None
        assert "end" not in vars(span)
        assert watching._spans.recordings == watching.young == watching.children.running == {}
    assert young_shop.profiles() == []
    assert young_shop.processor.status().drops == {}


def test_an_end_that_is_over_when_the_sampler_has_found_its_recording(young_shop: Watched) -> None:
    """Nothing is left of a trace that the sampler keeps children's spans for a moment too late."""
    watching = young_shop.processor._watcher
    span = young_shop.start()
    ((key, young),) = watching.young.items()
    watching._spans.record(span, young[1])
    span.end()
    assert watching._spans.move_on(key, young) is None
    assert watching._spans.recordings == watching.young == watching.children.running == watching.children.traces == {}


def test_both_threads_make_the_recording_at_once(young_shop: Watched) -> None:
    """The request's thread and the sampler's get the same one, whoever began first."""
    spans = young_shop.processor._watcher._spans
    span = young_shop.start()
    others = []

    class Greenlet:
        @property
        def gr_frame(self) -> None:
            # Asked for while the first thread makes its recording.
            others.append(spans.record(span, this_thread()))

    recording = spans.record(span, (this_thread(), Greenlet()))
    assert others == [recording]
    assert spans.recordings == {id(span): recording}
    span.end()


def test_ended_on_another_thread(shop: Watched) -> None:
    """A span that ends on another thread has the profile of the thread on which it began."""
    span = shop.start()
    wait_here()
    in_thread(span.end)
    profile = shop.profile()
    assert functions(profile)["wait_here"] > 0.2
    assert "_bootstrap" not in functions(profile)
    assert profile.process.thread_name == "MainThread"


def test_explicit_end_time(shop: Watched) -> None:
    """With a given end time the duration is the span's, and the samples' times, scaled, add up to it."""
    span = shop.start()
    wait_here(0.3)
    span.end(end_time=span.start_time + 100_000_000)
    profile = shop.profile()
    assert profile.duration_ns == 100_000_000
    assert sum(sample.wall_ns for sample in profile.samples) == 100_000_000
    assert all(0 <= sample.cpu_ns <= sample.wall_ns for sample in profile.samples)
    assert all(0 <= sample.at_ns <= 100_000_000 for sample in profile.samples)


def test_explicit_end_time_of_a_computing_request(shop: Watched) -> None:
    """A request cannot have computed for longer than it took, even where a given end time cuts it short."""
    span = shop.start()
    compute_here(0.3)
    span.end(end_time=span.start_time + 60_000_000)
    profile = shop.profile()
    assert profile.cpu_time_ns <= profile.duration_ns
    assert shop.attributes()["slowspan.cpu_time"] <= 0.06
    assert sum(sample.cpu_ns for sample in profile.samples) <= profile.duration_ns


def test_end_time_before_the_start(shop: Watched) -> None:
    """A span that ends before it began is not slow, and raises nothing."""
    span = shop.start()
    wait_here()
    span.end(end_time=span.start_time - 1)
    assert shop.profiles() == []
    assert shop.processor.status().drops == {}


def test_start_time_in_the_future_holds_nobody_up(shop: Watched) -> None:
    """A span with a start time in the future does not keep later requests from being sampled."""
    wrong = []
    in_thread(lambda: wrong.append(shop.start("wrong", start_time=time.time_ns() + 3_600_000_000_000)))
    shop.request(wait_here, name="right")
    wrong[0].end()
    assert functions(shop.profile())["wait_here"] > 0.2


def test_never_ended(shop: Watched) -> None:
    """A span that is thrown away without an end is forgotten, counted, and keeps nothing alive."""

    def is_forgotten() -> bool:
        gc.collect()
        return stack_sampler.live_recordings() == 0

    shop.start()
    eventually(is_forgotten)
    late = shop.start()
    wait_until_linked(late)
    del late
    eventually(is_forgotten)
    assert shop.profiles() == []
    eventually(lambda: shop.processor.status().drops.get("span_abandoned") == 2)


def test_ended_by_the_garbage_collector(shop: Watched) -> None:
    """A collection in the middle of the sampler's own work can end the very span that it looks at."""
    span = shop.start()
    wait_until_linked(span)
    (recording,) = stack_sampler.shared.late
    done = threading.Event()

    def collect() -> None:
        with recording.trace.lock:
            span.end()
        done.set()

    threading.Thread(target=collect, daemon=True).start()
    assert done.wait(30)
    assert len(shop.profiles()) == 1


def test_ended_span_is_freed(shop: Watched) -> None:
    """After the end of a slow span nothing of ours keeps it, or anything of it, in a reference cycle."""
    gc.collect()
    gc.disable()
    try:
        span = shop.start()
        wait_here()
        span.end()
        reference = weakref.ref(span)
        shop.profiles()
        del span
        eventually(lambda: reference() is None)
    finally:
        gc.enable()


# -- Other people's code on the same span.


def test_another_wrapper_below_ours() -> None:
    """An ``end`` that somebody else had put on the span before us is called, with the arguments it was given."""
    calls: list[object] = []

    class Other(SpanProcessor):
        def on_start(self, span: Span, parent_context: object = None) -> None:
            original = span.end

            def end(self: Span, end_time: int | None = None) -> None:
                calls.append(end_time)
                original(end_time)

            span.end = MethodType(end, span)

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Other())
    with watched(provider) as shop:
        span = shop.start()
        wait_here()
        span.end()
        assert calls == [span.end_time]
        assert len(shop.exported()) == len(shop.profiles()) == 1
        fast = shop.start()
        fast.end()
        assert calls[1:] == [fast.end_time]


@pytest.mark.parametrize("removes_itself", [False, True])
def test_another_wrapper_above_ours(shop: Watched, removes_itself: bool) -> None:
    """An ``end`` that somebody else puts on the span after us works, and so does ours below it."""
    calls: list[object] = []
    span = shop.start()
    ours = span.end

    def end(end_time: int | None = None) -> None:
        calls.append("theirs")
        if removes_itself:
            del span.end
        ours(end_time)

    span.end = end
    wait_here()
    span.end()
    assert calls == ["theirs"]
    assert span.end_time is not None
    assert len(shop.exported()) == len(shop.profiles()) == 1


@pytest.mark.parametrize("limit", [0, 1, 3, 8])
def test_attribute_limits_of_the_sdk(limit: int) -> None:
    """With however few attributes allowed nothing raises, and the report still knows its request."""
    provider = TracerProvider(
        span_limits=SpanLimits(max_span_attributes=limit, max_attribute_length=10), shutdown_on_exit=False
    )
    with watched(provider) as shop:
        span = shop.start(attributes={"http.method": "GET", "http.route": "/orders"})
        wait_here()
        span.end()
        assert len(span.attributes) <= limit
        assert shop.profile().duration_ns == span.end_time - span.start_time
        assert "internal_error" not in shop.processor.status().drops


# -- Threads.


def test_several_slow_requests_at_once(shop: Watched) -> None:
    """Each of eight slow requests at the same time has the stack of its own thread, and no other's."""

    def named(number: int) -> Any:
        scope: dict[str, Any] = {"wait_here": wait_here}
        exec(f"def view_{number}():\n    wait_here()\n", scope)
        return scope[f"view_{number}"]

    views = [named(number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for number, view in enumerate(views):
            pool.submit(shop.request, view, name=f"view_{number}")
    profiles = shop.profiles()
    assert len(profiles) == 8
    for profile in profiles:
        seen = {name for name in functions(profile) if name.startswith("view_")}
        assert seen == {profile.span.name}


def test_thread_that_dies(shop: Watched) -> None:
    """When the request's thread ends before the span, the rest of the time is marked as not sampled."""
    spans = []

    def begin() -> None:
        spans.append(shop.start())
        wait_until_linked(spans[0])

    in_thread(begin)
    died = time.time_ns()
    wait_here(0.4)
    spans[0].end()
    profile = shop.profile()
    lost_ns = sum(
        sample.wall_ns for sample in profile.samples if profile.stack_frames(sample.stack)[0][0].name == NOT_SAMPLED
    )
    assert spans[0].end_time - died <= lost_ns < profile.duration_ns
    assert "begin" in functions(profile)
    assert any("ended before the span" in note for note in profile.notes)
    assert sum(sample.wall_ns for sample in profile.samples) == profile.duration_ns


def test_thread_that_dies_at_once(shop: Watched) -> None:
    """A request of which the thread ended before the first sample shows nothing of any other thread."""
    spans = []
    in_thread(lambda: spans.append(shop.start()))
    # The next thread gets the same identifier.
    in_thread(compute_here)
    spans[0].end()
    shares = functions(shop.profile())
    assert "compute_here" not in shares
    assert shares.get(NOT_SAMPLED, 0) > 0.5


def test_thread_that_goes_on_to_another_request(shop: Watched) -> None:
    """A span that outlives its request shows nothing of the next request on the same thread."""

    def next_request() -> None:
        wait_here(0.3)

    def serve() -> None:
        spans.append(shop.start("outlives"))
        wait_here(0.1)
        shop.request(next_request, name="next")

    spans: list[Span] = []
    in_thread(serve)
    spans[0].end()
    profiles = {profile.span.name: profile for profile in shop.profiles()}
    assert functions(profiles["next"])["next_request"] > 0.2
    assert functions(profiles["outlives"]).get("next_request", 0) < 0.1


def test_nested_requests_in_one_thread(shop: Watched) -> None:
    """A request inside a request of the same thread: both are slow, each with its own time and both stacks."""

    def inner() -> None:
        wait_here()

    def outer() -> None:
        wait_here(0.1)
        with shop.provider.get_tracer("test").start_as_current_span("inner", kind=SpanKind.SERVER):
            inner()
        wait_here(0.1)

    with shop.provider.get_tracer("test").start_as_current_span("outer", kind=SpanKind.SERVER):
        outer()
    profiles = {profile.span.name: profile for profile in shop.profiles()}
    assert functions(profiles["inner"])["inner"] > 0.2
    assert 0.2 < functions(profiles["outer"])["inner"] < 0.8
    assert functions(profiles["outer"])["outer"] > 0.4


def test_worker_threads_of_the_application(shop: Watched) -> None:
    """A request that waits for its own worker threads shows what they do for it, below the place where it waits."""

    def nap_there(seconds: float) -> None:
        # A thread that computes goes on while a busy machine keeps the sampler from looking; then nothing is shown.
        time.sleep(seconds)

    with ThreadPoolExecutor(2) as pool:
        shop.request(lambda: list(pool.map(nap_there, [0.4, 0.4])))
    profile = shop.profile()
    shares = functions(profile)
    assert shares["nap_there"] > 0.3
    paths = {tuple(frame.name for frame, _ in profile.stack_frames(sample.stack)) for sample in profile.samples}
    assert all("result" in path for path in paths if "nap_there" in path)


def test_threads_that_python_does_not_know(shop: Watched) -> None:
    """A request on a thread that was not started by ``threading``, as embedding servers have, is sampled too."""
    done = threading.Event()

    def serve() -> None:
        shop.request(wait_here)
        done.set()

    _thread.start_new_thread(serve, ())
    assert done.wait(30)
    assert functions(shop.profile())["wait_here"] > 0.2


def test_event_loop_is_not_mistaken_for_a_request(shop: Watched) -> None:
    """A span that starts in a callback of an event loop has a report that says why there is no stack."""

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        spans: list[Span] = []
        loop.call_soon(lambda: spans.append(shop.start()))
        await asyncio.sleep(SLOW)
        spans[0].end()

    asyncio.run(serve())
    profile = shop.profile()
    assert set(functions(profile)) == {BEFORE_FIRST_SAMPLE, NOT_SAMPLED}
    assert len(profile.notes) >= 1


# -- Requests that run very long, or hang.


def test_hung_request_leaves_a_partial_report() -> None:
    """A request that still runs after ``hung_after`` has a report marked as running; the final one replaces it."""
    with watched(hung_after=0.1) as shop:
        span = shop.start(attributes={"http.method": "GET", "http.route": "/hang"})
        (partial,) = eventually(lambda: shop.profiles()[:1])
        assert partial.running
        assert partial.id == span.attributes[ID]
        assert partial.duration_ns >= 100_000_000
        assert sum(sample.wall_ns for sample in partial.samples) == partial.duration_ns
        assert functions(partial)["test_hung_request_leaves_a_partial_report"] > 0.3
        span.end()
        final = shop.profiles()[-1]
        assert not final.running
        assert (final.id, final.name) == (partial.id, partial.name)
        assert final.duration_ns > partial.duration_ns
        assert shop.processor.status().reports == 1


def test_a_partial_report_is_taken_back() -> None:
    """A request that only its end leaves out, such as a websocket, has no report any more; its span says so."""
    with watched(hung_after=0.1) as shop:
        withdrawn: list[str] = []
        shop.processor.notifier.withdraw = withdrawn.append  # type: ignore[attr-defined]
        span = shop.start(attributes={"http.method": "GET", "http.scheme": "http", "http.target": "/chat"})
        (partial,) = eventually(lambda: shop.profiles()[:1])
        span.set_attribute("http.status_code", 101)
        span.end()
        assert all(profile.running for profile in shop.profiles())
        assert withdrawn == [partial.name]
        assert shop.attributes()["slowspan.profile.dropped"] == "not_selected"
        assert shop.processor.status().reports == 0


@pytest.mark.parametrize("why", ["its end lies below the threshold", "switched off", "off and on again"])
def test_a_partial_report_is_taken_back_from_what_is_not_slow(why: str) -> None:
    """A request that was told as still running, and is no slow one in the end, has no report any more."""
    with watched(hung_after=0.1) as shop:
        withdrawn: list[str] = []
        shop.processor.notifier.withdraw = withdrawn.append  # type: ignore[attr-defined]
        span = shop.start()
        (partial,) = eventually(lambda: shop.profiles()[:1])
        if why != "its end lies below the threshold":
            shop.processor.disable()
            if why == "off and on again":
                shop.processor.enable()
        span.end(span.start_time + 1_000_000 if why == "its end lies below the threshold" else None)
        assert all(profile.running for profile in shop.profiles())
        assert withdrawn == [partial.name]
        assert shop.attributes()["slowspan.profile.dropped"] == "not_selected"


def test_partial_report_is_renewed_as_the_age_doubles() -> None:
    """Partial reports come at ages of which each is at least twice the one before."""
    with watched(hung_after=0.1) as shop:
        span = shop.start()
        partial = eventually(lambda: shop.profiles() if len(shop.profiles()) >= 3 else None)
        span.end()
    ages = [profile.duration_ns for profile in partial]
    assert all(later >= 2 * earlier for earlier, later in itertools.pairwise(ages))


def test_no_partial_report_below_the_threshold() -> None:
    """A request that has not crossed its own threshold yet is not hung, however small ``hung_after`` is."""
    with watched(hung_after=0.1, threshold=0.05, thresholds="patient=20") as shop:
        patient, impatient = shop.start("patient"), shop.start("impatient", context=context.Context())
        eventually(lambda: shop.profiles())
        patient.end()
        impatient.end()
        assert {profile.span.name for profile in shop.profiles()} == {"impatient"}


def test_more_requests_than_recordings() -> None:
    """Beyond ``max_recordings`` a slow request has a report without samples that says so, and is counted."""
    with watched(max_recordings=1) as shop:
        first = shop.start("first")
        wait_until_linked(first)
        in_thread(lambda: shop.request(wait_here, name="second"))
        first.end()
        profiles = {profile.span.name: profile for profile in shop.profiles()}
        assert "wait_until_linked" in functions(profiles["first"])
        assert set(functions(profiles["second"])) - {BEFORE_FIRST_SAMPLE} == {NOT_SAMPLED}
        assert any("Too many" in note for note in profiles["second"].notes)
        assert shop.processor.status().drops == {"too_many_recordings": 1}


def test_long_request_stays_bounded() -> None:
    """A request with more samples than ``max_samples`` keeps fewer, at a coarser resolution, and all of its time."""
    with watched(max_samples=10, interval=0.001) as shop:
        span = shop.start()
        wait_until_linked(span)
        wait_here(0.3)
        span.end()
        profile = shop.profile()
    leaves = [profile.stack_frames(sample.stack)[-1][0] for sample in profile.samples]
    assert profile.sample_count > 10
    assert len([frame for frame in leaves if frame.file]) <= 10
    assert sum(sample.wall_ns for sample in profile.samples) == profile.duration_ns


def test_resolution_halves_and_not_more() -> None:
    """A full recording is sampled half as often, once per doubling: it is not thinned twice."""
    with watched(max_samples=20, interval=0.001, fine_switching=False) as shop:
        span = shop.start()
        wait_here(0.5)
        recording = next(iter(stack_sampler.shared.late))
        stride, count = recording.trace.stride, recording.trace.sample_count
        span.end()
    assert stride >= 4
    # With 20 kept, a sample every (stride / 2) ticks at least: one that thins twice takes the square root of that.
    assert count >= 20 * 0.5 * (stride.bit_length() - 1)


# -- No interpreter to look into.


def test_free_threaded_interpreter(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where stacks cannot be read safely the sampler stays off and says so, in the log, the status and the report."""
    monkeypatch.setattr("sys._is_gil_enabled", lambda: False, raising=False)
    caplog.set_level(logging.INFO)
    with watched() as shop:
        shop.request(wait_here)
        assert not [t for t in threading.enumerate() if t.name == "slowspan-sampler"]
        assert "free-threaded" in shop.processor.status().unavailable
        profile = shop.profile()
        assert set(functions(profile)) - {BEFORE_FIRST_SAMPLE} == {NOT_SAMPLED}
        assert profile.notes
    assert any("free-threaded" in record.getMessage() for record in caplog.records)


def test_no_thread_can_be_started(shop: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system refuses a thread the request does not notice; its report says that nothing was sampled."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        span = shop.start("refused")
        wait_here()
    span.end()
    shop.request(wait_here, name="next")
    profiles = {profile.span.name: profile for profile in shop.profiles()}
    assert set(functions(profiles["refused"])) - {BEFORE_FIRST_SAMPLE} == {NOT_SAMPLED}
    assert functions(profiles["next"])["wait_here"] > 0.2


def test_current_span_is_untouched(shop: Watched) -> None:
    """Watching changes neither the current span nor the context of the request."""
    before = context.get_current()
    span = shop.start()
    assert context.get_current() is before
    with trace.use_span(span, end_on_exit=True):
        assert trace.get_current_span() is span
        wait_here()
    assert context.get_current() is before
    assert len(shop.profiles()) == 1


# -- On many threads.


def test_threads_are_known_as_long_as_they_live(young_shop: Watched) -> None:
    """A thread is known from its first span to its end, so that another one with its id is never taken for it."""
    seen: list[carriers.ThreadCarrier] = []

    def request() -> None:
        young_shop.request(lambda: seen.append(known_threads[threading.get_ident()]))

    before = dict(known_threads)
    for _ in range(3):
        in_thread(request)
    assert known_threads == before
    assert len({carrier.native_id for carrier in seen}) == 3
    young_shop.request(lambda: None)
    assert known_threads[threading.get_ident()] == carriers.this_thread()


def test_no_span_is_lost_from_the_count(young_shop: Watched) -> None:
    """Threads count their spans without a lock; the interpreter never changes threads amid that."""
    count, threads = 2000, 8
    go = threading.Barrier(threads)

    def requests() -> None:
        go.wait(30)
        for _ in range(count):
            young_shop.start().end()

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        running = [threading.Thread(target=requests) for _ in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    finally:
        sys.setswitchinterval(usual)
    assert young_shop.processor.status().seen == count * threads


@pytest.mark.parametrize(
    ("options", "hours"),
    [
        ({}, 1),
        ({"threshold": 3600}, 2),
        ({"thresholds": {"/import": 18_000}}, 10),
        ({"hung_after": 7200}, 4),
        ({"span_kinds": "SERVER, CONSUMER"}, 168),
    ],
    ids=["request", "threshold", "route", "hung", "jobs"],
)
def test_how_long_a_span_may_run(options: dict[str, Any], hours: int) -> None:
    """None is given up before it could be slow; jobs and functions may take days."""
    with watched(**options) as shop:
        assert shop.processor._watcher.max_age_ns == hours * 3600 * 10**9
        assert shop.processor.function_watcher(0.1).max_age_ns == 168 * 3600 * 10**9
