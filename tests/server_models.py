"""Real servers of every model, requests that know their own truth, and the comparison with what slowspan kept."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import statistics
import sys
import threading
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import servers
from slowspan import load_profile
from slowspan.recording.synthetic import WAITING_FOR_LOOP
from slowspan.report.summary import time_shares
from support import APPS, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from slowspan import Profile

SCRIPTS = Path(sys.executable).parent
TOLERANCE = 20.0
"""Points by which a share may be wrong in a test: on a busy machine; ``bench/server_truth.py`` is strict."""

COMPUTING = "computing"

LEAD_INS = frozenset({"lead_in", "lead_in_async"})


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    report_dir: Path
    log: Path

    def get(self, path: str) -> Any:
        """Return the JSON of a page."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=60) as response:
            text: bytes = response.read()
        return json.loads(text) if text.startswith((b"{", b"n")) else text.decode()

    def get_all(self, paths: Sequence[str]) -> dict[str, Any]:
        """Return the JSON of pages that are asked for at once, by path."""
        with ThreadPoolExecutor(len(paths)) as pool:
            return dict(zip(paths, pool.map(self.get, paths), strict=True))

    def profiles(self, paths: Sequence[str]) -> dict[str, Profile]:
        """Return the profiles of these pages, when they are there, by path."""
        return eventually(lambda: self._profiles_if_there(paths))

    def _profiles_if_there(self, paths: Sequence[str]) -> dict[str, Profile]:
        found = self.profiles_so_far()
        missing = [path for path in paths if path not in found]
        assert not missing
        return {path: found[path] for path in paths}

    def profiles_so_far(self) -> dict[str, Profile]:
        """Return all profiles that there are, by path."""
        profiles = [load_profile(path) for path in self.report_dir.glob("*.json.gz")]
        return {profile.span.path or "": profile for profile in profiles}


