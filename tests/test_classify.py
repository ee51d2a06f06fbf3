"""The class of a sample: what instructions, the kernel and a second look tell."""

from __future__ import annotations

import _thread
import dis
import os
import sys
import threading
import time
from collections.abc import Callable

import pytest

from slowspan.recording import kernel_files
from slowspan.recording.classify import LEFT, UNCLEAR, Lock, by_second_look, by_state, stopped_by_force
from slowspan.recording.gauge import MAX_OPEN, ThreadEndedError, ThreadGauge, thread_cpu_ns
from slowspan.recording.kernel_files import keep_lock
from slowspan.recording.sampling import _is_queued
from slowspan.recording.trace import COMPUTING, WAITING

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of other threads")


def _loop(stop: threading.Event) -> None:
    while not stop.is_set():
        for number in range(300):
            number * number


def test_loops_are_stopped_by_force() -> None:
    """Every backward jump, and the place before the first instruction, means computing; a call does not."""
    offsets = [(item.opname, item.offset) for item in dis.get_instructions(_loop)]
    jumps = [offset for name, offset in offsets if name in ("JUMP_BACKWARD", "JUMP_ABSOLUTE")]
    calls = [offset for name, offset in offsets if name.startswith("CALL")]
    assert jumps
    assert calls
    assert all(stopped_by_force(_loop.__code__, offset) for offset in jumps)
    assert not any(stopped_by_force(_loop.__code__, offset) for offset in calls)
    assert stopped_by_force(_loop.__code__, -1)


@pytest.mark.parametrize(
    ("lock", "ready", "share", "expected"),
    [
        (Lock.FREE, False, 0.5, WAITING),
        (Lock.FREE, True, 0.5, UNCLEAR),
        (Lock.GIVEN_UP, False, 0.0, WAITING),
        (Lock.GIVEN_UP, False, 0.5, LEFT),
        (Lock.GIVEN_UP, True, 0.5, LEFT),
        (Lock.HELD, False, 0.0, WAITING),
        (Lock.HELD, False, 0.5, LEFT),
        (Lock.HELD, True, 0.5, UNCLEAR),
    ],
)
def test_state(lock: Lock, ready: bool, share: float, expected: int) -> None:
    """A thread that is not ready waits, unless it is the one that held the lock a moment ago."""
    assert by_state(lock, is_ready=ready, computing_share=share) == expected


@pytest.mark.parametrize(
    ("lock", "advanced", "elapsed", "taken", "expected"),
    [
        (Lock.HELD, 60, 100, True, COMPUTING),
        (Lock.HELD, 20, 100, False, LEFT),
        (Lock.HELD, 9_000_000, 10_000_000, True, LEFT),
        (Lock.FREE, 90, 100, False, COMPUTING),
        (Lock.FREE, 90, 100, True, WAITING),
        (Lock.FREE, 60, 100, False, WAITING),
        (Lock.FREE, 0, 100, False, WAITING),
    ],
)
def test_second_look(lock: Lock, advanced: int, elapsed: int, taken: bool, expected: int) -> None:
    """A thread that goes on computes, unless it had only just got what it waited for; a late look tells nothing."""
    found = by_second_look(lock, advanced_ns=advanced, elapsed_ns=elapsed, lock_was_taken=taken)
    assert found == expected


@linux_only
def test_gauge_of_threads(request: pytest.FixtureRequest) -> None:
    """A waiting thread is not ready and uses no CPU time; a computing one is ready and does."""
    stop = threading.Event()
    waiting = _started(request, stop, lambda: stop.wait(60))
    computing = _started(request, stop, lambda: _loop(stop))
    for thread, is_ready in ((waiting, False), (computing, True)):
        gauge = ThreadGauge(thread.native_id or 0)
        try:
            states = []
            for _ in range(40):
                time.sleep(0.002)
                states.append(gauge.is_ready())
            # A thread that has just been woken, or that another process keeps waiting, may differ now and then.
            assert states.count(is_ready) > 30
            assert gauge.delay_ns() >= 0
            assert gauge.cpu_ns() is not None
        finally:
            gauge.close()


