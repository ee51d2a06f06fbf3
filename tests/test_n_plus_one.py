"""N+1 patterns: the same query many times under one parent is named, with its count, its time and its line."""

from __future__ import annotations

import contextlib
import inspect
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from opentelemetry.instrumentation.sqlite3 import SQLite3Instrumentor
from opentelemetry.trace import use_span

from profiles import DISPATCH, LOAD, MS, SECOND, STEM, VIEW, make_profile, make_spans
from slowspan.recording.profile import ChildSpan, Frame, Profile
from slowspan.recording.span_groups import (
    SpanGroup,
    application_line,
    describe_n_plus_one,
    n_plus_ones,
    span_groups,
)
from slowspan.recording.span_tree import carry_spans
from slowspan.recording.synthetic import WAITING_FOR_LOOP
from slowspan.report.html import render_page
from slowspan.report.text import render_text
from watched import wait_here, watched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from watched import Watched

QUERY = "SELECT count(*) FROM rows a, rows b WHERE a.x + b.x < ?"


@pytest.fixture
def database() -> Iterator[tuple[Watched, sqlite3.Connection]]:
    """A watched provider and a database whose queries are its spans."""
    with watched() as site, contextlib.closing(sqlite3.connect(":memory:")) as plain:
        plain.execute("CREATE TABLE rows (x)")
        plain.executemany("INSERT INTO rows VALUES (?)", [(number,) for number in range(500)])
        instrumentor = SQLite3Instrumentor()
        yield site, instrumentor.instrument_connection(plain, tracer_provider=site.provider)


def ask(connection: sqlite3.Connection, number: int) -> object:
    return connection.cursor().execute(f"SELECT count(*) FROM rows a, rows b WHERE a.x + b.x < {number}").fetchall()


ASKING_LINE = inspect.getsourcelines(ask)[1] + 1


def test_a_real_n_plus_one_is_named(database: tuple[Watched, sqlite3.Connection]) -> None:
    """Sixteen queries that differ in a value: one group, its line is the one that asks, a note says so."""
    site, connection = database
    with use_span(site.start(), end_on_exit=True):
        for number in range(16):
            ask(connection, number)
    profile = site.profile()
    (group,) = n_plus_ones(profile)
    assert (group.name, group.text, group.times, group.parents) == ("SELECT", QUERY, 16, 1)
    assert group.line == f"test_n_plus_one.py:{ASKING_LINE} ask"
    assert 0 < group.total_ns <= profile.duration_ns
    (note,) = [note for note in profile.notes if note.startswith("N+1")]
    assert "16 × the same" in note
    assert QUERY in note
    assert f"test_n_plus_one.py:{ASKING_LINE}" in note


def test_few_equal_queries_are_no_pattern(database: tuple[Watched, sqlite3.Connection]) -> None:
    """Four times the same is not worth a word."""
    site, connection = database
    with use_span(site.start(), end_on_exit=True):
        for number in range(4):
            for _ in range(4):
                connection.cursor().execute(f"SELECT count(*) AS number{number}x FROM rows a, rows b").fetchall()
        wait_here()
    profile = site.profile()
    assert len(profile.spans) == 16
    assert n_plus_ones(profile) == []
    assert not any(note.startswith("N+1") for note in profile.notes)


def with_spans(*spans: ChildSpan) -> Profile:
    return make_profile(spans=spans)


def query(parent: int, text: str, ms: int = 1, name: str = "SELECT") -> ChildSpan:
    return ChildSpan(parent, name, "CLIENT", 100 * MS, ms * MS, "UNSET", (("db.query.text", text),))


def test_equal_queries_under_different_parents_are_told_together() -> None:
    """A pattern in several loops is one line, and so is one that asks once in each span of a function."""
    parents = [ChildSpan(-1, "loop", "INTERNAL", 0, MS, "UNSET", ()) for _ in range(3)]
    queries = [query(parent, "SELECT a") for parent in (0, 1) for _ in range(5)] + [query(2, "SELECT a")]
    (group,) = n_plus_ones(with_spans(*parents, *queries))
    assert group == SpanGroup("SELECT", "SELECT a", 11, 11 * MS, "", 3)
    helpers = [ChildSpan(-1, "items_of", "INTERNAL", 0, MS, "UNSET", ()) for _ in range(40)]
    (group,) = n_plus_ones(with_spans(*helpers, *(query(parent, "SELECT b") for parent in range(40))))
    assert group == SpanGroup("SELECT", "SELECT b", 40, 40 * MS, "", 40)