def environment_in(folder: Path, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment in which a process keeps its profiles in the folder's ``reports``, which it makes."""
    reports, plugin = folder / "reports", folder / "bare-1.dist-info"
    reports.mkdir()
    plugin.mkdir()
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: bare\nVersion: 1\n")
    (plugin / "entry_points.txt").write_text("[slowspan_notifier]\nbare = bare_profiles:keep\n")
    return {
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_PYTHON_SLOWSPAN_NOTIFIERS": "bare",
        "BARE_PROFILES": str(reports),
        "OTEL_PYTHON_SLOWSPAN_THRESHOLD": "0.15",
        "PYTHONPATH": os.pathsep.join([str(APPS), str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        **(env or {}),
    }


@contextlib.contextmanager
def serving(
    command: Sequence[str], port: int, folder: Path, *, env: Mapping[str, str] | None = None, front: str = "/"
) -> Iterator[Server]:
    """Run a server under ``opentelemetry-instrument`` until the end of the block.

    Args:
        command: The server's command.
        port: Where it listens.
        folder: An empty folder, for the log and the reports.
        env: More environment variables.
        front: A page that is asked for until it answers.
    """
    url = f"http://127.0.0.1:{port}"
    environment = environment_in(folder, env)
    whole = [str(SCRIPTS / "opentelemetry-instrument"), *command]
    with servers.running(whole, url=url + front, log=folder / "log", env=environment):
        yield Server(url, folder / "reports", folder / "log")


def uvicorn(application: str, port: int, loop: str = "asyncio") -> list[str]:
    """Return the command that serves an ASGI application."""
    options = [f"--port={port}", f"--loop={loop}", "--lifespan=off", "--log-level=warning"]
    return [str(SCRIPTS / "uvicorn"), *options, application]


def gunicorn(application: str, port: int, threads: int = 24) -> list[str]:
    """Return the command that serves a WSGI application."""
    options = [f"--bind=127.0.0.1:{port}", "--worker-class=gthread", f"--threads={threads}", "--graceful-timeout=1"]
    return [str(SCRIPTS / "gunicorn"), *options, application]


def gevent(application: str, port: int) -> list[str]:
    """Return the command that serves a WSGI application in greenlets of one process."""
    options = [f"--bind=127.0.0.1:{port}", "--worker-class=gevent", "--workers=1", "--graceful-timeout=5"]
    return [str(SCRIPTS / "gunicorn"), *options, application]


def python(module: str, port: int) -> list[str]:
    """Return the command that runs a server of its own."""
    return [sys.executable, str(APPS / f"{module}.py"), str(port)]


class _Upstream(http.server.BaseHTTPRequestHandler):
    """Answers after as many seconds as its path says."""

    def do_GET(self) -> None:
        time.sleep(float(self.path.rpartition("/")[2]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def upstream() -> Iterator[str]:
    """Run a slow service until the end of the block; yield its URL."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Upstream)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# -- What a profile shows.


@dataclass
class Seen:
    """What a profile shows of one request."""

    seconds: Counter[str] = field(default_factory=Counter)
    """By function: the time of the samples with it among the request's own frames."""
    marks: set[str] = field(default_factory=set)
    """The numbers of the requests whose frames are shown as this one's own."""
    waited_for_loop: float = 0.0
    """Seconds in which it waited for the event loop."""
    held_by: Counter[str] = field(default_factory=Counter)
    """By function: the time in which it was seen to hold the event loop."""


def seen_in(profile: Profile) -> Seen:
    """Return what a profile shows."""
    seen = Seen()
    for sample in profile.samples:
        names = [frame.name for frame, _ in profile.stack_frames(sample.stack)]
        seconds = sample.wall_ns / 1e9
        if WAITING_FOR_LOOP in names:
            place = names.index(WAITING_FOR_LOOP)
            seen.waited_for_loop += seconds
            seen.held_by.update(dict.fromkeys(names[place + 1 :], seconds))
            names = names[:place]
        seen.seconds.update(dict.fromkeys(names, seconds))
        seen.marks |= {mark for name in names for mark in re.findall(r"^request_(\d+)$", name)}
    return seen


def errors(profile: Profile, answer: Mapping[str, Any]) -> dict[str, float]:
    """Compare a profile with what the request measured of itself.

    Returns:
        By part, and for ``COMPUTING``: the difference of the shares, in points. The lead-in is in no share.
    """
    truth = {name: seconds for name, seconds in answer["wall"].items() if name not in LEAD_INS}
    whole = sum(truth.values())
    seen = seen_in(profile)
    shown = sum(seen.seconds[name] for name in truth) or 1.0
    found = {name: 100 * (seen.seconds[name] / shown - seconds / whole) for name, seconds in truth.items()}
    computing = {share.name: share.share for share in time_shares(profile)}.get(COMPUTING, 0.0)
    found[COMPUTING] = 100 * (computing - answer[COMPUTING] * 1e9 / profile.duration_ns)
    return found


def check(server: Server, page: str, requests: int) -> None:
    """Ask for a page many times at once; compare what each profile shows with what its request measured.

    Raises:
        AssertionError: A profile shows another request's frames, or the shares are wrong on average.
    """
    paths = [f"{page}/{number}" for number in range(requests)]
    answers = server.get_all(paths)
    compare(answers, server.profiles(paths))


def compare(answers: Mapping[str, Mapping[str, Any]], profiles: Mapping[str, Profile]) -> None:
    """Compare what each profile shows with what its request measured.

    Args:
        answers: What the requests measured, by paths that end in their numbers.
        profiles: Their profiles, by the same paths.

    Raises:
        AssertionError: A profile shows another request's frames, or the shares are wrong on average.
    """
    differences: dict[str, list[float]] = {}
    seen = 0
    for path, answer in answers.items():
        marks = seen_in(profiles[path]).marks
        assert marks <= {path.rpartition("/")[2]}, f"{path} shows {marks}"
        if not marks:
            continue  # On a busy machine the sampler may come too late for one.
        seen += 1
        for part, points in errors(profiles[path], answer).items():
            differences.setdefault(part, []).append(points)
    assert seen > 0.7 * len(answers)
    wrong = {part: statistics.mean(points) for part, points in differences.items()}
    assert all(abs(points) < TOLERANCE for points in wrong.values()), wrong
