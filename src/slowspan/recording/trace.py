"""What the stack sampler has seen of one late request, with the time that every sample stands for.

The sampler sees a request only at instants at which it gets the interpreter lock, and a computing thread gives
that lock up mostly where it waits. So the number of samples says little about time. The thread's CPU clock does:
between two samples it tells exactly how long the thread computed and how long it waited. Each of these two times
is given to the nearest samples of its own class, half to the one before and half to the one after. Where no sample
of the class is near, computing time is shown as computed but not seen, and waiting time belongs to the samples
that are there: a thread which was stopped while it computed was waiting for the lock.
"""

from __future__ import annotations

import threading
from array import array
from typing import TYPE_CHECKING, NamedTuple

from slowspan.recording.stacks import ROOT, StackTable

if TYPE_CHECKING:
    from types import CodeType

    from slowspan.recording.stacks import FlatStack

WAITING = 0
COMPUTING = 1

HORIZON = 10
"""Gaps over which time is given to a sample of its class; beyond, ten intervals away, it would be a guess."""

HOT_CANDIDATES = 8
"""Leaf lines that are kept sorted while sampling, so that the end of a span need not sort them."""

NODES_PER_SAMPLE = 4
"""Bound of the stack table, as a multiple of the bound of the samples."""


class HotLeaf(NamedTuple):
    """The own time of one line: where the innermost frame was."""

    code: CodeType
    line: int
    wall_ns: int


class TraceData(NamedTuple):
    """A copy of what was seen, for the delivery thread.

    ``nodes[i]`` is ``ROOT`` where no stack is known. ``unseen`` is computing time without samples: nanoseconds
    by the innermost node that the samples around it share.
    """

    table: StackTable
    nodes: array[int]
    at_ns: array[int]
    wall_ns: array[int]
    cpu_ns: array[int]
    unseen: dict[int, int]
    before_first: tuple[int, int]
    """Wall and CPU time before the first sample."""
    sample_count: int


