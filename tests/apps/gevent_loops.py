"""A program patched by gevent in which greenlets run event loops, and a pool of greenlets calls us, for tests.

Prints the share of the time that each request was shown in each function.
"""

# ruff: noqa: E402
from gevent import monkey

monkey.patch_all()

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import gevent
from opentelemetry.sdk.trace import ConcurrentMultiSpanProcessor, TracerProvider

from watched import Watched, functions, handle, watched

SECONDS = 0.4


def wait() -> None:
    time.sleep(SECONDS)


async def stay_in_a_step() -> None:
    """Let other greenlets have the thread, but not the event loop."""
    time.sleep(SECONDS)


async def nap_one() -> None:
    await asyncio.sleep(SECONDS)


async def nap_two() -> None:
    await asyncio.sleep(SECONDS)


def shown(shop: Watched) -> dict[str, Any]:
    return {p.span.name: {"shares": functions(p), "notes": p.notes} for p in shop.profiles()}


def beside_a_loop(work: Callable[[], Awaitable[None]], **options: Any) -> dict[str, Any]:
    """Serve a request in a greenlet while a loop runs in another one."""

    async def run() -> None:
        await work()

    with watched(**options) as shop:
        loop = gevent.spawn(lambda: asyncio.run(run()))
        gevent.sleep(0.05)
        gevent.spawn(shop.request, wait, "plain").get()
        loop.get()
        return shown(shop)


def in_tasks(**options: Any) -> dict[str, Any]:
    """Serve two requests in the tasks of a loop that runs in a greenlet."""
    with watched(**options) as shop:

        async def serve() -> None:
            await asyncio.gather(handle(shop, nap_one, "one"), handle(shop, nap_two, "two"))

        gevent.spawn(lambda: asyncio.run(serve())).get()
        return shown(shop)


def in_a_step(**options: Any) -> dict[str, Any]:
    """Serve a request in a task that lets another greenlet have the thread, which computes."""
    with watched(**options) as shop:
        others = gevent.spawn(lambda: [compute_beside() for _ in range(20)])
        gevent.spawn(lambda: asyncio.run(handle(shop, stay_in_a_step, "task"))).get()
        others.get()
        return shown(shop)


def compute_beside() -> None:
    gevent.sleep(0)
    end = time.perf_counter() + SECONDS / 20
    while time.perf_counter() < end:
        sum(range(200))


def called_by_a_pool(**options: Any) -> dict[str, Any]:
    """Serve a request of which the SDK tells its processors in a pool's thread, that is, in another greenlet."""
    provider = TracerProvider(active_span_processor=ConcurrentMultiSpanProcessor(), shutdown_on_exit=False)
    with watched(provider, **options) as shop:
        for name in ("first", "second"):
            gevent.spawn(shop.request, wait, name).get()
        return shown(shop)


def main() -> None:
    facts = {}
    for way, threshold in (("by its trace", 0.3), ("apart", 0.05)):
        options = {"threshold": threshold, "start_after": 0.02}
        facts[way] = {
            "beside a step": beside_a_loop(stay_in_a_step, **options),
            "beside a wait": beside_a_loop(nap_one, **options),
            "in tasks": in_tasks(**options),
            "in a step": in_a_step(**options),
            "called by a pool": called_by_a_pool(**options),
        }
    json.dump(facts, sys.stdout)


if __name__ == "__main__":
    main()
