"""Threads that serve a coroutine until it is done: what they do meanwhile is shown below the awaits that led to it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from opentelemetry.trace import SpanKind

from watched import LONG, Watched, compute_here, functions, paths, seconds_below

if TYPE_CHECKING:
    from collections.abc import Callable

    from slowspan import Profile


def check_order(shop: Watched, *names: str) -> None:
    """Check that the last function is shown, and nowhere without the other ones further out, in this order."""
    profile = shop.profile()
    seconds = seconds_below(profile, names[-1])
    assert seconds > LONG / 4
    assert seconds_below(profile, *names) == pytest.approx(seconds), paths(profile)


def compute_back_here() -> None:
    compute_here(LONG)


async def view() -> None:
    await sync_to_async(compute_back_here)()


def middleware() -> None:
    async_to_sync(view)()


# -- asgiref's.


def test_work_that_a_view_hands_back_to_the_thread_of_its_request(shop: Watched) -> None:
    """A view stands above what ``sync_to_async`` runs for it, which the thread of its caller does, as with Django."""
    shop.request(middleware)
    check_order(shop, "request", "middleware", "view", "compute_back_here")
    assert (shop.profile().cpu_time_ns or 0) > LONG / 20 * 1e9


def test_work_that_a_view_hands_back_to_a_thread_of_a_pool(shop: Watched) -> None:
    """The same where the thread itself works for a task: nothing from the task on is missing."""

    async def handle() -> None:
        with shop.provider.get_tracer("test").start_as_current_span("GET /", kind=SpanKind.SERVER):
            async with ThreadSensitiveContext():
                await sync_to_async(middleware)()

    asyncio.run(handle())
    check_order(shop, "handle", "middleware", "view", "compute_back_here")


def tell_slowly(tell: Callable[..., object], *args: Any, **options: Any) -> None:
    """Tell the loop that work is done, and let others run before it."""
    time.sleep(LONG)
    tell(*args, **options)


def rest_after_telling(tell: Callable[..., object], *args: Any, **options: Any) -> None:
    """Tell the loop that work is done, and let others run after it."""
    tell(*args, **options)
    time.sleep(LONG)


def tell_by(how: Callable[..., None]) -> None:
    """Have threads tell the running loop in another way that their work is done."""
    loop: Any = asyncio.get_running_loop()
    tell = loop.call_soon_threadsafe
    loop.call_soon_threadsafe = lambda *args, **options: how(tell, *args, **options)


def test_thread_that_tells_of_its_result(shop: Watched) -> None:
    """A thread that has the result, but has not told the event loop of it, is still above the view."""

    async def telling_view() -> None:
        tell_by(tell_slowly)
        awaits = threading.Event()
        asyncio.get_running_loop().call_soon(awaits.set)
        await sync_to_async(awaits.wait)()

    shop.request(async_to_sync(telling_view))
    check_order(shop, "telling_view", "tell_slowly")


def test_thread_that_has_told_of_its_result(shop: Watched) -> None:
    """When the view has gone on, it is what is shown, and not how the thread ends what it did for the view."""

    async def resting_view() -> None:
        tell_by(rest_after_telling)
        await sync_to_async(int)()
        await asyncio.sleep(LONG)

    shop.request(async_to_sync(resting_view))
    check_order(shop, "resting_view", "sleep")


def test_work_that_the_view_does_not_await(shop: Watched) -> None:
    """What a thread does for a task that the view only started is the request's, but not below what the view awaits."""

    async def starting_view() -> None:
        task = asyncio.create_task(sync_to_async(compute_back_here)())
        await asyncio.sleep(LONG)
        while not task.done():
            await asyncio.sleep(0.01)

    shop.request(async_to_sync(starting_view))
    profile = shop.profile()
    assert seconds_below(profile, "request", "compute_back_here") > LONG / 4
    assert not seconds_below(profile, "starting_view", "compute_back_here")
    assert "sleep" not in functions(profile) or seconds_below(profile, "starting_view", "sleep")