def test_what_asks_nobody_is_no_n_plus_one() -> None:
    """Ten templates or ten steps are not a pattern; ten equal HTTP calls are."""
    steps = [ChildSpan(-1, "step", "INTERNAL", 0, MS, "UNSET", ()) for _ in range(10)]
    call = (("http.request.method", "GET"), ("url.full", "http://carrier/parcels/*"))
    calls = [ChildSpan(-1, "GET", "CLIENT", 0, MS, "UNSET", call) for _ in range(10)]
    assert n_plus_ones(with_spans(*steps)) == []
    assert [group.title for group in n_plus_ones(with_spans(*steps, *calls))] == ["GET http://carrier/parcels/*"]


def test_groups_are_sorted_by_time() -> None:
    """The group that took longest in all comes first."""
    groups = span_groups(with_spans(query(-1, "SELECT a", 5), query(-1, "SELECT b", 4), query(-1, "SELECT b", 4)))
    assert [(group.text, group.times) for group in groups] == [("SELECT b", 2), ("SELECT a", 1)]


def test_the_line_is_the_applications_innermost() -> None:
    """Libraries below it are passed over, and so is another task that held the event loop."""
    library = Frame("execute", "/srv/venv/lib/python3.11/site-packages/db.py", 1, None, False)
    loop = Frame(WAITING_FOR_LOOP, "", 0, None, False)
    other = Frame("other_request", "/srv/shop/other.py", 1, None, False)
    generated = Frame("f", "<string>", 1, None, False)
    profile = make_profile(
        [
            ((*STEM, (VIEW, 38), (LOAD, 19), (library, 3), (generated, 1)), MS, 0),
            (((VIEW, 38), (LOAD, 14), (loop, 0), (other, 9)), MS, 0),
            (((DISPATCH, 1),), MS, 0),
        ]
    )
    lines = [application_line(profile, sample.stack) for sample in profile.samples]
    assert lines == ["orders.py:19 load_items", "orders.py:14 load_items", ""]


def test_the_page_and_the_text_name_it() -> None:
    """Both show the pattern with its count, its total time, its text and its line; the page a row for all of them."""
    profile = make_profile(spans=make_spans())
    samples = tuple(sample._replace(span=3) if number == 2 else sample for number, sample in enumerate(profile.samples))
    profile = replace(profile, samples=samples)
    page = render_page(profile)
    assert "<b>N+1</b> 6 × the same, 480 ms in all at <code>orders.py:19 load_items</code>" in page
    assert page.count("SELECT name FROM items WHERE order_id = ?") >= 2
    assert page.count('<div class="row">') == 3
    text = render_text(profile)
    assert "   480 ms     6 ×  N+1  orders.py:19 load_items  SELECT name FROM items WHERE order_id = ?\n" in text


def test_a_line_that_only_half_of_the_samples_have_is_not_named() -> None:
    """Of two tasks that wait side by side one asks; the samples show them in turns."""
    asking, beside = (Frame(name, "/srv/shop/app.py", 1, None, False) for name in ("asking", "beside"))
    query = (ChildSpan(-1, "SELECT", "CLIENT", 0, SECOND, "UNSET", (("db.query.text", QUERY),)),)

    def line(*turns: Frame) -> str:
        profile = make_profile([(((frame, 2),), 100 * MS, 0) for frame in turns], spans=query)
        carried = carry_spans(profile.samples, query, profile.frames, profile.locations, profile.stacks)
        (group,) = span_groups(replace(profile, samples=carried))
        return group.line

    assert line(asking, beside, asking, beside) == ""
    assert line(asking, asking, asking, beside) == "app.py:2 asking"


def test_more_than_are_kept_are_at_least_so_many() -> None:
    """Where older spans were not kept the number is said to be a lower bound."""
    group = SpanGroup("SELECT", QUERY, 1000, SECOND, "", 1)
    assert describe_n_plus_one(group, at_least=True).startswith("N+1: at least 1000 × the same, 1.00 s in all")
