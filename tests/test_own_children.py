"""What a request has started itself is its own work: child tasks that it does not await, greenlets of its task."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import greenlet
import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, use_span

import slowspan
from functions import watched_without_opentelemetry
from slowspan.recording.synthetic import WAITING_FOR_LOOP
from slowspan.report.summary import time_shares
from watched import LONG, Watched, compute_here, functions, handle, seconds_below

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager

    from opentelemetry.trace import Span

    from slowspan import Profile


def span(shop: Watched, name: str, kind: SpanKind = SpanKind.INTERNAL) -> AbstractContextManager[Span]:
    """Start a span, the current one until it is left."""
    return shop.provider.get_tracer("test").start_as_current_span(name, kind=kind)


def share_below(profile: Profile, *names: str) -> float:
    """Return the share of all stacks in which the functions stand in this order."""
    return seconds_below(profile, *names) * 1e9 / profile.duration_ns


def check_has_the_loop(profile: Profile) -> None:
    """Check that no stranger is said to hold the event loop, and that it is not waited for much.

    On a busy machine a request can be ready to go on for a while although nobody has the loop.
    """
    stacks = [([frame.name for frame, _ in profile.stack_frames(s.stack)], s.wall_ns) for s in profile.samples]
    held = sum(wall_ns for names, wall_ns in stacks if WAITING_FOR_LOOP in names[:-1])
    assert held < 0.05 * profile.duration_ns
    assert share_below(profile, WAITING_FOR_LOOP) < 0.4


def shares_of(profile: Profile) -> dict[str, float]:
    """Return how the time was spent."""
    return {share.name: share.share for share in time_shares(profile)}


async def heavy() -> None:
    """Compute in one go."""
    await asyncio.sleep(0.1)
    compute_here(LONG)


async def blocking() -> None:
    """Hold the event loop."""
    await asyncio.sleep(0.1)
    time.sleep(LONG)


# -- Child tasks.


def test_child_that_is_not_awaited(shop: Watched) -> None:
    """A child task computes for its request, although that awaits something else meanwhile."""

    async def serve() -> None:
        child = asyncio.create_task(heavy())
        await asyncio.sleep(0.2)
        await child

    asyncio.run(handle(shop, serve))
    profile = shop.profile()
    assert share_below(profile, "heavy", "compute_here") > 0.3
    check_has_the_loop(profile)
    assert shares_of(profile)["computing"] > 0.1
    assert (profile.cpu_time_ns or 0) > LONG / 10 * 1e9


def test_child_of_a_child_in_spans_of_its_own(shop: Watched) -> None:
    """A task that a child has started, and that has spans of its own, is the request's as well."""

    async def query() -> None:
        await asyncio.sleep(0.1)
        with span(shop, "SELECT"):
            time.sleep(LONG)

    async def load() -> None:
        with span(shop, "load"):
            await asyncio.sleep(0.05)
            await asyncio.create_task(query())

    async def serve() -> None:
        child = asyncio.create_task(load())
        await asyncio.sleep(LONG)
        await child

    asyncio.run(handle(shop, serve))
    profile = shop.profile()
    assert share_below(profile, "query") > 0.4
    check_has_the_loop(profile)


def test_span_that_is_current_while_a_child_begins(shop: Watched) -> None:
    """A child that was started below other spans of the request, which have ended since, is the request's."""

    async def serve() -> None:
        with span(shop, "outer"):
            await asyncio.sleep(0.1)
            with span(shop, "inner"):
                child = asyncio.create_task(blocking())
                await asyncio.sleep(0.05)
        await asyncio.sleep(LONG)
        await child

    asyncio.run(handle(shop, serve))
    profile = shop.profile()
    assert share_below(profile, "blocking") > 0.3
    check_has_the_loop(profile)


@pytest.mark.usefixtures("no_global_provider")
def test_child_of_a_profiled_function() -> None:
    """A function's own span, which is in no trace of the application, has its children, too."""

    async def serve() -> None:
        with slowspan.profile("block", threshold=0.05):
            child = asyncio.create_task(blocking())
            await asyncio.sleep(0.2)
            await child

    with watched_without_opentelemetry(threshold=3600) as processor:
        asyncio.run(serve())
        profile = processor.profile()
    assert share_below(profile, "blocking") > 0.4
    check_has_the_loop(profile)


