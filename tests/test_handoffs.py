"""Work that was handed on and is done, while the event loop has not noticed: nobody else's work is shown for it."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import Queue
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from anyio import to_thread
from opentelemetry.trace import SpanKind

from slowspan.recording.handoffs import SUSPENDED, Onward
from slowspan.recording.synthetic import WAITING_FOR_LOOP
from watched import Watched, functions, watched

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LONG = 0.3


def own_work() -> None:
    time.sleep(0.1)


def work_of_others() -> None:
    time.sleep(2 * LONG)


def hold_the_loop() -> None:
    time.sleep(LONG)


def hold_the_thread() -> None:
    time.sleep(LONG)


async def handle(shop: Watched, work: Callable[[], Awaitable[object]]) -> None:
    """Serve a request, in the beginning of which the loop is held until its work has long been done."""
    asyncio.get_running_loop().call_later(0.05, hold_the_loop)
    with shop.provider.get_tracer("test").start_as_current_span("GET /", kind=SpanKind.SERVER):
        await work()


def check(shop: Watched) -> None:
    """Check that the time with the result, but without the loop, is shown as that."""
    shares = functions(shop.profile())
    assert "own_work" in shares, shares
    assert shares[WAITING_FOR_LOOP] > 0.1
    assert "work_of_others" not in shares
    assert "get" not in shares  # In which an idle worker waits.


@pytest.mark.parametrize("library", ["asyncio", "anyio"])
def test_thread_that_is_done(library: str) -> None:
    """When the thread is done, and works for somebody else, the request waits for the loop."""

    async def serve(shop: Watched) -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as pool:
            work: Any = partial(loop.run_in_executor, pool, own_work)
            request = loop.create_task(
                handle(shop, work if library == "asyncio" else partial(to_thread.run_sync, own_work))
            )
            await asyncio.sleep(0.01)
            await asyncio.gather(request, loop.run_in_executor(pool, work_of_others))

    with watched() as shop:
        asyncio.run(serve(shop))
        check(shop)


def test_thread_that_begins_late() -> None:
    """Work that is in a pool's queue at first is found when a thread has taken it up."""

    async def serve(shop: Watched) -> None:
        loop = asyncio.get_running_loop()
        with (
            ThreadPoolExecutor(1) as pool,
            shop.provider.get_tracer("test").start_as_current_span("GET /", kind=SpanKind.SERVER),
        ):
            others = loop.run_in_executor(pool, hold_the_thread)
            await loop.run_in_executor(pool, own_work)
            await others

    with watched() as shop:
        asyncio.run(serve(shop))
        shares = functions(shop.profile())
        assert "own_work" in shares, shares
        assert "hold_the_thread" not in shares


def test_thread_that_has_not_begun() -> None:
    """While its work is in the queue of a thread, what that thread's frames show is not the request's."""
    [(_, onward)] = SUSPENDED["run_sync_in_worker_thread"]
    loop = asyncio.new_event_loop()
    worker = SimpleNamespace(queue=Queue(2), ident=42)
    names = {"worker": worker, "future": loop.create_future()}
    worker.queue.put("work")
    assert onward(names) == Onward(in_queue=True)
    worker.queue.get()
    assert onward(names) == Onward(thread_id=42)
    worker.queue.put(None)  # An order to stop after that.
    assert onward(names) == Onward(thread_id=42)
    loop.close()