class Trace:
    """Samples of one recording. Written by the sampler thread, closed by whichever thread ends the span.

    Attributes:
        lock: Guards everything else; held for microseconds, never while other people's code runs.
        closed: Set when the span has ended; no sample is added after that.
        stride: Only every ``stride``-th tick of the sampler is taken; doubles when the trace is full.
    """

    __slots__ = (
        "_anchor",
        "_at",
        "_before_first",
        "_classes",
        "_cpu",
        "_cpu_at_start_ns",
        "_full",
        "_hot",
        "_last",
        "_last_at_ns",
        "_last_cpu_ns",
        "_leaf_indexes",
        "_leaf_wall",
        "_leaves",
        "_nodes",
        "_pending",
        "_pending_gaps",
        "_sample_leaves",
        "_table",
        "_unseen",
        "_wall",
        "closed",
        "lock",
        "sample_count",
        "stride",
    )

    def __init__(self, max_samples: int, cpu_at_start_ns: int | None) -> None:
        self.lock = threading.Lock()
        self.closed = False
        self.stride = 1
        self.sample_count = 0
        self._full = max_samples
        self._table = StackTable(max_samples * NODES_PER_SAMPLE)
        self._nodes = array("i")
        self._at = array("q")
        self._wall = array("q")
        self._cpu = array("q")
        self._classes = array("b")
        self._sample_leaves = array("i")
        self._unseen: dict[int, int] = {}
        self._before_first = (0, 0)
        self._last_at_ns = 0
        self._cpu_at_start_ns = self._last_cpu_ns = cpu_at_start_ns
        # Indexed by class: the newest sample, the time not yet given to a sample, and over how many gaps.
        self._last = [-1, -1]
        self._pending = [0, 0]
        self._pending_gaps = [0, 0]
        self._anchor = ROOT
        self._leaves: list[tuple[CodeType, int]] = []
        self._leaf_indexes: dict[tuple[int, int], int] = {}
        self._leaf_wall: list[int] = []
        self._hot: list[int] = []

    def cpu_time_ns(self) -> int | None:
        """Return the CPU time of the request's thread up to the last sample or the end, None where not known."""
        if self._cpu_at_start_ns is None or self._last_cpu_ns is None:
            return None
        return self._last_cpu_ns - self._cpu_at_start_ns

    def computing_share(self, at_ns: int, cpu_ns: int) -> float:
        """Return which share of the time since the last sample the thread was computing, 0 to 1."""
        wall = at_ns - self._last_at_ns
        if self._last_cpu_ns is None or wall <= 0:
            return 0.0
        return (cpu_ns - self._last_cpu_ns) / wall

    def add(self, at_ns: int, cpu_ns: int | None, flat: FlatStack, line: int, sample_class: int) -> None:
        """Add one sample. The caller holds ``lock``.

        Args:
            at_ns: Time of the sample since the start of the span, not before the last one's.
            cpu_ns: The thread's CPU clock, None where there is none.
            flat: The stack, innermost frame first.
            line: Line number of the innermost frame.
            sample_class: ``COMPUTING`` or ``WAITING``; ``WAITING`` where it cannot be told.
        """
        node = self._table.intern(flat)
        wall, cpu = self._gap(at_ns, cpu_ns)
        if not self._nodes:
            self._before_first = (wall, cpu)
            self._anchor = node
        else:
            self._defer(COMPUTING, cpu)
            self._defer(WAITING, wall - cpu)
        self._append(node, at_ns, self._leaf(flat, line), sample_class)
        self._settle(sample_class)
        for other in (WAITING, COMPUTING):
            if self._pending_gaps[other] >= HORIZON:
                self._give_up(other)
        self.sample_count += 1
        if len(self._nodes) >= self._full:
            self._halve()

    def close(self, duration_ns: int, cpu_ns: int | None) -> None:
        """Add the time from the last sample to the end. The caller holds ``lock``.

        Args:
            duration_ns: The span's duration.
            cpu_ns: The thread's CPU clock at the end, None where it is not known.
        """
        self.closed = True
        wall, cpu = self._gap(max(duration_ns, self._last_at_ns), cpu_ns)
        if not self._nodes:
            self._before_first = (wall, cpu)
            return
        self._pending[COMPUTING] += cpu
        self._pending[WAITING] += wall - cpu
        for sample_class in (COMPUTING, WAITING):
            if self._last[sample_class] >= 0:
                self._give(self._last[sample_class], sample_class, self._pending[sample_class])
            elif self._pending[sample_class]:
                self._give_up(sample_class)

    def snapshot(self) -> TraceData:
        """Copy what was seen so far. The caller holds ``lock``, or the trace is closed."""
        return TraceData(
            self._table,
            self._nodes[:],
            self._at[:],
            self._wall[:],
            self._cpu[:],
            dict(self._unseen),
            self._before_first,
            self.sample_count,
        )

    def hottest(self, limit: int) -> list[HotLeaf]:
        """Return the lines with most own time, hottest first."""
        hottest = sorted(self._hot, key=self._leaf_wall.__getitem__, reverse=True)[:limit]
        return [HotLeaf(*self._leaves[leaf], self._leaf_wall[leaf]) for leaf in hottest]

    def _gap(self, at_ns: int, cpu_ns: int | None) -> tuple[int, int]:
        wall = max(at_ns - self._last_at_ns, 0)
        cpu = 0
        if cpu_ns is not None and self._last_cpu_ns is not None:
            cpu = min(max(cpu_ns - self._last_cpu_ns, 0), wall)
        self._last_at_ns = at_ns
        if cpu_ns is not None:
            self._last_cpu_ns = cpu_ns
        return wall, cpu

    def _append(self, node: int, at_ns: int, leaf: int, sample_class: int) -> None:
        self._nodes.append(node)
        self._at.append(at_ns)
        self._wall.append(0)
        self._cpu.append(0)
        self._classes.append(sample_class)
        self._sample_leaves.append(leaf)
        if node != self._anchor:
            self._anchor = self._table.common_ancestor(self._anchor, node)

    def _leaf(self, flat: FlatStack, line: int) -> int:
        if not flat:
            return -1
        key = (id(flat[0]), line)
        leaf = self._leaf_indexes.get(key)
        if leaf is None:
            leaf = self._leaf_indexes[key] = len(self._leaves)
            self._leaves.append((flat[0], line))
            self._leaf_wall.append(0)
        return leaf

    def _defer(self, sample_class: int, time_ns: int) -> None:
        self._pending[sample_class] += time_ns
        self._pending_gaps[sample_class] += 1

    def _settle(self, sample_class: int) -> None:
        """Give the deferred time of a class to its two nearest samples: the newest one and the one before."""
        newest = len(self._nodes) - 1
        time_ns, before = self._pending[sample_class], self._last[sample_class]
        if before >= 0:
            half = time_ns // 2
            self._give(before, sample_class, half)
            time_ns -= half
        self._give(newest, sample_class, time_ns)
        self._last[sample_class] = newest
        if sample_class == COMPUTING:
            self._anchor = self._nodes[newest]
        self._pending[sample_class] = self._pending_gaps[sample_class] = 0

    def _give(self, sample: int, sample_class: int, time_ns: int) -> None:
        self._wall[sample] += time_ns
        if sample_class == COMPUTING:
            self._cpu[sample] += time_ns
        leaf = self._sample_leaves[sample]
        if leaf >= 0:
            self._leaf_wall[leaf] += time_ns
            self._rank(leaf)

    def _rank(self, leaf: int) -> None:
        # Own times only grow, and only of one leaf at a time, so a short list of the largest stays exact.
        hot, wall = self._hot, self._leaf_wall
        if leaf in hot:
            return
        if len(hot) < HOT_CANDIDATES:
            hot.append(leaf)
            return
        coldest = min(range(HOT_CANDIDATES), key=lambda rank: wall[hot[rank]])
        if wall[leaf] > wall[hot[coldest]]:
            hot[coldest] = leaf

    def _give_up(self, sample_class: int) -> None:
        """Give the deferred time of a class, of which no sample is near, to what can truly be said of it."""
        time_ns, gaps = self._pending[sample_class], max(self._pending_gaps[sample_class], 1)
        self._pending[sample_class] = self._pending_gaps[sample_class] = 0
        before = self._last[sample_class]
        self._last[sample_class] = -1
        if sample_class == COMPUTING:
            if before >= 0:
                self._give(before, COMPUTING, time_ns)
            else:
                self._add_unseen(time_ns)
            self._anchor = self._nodes[-1]
            return
        if before >= 0:
            half = time_ns // 2
            self._give(before, sample_class, half)
            time_ns -= half
        newest = len(self._nodes) - 1
        oldest = max(newest - gaps, -1)
        for sample in range(newest, oldest, -1):
            share = time_ns // (sample - oldest)
            self._give(sample, WAITING, share)
            time_ns -= share

    def _add_unseen(self, time_ns: int) -> None:
        if time_ns > 0:
            self._unseen[self._anchor] = self._unseen.get(self._anchor, 0) + time_ns

    def _halve(self) -> None:
        """Keep every second sample of each class, with the other one's time: totals of classes stay exact."""
        target = [-1, -1]
        even = [False, False]
        size = 0
        for i, sample_class in enumerate(self._classes):
            even[sample_class] = not even[sample_class]
            if even[sample_class]:
                target[sample_class] = size
                for column in (self._nodes, self._at, self._wall, self._cpu, self._classes, self._sample_leaves):
                    column[size] = column[i]
                size += 1
            else:
                self._wall[target[sample_class]] += self._wall[i]
                self._cpu[target[sample_class]] += self._cpu[i]
        for column in (self._nodes, self._at, self._wall, self._cpu, self._classes, self._sample_leaves):
            del column[size:]
        for sample_class in (WAITING, COMPUTING):
            if self._last[sample_class] >= 0:
                self._last[sample_class] = target[sample_class]
        self.stride *= 2
