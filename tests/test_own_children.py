"""What a request has started itself is its own work: each of its child tasks, greenlets of its task."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import greenlet
import pytest
from opentelemetry.trace import SpanKind

from slowspan.recording.synthetic import WAITING_FOR_LOOP
from watched import Watched, functions, watched

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from contextlib import AbstractContextManager

    from opentelemetry.trace import Span

    from slowspan import Profile

LONG = 0.3
"""Seconds that are told apart from others' in a share of the time, on a busy machine too."""


@pytest.fixture
def shop() -> Iterator[Watched]:
    """Watch a provider."""
    with watched() as shop:
        yield shop


def span(shop: Watched, name: str, kind: SpanKind = SpanKind.INTERNAL) -> AbstractContextManager[Span]:
    """Start a span, the current one until it is left."""
    return shop.provider.get_tracer("test").start_as_current_span(name, kind=kind)


async def handle(shop: Watched, work: Callable[[], Awaitable[object]], name: str = "GET /") -> None:
    """Serve a request in the task that runs this."""
    with span(shop, name, SpanKind.SERVER):
        await work()


def share_below(profile: Profile, *names: str) -> float:
    """Return the share of all stacks in which the functions stand in this order."""
    total = 0
    for sample in profile.samples:
        rest = iter([frame.name for frame, _ in profile.stack_frames(sample.stack)])
        total += sample.wall_ns if all(name in rest for name in names) else 0
    return total / profile.duration_ns


# -- Child tasks.


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
    assert share_below(profile, WAITING_FOR_LOOP) < 0.2


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
    assert share_below(profile, WAITING_FOR_LOOP) < 0.15
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
