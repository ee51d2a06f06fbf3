"""The inline engine: a profiler in the request's own thread, which gets out of everybody's way."""

from __future__ import annotations

import asyncio
import cProfile
import gc
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.trace import SpanKind
from pyinstrument import Profiler

from slowspan.recording.session import thin_out
from support import eventually
from watched import Watched, compute_here, functions, in_thread, wait_here, watched

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def shop() -> Iterator[Watched]:
    """Return a watched provider with the inline engine."""
    with watched(engine="inline", interval=0.001) as shop:
        yield shop


def first_thing() -> None:
    """Be called in the first milliseconds of a request."""
    compute_here(0.01)


def request() -> None:
    """Do something at once, then wait."""
    first_thing()
    wait_here()


def test_profile_begins_with_the_request(shop: Watched) -> None:
    """The inline engine sees a request from its first instant: nothing is before the first sample but a moment."""
    shop.request(request)
    profile = shop.profile()
    shares = functions(profile)
    assert profile.engine == "inline"
    assert shares["wait_here"] > 0.2
    assert shares["first_thing"] > 0.01
    assert shares.get("[before the first sample]", 0) < 0.3
    assert sum(sample.wall_ns for sample in profile.samples) == profile.duration_ns
    assert shop.attributes()["slowspan.samples"] == profile.sample_count > 0


def test_samples_are_bounded() -> None:
    """A long request is kept at a coarser resolution, and its times still add up."""
    with watched(engine="inline", interval=0.001, max_samples=10) as shop:
        shop.request(lambda: compute_here(0.5))
        profile = shop.profile()
        assert profile.engine == "inline"
        assert 10 <= profile.sample_count <= 150
        assert functions(profile)["compute_here"] > 0.2
        assert sum(sample.wall_ns for sample in profile.samples) == profile.duration_ns


def test_thinning_keeps_the_time() -> None:
    """Of two neighbours the longer one stays, with the time of both; few are left alone, and so is one that stopped."""
    profiler = Profiler(interval=0.001, async_mode="disabled")
    profiler.start()
    session = profiler._active_session
    session.frame_records[:] = [(["a"], 1.0), (["b"], 3.0), (["c"], 2.0), (["d"], 1.0), (["e"], 5.0)]
    records = session.frame_records
    thin_out(profiler, 100)
    assert records[:5] == [(["a"], 1.0), (["b"], 3.0), (["c"], 2.0), (["d"], 1.0), (["e"], 5.0)]
    del records[5:]
    thin_out(profiler, 2)
    assert records[:3] == [(["b"], 4.0), (["c"], 3.0), (["e"], 5.0)]
    profiler.stop()
    thin_out(profiler, 1)


def test_frames_are_pyinstruments_own(shop: Watched) -> None:
    """The session of an inline profile has the classes and lines that pyinstrument itself tells."""

    class Orders:
        def load(self) -> None:
            wait_here()

    shop.request(Orders().load)
    profile = shop.profile()
    (frame,) = {frame for frame in profile.frames if frame.name == "load"}
    assert frame.class_name == "Orders"
    assert frame.first_line == Orders.load.__code__.co_firstlineno
    assert abs(profile.session().duration - profile.duration_ns / 1e9) < 1e-6


def test_fast_request_leaves_no_hook() -> None:
    """After a fast request the thread is not being profiled, and there is no report."""
    with watched(engine="inline", threshold=60) as shop:
        shop.request(lambda: None)
        assert sys.getprofile() is None
        assert shop.profiles() == []


def test_exception_of_the_request(shop: Watched) -> None:
    """An exception ends the request and its profile, and leaves no hook."""

    def fail() -> None:
        wait_here()
        raise KeyError("the application's own")

    with pytest.raises(KeyError, match="the application's own"):
        shop.request(fail)
    assert sys.getprofile() is None
    assert shop.profile().engine == "inline"


def test_span_that_ends_on_another_thread(shop: Watched) -> None:
    """A span that ends elsewhere raises nothing, still has a report, and its thread can be profiled again."""
    ended = threading.Event()
    hooks = []

    def serve() -> None:
        span = shop.start("elsewhere")
        wait_here()
        threading.Thread(target=lambda: (span.end(), ended.set())).start()
        assert ended.wait(30)
        compute_here(0.05)
        hooks.append(sys.getprofile())
        shop.request(request, name="again")

    in_thread(serve)
    profiles = {profile.span.name: profile for profile in shop.profiles()}
    assert hooks == [None]
    assert functions(profiles["elsewhere"])["wait_here"] > 0.2
    assert profiles["again"].engine == "inline"
    assert "internal_error" not in shop.processor.status().drops


