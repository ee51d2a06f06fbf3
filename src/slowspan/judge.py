"""Which late requests are slow, and what then happens: the profile is linked on the span, frozen and handed on."""

from __future__ import annotations

import random
import time
from _thread import get_native_id
from typing import TYPE_CHECKING

from slowspan import semconv, span_fields
from slowspan.counters import Drop
from slowspan.delivery.naming import report_name
from slowspan.delivery.report_limit import ReportLimit
from slowspan.fork import call_after_fork
from slowspan.recording.carriers import is_greenlet
from slowspan.recording.finished import Finished
from slowspan.recording.gauge import HAS_THREAD_CLOCKS
from slowspan.recording.recording import Lost
from slowspan.selection import Selection
from slowspan.span_attributes import NOT_SELECTED, link_attributes, profile_attributes
from slowspan.trace_sampler import attributes_of
from slowspan.trigger import Trigger

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace import Span
    from opentelemetry.trace import SpanKind
    from pyinstrument.session import Session

    from slowspan.config import Settings
    from slowspan.counters import Counters
    from slowspan.delivery.pipeline import Delivery
    from slowspan.recording.child_spans import ChildSpans, EndedSpans
    from slowspan.recording.recording import Recording
    from slowspan.semconv import HttpFacts
    from slowspan.span_attributes import SpanAttributes


class Judge:
    """Decides on late requests by the filters and thresholds of one processor.

    Nothing here does I/O or logs on a request's thread.

    Attributes:
        kinds: The kinds of spans that are watched.
    """

    def __init__(
        self, settings: Settings, counters: Counters, delivery: Delivery[Finished], children: ChildSpans
    ) -> None:
        self._settings = settings
        self._counters = counters
        self._delivery = delivery
        self._children = children
        self._selection = Selection(settings)
        self._trigger = Trigger(settings)
        self.kinds: tuple[SpanKind, ...] = tuple(self._selection.kinds)
        # Whether what is known only at the end of a request can change what was decided before.
        self._asks_again = bool(self._selection.has_filters or settings.thresholds)
        self._min_threshold_ns = settings.min_threshold_ns
        self._reset()
        call_after_fork(self._reset)

    def _reset(self) -> None:
        # A forked child keeps its own reports.
        self._report_limit = ReportLimit(self._settings.reports_per_hour)
        # One of our own, which the application does not seed. Asking the system for each id would let go of the
        # interpreter lock, which the request then had to queue for again.
        self._ids = random.Random()

    # -- On the request's thread, at its end.

    def finish(
        self,
        recording: Recording,
        span: Span,
        duration_ns: int,
        session: Session | None,
        *,
        is_wanted: bool = True,
    ) -> Callable[[], Finished] | None:
        """Decide on a span that has ended.

        Args:
            recording: Its recording.
            span: The span.
            duration_ns: How long it took.
            session: What the inline engine saw.
            is_wanted: Whether it can be slow at all: over the smallest threshold, and watched until now.

        Returns:
            What makes its finished recording, on another thread, if it is slow.
        """
        # Taken first: it is the account of the request, not of what follows here.
        cpu_ns = time.thread_time_ns() if _is_at_home(recording) else None
        trace = recording.trace
        if trace is not None:
            with trace.lock:
                """Whoever has linked or told of it without knowing of its end is done now."""
        link = self._link_if_slow(recording, span, duration_ns) if is_wanted else None
        if link is None:
            self._take_back(recording, span, duration_ns)
            return None
        if trace is not None:
            with trace.lock:
                # When the thread was lost nothing is known of the time after the last sample.
                seen_ns = duration_ns if recording.lost is None else 0
                trace.close(seen_ns, trace.meter.at_end(cpu_ns) if cpu_ns is not None else None)
        self._counters.add("slow")
        lost = recording.lost
        if lost is Lost.TOO_MANY:
            self._counters.drop(Drop.TOO_MANY_RECORDINGS)
        # In one go: each takes some 10 µs where the caches are cold.
        if not _write(span, {**link, **profile_attributes(trace, duration_ns, session)}):
            self._counters.drop(Drop.NOT_LINKED)
        inside = self._children.ended(span)
        # What is left changes no more, so that another thread can put it together.
        return lambda: _freeze(recording, span, duration_ns, lost, inside, session)

    def _link_if_slow(self, recording: Recording, span: Span, duration_ns: int) -> SpanAttributes | None:
        """Return what is to be written on a span that has ended, if it is a slow request; None if it is not."""
        if recording.threshold_ns is not None and not self._asks_again:
            # Linked before its end, and nothing that has come since can change that, except for one answer.
            is_switched = semconv.is_switched(span_fields.own_attributes(span))
            return {} if duration_ns >= recording.threshold_ns and not is_switched else None
        attributes = attributes_of(span)
        http = semconv.read_http(attributes)
        if not self._selection.selects(http, attributes):
            return None
        threshold_ns = self._trigger.threshold_ns(http, span_fields.name_of(span))
        if duration_ns < threshold_ns:
            return None
        return self._link(recording, span, http, threshold_ns)

    def _take_back(self, recording: Recording, span: Span, duration_ns: int) -> None:
        """Take back what was said of a running request that is not to be reported, as only its end has told."""
        if recording.threshold_ns is None:
            return
        _write(span, {semconv.PROFILE_DROPPED: NOT_SELECTED})
        if recording.told and recording.trace is not None:
            with recording.trace.lock:
                partial = _freeze(recording, span, duration_ns, recording.lost)
            self._delivery.submit(partial._replace(withdrawn=True))

    def _link(self, recording: Recording, span: Span, http: HttpFacts, threshold_ns: int) -> SpanAttributes:
        """Decide where the profile of a slow request will be; return what tells of it on its span."""
        if recording.threshold_ns is None:
            recording.id = f"{self._ids.getrandbits(64):016x}"
            # What may be a URL's query in the span's name is not for the names of files, nor for the log.
            name = span_fields.name_of(span).partition("?")[0]
            endpoint = semconv.endpoint(http.method, http.route or http.path, name)
            recording.name = report_name(recording.start_ns, endpoint, recording.id)
            recording.kept = self._report_limit.admits(endpoint)
            if not recording.kept:
                self._counters.drop(Drop.REPORT_LIMIT, detail=endpoint)
        recording.threshold_ns = threshold_ns
        return link_attributes(self._settings, recording)

    # -- On the sampler's thread.

    def may_select(self, recording: Recording, span: Span) -> bool:
        """Return whether the filters take a late span, as far as can be told by now, and note it on its recording."""
        # Asked again at the end: the status code, and with some frameworks the route, are known only then.
        attributes = attributes_of(span)
        recording.selected = self._selection.selects(semconv.read_http(attributes), attributes, so_far=True)
        return recording.selected

    def on_threshold(self, recording: Recording, age_ns: int) -> None:
        """Link the profile on the span as soon as the request has crossed its threshold."""
        span = recording.span()
        trace = recording.trace
        if span is None or trace is None or age_ns < max(self._min_threshold_ns, recording.ask_ns):
            return
        attributes = attributes_of(span)
        http = semconv.read_http(attributes)
        threshold_ns = self._trigger.threshold_ns(http, span_fields.name_of(span))
        if age_ns < threshold_ns:
            return
        if not self._selection.selects(http, attributes):
            # Not at each look: the patterns are the user's, and the attribute may never come.
            recording.ask_ns = age_ns + age_ns // 8
        else:
            with trace.lock:
                if not recording.ended:
                    _write(span, self._link(recording, span, http, threshold_ns))

    def on_hung(self, recording: Recording, age_ns: int) -> bool:
        """Hand on a partial profile of a request that still runs; False when it is not slow yet."""
        span = recording.span()
        trace = recording.trace
        if span is None or trace is None or recording.threshold_ns is None:
            return False
        with trace.lock:
            if not recording.ended:
                recording.told = True
                # Under the lock, so that the final profile, which replaces this one, comes after it.
                inside = self._children.ended(span)
                partial = _freeze(recording, span, age_ns, recording.lost, inside)
                self._delivery.submit(partial._replace(running=True))
        return True


