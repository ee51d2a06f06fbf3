"""The span processor: the only file with OpenTelemetry's callbacks."""

from __future__ import annotations

import atexit
import dataclasses
import logging
import weakref
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import SpanProcessor

from slowspan import metrics, native, trace_sampler
from slowspan.breather import Breather
from slowspan.config_sources import load_settings
from slowspan.control import Status, register, unregister
from slowspan.counters import Counters
from slowspan.delivery.pipeline import Delivery
from slowspan.native import get_ident
from slowspan.recording import child_spans, runners, stack_sampler
from slowspan.recording.carriers import known_threads
from slowspan.redaction import secret_names
from slowspan.semconv import read_http
from slowspan.span_fields import reads_fields
from slowspan.watcher import SpanWatcher

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span

    from slowspan.config import Settings
    from slowspan.config_sources import LoadedSettings
    from slowspan.notifiers.base import Notifier
    from slowspan.recording.finished import Finished
    from slowspan.recording.profile import Profile, SpanFacts
    from slowspan.recording.recording import Young

_logger = logging.getLogger("slowspan")

_NO_SAMPLER = (
    "record_unsampled has no effect on a SlowSpanProcessor that is added by hand: give the provider its sampler, "
    "TracerProvider(sampler=slowspan.RecordUnsampled(...)), or call slowspan.instrument(tracer_provider=provider)"
)


