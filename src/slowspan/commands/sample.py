"""A slow request of our own, really made and really profiled: proof that profiling works, and what a test alert shows.

The names in this file are what a reader of the test alert sees in its call tree.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanKind

from slowspan.config import SETTING_NAMES, Settings
from slowspan.config_sources import LoadedSettings
from slowspan.processor import SlowSpanProcessor

if TYPE_CHECKING:
    from slowspan.recording.profile import Profile
    from slowspan.report.report import Report

WAITING = 0.25
COMPUTING = 0.15
"""Seconds: together long enough for some thirty samples, short enough for a command."""

PATIENCE = 10.0
"""Seconds until the profile must be there; it takes some milliseconds."""


class _Keeper:
    """Keeps the report of the sample. As a notifier for reports it needs no alert store."""

    receives = "reports"

    def __init__(self) -> None:
        self.report: Report | None = None
        self.arrived = threading.Event()

    def notify(self, report: Report) -> None:
        self.report = report
        self.arrived.set()

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002 -- the protocol's signature
        return True

    def shutdown(self) -> None:
        """Keep the report for whoever made this."""


def sample_profile(settings: Settings) -> Profile | None:
    """Make a slow span and return its profile; takes half a second.

    Args:
        settings: For the engine.

    Returns:
        A profile named ``GET /slowspan-check``, with the service's name; None when none came, as where
        OpenTelemetry is switched off.
    """
    keeper = _Keeper()
    own = Settings(
        engine=settings.engine,
        threshold=(WAITING + COMPUTING) / 4,
        start_after=0.01,
        notifiers=(keeper,),
        report_dir=settings.report_dir,
        # Nothing of this may get into the state that the workers share.
        alert_store="memory://",
    )
    origins = dict.fromkeys(SETTING_NAMES, "code")
    processor = SlowSpanProcessor.from_loaded(LoadedSettings(settings=own, origins=origins))
    # Whatever the environment says of sampling traces, this one is wanted.
    provider = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
    provider.add_span_processor(processor)
    try:
        with provider.get_tracer("slowspan.check").start_as_current_span(
            "GET /slowspan-check",
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": "GET",
                "http.route": "/slowspan-check",
                "url.path": "/slowspan-check",
                "url.query": "message=only+a+test",
                "http.response.status_code": 200,
            },
        ):
            this_is_only_a_test()
        if not _has_ended(processor):
            return None
        keeper.arrived.wait(PATIENCE)
    finally:
        provider.shutdown()
    return None if keeper.report is None else keeper.report.profile


def _has_ended(processor: SlowSpanProcessor) -> bool:
    """Tell whether a slow span was seen at all: with ``OTEL_SDK_DISABLED`` there is none to wait for."""
    return processor.status().slow > 0


def this_is_only_a_test() -> None:
    """Spend time as a slow request does."""
    waiting_as_for_a_database()
    computing_as_a_busy_loop_does()


def waiting_as_for_a_database() -> None:
    """Wait."""
    time.sleep(WAITING)


def computing_as_a_busy_loop_does() -> None:
    """Compute."""
    end = time.perf_counter() + COMPUTING
    total = 0
    while time.perf_counter() < end:
        total += sum(range(1000))
