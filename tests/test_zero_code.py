"""Under ``opentelemetry-instrument``, with real servers, and an application that knows nothing of slowspan."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import servers
from slowspan import Profile, load_profile
from support import APPS, DISABLED, FEW_INSTRUMENTATIONS, OTHERS, Served, eventually, served
from watched import functions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from slowspan import Profile

SCRIPTS = Path(sys.executable).parent
QUICK = {"OTEL_PYTHON_SLOWSPAN_THRESHOLD": "0.1", "OTEL_PYTHON_SLOWSPAN_INCLUDED_URLS": "/wait/"}
"""For the pages that wait: also the one with which a server is asked whether it is up can be slow."""
DEFAULTS = {
    "OTEL_TRACES_EXPORTER": "none",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
    **FEW_INSTRUMENTATIONS,
}


def get(url: str) -> str:
    """Return the body of a page."""
    with urllib.request.urlopen(url, timeout=60) as response:
        body: bytes = response.read()
        return body.decode()


def process_of(url: str) -> dict[str, Any]:
    """Return what the application says of its own process."""
    facts: dict[str, Any] = json.loads(get(f"{url}/process"))
    return facts


def stored_profiles(report_dir: Path) -> list[Profile]:
    """Return the stored profiles, oldest first."""
    return [load_profile(path) for path in sorted(report_dir.glob("*.json.gz"))]


@contextlib.contextmanager
def flask_run(
    folder: Path, *, env: Mapping[str, str], source: Path = APPS, flags: Sequence[str] = (), run: Sequence[str] = ()
) -> Iterator[str]:
    """Serve the application with ``opentelemetry-instrument flask run`` and return its URL."""
    port = servers.free_port()
    url = f"http://127.0.0.1:{port}"
    command = [SCRIPTS / "opentelemetry-instrument", *flags, SCRIPTS / "flask", "--app", source / "waiting.py"]
    command += ["run", f"--port={port}", *run]
    with servers.running(list(map(str, command)), url=url, log=folder / "server.log", env={**DEFAULTS, **env}):
        yield url


# -- flask run.


def test_flask_run_with_no_other_line(tmp_path: Path) -> None:
    """With all defaults a request over a second has a report in the private default directory, others have none."""
    with flask_run(tmp_path, env={"TMPDIR": str(tmp_path)}) as url:
        assert get(f"{url}/wait/0.3") == "waited 0.3 s"
        assert get(f"{url}/wait/1.1?token=hush&page=2") == "waited 1.1 s"
        (page,) = eventually(lambda: list(tmp_path.glob("slowspan-*/*.html")))
        (line,) = eventually(
            lambda: [line for line in (tmp_path / "server.log").read_text().splitlines() if "slow request" in line]
        )
    (profile,) = stored_profiles(page.parent)
    assert profile.span.endpoint == "GET /wait/<seconds>"
    assert profile.span.path == "/wait/1.1"
    assert profile.span.status_code == 200
    assert profile.threshold_ns == 1_000_000_000
    assert functions(profile)["wait_here"] > 0.8
    assert page.parent.stat().st_mode & 0o777 == 0o700
    assert page.stat().st_mode & 0o777 == 0o600
    assert "GET /wait/<seconds> 1.1" in line
    assert str(page) in line
    assert "hush" not in page.read_text() + line


def test_switched_off_by_opentelemetrys_variable(tmp_path: Path) -> None:
    """``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=slowspan`` leaves nothing of it in the process."""
    env = {**QUICK, DISABLED: ",".join(["slowspan", *OTHERS]), "TMPDIR": str(tmp_path)}
    with flask_run(tmp_path, env=env) as url:
        get(f"{url}/wait/0.2")
        facts = process_of(url)
    assert not facts["enabled"]
    assert facts["threads"] == []
    assert list(tmp_path.glob("slowspan-*")) == []


@pytest.fixture(scope="module")
def odd_server(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Profile]:
    """Serve with flags and with wrong settings; return the server's log and the profile of a slow request."""
    folder = tmp_path_factory.mktemp("odd")
    flags = ["--slowspan_threshold", "0.1", "--slowspan_report_dir", str(folder / "reports")]
    env = {
        "OTEL_PYTHON_SLOWSPAN_THRESHOLD": "30",
        "OTEL_PYTHON_SLOWSPAN_INTERVAL": "often",
        "OTEL_PYTHON_SLOWSPAN_TRESHOLD": "3",
    }
    with flask_run(folder, env=env, flags=flags) as url:
        assert get(f"{url}/wait/0.2") == "waited 0.2 s"
        (profile,) = eventually(lambda: stored_profiles(folder / "reports"))
    return folder / "server.log", profile


def test_flags_of_opentelemetry_instrument(odd_server: tuple[Path, Profile]) -> None:
    """Settings can be given as flags of ``opentelemetry-instrument``, before those of the environment."""
    _, profile = odd_server
    assert profile.threshold_ns == 100_000_000


