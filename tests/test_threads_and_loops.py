"""A thread that has an event loop do a part of its work, and waits for it: the part is shown where it is done."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import anyio.from_thread
import anyio.to_thread
import pytest

from slowspan.recording.synthetic import WAITING_FOR_LOOP
from watched import LONG, Watched, compute_for, functions, handle, seconds_below

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def hold_the_loop() -> None:
    """Block the event loop."""
    time.sleep(LONG)


@contextlib.contextmanager
def loop_in_background() -> Iterator[asyncio.AbstractEventLoop]:
    """Run an event loop in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def part() -> None:
    """Wait, then have the event loop for a while."""
    await asyncio.sleep(LONG)
    hold_the_loop()


async def steps() -> None:
    """Need the event loop again and again."""
    for _ in range(20):
        await asyncio.sleep(0.01)


def call_with_asyncio(work: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
    """Have the loop do something."""
    asyncio.run_coroutine_threadsafe(work(), loop).result()


def call_with_anyio(work: Callable[[], Any], _loop: asyncio.AbstractEventLoop) -> None:
    """Have the loop do something that began this thread's work."""
    anyio.from_thread.run(work)


@pytest.mark.parametrize("call", [call_with_asyncio, call_with_anyio])
def test_task_that_works_for_a_thread_of_the_request(shop: Watched, call: Callable[..., None]) -> None:
    """What a request's thread has its own event loop do is shown below it, while it runs and while it waits."""

    async def serve() -> None:
        await anyio.to_thread.run_sync(call, part, asyncio.get_running_loop())

    asyncio.run(handle(shop, serve))
    profile = shop.profile()
    assert seconds_below(profile, "handle", "serve", call.__name__, "result", "part", "hold_the_loop") > LONG / 4
    assert seconds_below(profile, call.__name__, "result", "part", "sleep") > LONG / 4
    assert functions(profile).get("wait", 0) < 0.2  # Until the loop has taken it up.


def test_task_that_works_for_a_thread(shop: Watched) -> None:
    """What a request on a thread has another thread's event loop do is shown below it."""
    with loop_in_background() as loop:
        shop.request(lambda: call_with_asyncio(part, loop))
    profile = shop.profile()
    assert seconds_below(profile, "call_with_asyncio", "result", "part", "hold_the_loop") > LONG / 4
    assert seconds_below(profile, "call_with_asyncio", "result", "part", "sleep") > LONG / 4
    assert "run_forever" not in functions(profile)


def test_thread_that_waits_for_an_event_loop(shop: Watched) -> None:
    """Where somebody else holds that loop the request waits for it; who does is not its work."""
    with loop_in_background() as loop:
        loop.call_soon_threadsafe(loop.call_later, 0.1, hold_the_loop)
        shop.request(lambda: call_with_asyncio(steps, loop))
    profile = shop.profile()
    assert seconds_below(profile, "call_with_asyncio", "steps", "sleep", WAITING_FOR_LOOP) > LONG / 4
    assert "hold_the_loop" not in functions(profile)


def test_holder_of_another_loop_is_not_named(shop: Watched) -> None:
    """A request that waits for another thread's event loop is not said to wait for who holds its own."""

    def hold_at_home() -> None:
        time.sleep(2 * LONG)

    async def serve() -> None:
        with loop_in_background() as loop:
            loop.call_soon_threadsafe(loop.call_later, 0.1, hold_the_loop)
            asyncio.get_running_loop().call_later(0.05, hold_at_home)
            await asyncio.to_thread(call_with_asyncio, steps, loop)

    asyncio.run(handle(shop, serve))
    profile = shop.profile()
    assert seconds_below(profile, "serve", "call_with_asyncio", "steps", "sleep", WAITING_FOR_LOOP) > LONG / 4
    assert seconds_below(profile, "steps", WAITING_FOR_LOOP, "hold_at_home") == 0


def test_work_that_the_loop_has_not_taken_up(shop: Watched) -> None:
    """Until the loop has taken the work up the thread is shown where it waits."""
    with loop_in_background() as loop:
        loop.call_soon_threadsafe(hold_the_loop)
        shop.request(lambda: call_with_asyncio(steps, loop))
    profile = shop.profile()
    assert seconds_below(profile, "call_with_asyncio", "result", "wait") > LONG / 4
    assert "hold_the_loop" not in functions(profile)


async def bursts() -> None:
    """Compute for 0.3 s in all, and wait in between."""
    for _ in range(30):
        compute_for(0.01)
        await asyncio.sleep(0.01)


async def one_sleep() -> None:
    """Need the event loop at the end only."""
    await asyncio.sleep(2 * LONG)


def computed(shop: Watched) -> float:
    """Return the seconds that the request has computed, as its profile tells."""
    return sum(sample.cpu_ns for sample in shop.profile().samples) / 1e9


def test_computing_in_the_loop_of_another_thread(shop: Watched) -> None:
    """What the request's task computes between its waits is the request's, however short it is each time."""
    with loop_in_background() as loop:
        shop.request(lambda: call_with_asyncio(bursts, loop))
    assert computed(shop) == pytest.approx(0.3, rel=0.4)


def test_what_others_compute_in_the_loop_of_another_thread(shop: Watched) -> None:
    """While the request's task waits there, the loop's thread computes for others."""
    with loop_in_background() as loop:
        other = asyncio.run_coroutine_threadsafe(bursts(), loop)
        shop.request(lambda: call_with_asyncio(one_sleep, loop))
        other.result()
    assert computed(shop) < 0.1