def foreign_profilers() -> dict[str, Any]:
    """Return profilers that a user may have running, each with how to start and stop it."""

    def hook(*args: object) -> None: ...

    c_profile, pyinstrument = cProfile.Profile(), Profiler()
    return {
        "sys.setprofile": (lambda: sys.setprofile(hook), lambda: sys.setprofile(None)),
        "cProfile": (c_profile.enable, c_profile.disable),
        "pyinstrument": (pyinstrument.start, pyinstrument.stop),
    }


@pytest.mark.parametrize("name", list(foreign_profilers()))
def test_users_own_profiler(shop: Watched, name: str) -> None:
    """A profiler of the user's own goes on undisturbed; where both would use the same hook, ours makes way."""
    start, stop = foreign_profilers()[name]
    start()
    try:
        before = sys.getprofile()
        shop.request(request)
        assert sys.getprofile() is before
    finally:
        stop()
    profile = shop.profile()
    # From 3.12 on cProfile has a hook of its own.
    assert profile.engine == ("inline" if before is None else "thread")
    assert functions(profile)["wait_here"] > 0.2
    assert "internal_error" not in shop.processor.status().drops


def test_users_own_profiler_inside_the_request(shop: Watched) -> None:
    """A profiler that the request itself starts and stops works, and the request has its report."""

    def profiled_request() -> None:
        profiler = cProfile.Profile()
        try:
            profiler.enable()
        except ValueError:
            pass  # 3.12+: another profiler is active.
        else:
            wait_here()
            profiler.disable()
        wait_here()

    shop.request(profiled_request)
    assert sys.getprofile() is None
    assert sum(sample.wall_ns for sample in shop.profile().samples) == shop.profile().duration_ns


def test_nested_requests(shop: Watched) -> None:
    """Of a request inside a request the outer one is profiled inline, and the inner one has a report, too."""

    def outer() -> None:
        with shop.provider.get_tracer("test").start_as_current_span("inner", kind=SpanKind.SERVER):
            wait_here()

    with shop.provider.get_tracer("test").start_as_current_span("outer", kind=SpanKind.SERVER):
        outer()
    profiles = {profile.span.name: profile for profile in shop.profiles()}
    assert profiles["outer"].engine == "inline"
    assert functions(profiles["outer"])["wait_here"] > 0.2
    assert functions(profiles["inner"])["wait_here"] > 0.3
    assert sys.getprofile() is None


def test_several_threads_at_once(shop: Watched) -> None:
    """Several requests at the same time have profilers of their own."""
    threads = [threading.Thread(target=shop.request, args=(request, f"request {n}")) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    profiles = shop.profiles()
    assert {profile.span.name for profile in profiles} == {f"request {n}" for n in range(4)}
    for profile in profiles:
        assert profile.engine == "inline"
        assert {"first_thing", "wait_here"} <= set(functions(profile))
        assert sum(sample.wall_ns for sample in profile.samples) == profile.duration_ns


def test_sampler_comes_while_a_request_ends() -> None:
    """A request that becomes late at the moment of its end keeps the profiler that its end has to stop."""
    with watched(engine="inline", threshold=60, start_after=60) as shop:
        watching = shop.processor._watcher
        span = shop.start()
        young = watching.young.pop(span)
        assert watching._spans.move_on(span, young) is None
        watching._finish(span, young, span.start_time + 1)
        assert sys.getprofile() is None
        assert watching._spans.recordings == {}
        span.end()


def test_event_loop_is_not_profiled(shop: Watched) -> None:
    """A task of an event loop gets no profiler, which would see all tasks."""

    async def task() -> None:
        with shop.provider.get_tracer("test").start_as_current_span("task", kind=SpanKind.SERVER):
            assert sys.getprofile() is None
            await asyncio.sleep(0.1)

    asyncio.run(task())
    assert shop.profile().engine == "thread"


def test_disabled_while_running(shop: Watched) -> None:
    """A request that is running when slowspan is disabled or shut down ends without a hook and without a report."""
    for stop in (shop.processor.disable, shop.provider.shutdown):
        shop.processor.enable()
        span = shop.start()
        wait_here(0.1)
        stop()
        span.end()
        assert sys.getprofile() is None
    assert shop.processor.notifier.reports == ()


def test_span_that_is_never_ended(shop: Watched) -> None:
    """A span that is thrown away takes its profiler with it."""
    hooks: list[object] = []

    def serve() -> None:
        shop.start()

        def is_gone() -> bool:
            gc.collect()
            hooks.append(sys.getprofile())
            return hooks[-1] is None

        eventually(is_gone, timeout=10)

    in_thread(serve)
