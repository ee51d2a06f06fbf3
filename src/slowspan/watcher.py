"""From a span's start to its finished recording: what is watched, when it is slow, what is written on the span."""

from __future__ import annotations

import functools
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from slowspan import native
from slowspan.counters import Drop
from slowspan.fork import call_after_fork
from slowspan.judge import Judge
from slowspan.recording import stack_sampler
from slowspan.recording.carriers import ThreadCarrier, known_threads, name_of_thread
from slowspan.recording.finished import Finished
from slowspan.recording.recording import Lost
from slowspan.recording.runners import carrier_that_starts, is_called_by_greenlets, runner_here
from slowspan.recording.turns import Turns
from slowspan.running_spans import RunningSpans
from slowspan.stand_in import StandIn, stand_aside, stand_aside_if_there

_logger = logging.getLogger("slowspan")

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace import ReadableSpan, Span
    from opentelemetry.trace import SpanKind

    from slowspan.config import Settings
    from slowspan.counters import Counters
    from slowspan.delivery.pipeline import Delivery
    from slowspan.recording.carriers import Runner
    from slowspan.recording.child_spans import ChildSpans
    from slowspan.recording.inline import InlineEngine
    from slowspan.recording.recording import Recording, Young
    from slowspan.recording.stack_sampler import StackSampler

REQUEST_AGE_NS = 3_600_000_000_000
"""Age at which a request is taken for one that nobody will end: or twice the longest threshold, if that is more."""

JOB_AGE_NS = 7 * 86_400_000_000_000
"""The same of functions, and of all spans where others than servers' are watched: a nightly job can take hours."""

SURE_NS = 200_000_000
"""Time between late and slow within which the sampler is sure to look at a request, unless it is held up."""


