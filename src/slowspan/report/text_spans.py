"""The spans inside a request as plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slowspan.recording.span_groups import explained_ns, n_plus_ones, span_groups
from slowspan.report.summary import format_duration, format_share

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slowspan.recording.profile import Profile

_GROUPS = 10
"""Groups of equal spans that are listed; the page has all spans."""


def span_lines(profile: Profile) -> Iterator[str]:
    """Yield lines on the spans inside a request: equal ones added up, those with the most time first.

    Args:
        profile: The profile; the lines hold strangers' texts, not yet bounded to the width of a terminal.

    Yields:
        Lines without a line end; nothing for a request without spans inside.
    """
    if not profile.spans:
        return
    unexplained_ns = profile.duration_ns - explained_ns(profile)
    share = unexplained_ns / profile.duration_ns if profile.duration_ns else 0.0
    left_out = f"; {profile.spans_left_out} older ones were not kept" if profile.spans_left_out else ""
    yield ""
    yield (
        f"{len(profile.spans)} spans inside; {format_duration(unexplained_ns)} ({format_share(share)}) "
        f"in none of them{left_out}"
    )
    groups = span_groups(profile)
    repeated = {(group.name, group.text) for group in n_plus_ones(profile)}
    for group in groups[:_GROUPS]:
        mark = "N+1  " if (group.name, group.text) in repeated else ""
        line = f"{group.line}  " if group.line else ""
        yield f"{format_duration(group.total_ns):>9}  {group.times:>4} ×  {mark}{line}{group.title}"
    if len(groups) > _GROUPS:
        yield f"{'':9}  and {len(groups) - _GROUPS} others"
