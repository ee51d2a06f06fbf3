"""Threads and locks of the interpreter itself, also where gevent has put its own in their place.

Under gevent's monkey-patching a new "thread" is a greenlet on the thread that serves requests: whatever it does, they
wait for. What slowspan does beside the requests needs real threads, and what passes between those and the requests
needs locks that are no reason for gevent to switch to another request.
"""

from __future__ import annotations

import _thread
import importlib.util
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType


def original(module: Any, name: str) -> Any:
    """Return what a module had under a name before gevent replaced it."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey.get_original(module.__name__, name) if monkey is not None else getattr(module, name)


RLock = _thread.RLock
"""Nobody replaces this one, only ``threading.RLock``."""

allocate_lock: Callable[[], threading.Lock] = original(_thread, "allocate_lock")

get_ident: Callable[[], int] = original(_thread, "get_ident")
"""What ``sys._current_frames()`` knows a thread by; gevent's own tells greenlets apart."""

if TYPE_CHECKING:
    local = threading.local
else:
    local = original(threading, "local")
    """One of a thread, where gevent's is one of a greenlet."""

sleep: Callable[[float], None] = original(time, "sleep")


def native_id_of(thread_id: int) -> int:
    """Return the kernel's id of a thread that Python has started, or 0.

    Args:
        thread_id: As of ``get_ident``.
    """
    return next((thread.native_id or 0 for thread in threading.enumerate() if thread.ident == thread_id), 0)


def subprocess_module() -> ModuleType:
    """Return the module ``subprocess``, of which gevent's works on the main thread only.

    Costs 5 ms at the first call: for threads that have the time.
    """
    import subprocess

    global _subprocess
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("subprocess"):
        return subprocess
    if _subprocess is None:
        # gevent takes parts of the module away. A second one, made from the same file, has them all.
        spec = importlib.util.spec_from_file_location("slowspan._subprocess", subprocess.__file__)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.os, module.time = _Original(os), _Original(time)  # type: ignore[attr-defined]
        _subprocess = module
    return _subprocess


_subprocess: ModuleType | None = None


class _Original:
    """A module as it was before gevent changed it."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return original(self._module, name)


class Thread(Protocol):
    """What is common to ``threading.Thread`` and to threads of our own."""

    name: str

    def start(self) -> None:
        """Begin to run."""
        ...

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end, for some seconds at most."""
        ...

    def is_alive(self) -> bool:
        """Return whether it runs."""
        ...


def make_thread(target: Callable[[], object], name: str) -> Thread:
    """Make a daemon thread of the operating system.

    Args:
        target: What it runs.
        name: For people who look at the process's threads.
    """

    def run() -> None:
        running.add(get_ident())
        try:
            target()
        finally:
            running.discard(get_ident())

    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        return _NativeThread(run, name)
    return threading.Thread(target=run, name=name, daemon=True)


running: set[int] = set()
"""The threads of ours that run, as of ``get_ident``."""


class _NativeThread:
    """A thread of the operating system where ``threading.Thread`` makes greenlets."""

    def __init__(self, target: Callable[[], object], name: str) -> None:
        self.name = name
        self._target: Callable[[], object] | None = target
        self._running = allocate_lock()

    def start(self) -> None:
        self._running.acquire()
        try:
            original(_thread, "start_new_thread")(self._run, ())
        except BaseException:
            self._running.release()
            raise

    def join(self, timeout: float | None = None) -> None:
        if self._running.acquire(timeout=-1 if timeout is None else timeout):
            self._running.release()

    def is_alive(self) -> bool:
        return self._running.locked()

    def _run(self) -> None:
        target, self._target = self._target, None
        try:
            # As with any other thread, an error that it does not handle is the interpreter's to tell.
            if target is not None:
                target()
        finally:
            self._running.release()


def eventlet_has_replaced_threads() -> bool:
    """Return whether eventlet has put green threads in the place of real ones; its locks work in one thread only."""
    patcher = sys.modules.get("eventlet.patcher")
    return patcher is not None and bool(patcher.is_monkey_patched("thread"))