def _freeze(
    recording: Recording,
    span: Span,
    duration_ns: int,
    lost: Lost | None,
    inside: EndedSpans | None = None,
    session: Session | None = None,
) -> Finished:
    """Return what is left of a recording, or what there is so far. Its trace is closed, or the lock of that is held.

    Args:
        recording: One that is slow.
        span: Its span.
        duration_ns: How long it took, or has been taking.
        lost: Why nothing more was seen of it.
        inside: The spans that have ended in its trace.
        session: What the inline engine saw.
    """
    trace = recording.trace
    return Finished(
        id=recording.id,
        name=recording.name,
        running=False,
        span=span,
        start_ns=recording.start_ns,
        duration_ns=duration_ns,
        threshold_ns=recording.threshold_ns or 0,
        cpu_time_ns=trace.cpu_time_ns(duration_ns) if trace is not None else None,
        native_id=recording.carrier.native_id,
        thread_name=recording.thread_name,
        ready_is_known=not is_greenlet(recording.carrier),
        lost=lost,
        data=trace.snapshot() if trace is not None else None,
        kept=recording.kept,
        session=session,
        inside=inside,
    )


def _write(span: Span, attributes: SpanAttributes) -> bool:
    """Write on a span unless it has ended, for which the SDK would log a warning; return whether it had not."""
    if span.end_time is not None:
        return False
    span.set_attributes(attributes)
    return True


def _is_at_home(recording: Recording) -> bool:
    """Return whether the calling thread is the request's, so that its CPU clock tells of the request."""
    at_home = recording.carrier.native_id == get_native_id()
    return at_home and HAS_THREAD_CLOCKS and recording.lost is None
