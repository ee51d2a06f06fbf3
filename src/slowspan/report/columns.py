"""How wide text is in a terminal: an East Asian letter takes two columns, a combining mark none."""

from __future__ import annotations

import re
import unicodedata


def columns(text: str) -> int:
    """Return how many columns a terminal needs for a printable text."""
    return len(text) if text.isascii() else sum(map(_width, text))


def _width(character: str) -> int:
    if unicodedata.category(character) in {"Mn", "Me"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


def cut(text: str, width: int) -> str:
    """Return a printable text in so many columns, at least 3; ``…`` stands at its end where it was cut."""
    return text if columns(text) <= width else _pieces(text, width - 1)[0] + "…"


def pad(text: str, width: int) -> str:
    """Return a printable text in exactly so many columns, at least 3: cut, or with spaces after it."""
    text = cut(text, width)
    return text + " " * (width - columns(text))


def wrap(text: str, width: int, head: str = "", indent: str = "", *, break_words: bool = True) -> list[str]:
    """Break a printable text into lines, as ``textwrap.wrap`` does, which counts letters and not columns.

    Args:
        text: The text; any white space separates words, and becomes spaces.
        width: Columns of a line.
        head: What the first line begins with.
        indent: What the others begin with; fewer columns than ``width``.
        break_words: Whether a word that is too long for a line is broken; else its line is too long.

    Returns:
        The lines, at least one.
    """
    lines: list[str] = []
    line, space = head, ""
    for word in re.split(r"\s", text):
        if columns(line + space + word) > width:
            # Another line only where it has more room: a head may be longer than the indent.
            if columns(line) > columns(indent):
                lines.append(line.rstrip())
                line = indent
            space = ""
            if break_words:
                *full, word = _pieces(word, width - columns(indent))
                for piece in full:
                    lines.append(line + piece)
                    line = indent
        line += space + word
        space = " "
    return [*lines, line.rstrip()]


def _pieces(text: str, width: int) -> list[str]:
    """Cut a text into pieces of so many columns; each has one letter at least."""
    pieces = [""]
    room = width
    for character in text:
        needed = _width(character)
        if needed > room and pieces[-1]:
            pieces.append("")
            room = width
        pieces[-1] += character
        room -= needed
    return pieces
