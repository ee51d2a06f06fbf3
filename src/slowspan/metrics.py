"""slowspan's own figures as OpenTelemetry metrics: they cost nothing unless a meter provider reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.metrics import CallbackOptions, Observation, get_meter

from slowspan._version import __version__
from slowspan.control import status as current_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from slowspan.control import Status

_registered = False


def register() -> None:
    """Make the instruments, once in a process: asynchronous ones, which are read when metrics are collected."""
    global _registered
    if _registered:
        return
    _registered = True
    meter = get_meter("slowspan", __version__)

    def observe(read: Callable[[Status], Iterable[Observation]]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def callback(_options: CallbackOptions) -> Iterable[Observation]:
            return read(current_status())

        return callback

    def counter(name: str, description: str, read: Callable[[Status], int]) -> None:
        callback = observe(lambda status: [Observation(read(status))])
        meter.create_observable_counter(name, [callback], unit="{span}", description=description)

    counter("slowspan.spans.seen", "Spans watched", lambda status: status.seen)
    counter("slowspan.spans.recorded", "Spans sampled because they were late", lambda status: status.recorded)
    counter("slowspan.spans.slow", "Spans over their threshold", lambda status: status.slow)
    counter("slowspan.reports", "Reports written", lambda status: status.reports)

    def counter_by(name: str, attribute: str, description: str, read: Callable[[Status], Mapping[str, int]]) -> None:
        callback = observe(lambda status: [Observation(n, {attribute: key}) for key, n in read(status).items()])
        meter.create_observable_counter(name, [callback], description=description)

    counter_by("slowspan.drops", "reason", "Losses by reason", lambda status: status.drops)
    counter_by("slowspan.delivered", "notifier", "Reports and alerts delivered", lambda status: status.delivered)
    counter_by("slowspan.failed", "notifier", "Alerts not delivered in all tries", lambda status: status.failed)
    meter.create_observable_gauge(
        "slowspan.enabled",
        [observe(lambda status: [Observation(int(status.enabled))])],
        description="1 while new spans are watched, else 0",
    )
    meter.create_observable_gauge(
        "slowspan.sampler.cost",
        [observe(lambda status: [Observation(status.sampler_cost)])],
        unit="1",
        description="CPU time of the stack sampler as a share of one core",
    )
    meter.create_observable_gauge(
        "slowspan.sampler.interval",
        [observe(lambda status: [Observation(status.interval)])],
        unit="s",
        description="Current mean time between two samples",
    )