@linux_only
def test_gauge_of_ended_thread() -> None:
    """A thread that has ended is told by an error of its own, never by another thread's figures."""
    thread = threading.Thread(target=time.sleep, args=(0.05,))
    thread.start()
    native_id = thread.native_id or 0
    gauge = ThreadGauge(native_id)
    assert gauge.is_ready() is not None
    gauge.delay_ns()
    thread.join()
    try:
        while native_id in map(int, os.listdir("/proc/self/task")):
            time.sleep(0.001)
        for read in (gauge.is_ready, gauge.delay_ns, gauge.cpu_ns, lambda: thread_cpu_ns(native_id)):
            with pytest.raises(ThreadEndedError):
                read()
    finally:
        gauge.close()


@linux_only
def test_gauge_knows_who_queues_for_the_lock(request: pytest.FixtureRequest) -> None:
    """A thread that computes waits for the interpreter lock while another one has it; one that sleeps does not."""
    stop = threading.Event()
    sleeping = ThreadGauge(_started(request, stop, lambda: stop.wait(60)).native_id or 0)
    computing = ThreadGauge(_started(request, stop, lambda: _loop(stop)).native_id or 0)
    try:
        for _ in range(20):
            time.sleep(0.001)
            deadline = time.perf_counter() + 2
            # Not known as long as the thread that was stopped has no processor on which to go to sleep.
            while (queues := computing.queues_for_lock()) is None and time.perf_counter() < deadline:
                pass
            assert queues is True
            assert sleeping.queues_for_lock() is False
    finally:
        sleeping.close()
        computing.close()


@linux_only
def test_lock_is_kept_while_the_kernels_files_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where threads queue for the interpreter lock no call lets go of it: each would cost the sampler its turn."""
    assert keep_lock()
    monkeypatch.setattr(kernel_files, "os", None)
    gauge = ThreadGauge(_thread.get_native_id())
    try:
        assert gauge.delay_ns() >= 0
        assert gauge.queues_for_lock() is False  # It is in the very call that reads this.
    finally:
        gauge.close()
    assert ThreadGauge._open == 0
    with pytest.raises(OSError, match="cannot open /proc/self/task/0/stat"):
        kernel_files.open_file("/proc/self/task/0/stat")


@linux_only
def test_without_ctypes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter without ctypes reads the files all the same, and does not know who queues for the lock."""
    monkeypatch.setattr(kernel_files, "_library", None)
    monkeypatch.setattr(kernel_files, "_can_keep_lock", True)
    monkeypatch.setitem(sys.modules, "ctypes", None)
    assert not keep_lock()
    gauge = ThreadGauge(_thread.get_native_id())
    try:
        assert gauge.delay_ns() >= 0
        assert gauge.is_ready() is True
        assert gauge.queues_for_lock() is None
    finally:
        gauge.close()


@linux_only
def test_bounded_files() -> None:
    """No more than a fixed number of files is open, and all are closed again; without files only the clock is read."""
    native_id = _thread.get_native_id()
    before = len(os.listdir("/proc/self/fd"))
    gauges = [ThreadGauge(native_id) for _ in range(MAX_OPEN + 10)]
    try:
        for gauge in gauges:
            gauge.is_ready()
            gauge.delay_ns()
            gauge.queues_for_lock()
        assert len(os.listdir("/proc/self/fd")) == before + 3 * MAX_OPEN
        assert gauges[-1].is_ready() is None
        assert gauges[-1].delay_ns() == 0
        assert gauges[-1].cpu_ns() is not None
    finally:
        for gauge in gauges:
            gauge.close()
            gauge.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("queues", "lock", "share", "is_queued"),
    [
        (True, Lock.FREE, 0.0, True),
        (False, Lock.HELD, 0.5, False),
        (None, Lock.HELD, 0.5, True),
        (None, Lock.HELD, 0.0, False),
        (None, Lock.FREE, 0.5, False),
    ],
)
def test_who_queues_where_the_kernel_does_not_tell(
    monkeypatch: pytest.MonkeyPatch, queues: bool | None, lock: Lock, share: float, is_queued: bool
) -> None:
    """A thread that has not computed since the last look waits: for what it waited before, as far as is known."""
    monkeypatch.setattr(ThreadGauge, "queues_for_lock", lambda _gauge: queues)
    assert _is_queued(ThreadGauge(0), lock, share) is is_queued


def _started(request: pytest.FixtureRequest, stop: threading.Event, work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()

    def end() -> None:
        stop.set()
        thread.join()

    request.addfinalizer(end)
    return thread