# -- Event loops inside a request.


async def inner() -> None:
    """Wait in an event loop that is the request's own, then compute there."""
    await asyncio.sleep(LONG)
    compute_here(LONG)


def by_asyncio() -> None:
    asyncio.run(inner())


def by_hand() -> None:
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(inner())


def by_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")
    uvloop.run(inner())


LOOPS = [by_asyncio, by_hand, by_uvloop]


def check_loop(profile: Profile, *names: str) -> None:
    """Check that a request's own event loop shows what runs in it or waits in it, and not how it waits itself."""
    assert seconds_below(profile, *names, "inner", "sleep") > LONG / 4
    assert seconds_below(profile, *names, "inner", "compute_here") > LONG / 4
    assert functions(profile).get("select", 0) < 0.1
    inside = functions(profile)["inner"]
    assert functions(profile)[names[-1]] > 0.9 * inside


@pytest.mark.parametrize("work", LOOPS)
def test_event_loop_in_a_request(shop: Watched, work: Callable[[], None]) -> None:
    """Of a loop that a request runs the coroutine's awaits are shown below the function that runs it."""
    shop.request(work)
    check_loop(shop.profile(), "request", work.__name__)


@pytest.mark.parametrize("work", LOOPS)
def test_event_loop_in_a_thread_of_a_task(shop: Watched, work: Callable[[], None]) -> None:
    """The same in a thread that works for a task, as a function of FastAPI's: the function is there all the time."""

    async def handle() -> None:
        with shop.provider.get_tracer("test").start_as_current_span("GET /", kind=SpanKind.SERVER):
            await asyncio.to_thread(work)

    asyncio.run(handle())
    check_loop(shop.profile(), "handle", work.__name__)


@pytest.mark.parametrize("work", [by_asyncio, by_hand])
def test_event_loop_in_a_thread_of_anyio(shop: Watched, work: Callable[[], None]) -> None:
    """The same in a thread of anyio's."""
    to_thread = pytest.importorskip("anyio.to_thread")

    async def handle() -> None:
        with shop.provider.get_tracer("test").start_as_current_span("GET /", kind=SpanKind.SERVER):
            await to_thread.run_sync(work)

    asyncio.run(handle())
    check_loop(shop.profile(), "handle", work.__name__)
    assert "_bootstrap" not in functions(shop.profile())


def test_child_task_of_an_event_loop_in_a_request(shop: Watched) -> None:
    """While a task has the thread that the coroutine does not await now, the thread's own stack is shown."""

    async def starting() -> None:
        task = asyncio.create_task(inner())
        await asyncio.sleep(3 * LONG)
        await task

    def work() -> None:
        asyncio.run(starting())

    shop.request(work)
    profile = shop.profile()
    assert seconds_below(profile, "work", "starting", "sleep") > LONG / 4
    assert seconds_below(profile, "work", "inner", "compute_here") > LONG / 4
    assert not seconds_below(profile, "starting", "compute_here")


def test_future_that_an_event_loop_in_a_request_waits_for(shop: Watched) -> None:
    """A loop that runs until a future is done waits there."""

    def work() -> None:
        with contextlib.closing(asyncio.new_event_loop()) as loop:
            future = loop.create_future()
            loop.call_later(LONG, future.set_result, None)
            loop.run_until_complete(future)

    shop.request(work)
    profile = shop.profile()
    assert seconds_below(profile, "work", "run_until_complete") > LONG / 4
    assert functions(profile).get("select", 0) < 0.1


def test_event_loop_that_ends(shop: Watched) -> None:
    """When the coroutine is done, what the loop still waits for is shown: the threads of its pool."""

    async def leaving() -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(time.sleep, 2 * LONG), 0.01)

    def work() -> None:
        asyncio.run(leaving())

    shop.request(work)
    assert seconds_below(shop.profile(), "work", "run_until_complete", "shutdown_default_executor") > LONG / 4
