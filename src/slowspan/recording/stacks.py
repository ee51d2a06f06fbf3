"""Reading the stacks of running threads, and keeping many similar stacks in little memory."""

from __future__ import annotations

import contextlib
import functools
import gc
import re
import sys
from array import array
from typing import TYPE_CHECKING, Any

from slowspan.recording.synthetic import LEFT_OUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import CodeType, FrameType

ROOT = -1
"""Parent of a stack's outermost frame."""

MAX_DEPTH = 1000
"""Frames kept of one stack: CPython's own default recursion limit. The inner half tells what runs, the outer one for
whom."""

# CPython 3.11 can crash when a collection runs while a foreign stack is walked: a finalizer may let the other
# thread return from the very frame that is being materialised.
_GUARD_COLLECTOR = sys.version_info[:2] == (3, 11)

FlatStack = list[Any]
"""A stack, innermost frame first, as ``[code, offset, code, offset, …]``; offsets in bytes of bytecode."""


@contextlib.contextmanager
def all_frames() -> Iterator[dict[int, FrameType]]:
    """Lend the innermost frames of all threads; keep none of them beyond the block."""
    global _collector_is_paused
    collecting = _GUARD_COLLECTOR and gc.isenabled()
    if collecting:
        _collector_is_paused = True
        gc.disable()
    frames: dict[int, FrameType] = {}
    try:
        frames = sys._current_frames()
        yield frames
    finally:
        # It holds this very frame, and that holds it: the cycle would keep the locals of all threads alive.
        frames.clear()
        if collecting:
            gc.enable()
            _collector_is_paused = False


_collector_is_paused = False


def resume_collector() -> None:
    """Let a forked child collect again: who has paused that in the parent, is not there."""
    global _collector_is_paused
    if _collector_is_paused:
        gc.enable()
        _collector_is_paused = False


def line_of(frame: FrameType) -> int:
    """Return the line that a frame is at."""
    line = frame.f_lineno
    return line if line is not None else line_before(frame.f_code, frame.f_lasti)


def marker(name: str) -> CodeType:
    """Return a code object that stands in stacks for something that is no code.

    Args:
        name: As of the synthetic frames of ``synthetic``.
    """
    return compile("", "", "exec").replace(co_name=name, co_firstlineno=0)


_LEFT_OUT = marker(LEFT_OUT)


def place(file: str, line: int, function: str) -> str:
    """Return what people call a line of code: ``pricing.py:41 total_for``.

    Args:
        file: Path of any operating system.
        line: Line number.
        function: Name of the function.
    """
    return f"{short_name(file)}:{line} {function}"


def is_wrapper(file: str) -> bool:
    """Return whether code only wraps other people's calls, as OpenTelemetry's instrumentations do.

    What such a call takes is told of the line that called it: that is what its reader can change.

    Args:
        file: Path of any operating system.
    """
    return _WRAPPERS.search(file) is not None


_WRAPPERS = re.compile(r"[/\\]opentelemetry[/\\]instrumentation[/\\]|[/\\]wrapt[/\\]")


def short_name(file: str) -> str:
    """Return the last part of a path of any operating system."""
    return file.replace("\\", "/").rpartition("/")[2]


def are_innermost(frames: Mapping[int, FrameType]) -> bool:
    """Return whether threads still are in the frames in which they were seen before.

    Args:
        frames: By the threads' identifiers.
    """
    with all_frames() as now:
        return all(now.get(thread_id) is frame for thread_id, frame in frames.items())


def line_before(code: CodeType, offset: int) -> int:
    """Return the last known line before an instruction that the compiler made up and gave no line, as in loops."""
    line = code.co_firstlineno
    for start, _, known_line in code.co_lines():
        if start > offset:
            break
        line = known_line or line
    return line


def line_at(code: CodeType, offset: int) -> int:
    """Return the line of an instruction, or the last known one before it.

    Args:
        code: The code object.
        offset: Of the instruction, in bytes; negative before the first one.
    """
    known = _line_in_c()
    line = known(code, offset) if known is not None else -1
    return line if line > 0 else line_before(code, offset)


