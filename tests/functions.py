"""What the tests of profiled functions share: a process with nothing but their own slowspan, and code to profile."""

from __future__ import annotations

import contextlib
import weakref
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from slowspan import control
from watched import Watched, WatchingProcessor, watched

if TYPE_CHECKING:
    from collections.abc import Iterator


NEVER = 3600
"""A threshold that nothing here reaches."""


@contextlib.contextmanager
def only_ours() -> Iterator[None]:
    """Hide the processors of other tests, of which some may not have been shut down."""
    others, was_shut_down = control._processors, control.is_shut_down
    control._processors, control.is_shut_down = weakref.WeakKeyDictionary(), False
    control.changes += 1
    try:
        yield
    finally:
        control._processors, control.is_shut_down = others, was_shut_down
        control.changes += 1


@contextlib.contextmanager
def watched_globally(provider: TracerProvider | None = None, **options: Any) -> Iterator[Watched]:
    """Watch the spans of the global provider; needs the fixture ``no_global_provider``."""
    with only_ours(), watched(provider, **options) as seen:
        trace.set_tracer_provider(seen.provider)
        yield seen


@contextlib.contextmanager
def watched_without_opentelemetry(**options: Any) -> Iterator[WatchingProcessor]:
    """Have a processor that no provider knows; needs the fixture ``no_global_provider``."""
    with only_ours():
        processor = WatchingProcessor(**options)
        try:
            yield processor
        finally:
            processor.shutdown()
