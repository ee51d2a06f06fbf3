"""The lines with most own time, kept while sampling so that the end of a span need not look for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slowspan.recording.stacks import is_wrapper, line_before, place
from slowspan.recording.synthetic import HELD_THE_LOOP

if TYPE_CHECKING:
    from types import CodeType

    from slowspan.recording.stacks import FlatStack

HOT_CANDIDATES = 8
"""Leaf lines that are kept sorted while sampling, so that the end of a span need not sort them."""


class HotLines:
    """Own time by line. Not thread-safe: the trace's lock guards it."""

    def __init__(self) -> None:
        self._leaves: list[tuple[CodeType, int, bool]] = []
        self._indexes: dict[int, int] = {}
        self._wall: list[int] = []
        self._hot: list[int] = []
        # What people call the lines: made while sampling, so that the end of a span need not make it.
        self._places: dict[int, str] = {}
        # By file: a text's hash is kept with it.
        self._wrapping: dict[str, bool] = {}

    def leaf(self, flat: FlatStack, line: int, *, held: bool) -> int:
        """Return the index of the line at which a stack ends, or -1 for an empty stack.

        Args:
            flat: The stack, innermost frame first. The line of a frame that only wraps a call is its caller's.
            line: Line number of the innermost frame.
            held: Whether that is another request's, which holds the event loop.
        """
        if not flat:
            return -1
        if self._wraps(flat[0]):
            flat, line = self._below_wrappers(flat, line)
        key = id(flat[0]) << 33 | held << 32 | line  # One integer takes a third of a tuple's memory.
        leaf = self._indexes.get(key)
        if leaf is None:
            leaf = self._indexes[key] = len(self._leaves)
            self._leaves.append((flat[0], line, held))
            self._wall.append(0)
        return leaf

    def _wraps(self, code: CodeType) -> bool:
        known = self._wrapping.get(code.co_filename)
        if known is None:
            known = self._wrapping[code.co_filename] = is_wrapper(code.co_filename)
        return known

    def _below_wrappers(self, flat: FlatStack, line: int) -> tuple[FlatStack, int]:
        """Return the part of a stack that is not somebody's wrapping, and its innermost line."""
        for inner in range(2, len(flat), 2):
            if not self._wraps(flat[inner]):
                return flat[inner:], line_before(flat[inner], flat[inner + 1])
        return flat, line

    def add(self, leaf: int, wall_ns: int) -> None:
        """Add own time to a line.

        Args:
            leaf: As of ``leaf``.
            wall_ns: The time.
        """
        if leaf >= 0:
            self._wall[leaf] += wall_ns
            if leaf not in self._hot:
                self._rank(leaf)

    def hottest(self, limit: int) -> list[tuple[str, int]]:
        """Return the lines with most own time, hottest first: what people call each of them, and its nanoseconds."""
        wall, places = self._wall, self._places
        return [(places[leaf], wall[leaf]) for leaf in sorted(self._hot, key=wall.__getitem__, reverse=True)[:limit]]

    def _rank(self, leaf: int) -> None:
        if leaf not in self._places:
            code, line, held = self._leaves[leaf]
            where = place(code.co_filename, line, code.co_name) if code.co_filename else code.co_name
            self._places[leaf] = f"{where} {HELD_THE_LOOP}" if held else where
        # Own times only grow, and only of one leaf at a time, so a short list of the largest stays exact.
        hot, wall = self._hot, self._wall
        if len(hot) < HOT_CANDIDATES:
            hot.append(leaf)
            return
        coldest = min(hot, key=wall.__getitem__)
        if wall[leaf] > wall[coldest]:
            hot[hot.index(coldest)] = leaf