@functools.cache
def _line_in_c() -> Callable[[CodeType, int], int] | None:
    # The lines of a long function take 0.1 ms to go through in Python, which is most of what a report costs.
    try:
        import ctypes

        function = ctypes.pythonapi.PyCode_Addr2Line
        function.argtypes = (ctypes.py_object, ctypes.c_int)
    except Exception:  # noqa: BLE001 - as in kernel_files; and other interpreters have no such function
        return None
    return function


def flatten(frame: FrameType | None) -> FlatStack:
    """Return a stack from its innermost frame on, without keeping any frame."""
    flat: FlatStack = []
    append = flat.append
    while frame is not None:
        append(frame.f_code)
        append(frame.f_lasti)
        frame = frame.f_back
    return shortened(flat)


def shortened(flat: FlatStack) -> FlatStack:
    """Return a stack with an entry in the place of its middle if it is too deep; the list may be changed."""
    if len(flat) > 2 * MAX_DEPTH:
        flat[MAX_DEPTH - 2 : len(flat) - MAX_DEPTH] = [_LEFT_OUT, 0]
    return flat


class StackTable:
    """The stacks of one recording as a tree, so that a sample costs one integer.

    A node is a code object with an instruction offset below its caller's node. Not thread-safe: the recording's
    lock guards it.

    Attributes:
        codes: The code object of every node.
        offsets: The instruction offset of every node, in bytes.
        parents: The caller's node of every node, or ``ROOT``.
        truncated: Number of stacks of which inner frames were left out because the table was full.
    """

    __slots__ = (
        "_first_children",
        "_last",
        "_max_nodes",
        "_path",
        "_siblings",
        "codes",
        "offsets",
        "parents",
        "truncated",
    )

    def __init__(self, max_nodes: int) -> None:
        self.codes: list[CodeType] = []
        self.offsets: array[int] = array("i")
        self.parents: array[int] = array("i")
        self.truncated: int = 0
        self._max_nodes = max_nodes
        # A node's children are a chain, the newest first, and the roots one of their own. A dictionary would take
        # fifteen times the memory, and is no faster for the few children that most nodes have.
        self._first_children: array[int] = array("i", [ROOT])
        self._siblings: array[int] = array("i")
        self._last: FlatStack = []
        self._path: list[int] = []

    def intern(self, flat: FlatStack) -> int:
        """Return the node of a stack, making the nodes that are new.

        Args:
            flat: The stack, innermost frame first; the table keeps the list.

        Returns:
            The node's index, or ``ROOT`` for an empty stack.
        """
        path, last = self._path, self._last
        if flat != last:
            unknown = self._skip_common(flat, last)
            node = path[-1] if path else ROOT
            while unknown:
                child = self._child(node, flat[unknown - 2], flat[unknown - 1])
                if child is None:
                    self.truncated += 1
                    flat = flat[unknown:]
                    break
                path.append(child)
                node = child
                unknown -= 2
            self._last = flat
        return path[-1] if path else ROOT

    def _skip_common(self, flat: FlatStack, last: FlatStack) -> int:
        """Cut the path back to the frames that both stacks share; return where the others end in ``flat``."""
        i, j, depth = len(flat), len(last), 0
        while i and j and flat[i - 2] is last[j - 2] and flat[i - 1] == last[j - 1]:
            i -= 2
            j -= 2
            depth += 1
        del self._path[depth:]
        return i

    def _child(self, parent: int, code: CodeType, offset: int) -> int | None:
        codes, offsets, siblings = self.codes, self.offsets, self._siblings
        first = child = self._first_children[parent + 1]
        while child != ROOT:
            if offsets[child] == offset and codes[child] is code:
                return child
            child = siblings[child]
        child = len(codes)
        if child >= self._max_nodes:
            return None
        codes.append(code)
        offsets.append(offset)
        self.parents.append(parent)
        siblings.append(first)
        self._first_children.append(ROOT)
        self._first_children[parent + 1] = child
        return child

    def common_ancestor(self, first: int, second: int) -> int:
        """Return the innermost node that both stacks share, or ``ROOT``."""
        # A parent's index is always smaller than its children's.
        while first != second:
            if first > second:
                first = self.parents[first]
            else:
                second = self.parents[second]
        return first
