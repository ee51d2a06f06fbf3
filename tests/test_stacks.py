"""Reading foreign stacks without keeping anything of them, and the table of many similar stacks."""

from __future__ import annotations

import contextlib
import gc
import inspect
import sys
import threading
import types
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slowspan.recording import stacks
from slowspan.recording.profile import ROOT
from slowspan.recording.stacks import MAX_DEPTH, StackTable, line_at, line_before
from slowspan.recording.synthetic import LEFT_OUT
from support import eventually
from watched import read_stacks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType


class Marker:
    """A local variable of a request, of which a test sees whether it is kept alive."""


@contextlib.contextmanager
def waiting_thread(depth: int = 3) -> Iterator[tuple[threading.Thread, weakref.ref[Marker]]]:
    """Run a thread that waits at some depth, with a marked local in every frame; let it end with the block."""
    ready, release = threading.Event(), threading.Event()
    marker = Marker()
    reference = weakref.ref(marker)

    def dive(level: int, marker: Marker) -> None:
        if level:
            dive(level - 1, marker)
        else:
            ready.set()
            release.wait(60)

    thread = threading.Thread(target=dive, args=(depth, marker))
    del marker
    thread.start()
    assert ready.wait(30)
    try:
        yield thread, reference
    finally:
        release.set()
        thread.join()


def codes(flat: list[Any]) -> list[CodeType]:
    """Return the code objects of a stack, innermost first."""
    return flat[::2]


# -- Reading.


def test_reads_the_stack_of_another_thread() -> None:
    """The stack has the other thread's code objects, innermost first, and the line of the innermost."""
    with waiting_thread(depth=5) as (thread, _):
        read = read_stacks({thread.ident})
    flat, line = read[thread.ident]
    names = [code.co_name for code in codes(flat)]
    assert names.count("dive") == 6
    assert names.index("wait") < names.index("dive") < names.index("run")
    innermost = codes(flat)[0]
    assert line in {known for _, _, known in innermost.co_lines()}
    assert all(0 <= offset < len(code.co_code) for code, offset in zip(flat[::2], flat[1::2], strict=True))


def test_dead_thread_has_no_stack() -> None:
    """A thread that has ended, or never was, is left out."""
    with waiting_thread() as (thread, _):
        pass
    assert read_stacks({thread.ident, 12345}) == {}


def test_no_local_outlives_the_reading() -> None:
    """Nothing of the threads that were looked at is kept, even where no garbage collection ever runs."""
    gc.collect()
    gc.disable()
    try:
        with waiting_thread() as (thread, reference):
            with waiting_thread() as (_, bystander):
                for _ in range(10):
                    read_stacks({thread.ident})
            assert bystander() is None
        assert reference() is None
    finally:
        gc.enable()


def test_reading_makes_no_garbage() -> None:
    """A reading leaves no reference cycle, of which every tick would make one more."""
    with waiting_thread() as (thread, _):
        read_stacks({thread.ident})
        gc.collect()
        gc.disable()

        def makes_none() -> bool:
            for _ in range(10):
                read_stacks({thread.ident})
            return gc.collect() == 0

        try:
            eventually(makes_none)  # Other threads can make some at any time.
        finally:
            gc.enable()


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("guarded", [True, False])
def test_collector_is_as_it_was(monkeypatch: pytest.MonkeyPatch, enabled: bool, guarded: bool) -> None:
    """The guard of 3.11 switches the collector off for the reading only, and on only if it was on."""
    monkeypatch.setattr(stacks, "_GUARD_COLLECTOR", guarded)
    seen = []
    real = sys._current_frames

    def current_frames() -> Any:
        seen.append(gc.isenabled())
        return real()

    monkeypatch.setattr(sys, "_current_frames", current_frames)
    if not enabled:
        gc.disable()
    try:
        read_stacks({threading.get_ident()})
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
    assert seen == [enabled and not guarded]


def test_collector_is_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error while reading leaves the collector on."""
    monkeypatch.setattr(stacks, "_GUARD_COLLECTOR", True)

    def fail() -> None:
        raise RuntimeError

    monkeypatch.setattr(sys, "_current_frames", fail)
    with pytest.raises(RuntimeError):
        read_stacks({1})
    assert gc.isenabled()


def test_guard_is_for_3_11() -> None:
    """The guard is on where the interpreter can crash without it."""
    assert (sys.version_info[:2] == (3, 11)) == stacks._GUARD_COLLECTOR


def test_line_of_an_instruction_without_one() -> None:
    """An instruction to which the compiler gave no line counts to the line before it; all others to their own."""

    def loop(many: list[int]) -> int:
        total = 0
        for number in many:
            if number:
                total += number
        return total

    code = loop.__code__
    last = code.co_firstlineno
    for start, end, line in code.co_lines():
        last = line or last
        for offset in range(start, end, 2):
            assert line_before(code, offset) == last
    assert line_before(code, -1) == code.co_firstlineno


def all_codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield a code object and those inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from all_codes(constant)


@pytest.mark.parametrize("in_c", [True, False])
def test_lines_of_all_instructions(monkeypatch: pytest.MonkeyPatch, in_c: bool) -> None:
    """The interpreter's own function and the one in Python agree on every instruction of a large module."""
    if not in_c:
        monkeypatch.setattr(stacks, "_line_in_c", lambda: None)
    source = Path(inspect.getsourcefile(inspect) or "")
    for code in all_codes(compile(source.read_text(encoding="utf-8"), str(source), "exec")):
        lines = [code.co_firstlineno] * (len(code.co_code) + 1)
        last = code.co_firstlineno
        for start, end, line in code.co_lines():
            last = line or last
            lines[start:end] = [last] * (end - start)
        assert line_at(code, -1) == code.co_firstlineno
        assert [line_at(code, offset) for offset in range(0, len(code.co_code), 2)] == lines[:-1:2]


