"""Proves that requests do not notice a channel that is down, slow or angry.

One process per channel: two controls whose reports reach nobody, and one process for each way in which a Mattermost
server can fail, or whose queue is full. In every window four threads send short requests with pauses, and every third
of a second a slow request ends, each of another endpoint, so that alerts are always under way. What counts is how long
the fast requests take, and how long the slow ones wait at their end, as ratios to the control's.

The pauses are as long as makes the threads ask for half of the interpreter lock's time, however fast the machine is:
where they ask for all of it, requests wait in a queue, and its length says more of the machine than of the channel.
"""

from __future__ import annotations

import contextlib
import gc
import random
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from opentelemetry.trace import SpanKind

import slowspan
from bench.apps import instrumented, pages_app
from bench.estimates import Interval, bootstrap_interval, percentile
from bench.figures import Figure, Options
from bench.filled import filled_trace, give_trace
from bench.processors import silent_processor
from bench.workers import Worker

CONTROLS = ("control", "second control")

SECONDS = 1.0
"""Length of a window."""

SLOW_EVERY = 0.3
THREADS = 4
ROWS = 60
PAUSES = 2 * THREADS - 1
"""The mean pause, in times of a request alone: so that the threads ask for half of what one processor can do."""

Window = dict[str, list[int]]
"""Nanoseconds that the requests of one window took, ``fast`` and ``slow``."""

Round = dict[str, Window]


class Shop:
    """Runs in a worker: an application, and a channel at an address, or none."""

    def __init__(self, url: str | None, queue_size: int) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="slowspan-bench-")
        options = {"report_dir": self._directory.name, "queue_size": queue_size}
        if url is not None:
            options |= {
                "mattermost_url": url,
                "mattermost_token": "token",
                "mattermost_channel": "a" * 26,
                "alerts_per_hour": 10_000,
                "notify_timeout": 2.0,
            }
        notifiers = ("mattermost",) if url is not None else ()
        self._client, self._provider = instrumented(pages_app(), silent_processor(also=notifiers, **options))
        self._tracer = self._provider.get_tracer("bench")
        self._stopping = threading.Event()
        self._number = 0
        self.run(PAUSES * self.request_time())
        gc.collect()
        gc.freeze()

    def request_time(self) -> float:
        """Return the seconds that a fast request takes when nothing else happens."""
        took = []
        for _ in range(200):
            start = time.perf_counter()
            self._request()
            took.append(time.perf_counter() - start)
        return percentile(took, 0.5)

    def run(self, pause: float) -> Window:
        """Return how long the requests of one window took.

        Args:
            pause: Mean time between the end of a fast request and the next one of its thread, in seconds.
        """
        window: Window = {"fast": [], "slow": []}
        self._stopping.clear()
        threads = [threading.Thread(target=self._send, args=(seed, pause, window["fast"])) for seed in range(THREADS)]
        for thread in threads:
            thread.start()
        for _ in range(int(SECONDS / SLOW_EVERY)):
            time.sleep(SLOW_EVERY)
            window["slow"].append(self._end_slow())
        self._stopping.set()
        for thread in threads:
            thread.join()
        return window

    def check(self) -> None:
        """Make sure that the channel was tried and could not be told."""
        status = slowspan.status()
        assert status.failed.get("mattermost"), f"no alert has failed: {status}"
        assert not status.delivered.get("mattermost")

    def _end_slow(self) -> int:
        self._number += 1
        span = self._tracer.start_span(
            "GET /slow",
            kind=SpanKind.SERVER,
            start_time=time.time_ns() - 2_000_000_000,
            attributes={"http.method": "GET", "http.route": f"/slow/{self._number}"},
        )
        give_trace(span, filled_trace(200, 60, 2.0))  # type: ignore[arg-type]
        time.sleep(0.01)
        start = time.perf_counter_ns()
        span.end()
        return time.perf_counter_ns() - start

    def _request(self) -> None:
        self._client.get("/orders", f"rows={ROWS}")

    def _send(self, seed: int, pause: float, took: list[int]) -> None:
        rng = random.Random(seed)
        while not self._stopping.is_set():
            start = time.perf_counter_ns()
            self._request()
            took.append(time.perf_counter_ns() - start)
            time.sleep(rng.expovariate(1 / pause))


def measure(options: Options) -> Iterator[Figure]:
    """Measure fast and slow requests beside a broken channel, as ratios to the control's."""
    rng = random.Random(0)
    with contextlib.ExitStack() as stack:
        hanging = stack.enter_context(_server(_hang))
        urls: dict[str, tuple[str | None, int]] = dict.fromkeys(CONTROLS, (None, 100))
        urls["refusing"] = (f"http://127.0.0.1:{_closed_port()}", 100)
        urls["hanging"] = (hanging, 100)
        urls["queue full"] = (hanging, 1)
        for name, answer in (("resetting", _reset), ("500", _answer(500)), ("429", _answer(429))):
            urls[name] = (stack.enter_context(_server(answer)), 100)
        workers = {
            name: stack.enter_context(Worker("bench.channels:Shop", url=url, queue_size=size))
            for name, (url, size) in urls.items()
        }
        pause = PAUSES * workers["control"].call("request_time")
        rounds: list[Round] = [
            {name: workers[name].call("run", pause=pause) for name in rng.sample(list(workers), k=len(workers))}
            for _ in range(10 if options.quick else 60)
        ]
        for name in urls:
            if name not in CONTROLS:
                workers[name].call("check")
    for name in urls:
        if name not in CONTROLS:
            yield from _figures(name, rounds, options)


def _figures(name: str, rounds: Sequence[Round], options: Options) -> Iterator[Figure]:
    for kind, what, share, target in (
        ("fast", "median of fast requests", 0.5, 1.05),
        ("fast", "p99 of fast requests", 0.99, 1.3),
        ("slow", "median end of slow requests", 0.5, 1.3),
    ):

        def ratio(drawn: Sequence[Round], copy: str, kind: str = kind, share: float = share) -> float:
            took, control = ([t for one in drawn for t in one[which][kind]] for which in (copy, "control"))
            return percentile(took, share) / percentile(control, share)

        yield Figure(
            name=f"{what}, channel {name}",
            unit="x",
            value=bootstrap_interval(rounds, lambda drawn, copy=name: ratio(drawn, copy), options.confidence),
            target=target,
            control=bootstrap_interval(rounds, lambda drawn: ratio(drawn, "second control"), options.confidence),
            neutral=1.0,
        )
    took = [t for one in rounds for t in one["control"]["slow"]]
    if name == "refusing":
        yield Figure("the control's end of a slow request", "µs", Interval.exact(percentile(took, 0.5) / 1000))


@contextlib.contextmanager
def _server(handle: Callable[[socket.socket], None]) -> Iterator[str]:
    """Accept connections and treat each in one way."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=handle, args=(connection,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def _hang(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        while connection.recv(65536):
            pass


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _answer(status: int) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(
                b"HTTP/1.1 %d Sorry\r\nRetry-After: 1\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}" % status
            )

    return answer


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
