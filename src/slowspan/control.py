"""What slowspan is doing in this process, and its switch at run time."""

from __future__ import annotations

import weakref
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from slowspan.processor import SlowSpanProcessor

# In the order in which they were made.
_processors: weakref.WeakKeyDictionary[SlowSpanProcessor, None] = weakref.WeakKeyDictionary()

changes: int = 0
"""Grows whenever ``first_processor`` may have another answer."""

is_switched_off: bool = False
"""Whether ``disable`` was called last, and not ``enable``: holds for a processor that profiled functions make."""

is_shut_down: bool = False
"""Whether a processor has been shut down, and none was made since."""


class Status(NamedTuple):
    """Counts since the start of this process."""

    enabled: bool
    """Whether new spans are watched."""
    unavailable: str | None = None
    """Why this interpreter cannot be sampled, or None."""
    seen: int = 0
    """Spans watched."""
    recorded: int = 0
    """Spans that became late and passed the filters, so that they were sampled."""
    slow: int = 0
    """Spans over their threshold."""
    reports: int = 0
    """Finished reports that ``file`` has written, or else the first notifier that gets reports has delivered."""
    delivered: Mapping[str, int] = MappingProxyType({})
    """Reports or alerts that each notifier delivered."""
    failed: Mapping[str, int] = MappingProxyType({})
    """Alerts that each notifier did not deliver after all its tries; those in the outbox are tried again."""
    drops: Mapping[str, int] = MappingProxyType({})
    """Losses by reason."""
    sampler_cost: float = 0.0
    """CPU time of the stack sampler as a share of one core."""
    interval: float = 0.0
    """Current mean time between two samples, in seconds."""
    report_dir: str = ""


def register(processor: SlowSpanProcessor) -> None:
    """Let a processor take part in ``status``, ``enable`` and ``disable``, and profile functions."""
    global changes, is_shut_down
    _processors[processor] = None
    is_shut_down = False
    changes += 1


def unregister() -> None:
    """Learn that a processor has been shut down; its counts stay."""
    global changes, is_shut_down
    is_shut_down = first_processor() is None
    changes += 1


def first_processor() -> SlowSpanProcessor | None:
    """Return the processor that was made first, of those that have not been shut down."""
    return next((processor for processor in list(_processors) if not processor.closed), None)


def status() -> Status:
    """Return what slowspan has done in this process, summed over its processors.

    Returns:
        The status; ``enabled`` is False when there is no processor.
    """
    parts = [processor.status() for processor in list(_processors)]
    if not parts:
        return Status(enabled=False)
    return Status(
        enabled=any(part.enabled for part in parts),
        unavailable=parts[0].unavailable,
        seen=sum(part.seen for part in parts),
        recorded=sum(part.recorded for part in parts),
        slow=sum(part.slow for part in parts),
        reports=sum(part.reports for part in parts),
        delivered=_sum(part.delivered for part in parts),
        failed=_sum(part.failed for part in parts),
        drops=_sum(part.drops for part in parts),
        # One sampler serves all processors.
        sampler_cost=parts[0].sampler_cost,
        interval=parts[0].interval,
        report_dir=parts[0].report_dir,
    )


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in counts:
        for name, count in part.items():
            total[name] = total.get(name, 0) + count
    return total


def enable() -> None:
    """Watch new spans (again), in all processors of this process."""
    global is_switched_off
    is_switched_off = False
    for processor in list(_processors):
        processor.enable()


def disable() -> None:
    """Watch no new spans and forget those that are running, in all processors of this process."""
    global is_switched_off
    is_switched_off = True
    for processor in list(_processors):
        processor.disable()
