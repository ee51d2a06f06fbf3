"""Starting anew in a forked child: threads are gone there, and locks may be held for ever."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


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
