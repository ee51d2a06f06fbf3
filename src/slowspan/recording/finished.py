"""A recording that has ended: what passes from the request's thread to the delivery thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from pyinstrument.session import Session

    from slowspan.recording.child_spans import EndedSpans
    from slowspan.recording.recording import Lost
    from slowspan.recording.trace import TraceData


class Finished(NamedTuple):
    """All that is left of a recording when its span has ended, or so far for a partial profile.

    Handed from the request's thread (or the sampler's) to the delivery thread.
    """

    id: str
    name: str
    running: bool
    span: ReadableSpan
    start_ns: int
    duration_ns: int
    threshold_ns: int
    cpu_time_ns: int | None
    native_id: int
    lost: Lost | None
    data: TraceData | None
    kept: bool = True
    """Whether the limit on reports lets this one be kept."""
    thread_name: str = ""
    """The name of the request's thread, where that was known before it ended."""
    ready_is_known: bool = True
    """Whether a request that could go on while another one has the thread is told from one that waits."""
    withdrawn: bool = False
    """Whether it is to be reported no more, and what was reported of it while it ran is to be deleted."""
    session: Session | None = None
    """What the inline engine saw, or None."""
    inside: EndedSpans | None = None
    """The spans that have ended in its trace, or None if there are none."""

    @property
    def sample_count(self) -> int:
        """Number of stack readings."""
        if self.session is not None:
            return len(self.session.frame_records)
        return self.data.sample_count if self.data is not None else 0
