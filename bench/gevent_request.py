"""Proves that a request which ends soon pays next to nothing in a greenlet either.

Three copies of an empty Flask application, two controls and one with slowspan, as in ``fast_request``. Each request
has a greenlet of its own, as gunicorn's gevent worker makes one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from bench.figures import Figure, Options


class Slices:
    """Runs in a worker: three copies of the application, made in the given order, in a patched process."""

    def __init__(self, order: list[str]) -> None:
        from gevent import monkey

        monkey.patch_all()
        # Imported only now, since gevent has to come before what uses threads and sockets.
        from bench.apps import empty_app, instrumented
        from bench.fast_request import Copies, processors_of

        clients = {name: instrumented(empty_app(), *processors_of(name))[0] for name in order}
        self._copies = Copies({name: _slices_of(client) for name, client in clients.items()})

    def run(self, rounds: int) -> list[dict[str, float]]:
        """Return what a request costs, for each round."""
        return self._copies.run(rounds)


def measure(options: Options) -> Iterator[Figure]:
    """Measure what is added to the CPU time of an empty request: in µs and as a share."""
    # Imported here because the workers import this module before they are patched.
    from bench.fast_request import compare

    yield from compare("bench.gevent_request:Slices", "fast request on gevent: CPU time of its thread", options)


def _slices_of(client: Any) -> Any:
    import gevent

    def cpu_of_slice(requests: int) -> float:
        start = time.thread_time_ns()
        for _ in range(requests):
            # get() raises what the request raised.
            gevent.spawn(client.get, "/").get()
        return (time.thread_time_ns() - start) / requests

    return cpu_of_slice
