"""Forked children start anew: no lock of the parent's, no thread, no recording, and reports of their own."""

from __future__ import annotations

import builtins
import gc
import importlib
import multiprocessing
import os
import pickle
import random
import select
import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

import pytest

from slowspan import fork, native
from slowspan.recording import stack_sampler
from slowspan.recording.stacks import all_frames
from support import eventually
from watched import Watched, functions, wait_here, wait_until_linked

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning"),
]


def in_child(work: Callable[[], Any], timeout: float = 30.0) -> Any:
    """Run a function in a forked child and return its result.

    Raises:
        AssertionError: The child raised, with its traceback, or it hung.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            answer = pickle.dumps((True, work()))
        except BaseException:
            answer = pickle.dumps((False, traceback.format_exc()))
        os.write(writing, answer)
        os._exit(0)
    os.close(writing)
    try:
        assert select.select([reading], [], [], timeout)[0], "the forked child hangs"
        with os.fdopen(reading, "rb", closefd=False) as pipe:
            well, result = pickle.loads(pipe.read())
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert well, result
    return result


def serve_and_tell(shop: Watched) -> dict[str, Any]:
    """Make a slow request; return what there is to say of its profile and of this process."""
    live = stack_sampler.live_recordings()
    shop.request(wait_here, name="in the child")
    (profile,) = [profile for profile in shop.profiles() if profile.span.name == "in the child"]
    return {
        "live before": live,
        "pid": os.getpid(),
        "profile's pid": profile.process.pid,
        "share": functions(profile).get("wait_here", 0.0),
        "status": shop.processor.status(),
        "switch interval": sys.getswitchinterval(),
    }


def check(facts: dict[str, Any]) -> None:
    """Check what a child told: it began empty, and reported its own request."""
    assert facts["live before"] == 0
    assert facts["profile's pid"] == facts["pid"] != os.getpid()
    assert facts["share"] > 0.2
    assert (facts["status"].seen, facts["status"].slow, facts["status"].reports) == (1, 1, 1)


def test_fork_before_the_first_span(shop: Watched) -> None:
    """A child of a process without any request yet, as of a preloading server, reports its own."""
    check(in_child(lambda: serve_and_tell(shop)))
    assert shop.profiles() == []


def test_fork_during_a_look() -> None:
    """A child that is forked while the collector is paused for a look, as on Python 3.11, collects."""
    with all_frames():
        assert in_child(gc.isenabled)
    assert gc.isenabled()


def test_reports_of_two_children_have_names_of_their_own(shop: Watched) -> None:
    """Workers forked from one parent, which an application has seeded, never write each other's reports."""

    def child() -> str:
        random.seed(1)
        shop.request(wait_here, name="in the child")
        return shop.profiles()[-1].id

    assert len({in_child(child) for _ in range(3)}) == 3


