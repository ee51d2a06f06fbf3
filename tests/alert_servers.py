"""Real servers for alert state, each on a free port of the loopback interface."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from typing import TYPE_CHECKING

import servers
from support import eventually, requires

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def redis_server(port: int | None = None) -> Iterator[str]:
    """Run Redis until the end of the block; yields its URI. Nothing is written to disk."""
    port = port or servers.free_port()
    command = [requires("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with _running(command, port):
        yield f"redis://127.0.0.1:{port}"


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
