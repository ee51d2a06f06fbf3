"""Proves that a profile tells where the time went under every server model.

Real servers under ``opentelemetry-instrument`` answer real requests, many at once, with all of slowspan's defaults but
the threshold, and the budget: twenty requests that become slow at the same instant would get samples too seldom for
their short parts. Every request measures its own parts and tells them in its answer. The error of a request is the
largest difference, in points, between a part's true share and its share among the request's own frames in its profile;
a profile with another request's frames fails the run. The figure is the median over requests, as in ``bench.truth``.

Threads that compute at once queue for one interpreter lock. So where each request has a thread they begin to compute
one after the other; but for those models in which one or two requests compute in short bursts, half of the time each.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.estimates import median_interval
from bench.figures import Figure, Options

REPOSITORY = Path(__file__).parents[1]
# The servers and applications are those of the tests.
sys.path[:0] = [str(REPOSITORY / folder) for folder in ("tests", "examples/shop")]

import server_models  # noqa: E402
import servers  # noqa: E402

SETTINGS = {"OTEL_PYTHON_SLOWSPAN_OVERHEAD_BUDGET": "0.2"}

TARGET = 5.0
"""Points."""

LOOP, THREADS = {"STAGGER": "0"}, {"START": "0.5", "STAGGER": "0.1"}
BURSTS = {"START": "0.2"}
DJANGO = {"DJANGO_SETTINGS_MODULE": "django_settings_parts"}


@dataclass(frozen=True)
class Model:
    """One kind of server and handler.

    Attributes:
        name: For people.
        command: Makes the server's command for a port.
        page: What is asked for; several, in turn, with spaces between them.
        requests: How many at once.
        env: More environment variables.
    """

    name: str
    command: Callable[[int], list[str]]
    page: str
    requests: int = 20
    env: Mapping[str, str] = field(default_factory=lambda: LOOP)


def _uvicorn(application: str, loop: str = "asyncio") -> Callable[[int], list[str]]:
    return lambda port: server_models.uvicorn(application, port, loop)


def _gunicorn(application: str) -> Callable[[int], list[str]]:
    return lambda port: server_models.gunicorn(application, port)


def _gevent(application: str) -> Callable[[int], list[str]]:
    return lambda port: server_models.gevent(application, port)


def _python(module: str) -> Callable[[int], list[str]]:
    return lambda port: server_models.python(module, port)


FASTAPI, STARLETTE = "asgi_parts:app", "asgi_parts:starlette_app"
MODELS = (
    Model("FastAPI async def", _uvicorn(FASTAPI), "/waits"),
    Model("FastAPI async def, uvloop", _uvicorn(FASTAPI, "uvloop"), "/waits"),
    Model("FastAPI async def, middleware", _uvicorn(FASTAPI), "/waits", env={**LOOP, "MIDDLEWARE": "1"}),
    Model("FastAPI def", _uvicorn(FASTAPI), "/blocks", env=THREADS),
    Model("FastAPI def, uvloop", _uvicorn(FASTAPI, "uvloop"), "/blocks", env=THREADS),
    Model("Starlette async def", _uvicorn(STARLETTE), "/waits"),
    Model("Starlette async def, uvloop", _uvicorn(STARLETTE, "uvloop"), "/waits"),
    Model("Flask def, gunicorn", _gunicorn("flask_parts:app"), "/blocks", env=THREADS),
    Model("Flask async def, gunicorn", _gunicorn("flask_parts:app"), "/waits", env=THREADS),
    Model("Django def, gunicorn", _gunicorn("django_parts:wsgi"), "/blocks", env={**DJANGO, **THREADS}),
    Model(
        "Django ORM, gunicorn",
        _gunicorn("django_parts:wsgi"),
        "/database",
        6,
        {**DJANGO, "START": "0.5", "STAGGER": "0.5"},
    ),
    Model("Django async def, gunicorn", _gunicorn("django_parts:wsgi"), "/waits", env={**DJANGO, **THREADS}),
    Model("Django def, uvicorn", _uvicorn("django_parts:asgi"), "/blocks", env={**DJANGO, **THREADS}),
    Model("Django async def, uvicorn", _uvicorn("django_parts:asgi"), "/waits", env={**DJANGO, **THREADS}),
    Model("FastAPI async def, bursts", _uvicorn(FASTAPI), "/bursts", 2, BURSTS),
    Model("FastAPI def, bursts", _uvicorn(FASTAPI), "/thread-bursts", 2, BURSTS),
    Model("Flask def, gunicorn, bursts", _gunicorn("flask_parts:app"), "/thread-bursts", 2, BURSTS),
    Model("Flask async def, gunicorn, bursts", _gunicorn("flask_parts:app"), "/bursts", 2, BURSTS),
    Model("Flask async def, gunicorn, one of bursts", _gunicorn("flask_parts:app"), "/bursts", 1, BURSTS),
    Model("Flask def, gunicorn gevent", _gevent("gevent_parts:app"), "/waits /blocks /steps", 50),
    Model("aiohttp", _python("aiohttp_parts"), "/waits"),
    Model("Tornado", _python("tornado_parts"), "/waits"),
)


def measure(options: Options) -> Iterator[Figure]:
    """Measure the error under every server model, in points."""
    with server_models.upstream() as upstream:
        for model in MODELS:
            errors: list[float] = []
            while len(errors) < (8 if options.quick else 40):
                errors += _errors(model, upstream)
            yield Figure(
                name=f"servers: {model.name}: largest error of a part",
                unit="points",
                value=median_interval(errors, options.confidence),
                target=TARGET,
            )


def _errors(model: Model, upstream: str) -> list[float]:
    """Start a server, ask it for the page many times at once; return the largest error of each request."""
    port = servers.free_port()
    pages = model.page.split()
    paths = [f"{pages[number % len(pages)]}/{number}" for number in range(model.requests)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = {**SETTINGS, "UPSTREAM": upstream, "DATABASE": str(folder / "db"), "SCALE": "2", **model.env}
        with server_models.serving(model.command(port), port, folder, env=env) as server:
            if model.page == "/database":
                server.get("/prepare")
            answers = server.get_all(paths)
            profiles = server.profiles(paths)
    for path, profile in profiles.items():
        marks = server_models.seen_in(profile).marks
        if marks != {path.rpartition("/")[2]}:
            raise RuntimeError(f"{model.name}: the profile of {path} shows the frames of {sorted(marks)}")
    return [_largest(server_models.errors(profiles[path], answers[path])) for path in paths]


def _largest(errors: Mapping[str, float]) -> float:
    return max(abs(points) for part, points in errors.items() if part != server_models.COMPUTING)