def test_wrong_settings_do_not_stop_the_application(odd_server: tuple[Path, Profile]) -> None:
    """With wrong settings in the environment the application is served, and the log names each of them."""
    log = odd_server[0].read_text()
    assert "OTEL_PYTHON_SLOWSPAN_INTERVAL" in log
    assert "'often'" in log
    assert "OTEL_PYTHON_SLOWSPAN_TRESHOLD" in log
    assert "threshold, the nearest name" in log


def test_flasks_debug_reloader(tmp_path: Path) -> None:
    """Under the reloader the process that serves reports, before and after a reload.

    Older releases of OpenTelemetry instrument the process that only watches files: then nothing is reported, or broken.
    """
    source = tmp_path / "source"
    shutil.copytree(APPS, source)
    env = {**QUICK, "OTEL_PYTHON_SLOWSPAN_REPORT_DIR": str(tmp_path / "reports")}
    with flask_run(tmp_path, env=env, source=source, run=["--debug"]) as url:
        get(f"{url}/wait/0.2")
        facts = process_of(url)
        before, reported = facts["pid"], facts["instrumented"]
        eventually(lambda: len(stored_profiles(tmp_path / "reports")) == reported)
        code = source / "waiting.py"
        code.write_text(code.read_text() + "\n# changed\n")

        def is_reloaded() -> bool:
            with contextlib.suppress(OSError):
                return bool(process_of(url)["pid"] != before)
            return False

        eventually(is_reloaded)
        get(f"{url}/wait/0.2")
        after = process_of(url)["pid"]
        eventually(lambda: len(stored_profiles(tmp_path / "reports")) == 2 * reported)
    pids = [profile.process.pid for profile in stored_profiles(tmp_path / "reports")]
    assert pids == ([before, after] if reported else [])


# -- gunicorn.


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["no preload", "preload"])
@pytest.mark.parametrize(("worker_class", "threads"), [("sync", 1), ("gthread", 2)])
def test_gunicorn(tmp_path: Path, worker_class: str, threads: int, preload: tuple[str, ...]) -> None:
    """Every worker reports its own slow requests, in its own process, with or without preloading."""
    options = [f"--worker-class={worker_class}", *preload]
    with served("waiting:app", tmp_path, env=QUICK, workers=2, threads=threads, options=options) as server:
        with ThreadPoolExecutor(2 * threads) as pool:
            urls = [f"{server.url}/wait/{0.3 + number / 1000}" for number in range(2 * threads)]
            bodies = list(pool.map(get, urls))
        assert len(bodies) == 2 * threads
        eventually(lambda: len(server.profiles()) == len(server.pages()) == 2 * threads)
        profiles = [load_profile(path) for path in server.profiles()]
        assert server.process.pid not in {profile.process.pid for profile in profiles}
    assert {profile.span.path for profile in profiles} == {f"/wait/{0.3 + n / 1000}" for n in range(2 * threads)}
    for profile in profiles:
        assert functions(profile)["wait_here"] > 0.2
        assert sum(sample.wall_ns for sample in profile.samples) == profile.duration_ns
    assert "Traceback" not in server.log.read_text()


def hanging_worker(server: Served) -> int:
    """Let a request hang; return its worker's process id when its first partial report is there."""
    pool = ThreadPoolExecutor(1)
    pool.submit(get, f"{server.url}/wait/120")
    pool.shutdown(wait=False)
    profile = eventually(lambda: profile_of_hanging(server))
    assert profile.running
    return profile.process.pid


def profile_of_hanging(server: Served) -> Profile | None:
    """Return the profile of the hanging request; on a busy machine others can be slow as well."""
    profiles = [load_profile(path) for path in server.profiles()]
    return next((profile for profile in profiles if profile.span.path == "/wait/120"), None)


HANGS = {**QUICK, "OTEL_PYTHON_SLOWSPAN_HUNG_AFTER": "0.3"}


def test_worker_that_is_killed_has_left_a_partial_report(tmp_path: Path) -> None:
    """A worker killed without any warning has left the profile and the page of its hanging request."""
    options = ["--worker-class=sync"]
    with served("waiting:app", tmp_path, env=HANGS, threads=1, options=options) as server:
        worker = hanging_worker(server)
        eventually(lambda: "still running" in server.log.read_text())
        os.kill(worker, signal.SIGKILL)
        assert eventually(lambda: process_of(server.url)["pid"]) != worker
        profile = profile_of_hanging(server)
        assert profile is not None
        assert profile.running
        assert functions(profile)["wait_here"] > 0.2
        assert any("still running" in page.read_text() for page in server.pages())


def test_worker_that_gunicorn_times_out_has_left_a_report(tmp_path: Path) -> None:
    """When gunicorn's timeout ends a worker, its hanging request has a report."""
    options = ["--worker-class=sync", "--timeout=2"]
    with served("waiting:app", tmp_path, env=HANGS, threads=1, options=options) as server:
        worker = hanging_worker(server)
        assert eventually(lambda: process_of(server.url)["pid"]) != worker
        assert "WORKER TIMEOUT" in server.log.read_text()
        profile = profile_of_hanging(server)
        assert profile is not None
        assert functions(profile)["wait_here"] > 0.2
