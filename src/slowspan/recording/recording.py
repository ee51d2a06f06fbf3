"""The running recording of one span: what exists from the span's start to its end."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import weakref

    from opentelemetry.sdk.trace import Span
    from pyinstrument import Profiler

    from slowspan.recording.trace import Trace


class Lost(enum.Enum):
    """Why a request's stack can no longer be read; the value is the sentence in the report."""

    THREAD_ENDED = "The thread of this request had ended before the span did."
    THREAD_REUSED = "The thread of this request went on to another request before the span ended."
    TOO_MANY = "Too many slow requests were sampled at the same time; this one was left out."
    NO_THREAD = "The thread of this request could not be told."
    EVENT_LOOP = "This request ran in an event loop, of which the stacks of single tasks were not read."
    SAMPLER_OFF = "The stack sampler was not running."


class Watcher(Protocol):
    """The owner of recordings: what it asks of the stack sampler, and what it is told.

    All calls come from the sampler's thread.
    """

    start_after_ns: int
    interval_ns: int
    overhead_budget: float
    fine_switching: bool
    max_samples: int
    max_recordings: int
    hung_after_ns: int

    def on_late(self, recording: Recording) -> bool:
        """Decide whether a request that has become late is to be sampled."""
        ...

    def on_threshold(self, recording: Recording, age_ns: int) -> None:
        """Learn that a late request, of which no threshold is known to be crossed, still runs."""
        ...

    def on_hung(self, recording: Recording, age_ns: int) -> None:
        """Learn that a request has been running for ``hung_after``, or twice as long as at the last call."""
        ...

    def on_lost(self, recording: Recording, reason: str) -> None:
        """Learn that a recording has been given up: its span will never end."""
        ...

    def on_rest(self) -> None:
        """Learn that the sampler has time; called every few seconds."""
        ...

    def on_error(self, error: Exception) -> None:
        """Learn of an error of our own."""
        ...


class Recording:
    """One span that may become slow.

    Its owner stands in for ``span.end`` on that one instance, because the SDK lets nobody write on a span from its end
    callbacks. The recording knows the span weakly: a span that is thrown away without an end is not kept alive.

    Attributes:
        thread_id: The thread of the request, as of ``_thread.get_ident``, or 0 where it is not known.
        native_id: The kernel's id of that thread.
        start_ns: Unix time of the span's start.
        selected: Whether the filters take the span; None until somebody had to know.
        lost: Why nothing (more) is seen of the request, or None.
        wraps_other: Whether the span's ``end`` had been replaced by somebody else before.
        trace: What the sampler has seen; None until the request is late.
        inline: The profiler of the inline engine, or None.
        origin_ns: The monotonic clock at the span's start. Set with the trace.
        hung_ns: Age at which the next partial profile is due. Set with the trace.
        ended: Set first of all when the span ends: whatever the sampler begins after that is void.
        threshold_ns: Set when the request has crossed it, else None.
        id: 16 hexadecimal digits, set with the threshold.
        name: The report's file name without extension, set with the threshold.
    """

    # Defaults of the class: what most requests never change costs them nothing.
    selected: bool | None = None
    lost: Lost | None = None
    trace: Trace | None = None
    inline: Profiler | None = None
    threshold_ns: int | None = None
    ended: bool = False
    wraps_other: bool = False
    id: str = ""
    name: str = ""
    hung_ns: int
    origin_ns: int

    def __init__(self, owner: Watcher, span: weakref.ref[Span], start_ns: int, thread_id: int, native_id: int) -> None:
        self.owner = owner
        self.span = span
        self.start_ns = start_ns
        self.thread_id = thread_id
        self.native_id = native_id
