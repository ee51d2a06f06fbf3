"""Profiled asynchronous generators: each item may be taken by another task, and only the generator's work is shown."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import slowspan
from functions import NEVER
from slowspan.recording import stack_sampler
from slowspan.recording.carriers import ThreadCarrier
from slowspan.recording.generators import GeneratorFollower
from slowspan.recording.sight import Sight, State
from slowspan.recording.synthetic import IN_CONSUMER, WAITING_FOR_LOOP
from slowspan.recording.turns import Turns
from watched import ENOUGH, WatchingProcessor, functions, in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable


def samples_to_come() -> Callable[[], bool]:
    """Return what tells whether the sampler has come by a few times since; it gives up on one that does not."""
    deadline = time.monotonic() + 10

    def count() -> int:
        return sum(recording.trace.sample_count for recording in stack_sampler.shared.late if recording.trace)

    wanted = count() + ENOUGH
    return lambda: count() < wanted and time.monotonic() < deadline


async def pause() -> None:
    """Wait until the sampler has seen it."""
    is_missing = samples_to_come()
    while is_missing():
        await asyncio.sleep(0.01)


def hold() -> None:
    """Compute until the sampler has seen it."""
    is_missing = samples_to_come()
    while is_missing():
        sum(range(200))


@slowspan.profile("items", threshold=0.05)
async def items() -> AsyncGenerator[int, None]:
    """Wait and compute for each item."""
    for number in range(3):
        await produce()
        yield number


async def produce() -> None:
    await pause()
    hold()


async def take_all(running: AsyncGenerator[int, None]) -> None:
    async for _ in running:
        pass


def test_items_taken_by_another_task(alone: WatchingProcessor) -> None:
    """Once another task takes the items the first one is not shown any more, but the task that does."""

    async def unrelated(other: asyncio.Task[None]) -> None:
        while not other.done():
            await asyncio.sleep(0.01)

    async def run() -> None:
        running = items()
        await running.__anext__()
        await unrelated(asyncio.create_task(take_all(running)))

    asyncio.run(run())
    shares = functions(alone.profile())
    assert "unrelated" not in shares
    assert shares["take_all"] > 0.2
    assert min(shares["pause"], shares["hold"]) > 0.1
    assert shares["produce"] > 0.6


def test_a_task_for_each_item(alone: WatchingProcessor) -> None:
    """Where each item has a task of its own, as in ``wait_for`` before Python 3.12, all of them are seen."""

    async def run() -> None:
        running = items()
        for _ in range(3):
            await asyncio.create_task(running.__anext__())  # type: ignore[arg-type]
        await take_all(running)

    asyncio.run(run())
    profile = alone.profile()
    assert profile.notes == ()
    shares = functions(profile)
    assert min(shares["pause"], shares["hold"]) > 0.1
    assert shares["produce"] > 0.6
    assert shares.get(WAITING_FOR_LOOP, 0) < 0.2


def test_items_taken_on_another_thread(alone: WatchingProcessor) -> None:
    """An event loop on another thread that takes the items is where the generator is seen."""
    running = items()
    asyncio.run(asyncio.wait_for(running.__anext__(), None))
    in_thread(lambda: asyncio.run(take_all(running)))
    shares = functions(alone.profile())
    assert "in_thread" not in shares
    assert shares["take_all"] > 0.2
    assert shares["produce"] > 0.6


def test_generator_that_is_left(alone: WatchingProcessor) -> None:
    """What a generator does when its consumer has left it is shown, not what the consumer does next."""
    closed = []

    @slowspan.profile("endless", threshold=0.05)
    async def endless() -> AsyncGenerator[int, None]:
        try:
            while True:
                await pause()
                yield 1
        finally:
            await tidy_up()
            closed.append(True)

    async def tidy_up() -> None:
        await pause()

    async def go_on() -> None:
        while not closed:
            await asyncio.sleep(0.01)

    async def run() -> None:
        async for _ in endless():
            break
        await go_on()

    asyncio.run(run())
    shares = functions(alone.profile())
    assert "go_on" not in shares
    assert shares["tidy_up"] > 0.1


@pytest.mark.parametrize("fails", [False, True])
def test_task_that_took_an_item_is_not_kept(alone: WatchingProcessor, fails: bool) -> None:
    """A task that has ended, with an item or an exception, is not kept until the next item or a collection."""

    @slowspan.profile("items", threshold=NEVER)
    async def items() -> AsyncGenerator[int, None]:
        yield 1
        if fails:
            raise LookupError
        yield 2

    async def take(running: Any) -> weakref.ref[Any]:
        task = asyncio.create_task(running.__anext__())
        await asyncio.wait([task])
        assert (task.exception() is not None) == fails
        return weakref.ref(task)

    async def run() -> None:
        running = items()
        await running.__anext__()
        task = await take(running)
        await asyncio.sleep(0)  # The event loop keeps it for as long as it runs what has waited for it.
        assert task() is None
        await running.aclose()

    gc.disable()
    try:
        asyncio.run(run())
    finally:
        gc.enable()


class _Consumer(NamedTuple):
    """A consumer that gets its item while it is looked at."""

    turns: Turns
    thread_id: int = 0

    shares_thread = True

    def follower(self) -> _Consumer:
        return self

    def look(self, *_: object) -> Sight:
        self.turns.end()
        return Sight([], 0, State.ON_THREAD)


class _AtWork(Turns):
    """An asynchronous generator that awaits something."""

    ag_running = True

    def __init__(self) -> None:
        super().__init__(self, ThreadCarrier(-1, -1))


def test_item_that_is_made_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a consumer shows that has got its item, or has ended, at this very instant is not the generator's."""
    turns = _AtWork()
    follower = GeneratorFollower(weakref.ref(turns), ThreadCarrier(-2, -2))
    assert follower.look({}) is None  # Its thread has ended.
    consumer: Any = _Consumer(turns)
    monkeypatch.setattr(_AtWork, "carrier", lambda _: consumer)
    assert follower.look({}) is None
    assert turns.taker is None
    monkeypatch.setattr(_AtWork, "ag_running", False)
    sight = follower.look({})
    assert sight is not None
    assert sight.flat[0].co_name == IN_CONSUMER  # type: ignore[union-attr]
