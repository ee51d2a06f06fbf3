"""How wide text is in a terminal."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slowspan.report.columns import columns, cut, pad, wrap

WORDS = st.text("ab ü中語e\u0301", max_size=60)


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("", 0),
        ("GET /", 5),
        ("über", 4),
        ("中文", 4),
        ("\uff21\uff22", 4),
        ("ｱ", 1),
        ("e\u0301", 1),
        ("ก็", 1),
        ("─ …", 3),
    ],
)
def test_east_asian_letters_take_two_columns_and_marks_none(text: str, width: int) -> None:
    """A terminal's columns are counted, not letters."""
    assert columns(text) == width


@pytest.mark.parametrize(
    ("text", "cut_text", "padded"),
    [
        ("中文", "中文", "中文 "),
        ("中文語", "中文…", "中文…"),
        ("a中文", "a中文", "a中文"),
        ("a中文語", "a中…", "a中… "),
    ],
)
def test_texts_are_cut_and_padded_by_columns(text: str, cut_text: str, padded: str) -> None:
    """A letter of two columns for which one is left does not fit, and the column stays empty."""
    assert (cut(text, 5), pad(text, 5)) == (cut_text, padded)


@example(text=" aaa中中", width=10)
@given(text=WORDS, width=st.integers(10, 30))
def test_wrapped_lines_fit_and_lose_nothing(text: str, width: int) -> None:
    """Whatever is wrapped stays in its columns, below its label, and in order."""
    first, *others = wrap(text, width, "label ", " " * 6)
    assert max(map(columns, (first, *others))) <= width
    assert all(line.startswith(" " * 6) for line in others if line)
    assert "".join((first, *others)).replace(" ", "") == "label" + text.replace(" ", "")


def test_words_stay_whole_where_they_can() -> None:
    """Lines break between words; a word that is too long is broken only if that is wanted."""
    assert wrap("one two  three", 9) == ["one two", "three"]
    assert wrap("a  b", 9) == ["a  b"]
    assert wrap("a 中中中中中 b", 6) == ["a", "中中中", "中中 b"]
    assert wrap("a 中中中中中 b", 6, break_words=False) == ["a", "中中中中中", "b"]
    assert wrap("long", 8, "a name  ", "  ") == ["a name", "  long"]
