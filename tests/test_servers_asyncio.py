"""Requests of real asynchronous servers have profiles of their own, which agree with what they measured themselves."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any

import pytest
from websockets.sync.client import connect

import servers
from server_models import TOLERANCE, Server, check, errors, python, seen_in, serving, upstream, uvicorn
from slowspan.report.summary import time_shares
from watched import functions

if TYPE_CHECKING:
    from collections.abc import Iterator

MANY = 20
"""Requests at once."""

UNBOUND = {"OTEL_PYTHON_SLOWSPAN_OVERHEAD_BUDGET": "1"}
"""Of many requests on a slow machine each is to be seen often."""


@pytest.fixture(scope="module")
def slow_service() -> Iterator[str]:
    """Run a service that takes its time."""
    with upstream() as url:
        yield url


def start(command: list[str], port: int, factory: pytest.TempPathFactory, **env: str) -> Any:
    """Start a server."""
    return serving(command, port, factory.mktemp("server"), env={**UNBOUND, **env})


@pytest.fixture(scope="module", params=["asyncio", "uvloop and a middleware"])
def fastapi(
    request: pytest.FixtureRequest, slow_service: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Serve a FastAPI application with uvicorn."""
    port = servers.free_port()
    loop, _, middleware = request.param.partition(" ")
    command = uvicorn("asgi_parts:app", port, loop)
    env = {"UPSTREAM": slow_service, "MIDDLEWARE": middleware, "START": "0.2", "STAGGER": "0.06"}
    with start(command, port, tmp_path_factory, **env) as server:
        yield server


def test_fastapi_async_endpoints(fastapi: Server) -> None:
    """Of many requests in one event loop each shows its own awaits, children and code, with the right shares."""
    check(fastapi, "/waits", MANY)


def test_fastapi_async_endpoints_that_compute_in_bursts(fastapi: Server) -> None:
    """Requests that keep one event loop busy together, in short steps, are told apart."""
    paths = [f"/bursts/{number}" for number in range(2)]
    answers = fastapi.get_all(paths)
    for path, profile in fastapi.profiles(paths).items():
        # Of each by itself: on average they are right also where one is shown with what both have computed.
        assert all(abs(points) < 1.5 * TOLERANCE for points in errors(profile, answers[path]).values())


def test_fastapi_def_endpoints(fastapi: Server) -> None:
    """Of many requests in worker threads each shows its own function, with the right shares."""
    check(fastapi, "/blocks", MANY)


def test_fastapi_while_another_request_holds_the_loop(fastapi: Server) -> None:
    """A request that another one keeps waiting says so, and by what; the other one has the time as its own."""
    paths = ["/steps/1", "/steps/2", "/rude/0.3"]
    answers = fastapi.get_all(paths)
    profiles = fastapi.profiles(paths)
    for path in paths[:2]:
        seen = seen_in(profiles[path])
        assert seen.waited_for_loop == pytest.approx(answers[path]["held"], rel=0.4)
        assert seen.held_by["hold_the_loop"] > 0.1
        assert not seen.seconds["hold_the_loop"]
        assert seen.seconds["short_wait"] > 0.1
        shares = {share.name: share.share for share in time_shares(profiles[path])}
        assert shares["ready to run"] == pytest.approx(seen.waited_for_loop * 1e9 / profiles[path].duration_ns, abs=0.2)
    assert seen_in(profiles["/rude/0.3"]).seconds["hold_the_loop"] > 0.1


def test_fastapi_streams(fastapi: Server) -> None:
    """A request whose answer is streamed shows what makes the answer, until its last line."""
    makers = {
        "/stream/1": "between_lines",
        "/events/1": "between_lines",
        "/sync-stream/1": "wait_between_lines",
    }
    for answer in fastapi.get_all(list(makers)).values():
        assert answer.count("data:") == 4
    for path, profile in fastapi.profiles(list(makers)).items():
        assert functions(profile)[makers[path]] > 0.2
        assert profile.duration_ns > 0.3e9


def test_websocket_makes_no_report(fastapi: Server) -> None:
    """A websocket is open for long without being slow."""
    with connect(fastapi.url.replace("http", "ws") + "/socket") as websocket:
        for _ in websocket:
            """Until it is closed."""
    fastapi.get("/rude/0.05")
    fastapi.profiles(["/rude/0.05"])  # Later than the websocket's would be.
    assert "/socket" not in fastapi.profiles_so_far()


def test_starlette(slow_service: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The same for an application that is Starlette's own."""
    port = servers.free_port()
    command = uvicorn("asgi_parts:starlette_app", port, "uvloop")
    with start(command, port, tmp_path_factory, UPSTREAM=slow_service) as server:
        check(server, "/waits", MANY)


def test_aiohttp(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The same for an aiohttp server, and for requests that one of its tasks serves one after the other."""
    port = servers.free_port()
    with start(python("aiohttp_parts", port), port, tmp_path_factory) as server:
        check(server, "/waits", MANY)
        answers = on_one_connection(server, [f"/waits/{number}" for number in (101, 102, 103)])
        for path, profile in server.profiles(list(answers)).items():
            assert seen_in(profile).marks == {path.rpartition("/")[2]}
            assert profile.notes == ()
            assert max(map(abs, errors(profile, answers[path]).values())) < 15


def on_one_connection(server: Server, paths: list[str]) -> dict[str, Any]:
    """Ask for pages one after the other over the same connection."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    answers = {}
    for path in paths:
        connection.request("GET", path)
        answers[path] = json.loads(connection.getresponse().read())
    connection.close()
    return answers


def test_tornado(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The same for a Tornado server."""
    port = servers.free_port()
    with start(python("tornado_parts", port), port, tmp_path_factory) as server:
        check(server, "/waits", MANY)
