"""The spans inside a request on its page and in its text."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from profiles import MS, SECOND, TOTAL, make_profile, make_spans
from slowspan.recording.profile import ChildSpan, Profile
from slowspan.report.html import render_page
from slowspan.report.html_spans import ROWS, spans_section
from slowspan.report.spans import span_rows
from slowspan.report.text import render_text


def profile_of(*spans: ChildSpan) -> Profile:
    return make_profile([(((TOTAL, 1),), SECOND, 0)], spans=spans)


def step(name: str, parent: int = -1, at_ms: int = 0, ms: int = 10) -> ChildSpan:
    return ChildSpan(parent, name, "INTERNAL", at_ms * MS, ms * MS, "UNSET", ())


def test_a_request_without_spans_inside_says_nothing_of_them() -> None:
    """No section, no line: the application has no instrumentation for what it calls."""
    assert spans_section(make_profile()) == ""
    assert "Spans inside" not in render_page(make_profile())
    assert "inside" not in render_text(make_profile())


def test_the_page_shows_the_tree() -> None:
    """A row for each span, indented below its parent, with its time, its place in the request, and its failure."""
    section = spans_section(make_profile(spans=make_spans()))
    rows = re.findall(r'<div class="row">.*?</i></div></div>', section)
    assert len(rows) == 3
    assert "http://carrier.example/parcels/*" in rows[0]
    assert "failed" in rows[0]
    assert "200 ms" in rows[0]
    assert "jinja2.render <code>orders.html</code>" in rows[1]
    assert "padding-left:0.9rem" in rows[2]
    assert "<b>6 ×</b>" in rows[2]
    assert rows[2].count("<i ") == 6


def test_the_page_says_what_no_span_explains() -> None:
    """The time without spans is told, and how many spans are missing."""
    profile = make_profile(spans=make_spans(), spans_left_out=12)
    assert "8 spans" in spans_section(profile)
    assert "0.52 s, 37 % of the request, in none of them" in spans_section(profile)
    assert "12 older ones were not kept" in spans_section(profile)
    assert "8 spans inside; 0.52 s (37 %) in none of them; 12 older ones were not kept" in render_text(profile)


def test_many_rows_are_folded() -> None:
    """The first rows are seen at once, all others unfold without a script."""
    section = spans_section(profile_of(*(step(f"step {number}") for number in range(ROWS + 7))))
    shown, folded = section.split("<details>")
    assert shown.count('class="row"') == ROWS
    assert folded.count('class="row"') == 7
    assert "7 more rows" in folded


def test_the_text_lists_the_longest() -> None:
    """Equal spans are one line, and only ten lines are written."""
    text = render_text(profile_of(*(step(f"step {number}", ms=number + 1) for number in range(14))))
    assert "    14 ms     1 ×  step 13\n" in text
    assert "step 3\n" not in text
    assert "and 4 others" in text


def test_a_thousand_short_spans_make_a_small_bar() -> None:
    """The pieces of a bar are not more than can be seen, in order, without overlap and inside the request."""
    (row,) = span_rows(profile_of(*(step("q", at_ms=number, ms=1) for number in range(-50, 1100))))
    assert row.times == 1150
    assert row.pieces == [(0.0, 1.0)]
    (row,) = span_rows(profile_of(*(step("q", at_ms=10 * number, ms=1) for number in range(100))))
    assert len(row.pieces) == 100


def test_spans_with_spans_inside_keep_their_own_rows() -> None:
    """Equal spans are put together only where nothing is lost by it."""
    spans = []
    for number in range(6):
        spans += [step("outer", at_ms=100 * number), step("inner", parent=2 * number, at_ms=100 * number)]
    rows = span_rows(profile_of(*spans))
    assert [(row.depth, row.name) for row in rows] == [(0, "outer"), (1, "inner")] * 6


@given(st.text(), st.text(), st.integers(), st.integers(min_value=0))
def test_any_span_can_be_shown(name: str, text: str, start_ns: int, duration_ns: int) -> None:
    """Whatever a span is called and whenever it was, the page stays whole and the text keeps its lines."""
    span = ChildSpan(-1, name, text, start_ns, duration_ns, text, (("db.query.text", text), (name, text)))
    profile = make_profile(spans=(span,) * 6, notes=())
    section = spans_section(profile)
    assert section.count("<section>") == section.count("</section>") == 1
    assert section.count("<div") == section.count("</div>")
    plain = make_profile(notes=())
    assert render_text(profile).count("\n") == render_text(plain).count("\n") + 3


def test_strangers_text_stays_text() -> None:
    """Markup in names, texts and attributes is escaped everywhere."""
    hostile = "</div><script>window.pwned=1</script>\"'\n\u202e"
    spans = make_spans(name=hostile, attributes=(("db.query.text", hostile), (hostile, hostile)))
    section = spans_section(make_profile(spans=spans))
    assert "<script" not in section
    assert "\u202e" not in section
    assert "\"'" not in section
