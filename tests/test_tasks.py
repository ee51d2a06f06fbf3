"""Requests in asyncio tasks: their own frames, running or suspended, wherever their work goes on."""

from __future__ import annotations

import asyncio
import functools
import itertools
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import FunctionType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import uvloop
from tornado import gen

from slowspan.recording import runners
from slowspan.recording.gauge import HAS_THREAD_CLOCKS
from slowspan.recording.synthetic import BEFORE_FIRST_SAMPLE, HELD_THE_LOOP, WAITING_FOR_LOOP
from slowspan.report.summary import hot_lines, time_shares
from watched import LONG, Watched, compute_for, compute_here, functions, handle, paths, seconds_below

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Return what runs a coroutine in a new event loop of each kind."""

    def run_in_loop(coroutine: Any) -> Any:
        loop = uvloop.new_event_loop() if request.param == "uvloop" else asyncio.new_event_loop()
        try:
            return loop.run_until_complete(coroutine)
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    return run_in_loop


async def nap(seconds: float = LONG) -> None:
    """Wait."""
    await asyncio.sleep(seconds)


async def stuck_on_lock() -> None:
    """Wait for a lock that is let go of later."""
    lock = asyncio.Lock()
    await lock.acquire()
    asyncio.get_running_loop().call_later(LONG, lock.release)
    await lock.acquire()


async def numbers() -> AsyncIterator[int]:
    """Yield something after a while."""
    await nap()
    yield 1


async def over_generator() -> None:
    """Wait for an asynchronous generator."""
    async for _ in numbers():
        pass


async def over_generator_by_hand() -> None:
    """Wait for an asynchronous generator's next value, if there is one."""
    await anext(numbers(), 0)


async def with_gather() -> None:
    """Wait for children, of which one goes on longer."""
    await asyncio.gather(nap(0.05), nap())


async def with_wait() -> None:
    """Wait for children."""
    await asyncio.wait([asyncio.ensure_future(nap())])


async def with_wait_for() -> None:
    """Wait for a child with a time limit."""
    await asyncio.wait_for(nap(), 30)


async def with_shield() -> None:
    """Wait for a child that is protected from cancelling."""
    await asyncio.shield(nap())


async def with_task() -> None:
    """Wait for a child."""
    await asyncio.create_task(nap())


