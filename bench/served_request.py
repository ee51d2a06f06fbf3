"""Proves that a request which ends soon pays next to nothing under the servers that run many on one thread.

FastAPI under uvicorn with uvloop, Flask under gevent's server. Three copies of an empty application, two controls and
one with slowspan, take turns behind one server, to which another process sends slices of 20 requests, as in
``fast_request``. What counts is the CPU time of the server's thread with all that a request costs it: waking up,
reading, parsing, answering.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from bench.figures import Figure, Options

# Imports of what uses threads and sockets stand in functions: gevent has to come before them.

_CLIENT = """
import socket, sys
orders = socket.socket(fileno=int(sys.argv[1]))
orders.setblocking(True)  # gevent has made it wait for nothing.
connections = []
def ask(times):
    while len(connections) < times:
        connections.append(socket.create_connection(("127.0.0.1", int(sys.argv[2]))))
        connections[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for connection in connections[:times]:
        connection.sendall(b"GET / HTTP/1.1\\r\\nHost: localhost\\r\\nUser-Agent: bench\\r\\n\\r\\n")
    for connection in connections[:times]:
        answer = b""
        # Of an empty page nothing follows the headers.
        while not answer.endswith(b"\\r\\n\\r\\n"):
            answer += connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200"), answer
while order := orders.recv(64):
    for begun in range(0, int(order), 20):
        ask(min(20, int(order) - begun))
    orders.sendall(b".")
"""


class UnderUvicorn:
    """Runs in a worker: three copies of a FastAPI application, made in the given order."""

    def __init__(self, order: Sequence[str]) -> None:
        import uvicorn
        import uvloop

        from bench.fast_request import Copies, processors_of
        from bench.uvicorn_request import empty_app

        apps = {name: empty_app(*processors_of(name)) for name in order}
        turn = [apps[order[0]]]

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await turn[0](scope, receive, send)

        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        loop = uvloop.new_event_loop()
        self._serving = loop.create_task(server.serve(sockets=[listener]))
        orders = _start_client(listener.getsockname()[1])
        orders.setblocking(False)

        async def cpu_of_slice(copy: Any, requests: int) -> float:
            turn[0] = copy
            start = time.thread_time_ns()
            await loop.sock_sendall(orders, b"%d" % requests)
            assert await loop.sock_recv(orders, 1) == b"."
            return (time.thread_time_ns() - start) / requests

        def slices_of(copy: Any) -> Callable[[int], float]:
            return lambda requests: loop.run_until_complete(cpu_of_slice(copy, requests))

        self._copies = Copies({name: slices_of(copy) for name, copy in apps.items()})

    def run(self, rounds: int) -> list[dict[str, float]]:
        """Return what a request costs, for each round."""
        return self._copies.run(rounds)


class UnderGevent:
    """Runs in a worker: three copies of a Flask application, made in the given order, in a patched process."""

    def __init__(self, order: Sequence[str]) -> None:
        from gevent import monkey

        monkey.patch_all()
        from gevent.pywsgi import WSGIServer

        from bench.apps import empty_app, instrumented
        from bench.fast_request import Copies, processors_of

        apps = {name: empty_app() for name in order}
        for name, app in apps.items():
            instrumented(app, *processors_of(name))
        turn = [apps[order[0]]]
        server = WSGIServer(("127.0.0.1", 0), lambda environ, start: turn[0](environ, start), log=None)
        server.start()
        orders = _start_client(server.server_port)

        def cpu_of_slice(copy: Any, requests: int) -> float:
            turn[0] = copy
            start = time.thread_time_ns()
            orders.sendall(b"%d" % requests)
            assert orders.recv(1) == b"."
            return (time.thread_time_ns() - start) / requests

        self._copies = Copies({name: partial(cpu_of_slice, app) for name, app in apps.items()})

    def run(self, rounds: int) -> list[dict[str, float]]:
        """Return what a request costs, for each round."""
        return self._copies.run(rounds)


def measure(options: Options) -> Iterator[Figure]:
    """Measure what is added to the CPU time of an empty request: in µs and as a share."""
    from bench.fast_request import compare

    for server in ("uvicorn", "gevent"):
        title = f"fast request under {server}: CPU time of the server's thread"
        yield from compare(f"bench.served_request:Under{server.capitalize()}", title, options)


def _start_client(port: int) -> Any:
    """Start the process that sends requests; return the socket that tells it how many, and is answered then."""
    ours, theirs = socket.socketpair()
    # It ends when this process, and with it our end of the pair, is gone.
    subprocess.Popen([sys.executable, "-c", _CLIENT, str(theirs.fileno()), str(port)], pass_fds=[theirs.fileno()])
    theirs.close()
    return ours
