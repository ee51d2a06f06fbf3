"""Tasks of Celery and calls of a gRPC server have profiles of their own, which agree with what they measured."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import pytest

import servers
from server_models import SCRIPTS, compare, environment_in, seen_in
from slowspan import load_profile
from support import APPS, DISABLED, OTHERS, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from celery.result import AsyncResult

    from slowspan import Profile

NUMBERS = ("0", "1", "2")
"""Of the tasks that a worker has to do."""

FEW = {DISABLED: ",".join(set(OTHERS) - {"celery", "grpc_server"})}
"""With all instrumentations a process takes seconds to start."""

INSTRUMENT = str(SCRIPTS / "opentelemetry-instrument")


@contextlib.contextmanager
def running(command: Sequence[str], folder: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run what serves no HTTP until the end of the block."""
    environment = {**os.environ, **FEW, **environment_in(folder, {"STAGGER": "0.05", **env})}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    finally:
        servers.stop(process)


def profiles_by_number(folder: Path, numbers: Sequence[str]) -> dict[str, Profile]:
    """Return the profiles of these requests, when all are there."""

    def if_there() -> dict[str, Profile]:
        profiles = [load_profile(path) for path in (folder / "reports").glob("*.json.gz")]
        found = {"".join(seen_in(profile).marks): profile for profile in profiles}
        assert sorted(found) == sorted(numbers)
        return found

    return eventually(if_there)


# -- Celery.


def celery_worker(pool: str, *options: str) -> list[str]:
    """Return the command of a worker."""
    fewer = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    return [
        str(SCRIPTS / "celery"),
        "--app=celery_parts",
        "worker",
        f"--pool={pool}",
        "--concurrency=2",
        *fewer,
        *options,
    ]


POOLS = {
    # A process ends after each task.
    "prefork": ([INSTRUMENT, *celery_worker("prefork", "--max-tasks-per-child=1")], ""),
    "prefork-by-hand": (celery_worker("prefork"), "1"),
    "threads": ([INSTRUMENT, *celery_worker("threads")], ""),
    "solo": ([INSTRUMENT, *celery_worker("solo")], ""),
}
"""By name: the worker's command, and whether the application sets OpenTelemetry up by hand."""


@dataclass(frozen=True)
class Workers:
    """Workers of all pools, each with a queue and a folder of its own, and with tasks to do."""

    results: dict[str, dict[str, AsyncResult]]
    folders: dict[str, Path]


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """Run a worker of each pool, all at the same time: they take seconds to start and to end."""
    queues = tmp_path_factory.mktemp("queues")
    folders = {pool: tmp_path_factory.mktemp("worker") for pool in POOLS}
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELERY_FOLDER", str(queues))
        patch.syspath_prepend(APPS)
        app = importlib.import_module("celery_parts").app
        # Before anybody looks for them: a worker can find the file of a task that has not been written wholly.
        results = {pool: {n: app.send_task("orders.pack", [n], queue=pool) for n in NUMBERS} for pool in POOLS}
        processes = []
        for pool, (command, by_hand) in POOLS.items():
            env = {"BY_HAND": by_hand, "OTEL_PYTHON_SLOWSPAN_SPAN_KINDS": "CONSUMER"}
            worker = running([*command, f"--queues={pool}"], folders[pool], **env)
            processes.append(stack.enter_context(worker))
        yield Workers(results, folders)
        app.close()
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + servers.SECONDS_TO_STOP
        for pool, process in zip(POOLS, processes, strict=True):
            # Once in a hundred times billiard waits for ever for a queue's lock that an ended process had.
            with contextlib.suppress(subprocess.TimeoutExpired) if pool == "prefork" else contextlib.nullcontext():
                process.wait(max(0, deadline - time.monotonic()))


@pytest.mark.parametrize("pool", POOLS)
def test_celery(workers: Workers, pool: str) -> None:
    """Each task has a profile of its own, with the right shares, and named after the task."""
    answers = {n: result.get(timeout=60, interval=0.05) for n, result in workers.results[pool].items()}
    profiles = profiles_by_number(workers.folders[pool], NUMBERS)
    compare(answers, profiles)
    for profile in profiles.values():
        assert (profile.span.kind, profile.span.name) == ("CONSUMER", "run/orders.pack")
        assert profile.notes == ()


# -- gRPC.


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[grpc.Channel, Path]]:
    """Run a gRPC server; give a channel to it, and its folder."""
    folder, port = tmp_path_factory.mktemp("grpc"), servers.free_port()
    command = [INSTRUMENT, sys.executable, str(APPS / "grpc_parts.py"), str(port)]
    with running(command, folder), grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        grpc.channel_ready_future(channel).result(60)
        yield channel, folder


def test_grpc(orders: tuple[grpc.Channel, Path]) -> None:
    """Calls that a gRPC server handles at once on its threads have a profile each, and so has a stream of answers."""
    channel, folder = orders
    numbers = ["0", "1", "2", "3"]
    pack = channel.unary_unary("/shop.Orders/Pack")
    calls = {number: pack.future(number.encode()) for number in numbers}
    answers = {number: json.loads(call.result(60)) for number, call in calls.items()}
    assert len(list(channel.unary_stream("/shop.Orders/Follow")(b"4"))) == 2
    profiles = profiles_by_number(folder, [*numbers, "4"])
    compare(answers, profiles)
    assert profiles["0"].span.name == "/shop.Orders/Pack"
    assert seen_in(profiles["4"]).seconds["block_part"] == pytest.approx(0.24, abs=0.15)


def test_grpc_on_asyncio() -> None:
    """Tasks of gRPC's own are compiled: their frames are on no stack, but the handlers' are, and each request's own."""
    command = [sys.executable, str(APPS / "grpc_aio.py")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert set(facts) == {"/waits/serve", "/computes/serve"}
    computes, waits = facts["/computes/serve"], facts["/waits/serve"]
    assert computes["functions"]["compute_here"] > 0.2
    assert computes["functions"]["serve"] > 0.8
    assert computes["shares"]["computing"] == pytest.approx(computes["computing"], abs=0.1)
    assert computes["shares"]["waiting"] > 0.2
    assert waits["functions"]["serve"] > 0.5
    assert waits["shares"]["computing"] < 0.2
