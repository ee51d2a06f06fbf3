"""The spans that have ended inside watched ones: kept while a request runs, in case it turns out to be slow.

Only references are kept. A fast request throws them away, and of a slow one the delivery thread reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from slowspan import native
from slowspan.fork import call_after_fork

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, Span
    from opentelemetry.trace import SpanContext

    from slowspan.recording.recording import Young

MAX_SPANS = 1000
"""Spans kept of one trace. Of more the newest stay: a span ends after those inside it, so the tree holds together."""

MAX_SPANS_IN_ALL = 20_000
"""Spans kept of all traces of a processor, of 2 kB each: what a thousand waiting requests need, and no more. Those of
young requests are counted when these become late."""


class EndedSpans(NamedTuple):
    """What had ended in a trace when one of its watched spans was looked at."""

    spans: tuple[ReadableSpan, ...]
    """In the order of their ends."""
    left_out: int
    """How many more there were, which are not kept."""
    shared: bool
    """Whether several watched spans ran in the trace: a span's parents tell to which of them it belongs."""


class _Trace:
    """A trace of which a watched span is late, or by itself, or not the only one."""

    __slots__ = ("counted", "left_out", "owners", "shared", "spans")

    def __init__(self) -> None:
        self.owners: dict[int, SpanContext] = {}
        self.spans: list[ReadableSpan] = []
        self.counted = 0
        self.left_out = 0
        self.shared = False


class ChildSpans:
    """Keeps the ended spans of those traces in which a watched span is running.

    What ends inside a young request is put into the list that its entry in ``young`` has, without a lock and by whoever
    learns of it; its fast end throws that away. When the request becomes late, or shares its trace, the list becomes
    the trace's. All calls come from the threads of requests, but for those on spans that are late or that nobody ends.

    Attributes:
        young: By trace id, which is a context's first item, those running spans that are not late and were the first
            watched ones of their traces. Their watcher, which adds and removes them, keeps others there as well, by
            keys that are no trace ids.
        running: By trace id, one of the other watched spans.
        traces: By trace id, those of which there is more to know than that. Others only ask whether one is there.
    """

    def __init__(self) -> None:
        self.young: dict[object, Young] = {}
        self.running: dict[int, SpanContext] = {}
        # Made before a look at ``young`` and ``running``, and looked at after what is closed has gone from there: so
        # one of the two threads sees the other.
        self.traces: dict[int, _Trace] = {}
        self.clear()
        call_after_fork(self.clear)

    def clear(self) -> None:
        """Forget everything: the watched spans go on in another process, or are watched no more."""
        # Reentrant: a collection in the middle of the work here can end a span, on the same thread. A new one, and
        # before all else: in a forked child the old one may be held for ever.
        self._lock = native.RLock()
        self.young.clear()
        self.running.clear()
        self.traces.clear()
        self._count = 0

    def open(self, context: SpanContext, spans: list[ReadableSpan] | None = None) -> None:
        """Keep what ends in the trace of a watched span: of one that is leaving ``young``, or never was there.

        Args:
            context: The span's. Nothing happens if it is open already.
            spans: Of one that is leaving: what has ended inside it, and what is being put there at this moment.
        """
        trace_id = context[0]
        with self._lock:
            first = self._first(trace_id)
            other = self.running.setdefault(trace_id, context)
            if first is None or first is context:
                first = other
            if first is context and spans is None:
                return
            trace = self._trace(trace_id)
            trace.owners[context.span_id] = context
            if spans is not None:
                self._adopt(trace, spans)
            if first is not context:
                trace.shared = True
                if first.span_id not in trace.owners:
                    self._own(trace, first)
            self.running.setdefault(trace_id, context)

    def _trace(self, trace_id: int) -> _Trace:
        trace = self.traces.get(trace_id)
        if trace is None:
            trace = self.traces[trace_id] = _Trace()
        return trace

    def _adopt(self, trace: _Trace, spans: list[ReadableSpan]) -> None:
        if trace.spans is spans:
            return
        too_many = max(self._count + len(spans) - MAX_SPANS_IN_ALL, 0)
        trace.left_out += min(too_many, len(spans))
        del spans[:too_many]
        trace.counted += len(spans)
        self._count += len(spans)
        if trace.spans:
            trace.spans += spans
        else:
            trace.spans = spans

    def is_open(self, context: SpanContext) -> bool:
        """Tell whether a context is that of a watched span, young ones aside, which has not been closed."""
        trace = self.traces.get(context[0])
        return self.running.get(context[0]) is context or (
            trace is not None and trace.owners.get(context.span_id) is context
        )

    def _first(self, trace_id: int) -> SpanContext | None:
        # In this order: what leaves ``young`` to become late is among the running before.
        young = self.young.get(trace_id)
        return self.running.get(trace_id) if young is None else young[3]

    def _own(self, trace: _Trace, first: SpanContext) -> None:
        """Note the watched span by which a trace was known so far, unless it has ended."""
        trace.owners[first.span_id] = first
        young = self.young.get(first[0])
        if young is not None and young[3] is first:
            self._adopt(trace, young[2])
        elif self.running.get(first[0]) is not first:
            # It had looked for the trace before that was there.
            trace.owners.pop(first.span_id, None)

    def add(self, span: ReadableSpan) -> None:
        """Keep an ended span if a watched one of its trace is running."""
        parent = span.parent
        first = self._first(parent[0]) if parent is not None else None
        if parent is None or first is None:
            return
        with self._lock:
            trace = self._trace(parent[0])
            if first.span_id not in trace.owners:
                trace.shared = bool(trace.owners)
                self._own(trace, first)
                if not trace.owners:
                    self.traces.pop(parent[0], None)
                    return
            if len(trace.spans) < MAX_SPANS and self._count < MAX_SPANS_IN_ALL:
                trace.counted += 1
                self._count += 1
                trace.spans.append(span)
                return
            trace.left_out += 1
            if trace.spans:
                del trace.spans[0]
                trace.spans.append(span)

    def ended(self, span: Span) -> EndedSpans | None:
        """Return what has ended so far in the trace of a watched span; None if there is nothing."""
        context = span.context
        with self._lock:
            trace = self.traces.get(context[0])
            if trace is None or context.span_id not in trace.owners or not trace.spans:
                return None
            return EndedSpans(tuple(trace.spans), trace.left_out, trace.shared)

    def close(self, context: SpanContext) -> None:
        """Forget what ended in the trace of a watched span, unless another watched one is running in it.

        Args:
            context: Of the watched span, which may be gone. Nothing happens if it was closed before.
        """
        trace_id = context[0]
        with self._lock:
            trace = self.traces.get(trace_id)
            if trace is not None:
                trace.owners.pop(context.span_id, None)
                for owner in list(trace.owners.values()):
                    self.running[trace_id] = owner
                    return
                # A collection, or ``clear``, may have been faster.
                if self.traces.pop(trace_id, None) is trace:
                    self._count -= trace.counted
            if self.running.get(trace_id) is context:
                self.running.pop(trace_id, None)
