"""Work that was handed on and is done, while the event loop has not noticed: nobody else's work is shown for it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import Queue
from threading import Barrier, Event, Thread, get_ident
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from weakref import ref

import pytest
from anyio import to_thread
from opentelemetry.trace import SpanKind

from slowspan.recording import walk
from slowspan.recording.following import TaskFollower, ThreadFollower
from slowspan.recording.handoffs import SUSPENDED, Onward
from slowspan.recording.stacks import all_frames
from slowspan.recording.synthetic import WAITING_FOR_LOOP
from support import eventually
from watched import LONG, Watched, functions, watched

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from types import FrameType

    from slowspan.recording.sight import Sight


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


def test_all_threads_of_a_map_work_for_who_waits_for_it() -> None:
    """A thread that waits for the first result of ``Executor.map`` has all threads at work for it, and no others."""
    release, taken, taken_by_others = Event(), Barrier(3), Barrier(2)

    def work(taken: Barrier) -> int:
        taken.wait(30)
        release.wait(30)
        return get_ident()

    def look() -> Sight | None:
        with all_frames() as frames:
            return ThreadFollower(home.ident or 0).look(frames)

    threads: list[int] = []
    with ThreadPoolExecutor(3) as pool:
        others = pool.submit(work, taken_by_others)
        home = Thread(target=lambda: threads.extend(pool.map(work, [taken, taken])))
        home.start()
        taken_by_others.wait(30)
        taken.wait(30)
        eventually(lambda: len(getattr(look(), "guests", ())) > 0)
        sight = look()
        release.set()
        home.join()
    assert sight is not None
    assert sight.guests == set(threads)
    assert others.result() not in sight.guests


@contextlib.contextmanager
def looks_at_children(count: int, *, as_tasks: bool = False) -> Iterator[tuple[list[Sight], set[int]]]:
    """Look at a task that waits for functions in a pool; give the looks, and the two threads of the pool."""
    release, are_waiting, taken = Event(), Event(), Barrier(3)
    threads: list[int] = []

    def work() -> None:
        threads.append(get_ident())
        if not release.is_set():
            taken.wait(30)
            release.wait(30)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        children: list[Any] = [loop.run_in_executor(pool, work) for _ in range(count)]
        if as_tasks:
            children = [asyncio.ensure_future(asyncio.wait_for(child, None)) for child in children]
        tasks.append(asyncio.current_task())
        loop.call_soon(are_waiting.set)  # The children come first.
        await asyncio.gather(*children)

    tasks: list[Any] = []
    with ThreadPoolExecutor(2) as pool:
        home = Thread(target=lambda: asyncio.run(serve()))
        home.start()
        taken.wait(30)
        are_waiting.wait(30)
        follower = TaskFollower(ref(tasks[0]), home.ident or 0)
        looks = []
        for _ in range(20):
            with all_frames() as frames:
                looks.append(follower.look(frames))
        try:
            yield [sight for sight in looks if sight is not None], set(threads)
        finally:
            release.set()
            home.join()


@pytest.mark.parametrize("as_tasks", [False, True])
def test_threads_at_work_for_a_few_of_many_children(as_tasks: bool) -> None:
    """Of a hundred children that wait side by side, those are shown, in turns, for which the pool's threads work."""
    with looks_at_children(100, as_tasks=as_tasks) as (looks, threads):
        assert len(looks) > 10
        assert {sight.thread_id for sight in looks} == threads
        assert {sight.guests for sight in looks} == {frozenset(threads)}


def test_only_the_thread_that_is_shown_must_not_have_gone_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look counts although the other threads that compute for the request have run meanwhile: they always do."""
    asked: list[set[int]] = []

    def are_innermost(frames: Mapping[int, FrameType]) -> bool:
        asked.append(set(frames))
        return True

    monkeypatch.setattr(walk, "are_innermost", are_innermost)
    with looks_at_children(2) as (looks, threads):
        assert {sight.guests for sight in looks} == {frozenset(threads)}
        assert [{sight.thread_id} for sight in looks] == asked
