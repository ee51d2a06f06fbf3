"""What is written on a slow span: a few attributes, for the APM that is already there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slowspan import semconv
from slowspan.counters import Drop
from slowspan.delivery.naming import report_link
from slowspan.report.summary import format_share

if TYPE_CHECKING:
    from pyinstrument.session import Session

    from slowspan.config import Settings
    from slowspan.recording.recording import Recording
    from slowspan.recording.trace import Trace

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


def profile_attributes(trace: Trace | None, duration_ns: int, session: Session | None = None) -> SpanAttributes:
    """Return what a profile says in short. Runs on the request's thread, at its end.

    Args:
        trace: What the sampler has seen, closed.
        duration_ns: How long the request took.
        session: What the inline engine saw.
    """
    sample_count = trace.sample_count if trace is not None else 0
    attributes: SpanAttributes = {semconv.SAMPLES: sample_count if session is None else len(session.frame_records)}
    if trace is None:
        return attributes
    cpu_ns = trace.cpu_time_ns(duration_ns)
    if cpu_ns is not None:
        rest_ns = max(min(trace.seen_ns, duration_ns) - cpu_ns, 0)
        ready_ns = min(trace.ready_ns, rest_ns)
        attributes[semconv.CPU_TIME] = cpu_ns / 1e9
        attributes[semconv.WAITING_TIME] = (rest_ns - ready_ns) / 1e9
        attributes[semconv.READY_TIME] = ready_ns / 1e9
        attributes[semconv.UNKNOWN_TIME] = max(duration_ns - cpu_ns - rest_ns, 0) / 1e9
    if duration_ns:
        attributes[semconv.HOT_FRAMES] = [
            f"{format_share(wall_ns / duration_ns)} {place}" for place, wall_ns in trace.hot_lines.hottest(HOT_FRAMES)
        ]
    return attributes
