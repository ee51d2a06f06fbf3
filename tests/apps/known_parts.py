"""Requests that know their own truth: each measures its parts, and carries its number in a function's name."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import time
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SCALE = float(os.environ.get("SCALE", "1"))
"""Factor of all times."""

START = float(os.environ.get("START", "0.06"))
"""Seconds before the first request begins its parts."""

STAGGER = float(os.environ.get("STAGGER", "0"))
"""Seconds by which each request begins its parts later than the one before: threads queue for one interpreter lock."""

LEAD_IN = "lead_in"


class Parts:
    """Calls the parts of one request and measures each: its wall time, and its thread's CPU time in what computes."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.computing: float = 0.0

    def call(self, part: Callable[..., object], *args: object) -> None:
        """Run a part that needs its thread."""
        start, cpu = time.perf_counter(), time.thread_time()
        part(*args)
        self.computing += time.thread_time() - cpu
        self._add(part.__name__, time.perf_counter() - start)

    async def wait(self, part: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run a part that awaits something."""
        start = time.perf_counter()
        await part(*args)
        self._add(part.__name__, time.perf_counter() - start)

    def _add(self, name: str, seconds: float) -> None:
        self.wall[name] = self.wall.get(name, 0.0) + seconds

    def facts(self) -> dict[str, Any]:
        """Return what the answer tells: seconds by part, and of computing."""
        return {"wall": self.wall, "computing": self.computing}


def marked(function: Any, number: str) -> Any:
    """Return the function with a request's number in its name."""
    name = f"{function.__name__}_{number}"
    code = function.__code__.replace(co_name=name)
    return FunctionType(code, function.__globals__, name, function.__defaults__, function.__closure__)


def compute_part(seconds: float = 0.02) -> None:
    end = time.thread_time() + seconds * SCALE
    while time.thread_time() < end:
        sum(number * number % 7 for number in range(300))


def block_part(seconds: float = 0.12) -> None:
    time.sleep(seconds * SCALE)


def lead_in(number: str) -> None:
    time.sleep(START + STAGGER * int(number))


def queue_part(seconds: float = 0.12) -> None:
    with contextlib.suppress(queue.Empty):
        queue.Queue().get(timeout=seconds * SCALE)


async def sleep_part(seconds: float = 0.12) -> None:
    await asyncio.sleep(seconds * SCALE)


async def lock_part(seconds: float = 0.12) -> None:
    lock = asyncio.Lock()
    await lock.acquire()
    asyncio.get_running_loop().call_later(seconds * SCALE, lock.release)
    async with lock:
        pass


async def child_nap(seconds: float) -> None:
    await asyncio.sleep(seconds * SCALE)


async def gather_part(seconds: float = 0.12) -> None:
    await asyncio.gather(child_nap(seconds), child_nap(seconds / 2))


async def group_part(seconds: float = 0.12) -> None:
    # Imported here: not every application has it.
    import anyio

    async with anyio.create_task_group() as group:
        group.start_soon(child_nap, seconds)


async def fetch_part(seconds: float = 0.12) -> None:
    """Ask a slow service over HTTP."""
    # Imported here: not every application has it.
    import httpx

    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        await client.get(f"{os.environ['UPSTREAM']}/{seconds * SCALE}")


async def waits(number: str, *more: Callable[[], Awaitable[object]]) -> dict[str, Any]:
    """Serve a request in an event loop: first the lead-in, which is in no share, then the parts."""

    async def request() -> dict[str, Any]:
        parts = Parts()
        await parts.wait(lead_in_async, number)
        parts.call(compute_part)
        for part in (sleep_part, lock_part, *more):
            await parts.wait(part)
        return parts.facts()

    answer: dict[str, Any] = await marked(request, number)()
    return answer


BURST = 0.005
"""Seconds: no more than the interpreter's switch interval."""

REST = 0.005
"""Seconds: two such requests keep a thread busy."""


async def bursts(number: str) -> dict[str, Any]:
    """Serve a request in an event loop that computes and waits in turns, shortly each time."""

    async def request() -> dict[str, Any]:
        parts = Parts()
        await parts.wait(lead_in_async, number)
        for _ in range(int(150 * SCALE)):
            parts.call(compute_part, BURST / SCALE)
            await parts.wait(sleep_part, REST / SCALE)
        return parts.facts()

    answer: dict[str, Any] = await marked(request, number)()
    return answer


def thread_bursts(number: str) -> dict[str, Any]:
    """Do the same on a thread."""

    def request() -> dict[str, Any]:
        parts = Parts()
        parts.call(lead_in, number)
        for _ in range(int(150 * SCALE)):
            parts.call(compute_part, BURST / SCALE)
            parts.call(block_part, REST / SCALE)
        return parts.facts()

    answer: dict[str, Any] = marked(request, number)()
    return answer


async def lead_in_async(number: str) -> None:
    await asyncio.sleep(START + STAGGER * int(number))


def blocks(number: str, *more: Callable[[], object]) -> dict[str, Any]:
    """Serve a request on a thread."""

    def request() -> dict[str, Any]:
        parts = Parts()
        parts.call(lead_in, number)
        for part in (compute_part, block_part, queue_part, *more):
            parts.call(part)
        return parts.facts()

    answer: dict[str, Any] = marked(request, number)()
    return answer
