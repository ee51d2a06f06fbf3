"""Requests in greenlets: gevent's have profiles of their own; where eventlet has the threads slowspan is off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import servers
from server_models import Server, compare, gevent, python, serving
from slowspan.recording.recording import Lost
from slowspan.recording.resolve import GREENLETS_NOTE
from slowspan.recording.synthetic import COMPUTED_NOT_SEEN as NOT_SEEN
from slowspan.recording.synthetic import NOT_SAMPLED
from support import APPS, FEW_INSTRUMENTATIONS, REPOSITORY, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

MANY = 50
"""Greenlets at once."""

OFF = "slowspan is off: eventlet has replaced the threads of this process"


# -- gevent.


@pytest.fixture(scope="module")
def gunicorn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve a Flask application with gunicorn's gevent worker."""
    folder, port = tmp_path_factory.mktemp("gevent"), servers.free_port()
    env = {
        **FEW_INSTRUMENTATIONS,
        "OTEL_PYTHON_SLOWSPAN_OVERHEAD_BUDGET": "1",
        "OTEL_PYTHON_SLOWSPAN_NOTIFIERS": "bare,file",
        "OTEL_PYTHON_SLOWSPAN_REPORT_DIR": str(folder / "pages"),
        # To wait for fifty pages would take a small machine seconds.
        "OTEL_PYTHON_SLOWSPAN_FLUSH_TIMEOUT": "0.5",
    }
    with serving(gevent("gevent_parts:app", port), port, folder, env=env) as server:
        yield server
    log = server.log.read_text()
    assert "Worker exiting" in log
    assert "SIGKILL" not in log
    assert "internal_error" not in log


def test_gunicorn_gevent(gunicorn: Server) -> None:
    """Of many greenlets that compute, wait, or do both in turns, each has its own frames and times in its profile."""
    pages = ["waits", "blocks", "steps", "waits", "blocks"]
    paths = [f"/{pages[number % len(pages)]}/{number}" for number in range(MANY)]
    answers = gunicorn.get_all(paths)
    profiles = gunicorn.profiles(paths)
    for page in {*pages}:
        compare({path: answers[path] for path in paths if page in path}, profiles)
    assert {profile.notes for profile in profiles.values()} == {(GREENLETS_NOTE,)}


def test_gunicorn_gevent_pages(gunicorn: Server) -> None:
    """Where gevent has replaced ``subprocess`` pages are rendered all the same."""
    gunicorn.get("/waits/99")
    eventually(lambda: list((gunicorn.report_dir.parent / "pages").glob("*.html")))


def run_script(name: str, *arguments: str) -> tuple[Any, str]:
    """Run a program; return what it prints as JSON, and its log."""
    path = os.pathsep.join(map(str, [REPOSITORY / "tests", REPOSITORY / "examples/shop"]))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([path, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(APPS / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_patched_first() -> None:
    """In a program that gevent patches before all else an N+1 has its true shares, and a wait is one's own."""
    facts, _ = run_script("gevent_script.py")
    # Between the two lies what the machine has given to others.
    by_cpu, by_wall = facts["truth"]
    computing = sum(facts["shown"].get(name, 0.0) for name in ("compute", NOT_SEEN))
    assert by_cpu - 0.2 < computing < by_wall + 0.2
    # What was computed and not seen can stand below the query's frames.
    assert facts["shown"]["query"] > 1 - computing - 0.1
    assert facts["waiting"]["wait"] > 0.7
    assert "compute" not in facts["waiting"]
    assert facts["waiting_cpu_ns"] < 0.25e9
    assert facts["drops"] == {}


@pytest.fixture(scope="module")
def ways() -> dict[str, dict[str, Any]]:
    """What a program shows in which greenlets run event loops and serve a pool, for both ways to watch a span."""
    ways, _ = run_script("gevent_loops.py")
    assert set(ways) == {"by its trace", "apart"}
    return ways


def test_gevent_and_event_loops(ways: dict[str, dict[str, Any]]) -> None:
    """Where another greenlet runs an event loop a request has its own frames, and so has each of the loop's tasks."""
    for facts in ways.values():
        for beside in ("a step", "a wait"):
            ((name, plain),) = facts[f"beside {beside}"].items()
            assert (name, plain["notes"]) == ("plain", [GREENLETS_NOTE])
            assert plain["shares"]["wait"] > 0.5
            assert plain["shares"].keys().isdisjoint({"stay_in_a_step", "run"})
        # Where its greenlet has not the thread it cannot be found, and what has it is not shown instead.
        assert facts["in a step"]["task"]["shares"].keys().isdisjoint({"compute_beside", "run"})
        one, two = (facts["in tasks"][name]["shares"] for name in ("one", "two"))
        assert (one["nap_one"] > 0.5, two["nap_two"] > 0.5) == (True, True)
        assert ("nap_two" in one, "nap_one" in two) == (False, False)


def test_a_pool_of_greenlets_calls_us(ways: dict[str, dict[str, Any]]) -> None:
    """Whose request it is cannot be told then: the report says so, and shows nobody's frames."""
    for facts in ways.values():
        requests = facts["called by a pool"]
        assert requests.keys() == {"first", "second"}
        for request in requests.values():
            assert Lost.NO_THREAD.value in request["notes"]
            assert GREENLETS_NOTE not in request["notes"]
            assert {name for name, share in request["shares"].items() if share} == {NOT_SAMPLED}


# -- eventlet.


@pytest.fixture(scope="module")
def eventlet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve a Flask application with eventlet."""
    port = servers.free_port()
    folder = tmp_path_factory.mktemp("eventlet")
    with serving(python("eventlet_parts", port), port, folder, env=FEW_INSTRUMENTATIONS) as server:
        yield server


def test_eventlet_server(eventlet: Server) -> None:
    """Under eventlet requests are answered as ever, and slowspan says once that it is off, and why."""
    paths = [f"/waits/{number}" for number in range(10)]
    answers = eventlet.get_all(paths)
    assert [answers[path]["number"] for path in paths] == list(range(10))
    status = eventlet.get("/status")
    assert "eventlet has replaced the threads" in status["unavailable"]
    assert (status["enabled"], status["slow"], status["threads"]) == (False, 0, 0)
    assert eventlet.log.read_text().count(OFF) == 1
    assert eventlet.profiles_so_far() == {}


@pytest.mark.parametrize("patched_before", ["import", "processor", "more-requests"])
def test_eventlet_comes_early_or_late(patched_before: str) -> None:
    """Whenever eventlet comes the application goes on, with one warning, no thread and no report of ours."""
    facts, log = run_script("eventlet_parts.py", patched_before)
    assert facts["answers"] == list(range(6))
    assert "eventlet has replaced the threads" in facts["unavailable"]
    assert (facts["reports"], facts["threads"]) == (0, 0)
    assert log.count(OFF) == 1