@pytest.mark.parametrize(
    ("work", "chain"),
    [
        (nap, ("handle", "nap", "sleep")),
        (stuck_on_lock, ("handle", "stuck_on_lock", "acquire")),
        (over_generator, ("handle", "over_generator", "numbers", "nap", "sleep")),
        (over_generator_by_hand, ("handle", "over_generator_by_hand", "numbers", "nap", "sleep")),
        (with_gather, ("handle", "with_gather", "nap", "sleep")),
        (with_wait, ("handle", "with_wait", "wait", "_wait", "nap", "sleep")),
        (with_wait_for, ("handle", "with_wait_for", "wait_for", "nap", "sleep")),
        (with_shield, ("handle", "with_shield", "nap", "sleep")),
        (with_task, ("handle", "with_task", "nap", "sleep")),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_suspended_task_shows_its_awaits(
    run: Callable[[Any], Any], shop: Watched, work: Callable[[], Awaitable[object]], chain: tuple[str, ...]
) -> None:
    """A suspended task shows the awaits down to what it waits for, through child tasks, and nobody else's."""

    async def both() -> None:
        await asyncio.gather(handle(shop, work), busy_elsewhere())

    async def busy_elsewhere() -> None:
        for _ in range(20):
            time.sleep(0.001)
            await asyncio.sleep(0.01)

    run(both())
    profile = shop.profile()
    assert seconds_below(profile, *chain) > LONG / 4
    assert "busy_elsewhere" not in {name for path in paths(profile) for name in path if WAITING_FOR_LOOP not in path}
    assert (profile.cpu_time_ns or 0) < LONG / 3 * 1e9


class Written:
    """Awaits a future by an iterator that is written by hand, so that nothing leads from it to the future."""

    def __init__(self, future: Any) -> None:
        self._future = [future]

    def __await__(self) -> Iterator[Any]:
        return self

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        (future,) = self._future
        if future.done():
            raise StopIteration
        future._asyncio_future_blocking = True
        return future


async def yielding(future: Any) -> None:
    """Await a future by a generator that yields it."""

    class Yielded:
        def __await__(self) -> Iterator[Any]:
            future._asyncio_future_blocking = True
            yield future

    await Yielded()


async def written(future: Any) -> None:
    """Await a future by an iterator."""
    await Written(future)


@pytest.mark.parametrize("wait", [written, yielding])
def test_own_awaitable_is_a_wait(
    run: Callable[[Any], Any], shop: Watched, wait: Callable[[Any], Awaitable[object]]
) -> None:
    """An awaitable of the application's own class is waited for: nobody is said to keep the task from going on."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_later(LONG, future.set_result, None)
        await wait(future)

    run(handle(shop, work))
    profile = shop.profile()
    assert seconds_below(profile, "work", wait.__name__) > LONG / 4
    assert functions(profile).get(WAITING_FOR_LOOP, 0) < 0.1


def make_group() -> Any:
    """Return a task group of asyncio, or of anyio where asyncio has none yet."""
    return asyncio.TaskGroup() if sys.version_info >= (3, 11) else anyio.create_task_group()


@pytest.mark.parametrize("make", [make_group, anyio.create_task_group], ids=["newest", "anyio"])
def test_task_group_shows_its_children(run: Callable[[Any], Any], shop: Watched, make: Callable[[], Any]) -> None:
    """A task that waits for a task group shows what the group's tasks wait for."""

    async def with_group() -> None:
        async with make() as group:
            start = getattr(group, "start_soon", None)
            if start is not None:
                start(nap)
            else:
                group.create_task(nap())

    run(handle(shop, with_group))
    assert seconds_below(shop.profile(), "handle", "with_group", "nap", "sleep") > LONG / 4


@gen.coroutine
def old_page() -> Iterator[Any]:
    """Wait and compute in generators of Tornado's, one in the other."""
    yield gen.sleep(0.05)
    yield old_step()
    yield gen.moment


@gen.coroutine
def old_step() -> Iterator[Any]:
    """Wait, then compute when the event loop has called back."""
    yield from old_waits()
    compute_here(LONG)


def old_waits() -> Iterator[Any]:
    """Wait in a generator that another one delegates to."""
    yield gen.sleep(LONG)


def test_generators_of_tornado(run: Callable[[Any], Any], shop: Watched) -> None:
    """Of ``gen.coroutine`` the generators are shown, down to where they wait, and what they compute."""

    async def serve() -> None:
        await old_page()

    run(handle(shop, serve))
    profile = shop.profile()
    assert seconds_below(profile, "handle", "serve", "old_page", "old_step", "old_waits") > LONG / 4
    assert seconds_below(profile, "handle", "serve", "old_page", "old_step", "compute_here") > LONG / 4
    assert seconds_below(profile, "compute_here") == pytest.approx(seconds_below(profile, "serve", "compute_here"))
    assert {share.name: share.share for share in time_shares(profile)}["computing"] > 0.02
    assert not {"_run", "_run_once"} & set(functions(profile))


def test_running_task_shows_what_computes(run: Callable[[Any], Any], shop: Watched) -> None:
    """A task that computes shows its running frames and its computing time, and nothing of the loop around it."""

    async def compute() -> None:
        compute_here(LONG)

    run(handle(shop, compute))
    profile = shop.profile()
    assert seconds_below(profile, "handle", "compute", "compute_here") > LONG / 4
    assert not {"run_forever", "_run_once", "run_in_loop"} & set(functions(profile))
    assert {share.name: share.share for share in time_shares(profile)}["computing"] > 0.02


def hold_the_loop() -> None:
    """Block the event loop."""
    time.sleep(LONG)


def test_who_holds_the_loop_is_named(run: Callable[[Any], Any], shop: Watched) -> None:
    """While another task blocks the loop, a task that could go on waits for the loop, and the report says for whom."""

    async def steps() -> None:
        for _ in range(20):
            await asyncio.sleep(0.01)

    async def rude() -> None:
        await asyncio.sleep(0.1)
        hold_the_loop()

    async def both() -> None:
        await asyncio.gather(handle(shop, steps), rude())

    run(both())
    profile = shop.profile()
    assert seconds_below(profile, "steps", "sleep", WAITING_FOR_LOOP, "rude", "hold_the_loop") > LONG / 4
    assert seconds_below(profile, "hold_the_loop") == seconds_below(profile, WAITING_FOR_LOOP, "hold_the_loop")
    shares = {share.name: share.share for share in time_shares(profile)}
    assert shares["ready to run"] > 0.3
    assert sum(shares.values()) == pytest.approx(1)
    (line,) = [line for line in hot_lines(profile) if line.function.startswith("hold_the_loop")]
    assert line.function == f"hold_the_loop {HELD_THE_LOOP}"
    attributes = shop.attributes()
    assert any("hold_the_loop [held the event loop]" in text for text in attributes["slowspan.hot_frames"])
    before = profile.samples[0].wall_ns / 1e9
    names = ("slowspan.cpu_time", "slowspan.waiting_time", "slowspan.ready_time")
    assert sum(attributes[name] for name in names) == pytest.approx(profile.duration_ns / 1e9 - before, abs=0.02)


async def shielded(future: Any) -> None:
    await asyncio.shield(future)


async def gathered(future: Any) -> None:
    await asyncio.gather(future)


async def waited(future: Any) -> None:
    await asyncio.wait({future})


async def waited_for(future: Any) -> None:
    await asyncio.wait_for(future, 60)


@pytest.mark.parametrize("wait", [shielded, gathered, waited, waited_for])
def test_what_is_waited_for_has_come_while_others_hold_the_loop(
    run: Callable[[Any], Any], shop: Watched, wait: Callable[[Any], Awaitable[object]]
) -> None:
    """A task that waits for a future through another one waits for the loop once the first one is done."""

    async def both() -> None:
        future = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(handle(shop, lambda: wait(future)))
        await asyncio.sleep(0.2)
        future.set_result(None)
        hold_the_loop()
        await task

    run(both())
    profile = shop.profile()
    assert seconds_below(profile, wait.__name__, WAITING_FOR_LOOP, "hold_the_loop") > LONG / 2


def test_own_awaitable_that_knows_another_task(run: Callable[[Any], Any], shop: Watched) -> None:
    """A task to which an awaitable refers, but for which nobody waits there, is not shown."""

    class Ticket:
        def __init__(self, holder: Any, future: Any) -> None:
            self.holder, self.future = holder, future

        def __await__(self) -> Ticket:
            return self

        def __iter__(self) -> Ticket:
            return self

        def __next__(self) -> Any:
            if self.future.done():
                raise StopIteration
            self.future._asyncio_future_blocking = True
            return self.future

    async def wait_for_ticket(ticket: Ticket) -> None:
        await ticket

    async def both() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_later(LONG, future.set_result, None)
        other = asyncio.create_task(nap(2 * LONG))
        await handle(shop, lambda: wait_for_ticket(Ticket(other, future)))
        await other

    run(both())
    profile = shop.profile()
    assert seconds_below(profile, "wait_for_ticket") > LONG / 4
    assert "nap" not in functions(profile)


def test_span_that_another_task_ends(shop: Watched) -> None:
    """What the event loop's thread computes after the request's task has ended is not the request's."""

    async def both() -> None:
        spans: list[Any] = []

        async def serve() -> None:
            spans.append(shop.start())
            await nap(0.2)

        await asyncio.create_task(serve())
        await asyncio.sleep(0.1)
        compute_here(LONG)
        spans.pop().end()

    asyncio.run(both())
    assert (shop.profile().cpu_time_ns or 0) < LONG / 4 * 1e9


async def blocks() -> AsyncGenerator[int, None]:
    """Wait, then block the event loop, for each item."""
    await nap(0.1)
    hold_the_loop()
    yield 1


def test_task_of_one_item(run: Callable[[Any], Any], shop: Watched) -> None:
    """A task that makes one item of an asynchronous generator shows the generator's frames while it runs, too."""

    async def take() -> None:
        await asyncio.create_task(blocks().__anext__())  # type: ignore[arg-type]

    run(handle(shop, take))
    profile = shop.profile()
    assert seconds_below(profile, "handle", "take", "blocks", "hold_the_loop") > LONG / 2
    assert seconds_below(profile, WAITING_FOR_LOOP) < LONG / 4


def test_task_of_one_item_that_holds_the_loop(run: Callable[[Any], Any], shop: Watched) -> None:
    """A task that makes one item is named, too, where it holds the loop."""

    async def steps() -> None:
        for _ in range(20):
            await asyncio.sleep(0.01)

    async def both() -> None:
        await asyncio.gather(handle(shop, steps), blocks().__anext__())

    run(both())
    profile = shop.profile()
    assert seconds_below(profile, "steps", "sleep", WAITING_FOR_LOOP, "blocks", "hold_the_loop") > LONG / 4
    assert seconds_below(profile, "hold_the_loop") == seconds_below(profile, WAITING_FOR_LOOP, "hold_the_loop")


def test_wait_for_something_that_takes_long_is_no_wait_for_the_loop(run: Callable[[Any], Any], shop: Watched) -> None:
    """A task that would have waited anyway is not said to wait for the loop, although another one holds it."""

    async def rude() -> None:
        await asyncio.sleep(0.1)
        hold_the_loop()

    async def both() -> None:
        await asyncio.gather(handle(shop, lambda: nap(0.6)), rude())

    run(both())
    profile = shop.profile()
    assert "hold_the_loop" not in functions(profile)
    assert seconds_below(profile, "nap", "sleep") > 0.4


def test_many_requests_at_once_are_told_apart(run: Callable[[Any], Any], shop: Watched) -> None:
    """Of many requests in one loop each has its own frames, and none another's."""

    def waiter(name: str) -> Callable[[], Awaitable[None]]:
        scope: dict[str, Any] = {"asyncio": asyncio}
        exec(f"async def {name}():\n    await asyncio.sleep({LONG})", scope)
        work: Callable[[], Awaitable[None]] = scope[name]
        return work

    async def all_of_them() -> None:
        await asyncio.gather(*[handle(shop, waiter(f"wait_{number}"), f"GET /{number}") for number in range(20)])

    run(all_of_them())
    profiles = shop.profiles()
    assert len(profiles) == 20
    for profile in profiles:
        number = profile.span.name.removeprefix("GET /")
        # Below the entry for its loop stand, as such, the frames of whoever holds that.
        own = [itertools.takewhile(lambda name: name != WAITING_FOR_LOOP, path) for path in paths(profile)]
        assert {name for path in own for name in path if name.startswith("wait_")} == {f"wait_{number}"}


def test_work_in_a_thread_is_followed(run: Callable[[Any], Any], shop: Watched) -> None:
    """A task that waits for a function in a thread shows the function, with its computing time."""

    async def in_threads() -> None:
        await asyncio.to_thread(compute_here, LONG)
        with ThreadPoolExecutor(1) as pool:
            await asyncio.get_running_loop().run_in_executor(pool, time.sleep, LONG)

    async def both() -> None:
        await asyncio.gather(handle(shop, in_threads), asyncio.to_thread(wait_in_thread))

    run(both())
    profile = shop.profile()
    assert seconds_below(profile, "handle", "in_threads", "compute_here") > LONG / 4
    assert "wait_in_thread" not in functions(profile)
    shares = {share.name: share.share for share in time_shares(profile)}
    assert 0.02 < shares["computing"] < 0.9


def wait_in_thread() -> None:
    """Wait in a thread of the pool."""
    time.sleep(LONG)


async def in_one_group() -> None:
    """Compute in two threads."""
    await asyncio.gather(asyncio.to_thread(compute_for, LONG), asyncio.to_thread(compute_for, LONG))


async def in_groups_of_groups() -> None:
    """Compute in two threads, each below a group of its own."""

    async def in_a_thread() -> None:
        await asyncio.gather(anyio.to_thread.run_sync(compute_for, LONG), nap(0.01))

    await asyncio.gather(in_a_thread(), in_a_thread())


@pytest.mark.skipif(not HAS_THREAD_CLOCKS, reason="only Linux has the clocks of threads")
@pytest.mark.parametrize("work", [in_one_group, in_groups_of_groups])
def test_work_in_several_threads_is_computing_time(
    run: Callable[[Any], Any], shop: Watched, work: Callable[[], Awaitable[object]]
) -> None:
    """What several threads compute for a request at the same time is its computing time."""
    run(handle(shop, work))
    profile = shop.profile()
    # Two threads that compute at the same moment are counted once, and the first sample comes after a while.
    assert (profile.cpu_time_ns or 0) > LONG / 2 * 1e9
    assert sum(sample.cpu_ns for sample in profile.samples) <= sum(sample.wall_ns for sample in profile.samples)
    assert sum(share.share for share in time_shares(profile)) == pytest.approx(1)


def test_task_that_has_ended_is_no_longer_read(run: Callable[[Any], Any], shop: Watched) -> None:
    """A span that outlives its task has a report that says so."""

    async def serve() -> Any:
        return shop.start()

    async def both() -> None:
        span = await asyncio.create_task(serve())
        await nap()
        span.end()

    run(both())
    profile = shop.profile()
    assert len(profile.notes) >= 1
    assert "nap" not in functions(profile)


def test_span_that_ends_in_another_task(run: Callable[[Any], Any], shop: Watched) -> None:
    """A span that a child task ends has the frames of the task in which it started."""

    async def serve() -> None:
        span = shop.start()

        async def finish() -> None:
            await nap()
            span.end()

        await asyncio.create_task(finish())

    run(serve())
    assert seconds_below(shop.profile(), "serve", "finish", "nap", "sleep") > LONG / 4


def test_loop_of_another_thread_than_the_main_one(run: Callable[[Any], Any], shop: Watched) -> None:
    """Tasks of an event loop in a thread of its own are read as well."""
    thread = threading.Thread(target=lambda: run(handle(shop, nap)))
    thread.start()
    thread.join()
    assert seconds_below(shop.profile(), "nap", "sleep") > LONG / 4


def test_profile_starts_with_the_task(run: Callable[[Any], Any], shop: Watched) -> None:
    """A task's profile has the time before its first sample, adds up, and is linked while the task is suspended."""

    async def serve() -> None:
        span = shop.start()
        while "slowspan.profile.id" not in (span.attributes or {}):
            await asyncio.sleep(0.01)
        span.end()

    run(serve())
    profile = shop.profile()
    assert sum(sample.wall_ns for sample in profile.samples) == profile.duration_ns
    assert BEFORE_FIRST_SAMPLE in functions(profile)


def keep_known_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back after the test what is known of libraries, and begin with nothing."""
    learned = ("current_greenlet", "current_task", "gevents_hub", "look_further", "running_loop", "busy_loops")
    for name in ("_known", *learned):
        monkeypatch.setattr(runners, name, getattr(runners, name))
    runners._known = None


@pytest.mark.parametrize(
    ("name", "half", "whole"),
    [
        ("asyncio", {"_get_running_loop": lambda: None}, {"current_task": lambda _loop: None}),
        ("greenlet", {}, {"getcurrent": lambda: SimpleNamespace(parent=None)}),
        ("gevent.hub", {}, {"Hub": type("Hub", (), {})}),
    ],
)
def test_a_library_that_is_just_being_imported(
    monkeypatch: pytest.MonkeyPatch, name: str, half: dict[str, Any], whole: dict[str, Any]
) -> None:
    """It is known once it is all there: what it lacked at the first look would be missed for ever."""
    keep_known_libraries(monkeypatch)
    monkeypatch.setitem(sys.modules, "gevent", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "gevent.hub", SimpleNamespace(Hub=type("Hub", (), {})))
    library = SimpleNamespace(**half)
    monkeypatch.setitem(sys.modules, "greenlet", SimpleNamespace(getcurrent=lambda: SimpleNamespace(parent=None)))
    monkeypatch.setitem(sys.modules, name, library)
    runners.notice_new_libraries()
    assert runners._known is None
    vars(library).update(whole)
    runners.notice_new_libraries()
    assert runners._known >= {"asyncio", "gevent"}


def test_no_function_of_python_tells_the_task(run: Callable[..., Any]) -> None:
    """A call of Python would cost each request 1 µs; what is asked instead says the same."""

    async def here() -> tuple[Any, Any]:
        loop = asyncio.get_running_loop()
        return runners.current_task(loop), asyncio.current_task()

    async def both() -> list[tuple[Any, Any]]:
        return [await here(), *await asyncio.gather(here(), here())]

    runners.notice_new_libraries()
    assert not isinstance(runners.current_task, FunctionType)
    asked = run(both())
    assert all(found is told is not None for found, told in asked)
    assert len({id(found) for found, _ in asked}) == 3


def test_somebody_elses_way_to_tell_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever replaces the function of asyncio is asked."""
    keep_known_libraries(monkeypatch)

    @functools.wraps(asyncio.current_task)
    def current_task(loop: object = None) -> None:
        """Tell nothing."""

    monkeypatch.setattr(asyncio, "current_task", current_task)
    runners.notice_new_libraries()
    assert runners.current_task is current_task


def test_asyncio_is_noticed_at_once(shop: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first event loop comes after the first request, its tasks are not taken for one thread."""
    monkeypatch.setattr(runners, "running_loop", runners._no_loop)
    monkeypatch.setattr(runners, "current_task", None)
    monkeypatch.setattr(runners, "look_further", None)
    monkeypatch.setattr(runners, "_known", frozenset())

    async def serve() -> None:
        await asyncio.gather(*(handle(shop, nap, name) for name in ("one", "two")))

    asyncio.run(serve())
    assert [functions(profile)["nap"] > 0.5 for profile in shop.profiles()] == [True, True]


def test_spans_inside_one_another_each_have_their_whole_time(shop: Watched) -> None:
    """A span inside a request's, in its task or in one that it awaits, takes no time away from the request."""

    async def compute() -> None:
        compute_for(0.3)

    async def serve() -> None:
        await handle(shop, compute, "in the task")
        await asyncio.gather(handle(shop, compute, "in a child"))

    asyncio.run(handle(shop, serve, "request"))
    computed = {p.span.name: sum(sample.cpu_ns for sample in p.samples) / 1e9 for p in shop.profiles()}
    assert computed == pytest.approx({"in the task": 0.3, "in a child": 0.3, "request": 0.6}, rel=0.4)