def test_deep_stack_keeps_both_ends() -> None:
    """Of a stack deeper than the bound the middle is left out: the ends tell what runs, and for whom."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(3 * MAX_DEPTH)
    threading.stack_size(64 * 1024 * 1024)
    try:
        with waiting_thread(depth=MAX_DEPTH + 500) as (thread, _):
            flat, line = read_stacks({thread.ident})[thread.ident]
    finally:
        threading.stack_size(0)
        sys.setrecursionlimit(limit)
    assert len(codes(flat)) == MAX_DEPTH
    assert codes(flat)[-1].co_name == "_bootstrap"
    assert codes(flat)[0].co_name == "wait"
    assert [code.co_name for code in codes(flat)].count(LEFT_OUT) == 1
    assert codes(flat)[MAX_DEPTH // 2 - 1].co_name == LEFT_OUT
    assert line > 0


# -- The table.


def make_code(name: str) -> CodeType:
    """Return a code object of its own."""
    return compile("pass", "app.py", "exec").replace(co_name=name)


CODES = [make_code(f"f{number}") for number in range(4)]
FRAMES = st.tuples(st.sampled_from(CODES), st.integers(0, 3))
STACKS = st.lists(st.lists(FRAMES, max_size=6), max_size=30)
"""Stacks, root first."""


def flatten(frames: list[tuple[CodeType, int]]) -> list[Any]:
    """Return a stack as it is read: innermost first, flat."""
    return [part for frame in reversed(frames) for part in frame]


def restore(table: StackTable, node: int) -> list[tuple[CodeType, int]]:
    """Return the stack of a node, root first."""
    frames = []
    while node != ROOT:
        frames.append((table.codes[node], table.offsets[node]))
        node = table.parents[node]
    return frames[::-1]


@given(STACKS)
def test_table_gives_stacks_back(many: list[list[tuple[CodeType, int]]]) -> None:
    """Every stack that was put into the table comes out of it unchanged, by one integer."""
    table = StackTable(1000)
    nodes = [table.intern(flatten(frames)) for frames in many]
    assert [restore(table, node) for node in nodes] == many
    assert table.truncated == 0


@given(STACKS)
def test_table_holds_every_stack_once(many: list[list[tuple[CodeType, int]]]) -> None:
    """Equal stacks are the same node, and there are no more nodes than different beginnings of stacks."""
    table = StackTable(1000)
    nodes = {}
    for frames in many:
        node = table.intern(flatten(frames))
        assert nodes.setdefault(tuple(frames), node) == node
    beginnings = {tuple(frames[:depth]) for frames in many for depth in range(1, len(frames) + 1)}
    assert len(table.codes) == len(table.offsets) == len(table.parents) == len(beginnings)
    assert all(parent < node for node, parent in enumerate(table.parents))


@given(STACKS, st.integers(1, 10))
def test_full_table_keeps_the_outer_part(many: list[list[tuple[CodeType, int]]], limit: int) -> None:
    """A full table never grows; of a stack that does not fit it gives back a beginning, and counts it."""
    table = StackTable(limit)
    short = 0
    for frames in many:
        restored = restore(table, table.intern(flatten(frames)))
        assert restored == frames[: len(restored)]
        short += restored != frames
        assert len(table.codes) <= limit
    assert table.truncated == short


@given(STACKS)
def test_common_ancestor_is_the_common_beginning(many: list[list[tuple[CodeType, int]]]) -> None:
    """The innermost shared node of two stacks stands for their longest common beginning."""
    table = StackTable(1000)
    nodes = [table.intern(flatten(frames)) for frames in many]
    for first, node in zip(many, nodes, strict=True):
        for second, other in zip(many, nodes, strict=True):
            common = []
            for one, two in zip(first, second, strict=False):
                if one != two:
                    break
                common.append(one)
            assert restore(table, table.common_ancestor(node, other)) == common


def test_table_keeps_code_alive() -> None:
    """A code object in the table stays alive, since it is known there by its address."""
    table = StackTable(10)
    codes = [make_code("gone")]
    reference = weakref.ref(codes[0])
    table.intern([codes[0], 0])
    codes.clear()
    table.intern([])
    gc.collect()
    assert reference() is not None
