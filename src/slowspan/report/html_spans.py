"""The section of the page with the spans inside the request: a waterfall."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from slowspan.recording.span_groups import explained_ns, n_plus_ones, title
from slowspan.redaction import one_line
from slowspan.report.spans import span_rows
from slowspan.report.summary import format_duration, format_share

if TYPE_CHECKING:
    from slowspan.recording.profile import Profile
    from slowspan.recording.span_groups import SpanGroup
    from slowspan.report.spans import SpanRow

ROWS = 40
"""Rows that are shown at once; the others unfold."""

_N_PLUS_ONES = 5
_TEXT_LIMIT = 600
_DEEPEST = 12
"""Levels that are indented: deeper ones would leave no room for the text."""


def spans_section(profile: Profile) -> str:
    """Return the section as markup; empty for a request without spans inside.

    Args:
        profile: The profile; every text in it may be a stranger's.
    """
    if not profile.spans:
        return ""
    rows = [_row(row) for row in span_rows(profile)]
    folded = ""
    if len(rows) > ROWS:
        folded = f"<details><summary>{len(rows) - ROWS} more rows</summary>{''.join(rows[ROWS:])}</details>"
    at_least = "at least " if profile.spans_left_out else ""
    repeated = "".join(_n_plus_one(group, at_least) for group in n_plus_ones(profile)[:_N_PLUS_ONES])
    return (
        f'<section><h2>Spans inside</h2><p class="inside">{_summary(profile)}</p>{repeated}'
        f'<div class="waterfall">{"".join(rows[:ROWS])}{folded}</div></section>\n'
    )


def _summary(profile: Profile) -> str:
    unexplained_ns = profile.duration_ns - explained_ns(profile)
    share = unexplained_ns / profile.duration_ns if profile.duration_ns else 0.0
    count = len(profile.spans)
    text = (
        f"<span>{count} span{'s' if count > 1 else ''}</span>"
        f"<span>{format_duration(unexplained_ns)}, {escape(format_share(share))} of the request, in none of them</span>"
    )
    if profile.spans_left_out:
        text += f"<span>{profile.spans_left_out} older ones were not kept</span>"
    return text


def _n_plus_one(group: SpanGroup, at_least: str) -> str:
    where = f" under {group.parents} spans" if group.parents > 1 else ""
    line = f" at <code>{_text(group.line)}</code>" if group.line else ""
    total = format_duration(group.total_ns)
    return (
        f'<p class="repeated"><b>N+1</b> {at_least}{group.times} × the same{where}, {total} in all{line}'
        f"<code>{_text(group.title)}</code></p>"
    )


def _row(row: SpanRow) -> str:
    pieces = "".join(
        f'<i style="left:{start * 100:.2f}%;width:{length * 100:.2f}%"></i>' for start, length in row.pieces
    )
    times = f"<b>{row.times} ×</b> " if row.times > 1 else ""
    errors = f"{row.errors} failed" if row.times > 1 else "failed"
    failed = f'<span class="badge bad">{errors}</span> ' if row.errors else ""
    line = f"<small>{_text(row.line)}</small>" if row.line else ""
    name, text = "", f"<code>{_text(row.text)}</code>"
    if row.text != title(row.name, row.text):
        name, text = _text(row.name), f" {text}" if row.text else ""
    hint = "\n".join(f"{name} = {value}" for name, value in row.attributes)
    return (
        f'<div class="row"><div class="what" style="padding-left:{min(row.depth, _DEEPEST) * 0.9:.1f}rem" '
        f'title="{_hint(hint)}"><p>{failed}{times}{name}{text}</p>{line}</div>'
        f'<span class="number">{format_duration(row.total_ns)}</span><div class="track">{pieces}</div></div>'
    )


def _text(text: str) -> str:
    return escape(one_line(text, _TEXT_LIMIT))


def _hint(text: str) -> str:
    return "&#10;".join(map(_text, text.split("\n")))
