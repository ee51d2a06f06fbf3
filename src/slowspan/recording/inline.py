"""The inline engine: pyinstrument's own profiler in the request's thread, from its first instant. For development.

It sees every call, at the price that every call costs: a request that computes takes two to four times as long.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pyinstrument import Profiler

from slowspan.recording.session import stop_from_its_own_thread, thin_out

if TYPE_CHECKING:
    from pyinstrument.session import Session


class InlineEngine:
    """Starts and stops a profiler per request. Calls come from requests' threads, but for ``thin_out``; none raises.

    The profiler is left out where another one is at work in the thread: pyinstrument would remove a foreign hook for
    good. Such a request is sampled by the background thread alone, as all others are besides.

    Args:
        interval: Seconds between two samples.
        max_samples: Samples that are kept at least, and twice as many at most.
    """

    def __init__(self, interval: float, max_samples: int) -> None:
        self._interval = interval
        self._max_samples = max_samples

    def start(self) -> Profiler | None:
        """Start a profiler in the calling thread.

        Returns:
            The profiler, or None when the thread is being profiled already.
        """
        if sys.getprofile() is not None:
            return None
        # Contexts are not followed: a profiler that is bound to one cannot be stopped in another.
        profiler = Profiler(interval=self._interval, async_mode="disabled")
        profiler.start(caller_frame=sys._getframe(1))
        return profiler

    def thin_out(self, profiler: Profiler) -> None:
        """Keep what a profiler records within its bound. On the sampler's thread, at each look."""
        thin_out(profiler, self._max_samples)

    def stop(self, profiler: Profiler) -> Session | None:
        """Stop a profiler.

        Returns:
            What it saw, or None when this is not the thread in which it was started; it then stops by itself.
        """
        try:
            return profiler.stop()
        except RuntimeError:
            stop_from_its_own_thread(profiler)
            return None
