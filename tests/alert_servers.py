"""Real servers for alert state, each on a free port of the loopback interface."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
from typing import TYPE_CHECKING

import redis

import servers
from support import eventually, requires

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def redis_server(port: int | None = None, *options: str) -> Iterator[str]:
    """Run Redis until the end of the block; yields its URI. What it stores, for a replica, goes with it."""
    port = port or servers.free_port()
    command = [requires("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with (
        tempfile.TemporaryDirectory(prefix="redis-") as directory,
        _running([*command, "--dir", directory, *options], port),
    ):
        yield f"redis://127.0.0.1:{port}"


@contextlib.contextmanager
def redis_cluster() -> Iterator[str]:
    """Run a cluster until the end of the block; yields its URI. Of one node, which is as strict about keys as three."""
    port = servers.free_port()
    with redis_server(port, "--cluster-enabled", "yes", "--cluster-port", str(servers.free_port())):
        with redis.Redis(port=port) as node:
            node.execute_command("CLUSTER ADDSLOTSRANGE 0 16383")
            eventually(lambda: node.cluster("INFO")["cluster_state"] == "ok")
        yield f"redis+cluster://127.0.0.1:{port}"


@contextlib.contextmanager
def redis_sentinel(directory: Path) -> Iterator[str]:
    """Run a master, its replica and their sentinel until the end of the block; yields the URI.

    Args:
        directory: Where the sentinel keeps its configuration.
    """
    master, replica, port = (servers.free_port() for _ in range(3))
    file = directory / "sentinel.conf"
    file.write_text(f"port {port}\nbind 127.0.0.1\nsentinel monitor mymaster 127.0.0.1 {master} 1\n")
    with (
        redis_server(master),
        redis_server(replica, "--replicaof", f"127.0.0.1 {master}"),
        _running([requires("redis-server"), str(file), "--sentinel"], port),
        redis.Redis(port=port) as sentinel,
    ):
        eventually(lambda: sentinel.execute_command("SENTINEL REPLICAS mymaster"))
        yield f"redis+sentinel://127.0.0.1:{port}/mymaster"


@contextlib.contextmanager
def memcached_server() -> Iterator[str]:
    """Run memcached until the end of the block; yields its URI."""
    port = servers.free_port()
    command = [requires("memcached"), "-l", "127.0.0.1", "-p", str(port)]
    if os.geteuid() == 0:
        command += ["-u", "nobody"]
    with _running(command, port):
        yield f"memcached://127.0.0.1:{port}"


@contextlib.contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: _accepts(port))
        yield
    finally:
        process.kill()
        process.wait()


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
