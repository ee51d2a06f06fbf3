"""From a span's start to its finished recording: what is watched, when it is slow, what is written on the span."""

from __future__ import annotations

import itertools
import os
import threading
import time
import weakref
from _thread import get_ident, get_native_id
from functools import partial
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import Span

from slowspan import semconv
from slowspan.counters import Drop
from slowspan.delivery.naming import report_link, report_name
from slowspan.fork import call_after_fork
from slowspan.recording.carriers import calling_thread, runs_event_loop, thread_that_starts
from slowspan.recording.finished import Finished
from slowspan.recording.gauge import HAS_THREAD_CLOCKS
from slowspan.recording.recording import Lost, Recording
from slowspan.report.summary import hot_text
from slowspan.selection import Selection
from slowspan.trigger import Trigger

if TYPE_CHECKING:
    from opentelemetry.trace import SpanKind
    from pyinstrument.session import Session

    from slowspan.config import Settings
    from slowspan.counters import Counters
    from slowspan.delivery.pipeline import Delivery
    from slowspan.recording.inline import InlineEngine
    from slowspan.recording.stack_sampler import StackSampler
    from slowspan.semconv import HttpFacts

_END_BELOW = "_end_below_slowspan"
"""Where a span keeps somebody else's stand-in for its ``end``: a recording must not keep the span alive."""

_SDK_END = Span.end

HOT_FRAMES = 5
"""Hot lines on a span: few and short, since the oldest attributes of a full span give way to new ones."""


