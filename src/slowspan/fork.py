"""Starting anew in a forked child: threads are gone there, and locks may be held for ever."""

from __future__ import annotations

import os
import time
import weakref
from typing import TYPE_CHECKING

from slowspan import native
from slowspan.recording.stacks import all_frames, resume_collector

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

MAX_WAIT = 1.0
"""Seconds for which a fork waits for imports at most: they can wait for the very thread that forks."""


def call_after_fork(method: Callable[[], None]) -> None:
    """Call a bound method in every child that this process forks, as long as its object lives.

    Does nothing where there is no fork. The methods run in the order in which they were given here.

    Args:
        method: A bound method without arguments, which must not raise.
    """
    if not hasattr(os, "register_at_fork"):
        return
    weak = weakref.WeakMethod(method)

    def run() -> None:
        alive = weak()
        if alive is not None:
            alive()

    os.register_at_fork(after_in_child=run)


def wait_for_imports() -> None:
    """Wait until no thread of ours is importing a module. Runs on the thread that is about to fork.

    Of a module that is being imported at a fork the lock is held for ever in the child: whoever wants it there, the
    application or we, hangs. Our threads import what only a slow request needs when the first one comes.
    """
    deadline = time.monotonic() + MAX_WAIT
    while _is_importing() and time.monotonic() < deadline:
        native.sleep(0.001)


def _is_importing() -> bool:
    if not native.running:
        return False
    with all_frames() as frames:
        return any(_imports(frames.get(thread_id)) for thread_id in native.running.copy())


def _imports(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=wait_for_imports, after_in_child=native.running.clear)
    os.register_at_fork(after_in_child=resume_collector)
