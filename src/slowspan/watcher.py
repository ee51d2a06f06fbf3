"""From a span's start to its finished recording: what is watched, when it is slow, what is written on the span."""

from __future__ import annotations

import functools
import itertools
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import Span

from slowspan import native
from slowspan.counters import Drop
from slowspan.fork import call_after_fork
from slowspan.judge import Judge
from slowspan.recording import carriers, stack_sampler
from slowspan.recording.carriers import (
    ThreadCarrier,
    calling_thread,
    carrier_of,
    carrier_that_starts,
    name_of_thread,
    runner_here,
)
from slowspan.recording.child_spans import ChildSpans
from slowspan.recording.finished import Finished
from slowspan.recording.recording import Lost, Recording

_logger = logging.getLogger("slowspan")

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import SpanKind

    from slowspan.config import Settings
    from slowspan.counters import Counters
    from slowspan.delivery.pipeline import Delivery
    from slowspan.recording.carriers import Runner
    from slowspan.recording.inline import InlineEngine
    from slowspan.recording.recording import Young
    from slowspan.recording.stack_sampler import StackSampler

_SDK_END = Span.end


class SpanWatcher:
    """Starts and finishes recordings for one processor, and answers the stack sampler's questions.

    Nothing here does I/O or logs on a request's thread; errors are counted and told later.

    Attributes:
        kinds: The kinds of spans that are watched.
        enabled: Whether new spans are watched.
        young: Running spans that are not late, oldest first, with what runs them: by trace id where nothing else is
            watched in the trace, else by themselves.
        children: What has ended inside the watched spans.
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
        self.start_after_ns: int = settings.start_after_ns
        self.interval_ns: int = int(settings.interval * 1e9)
        self.overhead_budget: float = settings.overhead_budget
        self.fine_switching: bool = settings.fine_switching
        self.max_samples: int = settings.max_samples
        self.max_recordings: int = settings.max_recordings
        self.hung_after_ns: int = int(settings.hung_after * 1e9)
        self.children: ChildSpans = ChildSpans() if children is None else children
        # Asked here rather than there, for each request: a call costs as much as the answer.
        self._running, self._traces = self.children.running, self.children.traces
        # One dictionary tells the sampler of a young span and its children's ends of its trace: a second one would
        # cost a request 1 µs. It serves the requests; functions' spans, which share the children, are kept apart.
        self.young: dict[object, Young] = self.children.young if children is None else {}
        self._judge = Judge(settings, counters, delivery, self.children)
        self.kinds: tuple[SpanKind, ...] = self._judge.kinds
        self._min_threshold_ns = settings.min_threshold_ns
        self._counters = counters
        self._sampler = sampler
        self._delivery = delivery
        self._inline = _make_inline_engine(settings)
        # Below it a span is ended without a second thought. The inline engine has a profiler to stop in any case.
        self._quick_ns = settings.min_threshold_ns if self._inline is None else -(2**63)
        self._keeps_apart = self._inline is not None or children is not None
        # Made once: to bind it for each request would cost some 40 ns more.
        self._bound_end = self.end
        self._reset()
        call_after_fork(self._reset)

    def _reset(self) -> None:
        # A forked child counts its own spans; those that run go on in the parent.
        self.young.clear()
        # By the span's identity, and gone with the span: a dictionary of weak keys takes twice as long to ask.
        self._recordings: dict[int, Recording] = {}
        self._started = itertools.count()
        self._started_reads = 0
        self._started_lock = native.allocate_lock()

    def seen(self) -> int:
        """Return the number of spans watched so far."""
        # next() on a count is atomic where += on an attribute is not, and costs the request nothing more.
        with self._started_lock:
            value = next(self._started) - self._started_reads
            self._started_reads += 1
        return value

    # -- On the request's thread.

    def start(self, span: Span, generator: object = None) -> None:
        """Begin to watch a span. Runs in the span's start, on the path of every request: each line here is counted.

        Args:
            span: The span that has just started.
            generator: The generator whose life it is, if it is one's.
        """
        below: Any = span.end
        try:
            is_plain = below.__func__ is _SDK_END
        except AttributeError:
            if _is_stand_in(below):
                if below.func.__self__ is not self:  # Else this one was added twice.
                    self._counters.drop(Drop.WATCHED_ALREADY)
                return
            is_plain = False
        next(self._started)
        thread = calling_thread.carrier
        inside = carriers.shares_thread()
        runner = runner_here(thread, inside) if inside is not None and thread is not None else thread
        if runner is None or generator is not None or self._keeps_apart or not is_plain:
            self._start_apart(span, below, thread, runner, generator)
            return
        key: object = span.context[0]
        # Keeps the span alive, as the bound method does in whose place it stands, and costs no call of its own.
        span.end = partial(self._bound_end, below, span, key)  # type: ignore[method-assign]
        young = span, runner
        if self.young.setdefault(key, young) is not young or key in self._running:
            key = self._share_trace(key, young, below)
        if self._sampler.parked:
            self._wake_sampler(key, young)

    def take_over(self, span: Span, generator: object = None) -> None:
        """Begin to watch a function's span, on terms of its own, whoever watches it already.

        Args:
            span: The span that has just started.
            generator: The generator whose life it is, if it is one's.
        """
        end: object = span.end  # Not from its __dict__, which the first look makes.
        if isinstance(end, partial) and _is_stand_in(end):
            end.func.__self__.release(span)  # type: ignore[attr-defined]
        self.start(span, generator)

    def release(self, span: Span) -> None:
        """Let another one watch a span that this one has begun to watch a moment ago."""
        below, _, key = span.__dict__.pop("end").args
        young = self.young.get(key)
        if young is not None and young[0] is span:
            self._take(key, young)
        self.children.close(span.context)
        recording = self._recordings.pop(id(span), None)
        if recording is not None:
            recording.ended = True
            if self._inline is not None and recording.inline is not None:
                self._inline.stop(recording.inline)
        span.end = below  # type: ignore[method-assign]

    def _start_apart(
        self,
        span: Span,
        below: Callable[[int], None],
        thread: ThreadCarrier | None,
        runner: ThreadCarrier | Runner | None,
        generator: object,
    ) -> None:
        """Watch a span that is not a request's on a thread as usual: one that takes more to find, show or end."""
        if native.eventlet_has_replaced_threads():
            # Neither a sampler's thread nor a delivery thread can run.
            self.enabled = False
            _say_off()
            return
        if thread is None:
            runner = carrier_that_starts(span)
        self._stand_in_apart(span, below)
        if runner is None or not runner[1]:
            # Recorded although it may be fast: nobody else would know of it.
            self._record(span, ThreadCarrier(0, 0)).lost = Lost.EVENT_LOOP if runner is None else Lost.NO_THREAD
            return
        young = self.young[span] = span, runner if generator is None else (runner, generator)
        if self._sampler.parked:
            self._wake_sampler(span, young)
        # A profiler on a thread that others use as well, such as a generator's consumer, would show them too.
        if self._inline is not None and thread is not None and runner is thread and generator is None:
            self._record(span, thread).inline = self._inline.start()

    def _stand_in_apart(self, span: Span, below: Callable[[int], None]) -> Span:
        """Stand in for the end of a span by which its trace is not to be known, and return its key in ``young``."""
        span.end = partial(self._bound_end, below, span, span)  # type: ignore[method-assign]
        context = span.context
        # As of ChildSpans.open, for a trace in which nothing else is watched.
        if self._running.setdefault(context[0], context) is not context or context[0] in self.children.young:
            self.children.open(context)
        return span

    def _share_trace(self, key: object, young: Young, below: Callable[[int], None]) -> object:
        """Watch a span apart because something else is watched in its trace; return its key."""
        span = young[0]
        if not self._take(key, young) and id(span) in self._recordings:
            return key  # It was late from the beginning, and the sampler has taken it just now.
        self.young[span] = young
        return self._stand_in_apart(span, below)

    def _take(self, key: object, young: Young) -> bool:
        """Take a span from ``young``; return whether it was there."""
        if self.young.get(key) is not young:
            return False
        found = self.young.pop(key, None)
        if found is not None and found is not young:
            self._put_back(found)
        return found is young

    def _put_back(self, young: Young) -> None:
        """Put back what another span's end has taken, which had gone by the same key before."""
        # By a key of its own, under which its end looks as well: by the old one there may be a third one meanwhile.
        self.young[young[0]] = young
        self.children.open(young[0].context)

    def _record(self, span: Span, runner: ThreadCarrier | Runner) -> Recording:
        key = id(span)
        recording = self._recordings.get(key)
        if recording is None:
            recordings = self._recordings
            children, context = self.children, span.context

            def forget(_: object) -> None:
                recordings.pop(key, None)
                children.close(context)

            recording = recordings[key] = Recording(self, span, carrier_of(runner), forget)
        return recording

    def _wake_sampler(self, key: object, young: Young) -> None:
        try:
            self._sampler.wake()
        except RuntimeError:
            # No thread can be started here, for example at the interpreter's end.
            recording = self._move_on(key, young)
            if recording is not None:
                recording.lost = Lost.SAMPLER_OFF

    def _move_on(self, key: object, young: Young) -> Recording | None:
        """Take a span from ``young`` and return its recording; None when it has ended."""
        span = young[0]
        # First there, then away from here: the thread that ends the span finds it in one of the two.
        recording = self._record(*young)
        if key is not span:
            self.children.open(span.context)
        if self._take(key, young) and span.end_time is None:
            return recording
        # It has ended, perhaps past us, by its class's own method; or it is just ending, which forgets the recording
        # that it has found. One that it has not found is forgotten when the span is gone.
        if span.end_time is not None or self._recordings.get(id(span)) is not recording:
            self._recordings.pop(id(span), None)
            self.children.close(span.context)
        return None

    def end(self, below: Callable[[int], None], span: Span, key: object, end_time: int | None = None) -> None:
        """End a span, and finish its recording if it was slow. Stands in for ``span.end``.

        Args:
            below: What ``span.end`` was before.
            span: The span.
            key: By which it is ``young``.
            end_time: Unix time in nanoseconds, as of ``Span.end``.
        """
        # Taken first: our own work must not lengthen the span.
        end_ns = time.time_ns() if end_time is None else end_time
        is_fast, is_ours = False, True
        try:
            young = self.young.pop(key, None)
            is_fast = young is not None and young[0] is span and end_ns - (span.start_time or 0) < self._quick_ns
            if not is_fast:
                is_ours = self._finish(span, young, end_ns)
        except Exception as error:  # noqa: BLE001 - anything raised here would become the request's
            self.on_error(error)
        finally:
            if is_ours:
                if key in self._traces or key is span or not is_fast:
                    self._close(span)
                try:
                    del span.end
                except AttributeError:
                    """Somebody else's stand-in, above ours, has taken itself away and ours with it."""
                below(end_ns)

    def _finish(self, span: Span, young: Young | None, end_ns: int) -> bool:
        """Finish the recording of a span that may be slow.

        Args:
            span: The span.
            young: What was found under the span's key.
            end_ns: When it ends.

        Returns:
            False when another thread is ending the span at this moment.
        """
        if young is not None and young[0] is not span:
            # This one had left ``young`` long ago, or has ended before: its stand-in was kept, and called once more.
            self._put_back(young)
            young = None
        if young is None:
            young = self.young.pop(span, None)  # Put back by another one's end.
        recording = self._recordings.get(id(span))
        if recording is None:
            if young is None:
                return True  # It has ended before, or was forgotten.
            recording = self._record(*young)
        elif recording.ended:
            return span.end_time is not None  # A second time: the SDK says so.
        recording.ended = True
        try:
            # First of all: whatever comes now would be profiled as well.
            profiler = recording.inline
            session = self._inline.stop(profiler) if self._inline and profiler else None
            duration_ns = end_ns - recording.start_ns
            if duration_ns >= self._min_threshold_ns and recording.selected is not False and self.enabled:
                self._judge.finish(recording, span, duration_ns, session)
        finally:
            # The application may keep the span.
            self._recordings.pop(id(span), None)
        return True

    def _close(self, span: Span) -> None:
        try:
            self.children.close(span.context)
        except Exception as error:  # noqa: BLE001 - the span must end, whatever happens
            self.on_error(error)

    # -- On the sampler's thread.

    def on_late(self, key: object, young: Young) -> Recording | None:
        """Take a span that has become late from ``young``; return its recording if the filters let it be sampled."""
        recording, span = self._move_on(key, young), young[0]
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
            self.children.close(span.context)
        if self._inline is not None and recording.inline is not None:
            self._inline.stop(recording.inline)
        self._counters.drop(Drop.SPAN_ABANDONED, detail=reason)

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


def _is_stand_in(end: object) -> bool:
    return isinstance(end, partial) and isinstance(getattr(end.func, "__self__", None), SpanWatcher)


def _make_inline_engine(settings: Settings) -> InlineEngine | None:
    if settings.engine != "inline":
        return None
    # Imported here, at set-up, because it loads pyinstrument, which the background sampler does without.
    from slowspan.recording.inline import InlineEngine

    return InlineEngine(settings.interval, settings.max_samples)
