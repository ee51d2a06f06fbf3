"""What is written on a slow span: a few attributes, for the APM that is already there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slowspan import semconv
from slowspan.counters import Drop
from slowspan.delivery.naming import report_link
from slowspan.report.summary import format_share

if TYPE_CHECKING:
    from slowspan.config import Settings
    from slowspan.recording.finished import Finished
    from slowspan.recording.recording import Recording

NOT_SELECTED = "not_selected"
"""In the place of a loss's name: what was known only at the request's end has left it out, or raised its threshold."""

HOT_FRAMES = 5
"""Hot lines on a span: few and short, since the oldest attributes of a full span give way to new ones."""

SpanAttributes = dict[str, str | float | int | list[str]]


def link_attributes(settings: Settings, recording: Recording) -> SpanAttributes:
    """Return what is known as soon as a request has crossed its threshold.

    Args:
        settings: For the report's address.
        recording: A recording with an id.
    """
    attributes: SpanAttributes = {
        semconv.PROFILE_ID: recording.id,
        semconv.THRESHOLD: (recording.threshold_ns or 0) / 1e9,
    }
    if not recording.kept:
        attributes[semconv.PROFILE_DROPPED] = Drop.REPORT_LIMIT
        return attributes
    url = report_link(settings, recording.id, recording.name)
    if url is not None:
        attributes[semconv.PROFILE_URL] = url
    return attributes


def profile_attributes(recording: Recording, finished: Finished) -> SpanAttributes:
    """Return what a profile says in short. Runs on the request's thread, at its end.

    Args:
        recording: The recording, closed.
        finished: What is left of it.
    """
    attributes: SpanAttributes = {semconv.SAMPLES: finished.sample_count}
    trace = recording.trace
    if trace is not None and finished.cpu_time_ns is not None:
        rest_ns = max(min(trace.seen_ns, finished.duration_ns) - finished.cpu_time_ns, 0)
        ready_ns = min(trace.ready_ns, rest_ns)
        unknown_ns = max(finished.duration_ns - finished.cpu_time_ns - rest_ns, 0)
        attributes[semconv.CPU_TIME] = finished.cpu_time_ns / 1e9
        attributes[semconv.WAITING_TIME] = (rest_ns - ready_ns) / 1e9
        attributes[semconv.READY_TIME] = ready_ns / 1e9
        attributes[semconv.UNKNOWN_TIME] = unknown_ns / 1e9
    if trace is not None and finished.duration_ns:
        attributes[semconv.HOT_FRAMES] = [
            f"{format_share(leaf.wall_ns / finished.duration_ns)} {leaf.place}"
            for leaf in trace.hot_lines.hottest(HOT_FRAMES)
        ]
    return attributes
