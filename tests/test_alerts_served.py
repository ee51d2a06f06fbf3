"""Alerts of a real application under gunicorn: told once by all workers, also late, and never in the way."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from alert_servers import redis_server
from http_server import SILENCE, RecordingServer, closed_port
from mattermost_server import CHANNEL, RESET_BEFORE, TEAM, TOKEN, MattermostServer
from slowspan.delivery.naming import ALERT_STATE
from support import Served, eventually, served

if TYPE_CHECKING:
    from collections.abc import Mapping

    from http_server import Received


def get(url: str) -> str:
    """Return the body of a page."""
    with urllib.request.urlopen(url, timeout=60) as response:
        body: bytes = response.read()
        return body.decode()


def environment(**settings: object) -> Mapping[str, str]:
    """Return slowspan's settings as environment variables; a proxy of the environment is not for these servers."""
    # The page with which a server is asked whether it is up can be slow as well.
    settings = {"threshold": 0.1, "included_urls": "/wait/", **settings}
    return {f"OTEL_PYTHON_SLOWSPAN_{name.upper()}": str(value) for name, value in settings.items()} | {"NO_PROXY": "*"}


def workers_of(server: Served) -> list[int]:
    """Return the process ids of gunicorn's workers."""
    pid = server.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alerts_of(hook: RecordingServer) -> list[Received]:
    """Return what the webhook has got."""
    return [request for request in hook.requests if request.method == "POST"]


def slow_path(request: Received) -> str:
    """Return the parameters of the request that an alert is about."""
    found = [word for word in request.body.decode().replace('"', " ").split() if word.startswith("key-")]
    return found[0] if found else ""


def test_workers_and_hosts_tell_once(tmp_path: Path) -> None:
    """Two hosts without a directory in common, each with two workers, tell each endpoint once through one Redis."""
    hosts = tmp_path / "a", tmp_path / "b"
    for host in hosts:
        host.mkdir()
    with redis_server() as store, RecordingServer() as hook:
        # On a busy machine a request may take many times as long, and would be told again for that.
        env = environment(webhook_url=hook.url, alert_store=store, realert_ratio=1000)
        with (
            served("waiting:app", hosts[0], env=env, workers=2, threads=2) as first,
            served("waiting:app", hosts[1], env=env, workers=2, threads=2, options=["--preload"]) as second,
        ):
            urls = [f"{server.url}/wait/0.15?page=key-{key}" for key in range(3) for server in (first, second) * 2]
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(get, urls))
            eventually(lambda: len({slow_path(alert) for alert in alerts_of(hook)}) >= 3)
    told = Counter(map(slow_path, alerts_of(hook)))
    assert told == {"key-0": 1, "key-1": 1, "key-2": 1}


def test_other_channels_do_not_wait(tmp_path: Path) -> None:
    """With a channel that hangs and one that refuses the others have the alert at once; the server ends in time."""
    with RecordingServer() as hook, RecordingServer() as hanging, RecordingServer() as service:
        hanging.answers += [SILENCE] * 20
        env = environment(
            webhook_url=hook.url,
            mattermost_url=hanging.url,
            mattermost_token=TOKEN,
            mattermost_channel="c" * 26,
            apprise_urls=f"json://127.0.0.1:{closed_port()}, json://{service.address}",
            flush_timeout=1,
        )
        with served("waiting:app", tmp_path, env=env) as server:
            get(f"{server.url}/wait/0.15")
            ended = time.monotonic()
            eventually(lambda: hook.requests and service.requests)
            # A tenth of a second where nothing else runs; the time limit of the one that hangs is 30 s.
            assert time.monotonic() - ended < 20
            # The application answers as ever.
            assert get(f"{server.url}/wait/0.01") == "waited 0.01 s"
            server.process.terminate()
            begin = time.monotonic()
            server.process.wait(30)
            assert time.monotonic() - begin < 10
        assert TOKEN not in server.log.read_text()
        with sqlite3.connect(server.report_dir / ALERT_STATE) as connection:
            waiting = connection.execute("SELECT channel FROM outbox ORDER BY channel").fetchall()
        connection.close()
    assert "mattermost" in {channel for (channel,) in waiting}


def test_killed_while_the_channel_was_away(tmp_path: Path) -> None:
    """Alerts that Mattermost could not take before all workers were killed wait in the state for the next ones."""
    with MattermostServer() as mattermost:
        mattermost.fail("posts", *[RESET_BEFORE] * 200)
        env = environment(mattermost_url=mattermost.url, mattermost_token=TOKEN, mattermost_channel=f"{TEAM}/{CHANNEL}")
        with served("waiting:app", tmp_path, env=env, workers=2) as server:
            for number in range(4):
                get(f"{server.url}/wait/0.15?page=key-{number}")
            eventually(lambda: waiting_in(server.report_dir) == 4)
            for worker in workers_of(server):
                os.kill(worker, signal.SIGKILL)
        assert mattermost.posts == []
        mattermost.heal()
        make_due(tmp_path / "reports")
        with served("waiting:app", tmp_path, env=env, workers=2) as server:
            for _ in range(4):
                get(f"{server.url}/wait/0.15?page=key-1")
            eventually(lambda: len(mattermost.posts) >= 4)
            eventually(lambda: waiting_in(server.report_dir) == 0)
        told = [next(word for word in post["message"].split() if "key-" in word) for post in mattermost.posts]
        assert sorted(told) == [f"`page=key-{number}`" for number in range(4)]


def waiting_in(report_dir: Path) -> int:
    """Return how many alerts wait in the outbox."""
    if not (report_dir / ALERT_STATE).exists():
        return 0
    connection = sqlite3.connect(report_dir / ALERT_STATE)
    try:
        (count,) = connection.execute("SELECT count(*) FROM outbox").fetchone()
        return int(count)
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()


def make_due(report_dir: Path) -> None:
    """Let the time pass after which what waits is tried again."""
    connection = sqlite3.connect(report_dir / ALERT_STATE)
    connection.execute("UPDATE outbox SET due = 0")
    connection.commit()
    connection.close()
