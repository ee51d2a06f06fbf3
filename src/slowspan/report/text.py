"""A profile as plain text, for terminals and logs. No colours, no control characters from strangers."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from slowspan.redaction import one_line
from slowspan.report.columns import cut, wrap
from slowspan.report.summary import describe, format_duration, format_share, hot_lines, summarize, time_shares
from slowspan.report.text_spans import span_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyinstrument.session import Session

    from slowspan.recording.profile import Profile

WIDEST = 1000
"""Characters of a line, after its indentation, where no width is asked for: names and paths can be of any length."""

_LABEL = 12
"""Columns of a fact's name."""

_LEAST_FRAME = 24
"""Columns that a line of the call tree must have left for its frame to be worth a line."""


def render_text(profile: Profile, width: int | None = None) -> str:
    """Render a profile as text: facts, hot lines, call tree.

    Imports pyinstrument: not for the application's process.

    Args:
        profile: The profile, finished or partial, of any number of samples.
        width: Columns of the terminal: facts are wrapped, frames are cut, those too deep are left out. None for a file,
            which has every frame.

    Returns:
        Lines of printable text, with a line end after the last.
    """
    lines = [
        *_facts(profile, width or WIDEST),
        "",
        *_hot_lines(profile),
        *span_lines(profile),
        *_call_tree(profile, width),
    ]
    return "".join(_shown(line, width).rstrip() + "\n" for line in lines)


def _shown(line: str, width: int | None) -> str:
    return one_line(line, _indentation(line) + WIDEST) if width is None else cut(one_line(line, width), width)


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip(" ├─│└"))


def _facts(profile: Profile, width: int) -> Iterator[str]:
    span, process = profile.span, profile.process
    started = datetime.fromtimestamp(profile.start_time_ns / 1e9, timezone.utc)
    facts = [
        ("started", f"{started:%Y-%m-%d %H:%M:%S} UTC"),
        ("path", span.path),
        ("parameters", "&".join(f"{name}={value}" for name, value in span.parameters)),
        ("status", span.status_code or ("error" if span.error else None)),
        ("service", " ".join(filter(None, (span.service_name, span.service_version)))),
        ("process", f"{process.pid} on {process.host}, Python {process.python}"),
        ("thread", process.thread_name or process.thread_id),
        ("trace", f"{span.trace_id}, span {span.span_id}{'' if span.sampled else ' (not sampled)'}"),
        ("profile", f"{profile.id}, {profile.sample_count} samples, engine {profile.engine}"),
        ("time", _split(profile)),
        *(("note", note) for note in profile.notes),
    ]
    yield from wrap(summarize(profile, ()), width)
    yield ""
    for name, value in facts:
        if value:
            yield from wrap(one_line(str(value), WIDEST), max(width, 2 * _LABEL), f"{name:<{_LABEL}}", " " * _LABEL)


def _split(profile: Profile) -> str:
    shares = [
        f"{share.name} {format_duration(share.time_ns)} ({format_share(share.share)})" for share in time_shares(profile)
    ]
    return ", ".join(shares) or format_duration(profile.duration_ns)


def _hot_lines(profile: Profile) -> Iterator[str]:
    for line in hot_lines(profile):
        share, where = describe(line).split(" % ", 1)
        yield f"{format_duration(line.wall_ns):>9}  {share:>3} %  {where}"


def _call_tree(profile: Profile, width: int | None) -> Iterator[str]:
    yield ""
    if not profile.sample_count:
        yield "No stack of this request was read."
        return
    # Imported here because it costs 40 ms, and a module may be imported without rendering.
    from pyinstrument.renderers import ConsoleRenderer

    class TreeRenderer(ConsoleRenderer):
        def render_preamble(self, session: Session) -> str:  # noqa: ARG002
            return ""

    left_out = False
    for line in TreeRenderer(unicode=True).render(profile.session()).rstrip().split("\n"):
        if width is not None and _indentation(line) > width - _LEAST_FRAME:
            left_out = True
        else:
            yield line
    if left_out:
        yield "Deeper frames need a wider terminal; a file has them all."