@pytest.mark.parametrize("same_trace", [False, True], ids=["traces-of-their-own", "same-trace"])
def test_tasks_of_other_requests_are_strangers(shop: Watched, same_trace: bool) -> None:
    """Neither another request's task nor its child is taken for the request's, even in the same trace."""

    async def serve() -> None:
        for _ in range(40):
            await asyncio.sleep(0.01)

    async def other() -> None:
        with span(shop, "inside"):
            await asyncio.create_task(blocking())

    async def both() -> None:
        with span(shop, "caller") if same_trace else contextlib.nullcontext():
            await asyncio.gather(handle(shop, serve), handle(shop, other, "GET /other"))

    asyncio.run(both())
    mine, others = (next(p for p in shop.profiles() if p.span.name == name) for name in ("GET /", "GET /other"))
    assert share_below(mine, "serve", WAITING_FOR_LOOP, "blocking") > 0.2
    assert share_below(mine, "blocking") == share_below(mine, WAITING_FOR_LOOP, "blocking")
    assert share_below(others, "other", "blocking") > 0.4
    check_has_the_loop(others)


def test_one_of_many_children_has_the_loop(shop: Watched) -> None:
    """The one child that runs is found among all that are awaited, whatever their number."""

    async def step() -> None:
        await asyncio.sleep(0.1)
        time.sleep(0.01)

    async def serve() -> None:
        await asyncio.gather(*[asyncio.sleep(0.6) for _ in range(20)], *[step() for _ in range(40)])

    asyncio.run(handle(shop, serve))
    profile = shop.profile()
    assert share_below(profile, "handle", "serve", "step") > 0.3
    check_has_the_loop(profile)


# -- Greenlets inside a task, as SQLAlchemy makes them.

_SPAWN = """
async def greenlet_spawn(function):
    context = greenlet(function)
    result = context.switch()
    while not context.dead:
        value = await result
        result = context.switch(value)
    return result
"""


def spawner(module: str) -> Callable[[Callable[[], object]], Awaitable[object]]:
    """Return what has a function run in a greenlet that awaits through the calling task."""
    scope: dict[str, Any] = {"__name__": module, "greenlet": greenlet.greenlet}
    exec(_SPAWN, scope)
    spawn: Callable[[Callable[[], object]], Awaitable[object]] = scope["greenlet_spawn"]
    return spawn


def await_only(awaitable: Awaitable[object]) -> object:
    """Have the task await something."""
    parent = greenlet.getcurrent().parent
    assert parent is not None
    return parent.switch(awaitable)


def execute() -> None:
    """Block, wait and block."""
    time.sleep(0.1)
    await_only(asyncio.sleep(0.2))
    hold()


def hold() -> None:
    """Hold the event loop."""
    time.sleep(LONG)


@pytest.mark.parametrize("module", ["sqlalchemy.util.concurrency", "somebody.else"])
def test_greenlet_in_a_task(shop: Watched, module: str) -> None:
    """What a task runs in a greenlet is its own; where the greenlet is known, nothing in between is missing."""
    spawn = spawner(module)

    async def serve() -> None:
        await spawn(execute)

    asyncio.run(handle(shop, serve))
    profile = shop.profile()
    assert share_below(profile, "handle", "execute", "hold") > 0.3
    assert share_below(profile, "handle", "serve", "greenlet_spawn", "sleep") > 0.15
    check_has_the_loop(profile)
    if module.startswith("sqlalchemy"):
        assert share_below(profile, "serve", "greenlet_spawn", "execute", "hold") > 0.3
        assert share_below(profile, "greenlet_spawn", "execute", "await_only", "sleep") > 0.15


def test_greenlet_of_another_task_holds_the_loop(shop: Watched) -> None:
    """A greenlet that another task runs is named as what holds the loop."""

    async def serve() -> None:
        for _ in range(20):
            await asyncio.sleep(0.01)

    async def both() -> None:
        rude = asyncio.create_task(spawner("somebody.else")(execute))  # type: ignore[arg-type]
        await asyncio.sleep(0.15)
        await handle(shop, serve)
        await rude

    asyncio.run(both())
    profile = shop.profile()
    assert share_below(profile, "serve", WAITING_FOR_LOOP, "execute", "hold") > 0.3
    assert functions(profile).get("hold", 0) == pytest.approx(share_below(profile, WAITING_FOR_LOOP, "hold"), abs=0.3)


def test_a_span_of_somebody_elses_class_is_nobodys(shop: Watched) -> None:
    """Not every class of spans means a context by its parent: such a one in a task's context does no harm."""

    class Foreign(NonRecordingSpan):
        @property
        def parent(self) -> object:
            return self

    async def stranger(own: Span) -> None:
        context = own.get_span_context()
        foreign = Foreign(SpanContext(context.trace_id, 7, is_remote=False))
        with use_span(foreign):
            await blocking()

    async def both() -> None:
        with span(shop, "GET /", SpanKind.SERVER) as own:
            other = asyncio.create_task(stranger(own))
            await asyncio.sleep(2 * LONG)
            await other

    asyncio.run(both())
    assert shop.profile().sample_count > 0
    assert "internal_error" not in shop.processor.status().drops