class SpanWatcher:
    """Starts and finishes recordings for one processor, and answers the stack sampler's questions.

    Nothing here does I/O or logs on a request's thread; errors are counted and told later.

    Attributes:
        kinds: The kinds of spans that are watched.
        enabled: Whether new spans are watched.
        young: Running spans that are not late, oldest first, with what runs them: by trace id where nothing else is
            watched in the trace, else by themselves.
        children: What has ended inside the watched spans.
        parked: Whether the sampler is to be woken for the next span, as it has last said.
        keeps_apart: Whether spans are watched by themselves, from the start with a stand-in for their ends.
        quick_ns: Duration below which a span is forgotten without a second thought.
        margin_ns: Time between late and slow, in which the sampler must come to stand in for a span's end.
        max_age_ns: Age at which a span is taken for one that nobody will end; its partial profile remains.
        seen: The number of spans watched so far. Threads add to it without a lock: the interpreter changes threads at
            calls and at jumps back only, so none is lost but on free-threaded builds, where nothing is sampled either.
    """

    def __init__(
        self,
        settings: Settings,
        counters: Counters,
        sampler: StackSampler,
        delivery: Delivery[Finished],
        children: ChildSpans | None = None,
    ) -> None:
        self.enabled: bool = settings.enabled
        self.parked: bool = True
        self.start_after_ns: int = settings.start_after_ns
        self.interval_ns: int = int(settings.interval * 1e9)
        self.overhead_budget: float = settings.overhead_budget
        self.fine_switching: bool = settings.fine_switching
        self.max_samples: int = settings.max_samples
        self.max_recordings: int = settings.max_recordings
        self.hung_after_ns: int = int(settings.hung_after * 1e9)
        # The method is bound once: to do that for each span would cost some 40 ns more.
        self._spans = RunningSpans(self, self.end, partial(counters.drop, Drop.WATCHED_ALREADY), children)
        self.young: dict[object, Young] = self._spans.young
        self.children: ChildSpans = self._spans.children
        self._judge = Judge(settings, counters, delivery, self.children)
        self.kinds: tuple[SpanKind, ...] = self._judge.kinds
        self._min_threshold_ns = settings.min_threshold_ns
        self._counters = counters
        self._sampler = sampler
        self._delivery = delivery
        self._inline = _make_inline_engine(settings)
        # Below it a span is ended without a second thought. The inline engine has a profiler to stop in any case.
        self.quick_ns: int = settings.min_threshold_ns if self._inline is None else -(2**63)
        margin_ns = settings.min_threshold_ns - settings.start_after_ns
        self._serves_functions = children is not None
        self._always_apart = self._inline is not None or self._serves_functions or margin_ns < SURE_NS
        self._is_called_by_greenlets = False
        has_jobs = self._serves_functions or settings.span_kinds != ("SERVER",)
        self.max_age_ns: int = max(JOB_AGE_NS if has_jobs else REQUEST_AGE_NS, settings.longest_ns)
        self.margin_ns: int = self.max_age_ns if self._always_apart else margin_ns
        self.keeps_apart: bool = self._always_apart
        self._reset()
        call_after_fork(self._reset)

    def _reset(self) -> None:
        # A forked child counts its own spans.
        self.seen: int = 0

    # -- On the request's thread.

    def take_over(self, span: Span, generator: object = None) -> Turns | None:
        """Begin to watch a function's span, on terms of its own, whoever watches it already.

        Args:
            span: The span that has just started.
            generator: The generator whose life it is, if it is one's.

        Returns:
            The generator's turns, to be noted and kept until its end; None for what is no generator.
        """
        end: object = span.end  # Not from its __dict__, which the first look makes.
        if isinstance(end, StandIn):
            end.owner.release(span)
        else:
            key = span.context[0]
            young = self.children.young.get(key)
            if young is not None and young[0] is span:
                self.children.young.pop(key, None)
        runner = runner_here()
        turns = Turns(generator, runner) if generator is not None else None
        self.start_apart(span, runner, turns)
        return turns

    def release(self, span: Span) -> None:
        """Let another one watch a span that this one has begun to watch a moment ago, with a stand-in for its end."""
        stand_aside_if_there(span)
        self.young.pop(span, None)
        recording = self._spans.forget(span)
        if recording is not None:
            recording.ended = True
            if self._inline is not None and recording.inline is not None:
                self._inline.stop(recording.inline)

    def start_apart(self, span: Span, runner: ThreadCarrier | Runner | None, turns: Turns | None = None) -> None:
        """Watch a span by itself, from the start with a stand-in for its end: one that takes more to find or to show.

        Args:
            span: The span that has just started.
            runner: What runs the span, as of ``runner_here``.
            turns: Those of the generator whose life it is, if it is one's.
        """
        if native.eventlet_has_replaced_threads():
            # Neither a sampler's thread nor a delivery thread can run.
            self.enabled = False
            _say_off()
            return
        thread = known_threads.get(native.get_ident())
        if (runner is None and thread is None) or self._is_called_by_greenlets:
            # A pool calls the processor for the thread that starts the span.
            runner = carrier_that_starts(span)
        if not self._spans.stand_in(span):
            return
        self._spans.open_apart(span)
        self.seen += 1
        if runner is None or (isinstance(runner, ThreadCarrier) and not runner.native_id):
            # Recorded although it may be fast: nobody else would know of it.
            self._spans.record(span, ThreadCarrier(0, 0)).lost = Lost.EVENT_LOOP if runner is None else Lost.NO_THREAD
            return
        young = self.young[span] = span, runner if turns is None else (runner, turns), [], span.context
        if self.parked:
            self.wake_sampler(span, young)
        # A profiler on a thread that others use as well, such as a generator's consumer, would show them too.
        if self._inline is not None and thread is not None and runner is thread and turns is None:
            self._spans.record(span, thread).inline = self._inline.start()

    def share_trace(self, key: int, young: Young) -> None:
        """Watch a span by itself because something else is watched in its trace.

        Args:
            key: The trace's id.
            young: What is in ``young`` by that, or was a moment ago, or what had no place there.
        """
        span = young[0]
        other = self.young.get(key)
        if other is not None and other is not young and other[0] is span:
            return  # This watcher was added twice.
        self.seen += 1
        if self._spans.take(key, young) or id(span) not in self._spans.recordings:
            self._spans.set_apart(young)
            if self.parked:
                self.wake_sampler(span, young)
        # Else it was late from the beginning, and the sampler has taken it just now.

    def wake_sampler(self, key: object, young: Young) -> None:
        """Have the sampler look at a span, which is ``young`` by this key."""
        if not self._serves_functions and is_called_by_greenlets():
            self._is_called_by_greenlets = self._always_apart = self.keeps_apart = True
            nobodys = self.young[key] = young[0], ThreadCarrier(0, 0), young[2], young[3]
            self._lose(key, nobodys, Lost.NO_THREAD)
            return
        try:
            self._sampler.wake()
        except RuntimeError:
            # No thread can be started here, for example at the interpreter's end.
            self._lose(key, young, Lost.SAMPLER_OFF)

    def _lose(self, key: object, young: Young, reason: Lost) -> None:
        recording = self._spans.move_on(key, young)
        if recording is not None:
            recording.lost = reason

    def end(self, below: Callable[[int], None], span: Span, end_time: int | None = None) -> None:
        """End a span, and finish its recording if it was slow. Stands in for ``span.end``.

        Args:
            below: What ``span.end`` was before.
            span: The span.
            end_time: Unix time in nanoseconds, as of ``Span.end``.
        """
        # Taken first: our own work must not lengthen the span.
        end_ns = time.time_ns() if end_time is None else end_time
        is_ours = True
        try:
            young = self.young.pop(span, None)
            if young is None or end_ns - (span.start_time or 0) >= self.quick_ns:
                is_ours = self._finish(span, young, end_ns)
        except Exception as error:  # noqa: BLE001 - anything raised here would become the request's
            self.on_error(error)
        finally:
            if is_ours:
                self._close(span)
                stand_aside(span, below)
                below(end_ns)

    def on_end(self, young: Young, found: Young | None, ended: ReadableSpan) -> None:
        """Finish a span that was young, and slow or just becoming late, when its end came past us.

        Args:
            young: The span.
            found: What was taken from ``young`` by its trace's id.
            ended: The span as it is exported.
        """
        if found is not None and found is not young:
            self._spans.set_apart(found)
        self.children.open(young[3], young[2])
        self._finish_ended(young[0], found if found is young else None, ended)

    def on_end_inside(self, ended: ReadableSpan) -> None:
        """Keep a span that has ended in a trace in which one is watched. Runs in the span's end.

        Args:
            ended: The span as it is exported.
        """
        context = ended.context
        if context is not None and self.children.is_open(context):
            # A watched one, but its end was called past us: its class's, or one fetched before it became late.
            span = self._spans.find(context)
            if span is not None:
                self._finish_ended(span, self.young.pop(span, None), ended)
        self.children.add(ended)

    def _finish_ended(self, span: Span, young: Young | None, ended: ReadableSpan) -> None:
        """Finish the recording of a span on which nothing can be written any more."""
        try:
            if self._finish(span, young, ended.end_time or 0):
                self._sampler.beware()
        finally:
            self._close(span)
            stand_aside_if_there(span)

    def _finish(self, span: Span, young: Young | None, end_ns: int) -> bool:
        """Finish the recording of a span that may be slow.

        Args:
            span: The span.
            young: What was taken from ``young``.
            end_ns: When it ends.

        Returns:
            False when another thread is ending the span at this moment.
        """
        recording = self._spans.recordings.get(id(span))
        if recording is None:
            if young is None:
                return True  # It has ended before, or was forgotten.
            recording = self._spans.record(young[0], young[1])
        elif recording.ended:
            return span.end_time is not None  # A second time: the SDK says so.
        recording.ended = True
        try:
            # First of all: whatever comes now would be profiled as well.
            profiler = recording.inline
            session = self._inline.stop(profiler) if self._inline and profiler else None
            duration_ns = end_ns - recording.start_ns
            is_wanted = duration_ns >= self._min_threshold_ns and recording.selected is not False and self.enabled
            if is_wanted or recording.trace is not None:
                recording.outcome = self._judge.finish(recording, span, duration_ns, session, is_wanted=is_wanted)
                # Else the sampler hands it on at its next look: waking another thread takes the request 30 µs and more.
                if recording not in self._sampler.late or self._sampler.is_away():
                    self.on_ended(recording)
        finally:
            # The application may keep the span.
            self._spans.recordings.pop(id(span), None)
        return True

    def _close(self, span: Span) -> None:
        try:
            self.children.close(span.context)
        except Exception as error:  # noqa: BLE001 - the span must end, whatever happens
            self.on_error(error)

    # -- On the sampler's thread.

    def on_late(self, key: object, young: Young) -> Recording | None:
        """Take a span that has become late from ``young``; return its recording if the filters let it be sampled."""
        recording, span = self._spans.move_on(key, young), young[0]
        if recording is None:
            return None
        if not self.enabled or not self._judge.may_select(recording, span):
            # It can go on for hours.
            self.children.close(span.context)
            if self._inline is not None and recording.inline is not None:
                self._inline.stop(recording.inline)
                recording.inline = None
            return None
        recording.thread_name = name_of_thread(recording.carrier.native_id)
        self._counters.add("recorded")
        # Here rather than at the end of the request, which would have to wait for it.
        self._delivery.start()
        return recording

    def on_look(self, recording: Recording) -> None:
        """Keep what the inline engine records of a late request within its bound."""
        if self._inline is not None and recording.inline is not None:
            self._inline.thin_out(recording.inline)

    def on_threshold(self, recording: Recording, age_ns: int) -> None:
        """Link the profile on the span as soon as the request has crossed its threshold."""
        self._judge.on_threshold(recording, age_ns)

    def on_hung(self, recording: Recording, age_ns: int) -> bool:
        """Hand on a partial profile of a request that still runs; False when it is not slow yet."""
        return self._judge.on_hung(recording, age_ns)

    def on_lost(self, recording: Recording, reason: str) -> None:
        """Count a recording of which the span never ended."""
        recording.selected = False
        span = recording.span()
        if span is not None:
            # Should it end after all, what is known of it stays as it is.
            self._spans.forget(span)
        if self._inline is not None and recording.inline is not None:
            self._inline.stop(recording.inline)
        self._counters.drop(Drop.SPAN_ABANDONED, detail=reason)

    def on_ended(self, recording: Recording) -> None:
        """Hand on what the end of a slow request has left, unless somebody has done so. On any thread."""
        outcome = recording.take_outcome()
        if outcome is not None and self._delivery.wants(kept=recording.kept):
            self._delivery.submit_later(recording.id, outcome)

    def on_holdups(self, is_wary: bool) -> None:
        """Stand in for the ends of spans from their start while the sampler may come too late to do it."""
        self.keeps_apart = self._always_apart or is_wary

    def on_rest(self) -> None:
        """Let losses be told that no delivery thread has heard of."""
        self._counters.log_losses()

    def on_error(self, error: Exception) -> None:
        """Count an error of our own; the delivery thread tells it."""
        self._counters.drop(Drop.INTERNAL_ERROR, detail=repr(error))


@functools.cache
def _say_off() -> None:
    # On a request's thread, once in a process: nobody else could.
    _logger.warning("slowspan is off: %s", stack_sampler.unavailable())


def _make_inline_engine(settings: Settings) -> InlineEngine | None:
    if settings.engine != "inline":
        return None
    # Imported here, at set-up, because it loads pyinstrument, which the background sampler does without.
    from slowspan.recording.inline import InlineEngine

    return InlineEngine(settings.interval, settings.max_samples)
