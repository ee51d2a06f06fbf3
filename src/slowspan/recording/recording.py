"""The recording of one span that is late or slow."""

from __future__ import annotations

import enum
import time
import weakref
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace import ReadableSpan, Span
    from opentelemetry.trace import SpanContext
    from pyinstrument import Profiler

    from slowspan.recording.carriers import Carrier, Runner, ThreadCarrier
    from slowspan.recording.finished import Finished
    from slowspan.recording.sight import Follower
    from slowspan.recording.trace import Trace


class Lost(enum.Enum):
    """Why a request's stack can no longer be read; the value is the sentence in the report."""

    THREAD_ENDED = "The thread of this request had ended before the span did."
    THREAD_REUSED = "The thread of this request went on to another request before the span ended."
    TOO_MANY = "Too many slow requests were sampled at the same time; this one was left out."
    NO_THREAD = "The thread of this request could not be told."
    EVENT_LOOP = "This request ran in an event loop, in no task of which the stack could be read."
    SAMPLER_OFF = "The stack sampler was not running."


Young = tuple["Span", "ThreadCarrier | Runner", "list[ReadableSpan]", "SpanContext"]
"""A running span that is not late, what ran it at its start, if it is known by its trace what ended inside it, and the
span's context, by which its end is known."""


class Watcher(Protocol):
    """The owner of recordings: what it asks of the stack sampler, and what it is told.

    All calls come from the sampler's thread, but for the first word on its holdups and for ``on_ended``.

    Attributes:
        young: Running spans that are not late, oldest first, by keys of the owner's. Request threads add and
            remove; ``on_late`` removes. Until then, a span that is thrown away is kept alive.
        parked: Whether the sampler is to be woken for the next span; true until it has said otherwise.
        margin_ns: Time in which the sampler has to take a late span before it can be slow.
        max_age_ns: Age at which a span is taken for one that nobody will end; its partial profile remains.
    """

    young: dict[object, Young]
    parked: bool
    start_after_ns: int
    margin_ns: int
    max_age_ns: int
    interval_ns: int
    overhead_budget: float
    fine_switching: bool
    max_samples: int
    max_recordings: int
    hung_after_ns: int

    def on_late(self, key: object, young: Young) -> Recording | None:
        """Take a span that has become late from ``young``; return its recording if it is to be sampled."""
        ...

    def on_look(self, recording: Recording) -> None:
        """Learn that a late request with a profiler of its own, ``recording.inline``, is looked at."""
        ...

    def on_threshold(self, recording: Recording, age_ns: int) -> None:
        """Learn that a late request, of which no threshold is known to be crossed, still runs."""
        ...

    def on_hung(self, recording: Recording, age_ns: int) -> bool:
        """Learn that a request has been running for ``hung_after``, or twice as long as when it was last told of.

        Returns:
            False for a request that is not slow by its own threshold yet: it is to be asked for again.
        """
        ...

    def on_lost(self, recording: Recording, reason: str) -> None:
        """Learn that a recording has been given up: its span will never end."""
        ...

    def on_ended(self, recording: Recording) -> None:
        """Hand on what the end of a recording has left, if there is anything. On any thread."""
        ...

    def on_holdups(self, is_wary: bool) -> None:
        """Learn that the sampler has been kept from running for long, and may be again; or has not been for a while."""
        ...

    def on_rest(self) -> None:
        """Learn that the sampler has time; called every few seconds."""
        ...

    def on_error(self, error: Exception) -> None:
        """Learn of an error of our own."""
        ...


class Recording:
    """One span that is late or slow, or that cannot be sampled. A fast request never has one.

    Attributes:
        owner: Who is asked about it, and told.
        carrier: The thread, task or greenlet of the request.
        follower: Finds its stack at every look. Set with the trace.
        start_ns: Unix time of the span's start.
        span: The span, known weakly: one that is thrown away without an end is not kept alive.
        selected: Whether the filters take the span; None until somebody had to know.
        lost: Why nothing (more) is seen of the request, or None.
        trace: What the sampler has seen; None until the request is late.
        inline: The profiler of the inline engine, or None.
        origin_ns: The monotonic clock at the span's start. Set with the trace.
        hung_ns: Age at which the next partial profile is due. Set with the trace.
        ended: Set first of all when the span ends: whatever the sampler begins after that is void.
        threshold_ns: Set when the request has crossed it, else None.
        id: 16 hexadecimal digits, set with the threshold.
        name: The report's file name without extension, set with the threshold.
        ask_ns: Age at which the filters are asked again, after they have not taken the span.
        thread_name: The name of its thread, looked up when the request became late: some threads end with it.
        told: Whether a partial profile was handed on.
        kept: Whether the limit on reports lets this one be kept; set with the threshold.
        outcome: Left by the end of a slow request: makes what is handed on. Whoever takes it hands it on.
    """

    selected: bool | None = None
    lost: Lost | None = None
    trace: Trace | None = None
    inline: Profiler | None = None
    threshold_ns: int | None = None
    ended: bool = False
    id: str = ""
    name: str = ""
    ask_ns: int = 0
    thread_name: str = ""
    told: bool = False
    kept: bool = True
    outcome: Callable[[], Finished] | None = None
    hung_ns: int
    origin_ns: int
    follower: Follower

    def __init__(
        self,
        owner: Watcher,
        span: Span,
        carrier: Carrier,
        when_span_is_gone: Callable[[object], object] | None = None,
    ) -> None:
        self.owner = owner
        self.span: weakref.ref[Span] = weakref.ref(span, when_span_is_gone)
        self.carrier = carrier
        # None only for a span that somebody else has made and not started.
        self.start_ns: int = span.start_time or time.time_ns()

    def take_outcome(self) -> Callable[[], Finished] | None:
        """Return the outcome to whoever asks first; None when there is none (any more)."""
        outcome: Callable[[], Finished] | None = self.__dict__.pop("outcome", None)
        return outcome