class SpanWatcher:
    """Starts and finishes recordings for one processor, and answers the stack sampler's questions.

    Nothing here does I/O or logs on a request's thread; errors are counted and told later.

    Attributes:
        kinds: The kinds of spans that are watched.
        enabled: Whether new spans are watched.
    """

    def __init__(
        self,
        settings: Settings,
        counters: Counters,
        sampler: StackSampler,
        delivery: Delivery[Finished],
    ) -> None:
        self.enabled: bool = settings.enabled
        self.start_after_ns: int = settings.start_after_ns
        self.interval_ns: int = int(settings.interval * 1e9)
        self.overhead_budget: float = settings.overhead_budget
        self.fine_switching: bool = settings.fine_switching
        self.max_samples: int = settings.max_samples
        self.max_recordings: int = settings.max_recordings
        self.hung_after_ns: int = int(settings.hung_after * 1e9)
        self._selection = Selection(settings)
        self._trigger = Trigger(settings)
        self.kinds: tuple[SpanKind, ...] = tuple(self._selection.kinds)
        self._min_threshold_ns = settings.min_threshold_ns
        self._counters = counters
        self._sampler = sampler
        self._delivery = delivery
        self._inline = _make_inline_engine(settings)
        self._settings = settings
        self._reset_seen()
        call_after_fork(self._reset_seen)

    def _reset_seen(self) -> None:
        self._started = itertools.count()
        self._started_reads = 0
        self._started_lock = threading.Lock()

    def seen(self) -> int:
        """Return the number of spans watched so far."""
        # next() on a count is atomic where += on an attribute is not, and costs the request nothing more.
        with self._started_lock:
            value = next(self._started) - self._started_reads
            self._started_reads += 1
        return value

    # -- On the request's thread.

    def start(self, span: Span) -> None:
        """Begin to watch a span. Runs in the span's start, on the path of every request: each line here is counted.

        Args:
            span: The span that has just started.
        """
        foreign = getattr(span.end, "__func__", None) is not _SDK_END
        if foreign and _is_stand_in(span.end):
            return  # Watched already: this processor, or another one of ours, was added twice.
        next(self._started)
        thread = calling_thread
        start_ns = span.start_time or time.time_ns()
        recording = Recording(self, weakref.ref(span), start_ns, thread.ident, thread.native_id)
        if thread.serves_pool:
            self._find_thread(recording, span)
        elif runs_event_loop():
            recording.lost = Lost.EVENT_LOOP
        if foreign and "end" in span.__dict__:
            recording.wraps_other = True
            span.__dict__[_END_BELOW] = span.end
        # Keeps the span alive, as the bound method does in whose place it stands, and costs no call of its own.
        span.end = partial(self.end, recording, span)  # type: ignore[method-assign]
        if recording.lost is None:
            self._sampler.young[recording] = None
            if self._sampler.parked:
                self._wake_sampler(recording)
            if self._inline is not None:
                recording.inline = self._inline.start()

    def _find_thread(self, recording: Recording, span: Span) -> None:
        """Find the request's thread where a pool calls us for it."""
        recording.thread_id = thread_that_starts(span)
        native_ids = {thread.ident: thread.native_id for thread in threading.enumerate()}
        recording.native_id = native_ids.get(recording.thread_id) or 0
        if not recording.native_id:
            recording.lost = Lost.NO_THREAD

    def _wake_sampler(self, recording: Recording) -> None:
        try:
            self._sampler.wake()
        except RuntimeError:
            # No thread can be started here, for example at the interpreter's end.
            self._sampler.young.pop(recording, None)
            recording.lost = Lost.SAMPLER_OFF

    def end(self, recording: Recording, span: Span, end_time: int | None = None) -> None:
        """Finish a recording and end its span. Stands in for ``span.end``.

        Args:
            recording: The span's recording.
            span: The span.
            end_time: Unix time in nanoseconds, as of ``Span.end``.
        """
        # Taken first: our own work must not lengthen the span.
        end_ns = time.time_ns() if end_time is None else end_time
        try:
            del span.end
        except AttributeError:
            if recording.ended:
                if span.end_time is not None:
                    span.end(end_ns)  # A second time: the SDK says so.
                return  # Else another thread is ending it at this moment.
            # Somebody else's stand-in, above ours, has taken itself away and ours with it: the span must end.
        try:
            recording.ended = True
            # First of all: whatever comes now would be profiled as well.
            session = self._inline.stop(recording.inline) if self._inline and recording.inline else None
            self._sampler.young.pop(recording, None)
            duration_ns = end_ns - recording.start_ns
            if duration_ns >= self._min_threshold_ns and recording.selected is not False and self.enabled:
                self._finish_late(recording, span, duration_ns, session)
        except Exception as error:  # noqa: BLE001 - anything raised here would become the request's
            self.on_error(error)
        finally:
            original = span.__dict__.pop(_END_BELOW, None) if recording.wraps_other else None
            (original or span.end)(end_ns)

    def _finish_late(self, recording: Recording, span: Span, duration_ns: int, session: Session | None) -> None:
        """Decide on a span that is over the smallest threshold; if it is slow, hand it on."""
        own_thread = get_ident() == recording.thread_id and get_native_id() == recording.native_id
        cpu_ns = time.thread_time_ns() if own_thread and recording.lost is not Lost.THREAD_REUSED else None
        http = semconv.read_http(span.attributes or {})
        selected = self._selects(recording, http, span)
        threshold_ns = self._trigger.threshold_ns(http, span.name)
        trace = recording.trace
        if not selected or duration_ns < threshold_ns or span.end_time is not None:
            return
        if trace is not None:
            with trace.lock:
                # When the thread was lost nothing is known of the time after the last sample.
                seen_ns = duration_ns if recording.lost is None else 0
                trace.close(seen_ns, cpu_ns if HAS_THREAD_CLOCKS else None)
        self._counters.add("slow")
        if recording.lost is Lost.TOO_MANY:
            self._counters.drop(Drop.TOO_MANY_RECORDINGS)
        self._name(recording, span, http, threshold_ns)
        finished = self._freeze(recording, span, duration_ns, session)
        span.set_attributes(self._attributes(recording, finished))
        self._delivery.submit(finished)

    def _selects(self, recording: Recording, http: HttpFacts, span: Span) -> bool:
        # Asked again at the end: the status code, and with some frameworks the route, are known only then.
        recording.selected = recording.selected is not False and self._selection.selects(http, span.attributes or {})
        return recording.selected

    def _name(self, recording: Recording, span: Span, http: HttpFacts, threshold_ns: int) -> None:
        if recording.threshold_ns is None:
            recording.id = os.urandom(8).hex()
            endpoint = semconv.endpoint(http.method, http.route or http.path, span.name)
            recording.name = report_name(recording.start_ns, endpoint, recording.id)
        recording.threshold_ns = threshold_ns

    def _freeze(
        self,
        recording: Recording,
        span: Span,
        duration_ns: int,
        session: Session | None = None,
        *,
        running: bool = False,
    ) -> Finished:
        trace = recording.trace
        cpu_time_ns = trace.cpu_time_ns() if trace is not None else None
        if cpu_time_ns is not None:
            # An explicit end time can make the span shorter than it was.
            cpu_time_ns = min(cpu_time_ns, duration_ns)
        return Finished(
            id=recording.id,
            name=recording.name,
            running=running,
            span=span,
            start_ns=recording.start_ns,
            duration_ns=duration_ns,
            threshold_ns=recording.threshold_ns or 0,
            cpu_time_ns=cpu_time_ns,
            native_id=recording.native_id,
            lost=recording.lost,
            data=trace.snapshot() if trace is not None else None,
            session=session,
        )

    def _attributes(self, recording: Recording, finished: Finished) -> dict[str, str | float | int | list[str]]:
        attributes: dict[str, str | float | int | list[str]] = self._link_attributes(recording)
        attributes[semconv.SAMPLES] = finished.sample_count
        if finished.cpu_time_ns is not None:
            attributes[semconv.CPU_TIME] = finished.cpu_time_ns / 1e9
        if recording.trace is not None and finished.duration_ns:
            attributes[semconv.HOT_FRAMES] = [
                hot_text(leaf.wall_ns / finished.duration_ns, leaf.code.co_filename, leaf.line, leaf.code.co_name)
                for leaf in recording.trace.hottest(HOT_FRAMES)
            ]
        return attributes

    def _link_attributes(self, recording: Recording) -> dict[str, str | float | int | list[str]]:
        attributes: dict[str, str | float | int | list[str]] = {
            semconv.PROFILE_ID: recording.id,
            semconv.THRESHOLD: (recording.threshold_ns or 0) / 1e9,
        }
        url = report_link(self._settings, recording.id, recording.name)
        if url is not None:
            attributes[semconv.PROFILE_URL] = url
        return attributes

    # -- On the sampler's thread.

    def on_late(self, recording: Recording) -> bool:
        """Decide by the filters whether a late request is sampled."""
        span = recording.span()
        if span is None or not self.enabled:
            return False
        selected = self._selects(recording, semconv.read_http(span.attributes or {}), span)
        if selected:
            self._counters.add("recorded")
            # Here rather than at the end of the request, which would have to wait for it.
            self._delivery.start()
        return selected

    def on_threshold(self, recording: Recording, age_ns: int) -> None:
        """Link the profile on the span as soon as the request has crossed its threshold."""
        span = recording.span()
        trace = recording.trace
        if span is None or trace is None or age_ns < self._min_threshold_ns:
            return
        http = semconv.read_http(span.attributes or {})
        threshold_ns = self._trigger.threshold_ns(http, span.name)
        if age_ns >= threshold_ns:
            with trace.lock:
                if not recording.ended:
                    self._name(recording, span, http, threshold_ns)
                    span.set_attributes(self._link_attributes(recording))

    def on_hung(self, recording: Recording, age_ns: int) -> None:
        """Hand on a partial profile of a request that still runs."""
        span = recording.span()
        trace = recording.trace
        if span is None or trace is None or recording.threshold_ns is None:
            return
        with trace.lock:
            if recording.ended:
                return
            # Under the lock, so that the final profile, which replaces this one, comes after it.
            self._delivery.submit(self._freeze(recording, span, age_ns, running=True))

    def on_lost(self, recording: Recording, reason: str) -> None:
        """Count a recording of which the span never ended."""
        recording.selected = False
        if self._inline is not None and recording.inline is not None:
            self._inline.stop(recording.inline)
        self._counters.drop(Drop.SPAN_ABANDONED, detail=reason)

    def on_rest(self) -> None:
        """Let losses be told that no delivery thread has heard of."""
        self._counters.log_losses()

    def on_error(self, error: Exception) -> None:
        """Count an error of our own; the delivery thread tells it."""
        self._counters.drop(Drop.INTERNAL_ERROR, detail=repr(error))


def _is_stand_in(end: object) -> bool:
    return isinstance(end, partial) and bool(end.args) and type(end.args[0]) is Recording


def _make_inline_engine(settings: Settings) -> InlineEngine | None:
    if settings.engine != "inline":
        return None
    # Imported here, at set-up, because it loads pyinstrument, which the background sampler does without.
    from slowspan.recording.inline import InlineEngine

    return InlineEngine(settings.interval)