class SlowSpanProcessor(SpanProcessor):
    """Keeps a profile of every server span that was slow.

    Add it to any SDK tracer provider, before or after the exporters' processors::

        provider.add_span_processor(SlowSpanProcessor(threshold=0.5))

    The callbacks run on the requests' threads: they take microseconds, do no I/O and never raise.

    Attributes:
        settings: The settings in force.
        origins: Where each setting comes from, by its name.
        closed: Whether it has been shut down; it does nothing more.
    """

    def __init__(self, **options: Any) -> None:
        """Make a processor; nothing runs before the first span.

        Args:
            **options: Settings by name, as in :class:`slowspan.Settings`. What is not given comes from the
                environment, then from the file that ``OTEL_PYTHON_SLOWSPAN_CONFIG`` names, then from the defaults.

        Raises:
            ConfigError: An option is unknown or wrong.
        """
        loaded = load_settings(**options)
        if loaded.settings.record_unsampled and not trace_sampler.is_in_use():
            # A processor knows neither its provider nor the spans that the provider's sampler drops.
            _logger.warning("%s", _NO_SAMPLER)
        self._set_up(loaded)

    @classmethod
    def from_loaded(cls, loaded: LoadedSettings) -> SlowSpanProcessor:
        """Make a processor with settings that have been put together already."""
        processor = cls.__new__(cls)
        processor._set_up(loaded)
        return processor

    def _set_up(self, loaded: LoadedSettings) -> None:
        self.settings: Settings = loaded.settings
        self.origins: Mapping[str, str] = loaded.origins
        self._counters = Counters()
        self._sampler = stack_sampler.shared
        reason = stack_sampler.unavailable()
        is_off = native.eventlet_has_replaced_threads()
        if reason is not None:
            _logger.warning("slowspan is off: %s" if is_off else "slowspan samples nothing: %s", reason)
        self._delivery: Delivery[Finished] = Delivery(
            self.settings,
            self._counters,
            load=self._load_notifiers,
            facts=self._facts,
            resolve=self._resolve,
            render_html=_render_html,
            compress=self._compress,
        )
        self._watcher = SpanWatcher(self.settings, self._counters, self._sampler, self._delivery)
        if is_off:
            self._watcher.enabled = False
        self._kinds = self._watcher.kinds
        self._function_watchers: dict[float | None, SpanWatcher] = {}
        children = self._watcher.children
        self._young, self._running, self._traces = children.young, children.running, children.traces
        self._quick_ns = self._watcher.quick_ns
        self.closed: bool = False
        self._sampler.watch(self._watcher)
        register(self)
        metrics.register()
        atexit.register(_shutdown_at_exit, weakref.ref(self))

    # -- OpenTelemetry's callbacks. All that a fast request pays is written out here, and each line is counted: in a
    #    process that does other things between two requests a call costs as much as what is called.

    @reads_fields
    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002
        """Begin to watch a span. Runs on the request's thread."""
        # Compared by identity: hashing an enum member costs more than all the rest for spans of other kinds.
        if span._kind in self._kinds and (watcher := self._watcher).enabled:
            try:
                runner: Any
                hub = runners.gevents_hub
                # Where gevent is at work it is mostly a greenlet of its own, which leads to its thread.
                if hub is None or runners.busy_loops or type((runner := runners.current_greenlet()).parent) is not hub:
                    # Else a thread that runs one request after the other.
                    runner = known_threads.get(get_ident())
                    loop = runners.running_loop()
                    if runner is None:
                        runner = runners.runner_on(None, loop)
                    elif loop is not None:
                        task = runners.current_task(loop)
                        runner = (runner, task) if task is not None else None
                    elif runners.look_further is not None:
                        runner = runners.look_further(runner)
                if runner is None or watcher.keeps_apart:
                    watcher.start_apart(span, runner)
                    return
                context: Any = span._context
                key = context[0]
                young: Young = span, runner, [], context
                if self._young.setdefault(key, young) is not young or key in self._running:
                    watcher.share_trace(key, young)
                    return
                watcher.seen += 1
                if watcher.parked:
                    watcher.wake_sampler(key, young)
            except Exception as error:  # noqa: BLE001 - anything raised here would become the request's
                watcher.on_error(error)

    @reads_fields
    def on_end(self, span: ReadableSpan) -> None:
        """Forget a fast request, or keep a span inside a watched one. Runs on the thread that ends it."""
        try:
            context: Any = span._context
            key = context[0]
            young = self._young.get(key)
            if young is None or young[3] is not context:
                # Most spans are in no watched one, and most of the others in a young one that is alone in its trace.
                if young is not None and key not in self._traces and len(young[2]) < child_spans.MAX_SPANS:
                    young[2].append(span)
                elif young is not None or key in self._running:
                    self._watcher.on_end_inside(span)
                return
            found = self._young.pop(key, None)
            if found is not young or (span._end_time or 0) - (span._start_time or 0) >= self._quick_ns:
                self._watcher.on_end(young, found, span)
            elif key in self._traces:
                self._watcher.children.close(context)
        except Exception as error:  # noqa: BLE001 - anything raised here would become the request's
            self._watcher.on_error(error)

    def shutdown(self) -> None:
        """Stop watching and deliver what is waiting, within ``flush_timeout`` seconds."""
        if self.closed:
            return
        self.closed = True
        for watcher in self._watchers():
            watcher.enabled = False
            self._sampler.unwatch(watcher)
        unregister()
        self._watcher.children.clear()
        self._delivery.shutdown(self.settings.flush_timeout)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Deliver what is waiting, within ``flush_timeout`` seconds at most.

        Args:
            timeout_millis: Time limit in milliseconds.

        Returns:
            True always: after anything else the SDK does not flush the processors that follow.
        """
        for watcher in self._watchers():
            self._sampler.late.hand_on(watcher)
        self._delivery.force_flush(min(timeout_millis, int(self.settings.flush_timeout * 1000)))
        return True

    # -- Functions.

    def function_watcher(self, threshold: float | None) -> SpanWatcher:
        """Return who watches the spans of functions with a threshold of their own. Any thread; costs nothing again.

        Args:
            threshold: Seconds; None for the settings' thresholds, which then go by the span's name.
        """
        watcher = self._function_watchers.get(threshold)
        if watcher is None:
            settings = function_settings(self.settings, threshold)
            children = self._watcher.children
            made = SpanWatcher(settings, self._counters, self._sampler, self._delivery, children)
            made.enabled = self._watcher.enabled
            watcher = self._function_watchers.setdefault(threshold, made)
            if watcher is made and not self.closed:
                self._sampler.watch(made)
        return watcher

    def _watchers(self) -> list[SpanWatcher]:
        return [self._watcher, *list(self._function_watchers.values())]

    # -- Run-time control.

    def enable(self) -> None:
        """Watch new spans (again). Has no effect after ``shutdown``."""
        for watcher in self._watchers():
            watcher.enabled = not self.closed

    def disable(self) -> None:
        """Watch no new spans and forget those that are running."""
        for watcher in self._watchers():
            watcher.enabled = False
            self._sampler.forget(watcher)
        self._watcher.children.clear()

    def status(self) -> Status:
        """Return what this processor has done so far."""
        counts = self._counters.snapshot()
        return Status(
            enabled=self._watcher.enabled,
            unavailable=stack_sampler.unavailable(),
            seen=sum(watcher.seen for watcher in self._watchers()),
            recorded=counts.recorded,
            slow=counts.slow,
            reports=counts.reports,
            delivered=counts.delivered,
            failed=counts.failed,
            drops=counts.drops,
            sampler_cost=self._sampler.cost(),
            interval=self._sampler.interval,
            report_dir=str(self.settings.report_dir),
        )

    # -- On the delivery thread.

    def _facts(self, finished: Finished) -> SpanFacts:
        # Imported here, like what follows: only a process that had a slow request needs it.
        from slowspan.span_facts import span_facts

        return span_facts(finished.span, read_http(trace_sampler.attributes_of(finished.span)), self.settings)

    def _resolve(self, finished: Finished, facts: SpanFacts) -> Profile:
        from slowspan.recording.resolve import build_profile
        from slowspan.recording.span_tree import read_tree

        pause = Breather(self._delivery.in_haste)
        tree = read_tree(finished, secret_names(self.settings.redacted_parameters), pause)
        return build_profile(finished, facts, pause, tree)

    def _compress(self, profile: Profile) -> bytes:
        from slowspan.report.stored import compress_profile

        return compress_profile(profile, Breather(self._delivery.in_haste))

    def _load_notifiers(self) -> Sequence[tuple[str, Notifier]]:
        # Imported here because entry points take milliseconds to read, on a thread that has the time.
        from slowspan.notifiers.registry import load_notifiers

        return load_notifiers(self.settings, self._counters)


def function_settings(settings: Settings, threshold: float | None) -> Settings:
    """Return the settings for functions: without filters, which are for requests, and with a threshold of their own."""
    changes: dict[str, Any] = {} if threshold is None else {"threshold": threshold, "thresholds": ()}
    for filters in ("excluded_urls", "included_urls", "excluded_attributes", "included_attributes"):
        changes[filters] = ()
    return dataclasses.replace(settings, **changes)


def _render_html(stored: bytes, trace_url: str | None = None) -> bytes:
    # Imported here: only a process that had a slow request needs it.
    from slowspan.report.renderer import shared

    return shared.render_html(stored, trace_url)


def _shutdown_at_exit(reference: weakref.ref[SlowSpanProcessor]) -> None:
    processor = reference()
    if processor is not None:
        processor.shutdown()
