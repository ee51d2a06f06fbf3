"""The rows in which a report shows the spans inside a request. No pyinstrument here."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from slowspan.recording.span_groups import N_PLUS_ONE, span_groups, span_text

if TYPE_CHECKING:
    from slowspan.recording.profile import ChildSpan, Profile

_STEPS = 400
"""Positions in a bar: it is not wider than that in pixels, and a thousand short queries make one piece of it."""


class SpanRow(NamedTuple):
    """One span, or many equal ones side by side that have no spans inside."""

    depth: int
    """0 for the spans directly inside the request's."""
    name: str
    text: str
    """What was asked for; empty if that is not known."""
    times: int
    total_ns: int
    errors: int
    """How many of them failed."""
    line: str
    """The application's line from which equal spans came, as far as samples tell."""
    pieces: list[tuple[float, float]]
    """Start and length of the bar's pieces, in parts of the request's duration, 0 to 1."""
    attributes: tuple[tuple[str, str], ...]


def span_rows(profile: Profile) -> list[SpanRow]:
    """Return the rows of a profile's spans, in the order of their starts, those of a span below it."""
    lines = {(group.name, group.text): group.line for group in span_groups(profile)}
    parents = {span.parent for span in profile.spans}
    equal: dict[tuple[int, str, str], list[int]] = {}
    for index, span in enumerate(profile.spans):
        if index not in parents:
            equal.setdefault((span.parent, span.name, span_text(span)), []).append(index)
    rows: list[SpanRow] = []
    depths: list[int] = []
    for index, span in enumerate(profile.spans):
        depths.append(depths[span.parent] + 1 if span.parent >= 0 else 0)
        text = span_text(span)
        together = equal.get((span.parent, span.name, text), [index]) if index not in parents else [index]
        if len(together) < N_PLUS_ONE:
            together = [index]
        elif together[0] != index:
            continue
        spans = [profile.spans[other] for other in together]
        rows.append(
            SpanRow(
                depth=depths[index],
                name=span.name,
                text=text,
                times=len(spans),
                total_ns=sum(other.duration_ns for other in spans),
                errors=sum(other.status == "ERROR" for other in spans),
                line=lines.get((span.name, text), ""),
                pieces=_pieces(spans, profile.duration_ns),
                attributes=span.attributes,
            )
        )
    return rows


def _pieces(spans: list[ChildSpan], duration_ns: int) -> list[tuple[float, float]]:
    """Return where the bar of some spans is filled, in order and without overlap."""
    whole = max(duration_ns, 1)
    pieces: list[list[int]] = []
    for span in sorted(spans, key=lambda span: span.start_ns):
        start = min(max(span.start_ns * _STEPS // whole, 0), _STEPS - 1)
        end = min(max(-(-(span.start_ns + span.duration_ns) * _STEPS // whole), start + 1), _STEPS)
        if pieces and start <= pieces[-1][1]:
            pieces[-1][1] = max(pieces[-1][1], end)
        else:
            pieces.append([start, end])
    return [(start / _STEPS, (end - start) / _STEPS) for start, end in pieces]
