"""Requests that know their own truth, to hold a profiler's shares against.

A workload is a function that runs on a request's thread and calls its parts through a `Parts`, which reads the wall
clock and the thread's CPU clock around each of them. A part is a plain function; its name is the label, so a profile's
share of a part is the weight of the samples whose stack holds a frame of that name. Parts never call each other.

A request begins with `lead_in`, longer than any sampler's `start_after`; it belongs to no share.
"""

from __future__ import annotations

import json
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

LEAD_IN = "lead_in"


@dataclass
class Parts:
    """Calls parts and adds up what each took.

    Attributes:
        wall_ns: Wall time by part, nanoseconds, the thread's own clock readings.
        cpu_ns: CPU time of the thread by part, nanoseconds.
        calls: Every call as (part, start, end), `time.perf_counter_ns` nanoseconds.
    """

    wall_ns: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    cpu_ns: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    calls: list[tuple[str, int, int]] = field(default_factory=list)

    def call(self, part: Callable[..., object], *args: object) -> None:
        """Run one part between two readings of both clocks."""
        cpu = time.thread_time_ns()
        start = time.perf_counter_ns()
        part(*args)
        end = time.perf_counter_ns()
        self.cpu_ns[part.__name__] += time.thread_time_ns() - cpu
        self.wall_ns[part.__name__] += end - start
        self.calls.append((part.__name__, start, end))

    def shares(self) -> dict[str, float]:
        """Wall share of each part, `lead_in` left out; adds up to 1."""
        wall = {name: value for name, value in self.wall_ns.items() if name != LEAD_IN}
        total = sum(wall.values())
        return {name: value / total for name, value in wall.items()}


# -- waiting parts

_held = threading.Lock()
_held.acquire()


def lead_in(seconds: float) -> None:
    time.sleep(seconds)


def wait_sleep(seconds: float) -> None:
    time.sleep(seconds)


def wait_lock(seconds: float) -> None:
    _held.acquire(timeout=seconds)


def wait_socket(connection: socket.socket, seconds: float) -> None:
    connection.sendall(struct.pack("<d", seconds))
    connection.recv(64)


# -- computing parts (all take about `seconds`)
# Each repeats one small unit until its thread's CPU time is used up.


def compute_loops(seconds: float) -> None:
    end = time.thread_time() + seconds
    total = 0
    while time.thread_time() < end:
        for number in range(300):
            total += number * number % 7


_DOCUMENT = {"rows": [{"id": n, "name": f"name {n}", "price": n * 1.25, "tags": ["a", "b"]} for n in range(12)]}