def test_fork_while_the_sampler_is_parked(shop: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child of a process whose sampler sleeps starts a sampler of its own."""
    monkeypatch.setattr(stack_sampler, "LINGER_NS", 10_000_000)
    shop.request(wait_here)
    eventually(lambda: stack_sampler.shared.parked)
    check(in_child(lambda: serve_and_tell(shop)))
    assert len(shop.profiles()) == 1


def test_fork_in_the_middle_of_a_request(shop: Watched) -> None:
    """A request that is being sampled goes on in the parent; the child forgets it and may end its copy."""
    span = shop.start("in the parent")
    wait_until_linked(span)

    def child() -> dict[str, Any]:
        facts = serve_and_tell(shop)
        span.end()
        facts["names"] = [profile.span.name for profile in shop.profiles()]
        facts["slow"] = shop.processor.status().slow
        return facts

    facts = in_child(child)
    check(facts)
    assert facts["names"] == ["in the child"]
    assert facts["slow"] == 1
    wait_here()
    span.end()
    profile = shop.profile()
    assert profile.process.pid == os.getpid()
    assert functions(profile)["wait_here"] > 0.1
    assert shop.processor.status().slow == 1


def test_fork_while_other_threads_serve(shop: Watched) -> None:
    """With other threads' requests live and being delivered, fork after fork leaves working children."""
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            shop.request(lambda: wait_here(0.06), name="in the parent")

    threads = [threading.Thread(target=serve) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            check(in_child(lambda: serve_and_tell(shop)))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_fork_while_a_thread_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork waits until what a thread of ours is importing is there: of half a module the lock is never free again."""
    (tmp_path / "imported_slowly.py").write_text("import time\ntime.sleep(0.3)\nVALUE = 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    thread = native.make_thread(lambda: importlib.import_module("imported_slowly"), "slowspan-imports")
    thread.start()
    eventually(lambda: "imported_slowly" in sys.modules)
    assert in_child(lambda: importlib.import_module("imported_slowly").VALUE) == 42
    thread.join(30)
    assert not native.running
    del sys.modules["imported_slowly"]


def test_fork_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import that does not end, for it may wait for the thread that forks, holds no fork up for long."""
    monkeypatch.setattr(fork, "MAX_WAIT", 0.05)
    (tmp_path / "imported_later.py").write_text("import builtins\nbuiltins.go_on.wait(30)\n")
    monkeypatch.syspath_prepend(tmp_path)
    go_on = threading.Event()
    monkeypatch.setattr(builtins, "go_on", go_on, raising=False)
    thread = native.make_thread(lambda: importlib.import_module("imported_later"), "slowspan-imports")
    thread.start()
    eventually(lambda: "imported_later" in sys.modules)
    assert in_child(lambda: 42) == 42
    go_on.set()
    thread.join(30)
    del sys.modules["imported_later"]


def test_fork_with_every_lock_held(shop: Watched) -> None:
    """Locks that other threads hold at the moment of the fork hold nobody up in the child."""
    span = shop.start("in the parent")
    wait_until_linked(span)
    (recording,) = stack_sampler.shared.late
    processor = shop.processor
    locks = [
        stack_sampler.shared._start_lock,
        recording.trace.lock,
        processor._counters._lock,
        processor._delivery._intake._lock,
    ]
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        for lock in locks:
            lock.acquire()
        held.set()
        release.wait(60)
        for lock in reversed(locks):
            lock.release()

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(30)
    try:
        facts = in_child(lambda: serve_and_tell(shop))
    finally:
        release.set()
        holder.join()
    check(facts)
    span.end()
    assert len(shop.profiles()) == 1


def test_switch_interval_in_the_child(shop: Watched) -> None:
    """A child forked while the switch interval is fine has the usual one again, and so has the parent at the end."""
    usual = sys.getswitchinterval()
    span = shop.start()
    eventually(lambda: sys.getswitchinterval() < usual)
    assert in_child(sys.getswitchinterval) == pytest.approx(usual)
    span.end()
    eventually(lambda: sys.getswitchinterval() == pytest.approx(usual))


def test_child_of_a_child(shop: Watched) -> None:
    """A grandchild, forked while the child has live requests, reports its own."""

    def child() -> dict[str, Any]:
        span = shop.start()
        wait_until_linked(span)
        facts: dict[str, Any] = in_child(lambda: serve_and_tell(shop))
        span.end()
        return facts

    check(in_child(child))


def serve_in_a_process(queue: Any) -> None:
    """Make a slow request in a process of ``multiprocessing``, and tell of it."""
    queue.put(serve_and_tell(_shop[0]))


_shop: list[Watched] = []


def test_multiprocessing(shop: Watched) -> None:
    """A process of ``multiprocessing`` that was forked in the middle of a request reports its own."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    span = shop.start()
    wait_until_linked(span)
    _shop[:] = [shop]
    process = context.Process(target=serve_in_a_process, args=(queue,))
    process.start()
    check(queue.get(timeout=30))
    process.join(30)
    assert process.exitcode == 0
    _shop.clear()
    span.end()
    assert len(shop.profiles()) == 1
