"""The watched spans of one processor that are running: where each one is found until it ends, and by whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slowspan.fork import call_after_fork
from slowspan.recording.carriers import carrier_of
from slowspan.recording.child_spans import ChildSpans
from slowspan.recording.recording import Recording
from slowspan.stand_in import stand_aside_if_there, stand_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace import Span
    from opentelemetry.trace import SpanContext

    from slowspan.recording.carriers import Runner, ThreadCarrier
    from slowspan.recording.recording import Watcher, Young


class RunningSpans:
    """Keeps the young spans and the recordings of the others, and stands in for their ends.

    Two threads take spans from here, without a lock: the one that ends a span, and the sampler's when it has become
    late. Taking a key out of a dictionary is atomic, and what one of them leaves the other one finds.

    Args:
        owner: Whom the recordings belong to.
        end: What is called in the place of a span's end.
        when_watched_already: Called for a span for the end of which somebody else stands in.
        children: Where what ends inside the spans is kept; new ones unless given.

    Attributes:
        young: Running spans that are not late, oldest first, with what runs them: by trace id where nothing else is
            watched in the trace, else by themselves.
        recordings: Of the other ones, and of those on the way there: by the span's identity, and gone with the span. A
            dictionary of weak keys takes twice as long to ask.
        children: What has ended inside the spans.
    """

    def __init__(
        self,
        owner: Watcher,
        end: Callable[..., None],
        when_watched_already: Callable[[], None],
        children: ChildSpans | None,
    ) -> None:
        self._owner = owner
        self._end = end
        self._when_watched_already = when_watched_already
        self.children: ChildSpans = ChildSpans() if children is None else children
        # One dictionary tells the sampler of a young span and its children's ends of its trace: a second one would
        # cost a request 1 µs. It serves the requests; functions' spans, which share the children, are kept apart.
        self.young: dict[object, Young] = self.children.young if children is None else {}
        self.recordings: dict[int, Recording] = {}
        call_after_fork(self.clear)

    def clear(self) -> None:
        """Forget all spans: in a forked child, since they go on in the parent."""
        self.young.clear()
        self.recordings = {}

    def stand_in(self, span: Span) -> bool:
        """Stand in for a span's end; return False when one of us does already."""
        other = stand_in(span, self._end)
        if other is not None and other.func != self._end:
            self._when_watched_already()
        return other is None

    def open_apart(self, span: Span) -> None:
        """Keep what ends inside a span by which its trace is not to be known."""
        context = span.context
        # As of ChildSpans.open, for a trace in which nothing else is watched.
        running = self.children.running
        if running.setdefault(context[0], context) is not context or context[0] in self.children.young:
            self.children.open(context)

    def set_apart(self, young: Young) -> None:
        """Keep a span by itself that another one keeps from being known by its trace."""
        if self.stand_in(young[0]):
            self.young[young[0]] = young
            self.children.open(young[3], young[2])

    def take(self, key: object, young: Young) -> bool:
        """Take a span from ``young``; return whether it was there."""
        if self.young.get(key) is not young:
            return False
        found = self.young.pop(key, None)
        if found is not None and found is not young:
            # Between the two another thread has taken it, and the next request of the trace has begun.
            self.set_apart(found)
        return found is young

    def record(self, span: Span, runner: ThreadCarrier | Runner) -> Recording:
        """Return the recording of a span, which is made if there is none."""
        key = id(span)
        recording = self.recordings.get(key)
        if recording is None:
            recordings = self.recordings
            children, context = self.children, span.context

            def forget(_: object) -> None:
                recordings.pop(key, None)
                children.close(context)

            # The request's thread and the sampler's may both make one at this moment: the first one counts for both.
            recording = recordings.setdefault(key, Recording(self._owner, span, carrier_of(runner), forget))
        return recording

    def forget(self, span: Span) -> Recording | None:
        """Forget a span; return its recording if it has one."""
        recording = self.recordings.pop(id(span), None)
        self.children.close(span.context)
        return recording

    def move_on(self, key: object, young: Young) -> Recording | None:
        """Take a span from ``young``, stand in for its end, and return its recording; None when it has ended."""
        span = young[0]
        # The inline engine makes one at the start of a span, which is then known by itself.
        before = self.recordings.get(id(span)) if key is span else None
        # First there, then away from here: the thread that ends the span finds it in one of the two.
        recording = self.record(span, young[1])
        if key is not span:
            self.children.open(young[3], young[2])
        if self.take(key, young):
            is_ours = key is span or self.stand_in(span)
            if span.end_time is None and is_ours:
                return recording
            if span.end_time is not None and key is not span:
                # Its end had begun before we stood in for it, and finds the recording in on_end.
                stand_aside_if_there(span)
                return None
        elif recording is before:
            return None  # The end that is under way has its profiler to stop.
        self.forget(span)
        return None

    def find(self, context: SpanContext) -> Span | None:
        """Return the span of a context, if it is here."""
        spans = [recording.span() for recording in list(self.recordings.values())]
        spans += [young[0] for young in list(self.young.values())]
        return next((span for span in spans if span is not None and span.context is context), None)
