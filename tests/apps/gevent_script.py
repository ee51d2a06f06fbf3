"""A program that gevent has patched before all else, for tests: an N+1 over a socket, and greenlets in turns.

Prints the shares that it measured, and those that its profiles show.
"""

# ruff: noqa: E402
from gevent import monkey

monkey.patch_all()

import json
import socket
import sys
import time

import gevent
from opentelemetry.trace import SpanKind

from watched import Watched, functions, watched

QUERIES = 40
SECONDS = 0.006


def serve_queries(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        while connection.recv(1):
            time.sleep(SECONDS)
            connection.send(b"x")


def query(connection: socket.socket) -> None:
    connection.send(b"q")
    connection.recv(1)


def compute(seconds: float = SECONDS) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(200))


def n_plus_one(shop: Watched, connection: socket.socket) -> tuple[float, float]:
    """Query and compute in turns; return the share of computing, by the thread's clock and by the wall's."""
    cpu = wall = 0.0
    begin = time.perf_counter()
    with shop.provider.get_tracer("test").start_as_current_span("n + 1", kind=SpanKind.SERVER):
        for _ in range(QUERIES):
            query(connection)
            start, start_cpu = time.perf_counter(), time.thread_time()
            compute()
            cpu += time.thread_time() - start_cpu
            wall += time.perf_counter() - start
    whole = time.perf_counter() - begin
    return cpu / whole, wall / whole


def wait(shop: Watched) -> None:
    """Wait, while another greenlet computes for most of the time."""
    with shop.provider.get_tracer("test").start_as_current_span("wait", kind=SpanKind.SERVER):
        time.sleep(0.4)


def main() -> None:
    with watched(threshold=0.2) as shop, socket.create_server(("127.0.0.1", 0)) as server:
        answering = gevent.spawn(serve_queries, server)
        with socket.create_connection(server.getsockname()) as connection:
            truth = gevent.spawn(n_plus_one, shop, connection).get()
        answering.get()
        gevent.joinall([gevent.spawn(wait, shop), gevent.spawn(compute, 0.3)], raise_error=True)
        profiles = {profile.span.name: profile for profile in shop.profiles()}
        facts = {
            "truth": truth,
            "shown": functions(profiles["n + 1"]),
            "waiting": functions(profiles["wait"]),
            "waiting_cpu_ns": profiles["wait"].cpu_time_ns,
            "drops": shop.processor.status().drops,
        }
    json.dump(facts, sys.stdout)


if __name__ == "__main__":
    main()