def compute_json(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        json.dumps(_DOCUMENT)


_NUMBERS = [random.Random(7).random() for _ in range(400)]


def compute_sorted(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sorted(_NUMBERS, key=lambda number: -number)


def _fibonacci(number: int) -> int:
    return number if number < 2 else _fibonacci(number - 1) + _fibonacci(number - 2)


def compute_recursion(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        _fibonacci(9)


# -- the socket's other end: a process that only sleeps

_SERVER = """
import socket, struct, threading, time
def serve(connection):
    while True:
        data = connection.recv(8)
        if not data:
            return
        time.sleep(struct.unpack("<d", data)[0])
        connection.sendall(b"x" * 64)
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
while True:
    connection, _ = server.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
"""


@contextmanager
def server() -> Iterator[Callable[[], socket.socket]]:
    """A child process that answers after the time it is asked for; yields a function that opens a connection."""
    process = subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = int(process.stdout.readline())

    def connect() -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    try:
        yield connect
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


# -- workloads

Body = Callable[[Parts, socket.socket, random.Random, float], None]


def _until(seconds: float) -> Iterator[None]:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        yield


def waiting_pieces(parts: Parts, connection: socket.socket, rng: random.Random, seconds: float) -> None:
    """60 / 30 / 10 of sleeping, lock and socket, in small pieces."""
    for _ in _until(seconds):
        parts.call(wait_sleep, 0.006 * rng.uniform(0.5, 1.5))
        parts.call(wait_lock, 0.003 * rng.uniform(0.5, 1.5))
        parts.call(wait_socket, connection, 0.001 * rng.uniform(0.5, 1.5))


def waiting_sequence(parts: Parts, connection: socket.socket, rng: random.Random, seconds: float) -> None:
    """60 / 30 / 10 of sleeping, lock and socket, one after the other."""
    parts.call(wait_sleep, 0.6 * seconds)
    parts.call(wait_lock, 0.3 * seconds)
    parts.call(wait_socket, connection, 0.1 * seconds)


def _half(piece: float) -> Body:
    def half(parts: Parts, connection: socket.socket, rng: random.Random, seconds: float) -> None:
        for _ in _until(seconds):
            parts.call(compute_loops, piece * rng.uniform(0.8, 1.2))
            parts.call(wait_sleep, piece * rng.uniform(0.8, 1.2))

    return half


def six_functions(parts: Parts, connection: socket.socket, rng: random.Random, seconds: float) -> None:
    """Six of computing and waiting, pieces of a few ms, in random order."""
    six: list[tuple[Callable[..., None], tuple[object, ...]]] = [
        (compute_loops, ()),
        (compute_json, ()),
        (compute_sorted, ()),
        (compute_recursion, ()),
        (wait_sleep, ()),
        (wait_socket, (connection,)),
    ]
    for _ in _until(seconds):
        part, args = rng.choice(six)
        parts.call(part, *args, rng.uniform(0.001, 0.008))


def query(connection: socket.socket, seconds: float) -> None:
    connection.sendall(struct.pack("<d", seconds))
    connection.recv(64)


def compute_row() -> None:
    rows = []
    for number in range(8):
        total = 0.0
        for factor in range(20):
            total += number * factor * 0.5
        rows.append({"id": number, "name": f"name {number}", "total": total})
    rows.sort(key=lambda row: str(row["name"]))


def compute_rows(times: int) -> None:
    for _ in range(times):
        compute_row()


def _rows_per_millisecond() -> int:
    fastest = min(_row_seconds() for _ in range(300))
    return max(1, round(0.001 / fastest))


def _row_seconds() -> float:
    start = time.thread_time()
    compute_row()
    return time.thread_time() - start


def n_plus_one(parts: Parts, connection: socket.socket, rng: random.Random, seconds: float) -> None:
    """About 1 ms of query, 1 ms of Python, repeated."""
    times = _rows_per_millisecond()
    for _ in _until(seconds):
        parts.call(query, connection, 0.0009)
        parts.call(compute_rows, times)


@dataclass(frozen=True)
class Workload:
    name: str
    body: Body
    threads: int
    seconds: float


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("waiting_pieces", waiting_pieces, 1, 2.0),
        Workload("waiting_pieces_8", waiting_pieces, 8, 2.0),
        Workload("waiting_sequence", waiting_sequence, 1, 1.5),
        Workload("waiting_sequence_8", waiting_sequence, 8, 1.5),
        Workload("half_5", _half(0.005), 1, 1.5),
        Workload("half_50", _half(0.05), 1, 1.5),
        Workload("half_500", _half(0.5), 1, 2.0),
        Workload("six", six_functions, 1, 2.0),
        Workload("n_plus_one", n_plus_one, 1, 1.5),
        Workload("n_plus_one_4", n_plus_one, 4, 1.5),
    )
}


def run(
    workload: Workload,
    connect: Callable[[], socket.socket],
    begin: Callable[[], object],
    end: Callable[[object], object],
    seed: int,
) -> list[tuple[Parts, object]]:
    """Run a workload on its threads at once.

    Args:
        workload: Which one.
        connect: Opens a connection to the `server`.
        begin: Called on each request's thread when it starts; what it returns is handed to `end`.
        end: Called on each request's thread when it has ended; returns what the profiler saw.
        seed: Of the random pieces.

    Returns:
        For each thread its truth, and what `end` returned.
    """
    results: list[tuple[Parts, object]] = []
    ready = threading.Barrier(workload.threads)

    def request(number: int) -> None:
        parts = Parts()
        rng = random.Random(seed * 100 + number)
        connection = connect()
        ready.wait()
        recording = begin()
        parts.call(lead_in, 0.08)
        workload.body(parts, connection, rng, workload.seconds)
        results.append((parts, end(recording)))
        connection.close()

    threads = [threading.Thread(target=request, args=(number,)) for number in range(workload.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
