"""Requests of Django and of Flask's asynchronous views, whose work goes from thread to thread, have profiles too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import servers
from server_models import Server, check, compare, gunicorn, serving, uvicorn
from watched import seconds_below

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

MANY = 10
"""Requests at once. They begin to compute one after the other: threads would wait for one interpreter lock else."""

ENVIRONMENT = {"OTEL_PYTHON_SLOWSPAN_OVERHEAD_BUDGET": "1", "START": "0.3", "STAGGER": "0.06"}


def django(command: list[str], port: int, folder: Path) -> AbstractContextManager[Server]:
    """Serve the Django project."""
    env = {**ENVIRONMENT, "DJANGO_SETTINGS_MODULE": "django_settings_parts", "DATABASE": str(folder / "db")}
    return serving(command, port, folder, env=env)


def check_view_is_shown(server: Server) -> None:
    """Check that a view that hands its parts to threads has right shares, and stands above each of the parts."""
    paths = [f"/hands-on/{number}" for number in range(MANY)]
    answers = server.get_all(paths)
    profiles = server.profiles(paths)
    compare(answers, profiles)
    known = below_view = 0.0
    for part in ("compute_part", "block_part", "queue_part"):
        part_below = sum(seconds_below(profiles[path], f"request_{number}", part) for number, path in enumerate(paths))
        assert part_below > 0
        below_view += part_below
        known += sum(seconds_below(profiles[path], part) for path in paths)
    # At the instant at which one part is handed over and the next one is not, there may be no way to the view.
    assert below_view >= 0.9 * known


def test_django_under_gunicorn(tmp_path: Path) -> None:
    """Views, with a database and without, and those that an event loop in another thread runs, have right shares."""
    port = servers.free_port()
    with django(gunicorn("django_parts:wsgi", port), port, tmp_path) as server:
        check(server, "/blocks", MANY)
        check(server, "/waits", MANY)
        check_view_is_shown(server)
        server.get("/prepare")
        check(server, "/database", 4)


def test_django_under_uvicorn(tmp_path: Path) -> None:
    """Asynchronous views, behind middleware in a thread, and views that a thread runs have right shares."""
    port = servers.free_port()
    with django(uvicorn("django_parts:asgi", port, "uvloop"), port, tmp_path) as server:
        check(server, "/blocks", MANY)
        check(server, "/waits", MANY)
        check_view_is_shown(server)


def test_flask_async_views(tmp_path: Path) -> None:
    """Views that an event loop in another thread runs have right shares."""
    port = servers.free_port()
    with serving(gunicorn("flask_parts:app", port), port, tmp_path, env=ENVIRONMENT) as server:
        check(server, "/waits", MANY)
        check(server, "/bursts", 1)
        check(server, "/bursts", 2)


def test_flask_threads_that_compute_in_bursts(tmp_path: Path) -> None:
    """Of views that compute for less than the interpreter's switch interval each time, that is seen all the same."""
    port = servers.free_port()
    with serving(gunicorn("flask_parts:app", port), port, tmp_path, env={**ENVIRONMENT, "STAGGER": "0"}) as server:
        check(server, "/thread-bursts", 2)
