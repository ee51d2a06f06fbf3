"""What the stack sampler has seen of one late request, with the time that every sample stands for.

The sampler sees a request only at instants at which it gets the interpreter lock, and a computing thread gives that
lock up mostly where it waits. So the number of samples says little about time. The thread's accounts in the kernel do:
between two samples they tell exactly how long the thread computed (or was ready, but found no processor) and how long
it waited. Each of these two times is given to the nearest samples of its own class, half to the one before and half to
the one after. Where no sample of the class is near, computing time is shown as computed but not seen, and waiting time
belongs to the samples that are there: a thread which was stopped while it computed was waiting for the lock.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, NamedTuple

from slowspan import native
from slowspan.recording.hot_lines import HotLines
from slowspan.recording.stacks import ROOT, StackTable

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from slowspan.recording.meter import Meter
    from slowspan.recording.stacks import FlatStack

WAITING = 0
COMPUTING = 1
READY = 2
"""Could go on, but others hold the event loop: it waits for its turn."""

HORIZON = 10
"""Gaps over which time is given to a sample of its class; beyond, ten intervals away, it would be a guess."""

TRIFLE = 0.1
"""Computing time below this part of the time around it is not worth an entry of its own: every wait takes a little."""

NODES_PER_SAMPLE = 4
"""Bound of the stack table, as a multiple of the bound of the samples."""


class Accounts(NamedTuple):
    """What the kernel has on a thread at a sample."""

    cpu_ns: int
    """CPU time used so far."""
    delay_ns: int = 0
    """Time since the last sample for which the thread would have computed, had there been a processor."""
    queued: bool = False
    """Whether the thread is in the queue for the interpreter lock, after a stop or after a wait for something else."""


class TraceData(NamedTuple):
    """A copy of what was seen, for the delivery thread."""

    table: StackTable
    nodes: array[int]
    """Of every sample: index into the table, or ``ROOT`` where no stack is known."""
    at_ns: array[int]
    wall_ns: array[int]
    cpu_ns: array[int]
    ready_ns: array[int]
    """The part of ``wall_ns`` in which the request could have computed."""
    unseen: dict[int, tuple[int, int]]
    """Computing time without samples: wall and CPU time by the innermost node that the samples around it share."""
    before_first_ns: int
    """Time before the first sample, of which the CPU clock is not known: reading it would cost every request."""
    sample_count: int


class _Pending:
    """Time of one class that has not been given to a sample yet."""

    __slots__ = ("cpu_ns", "gaps", "last", "span_ns", "wall_ns")

    def __init__(self) -> None:
        self.last = -1
        """Index of the newest sample of the class, or -1 when none is near."""
        self.clear()

    def clear(self) -> None:
        self.wall_ns = self.cpu_ns = self.span_ns = self.gaps = 0

    def add(self, wall_ns: int, cpu_ns: int, span_ns: int) -> None:
        self.wall_ns += wall_ns
        self.cpu_ns += cpu_ns
        self.span_ns += span_ns
        self.gaps += 1


class Trace:
    """Samples of one recording. Written by the sampler thread, closed by whichever thread ends the span.

    Attributes:
        lock: Guards everything else; held for microseconds, never while other people's code runs.
        closed: Set when the span has ended; no sample is added after that.
        stride: Only every ``stride``-th tick of the sampler is taken; doubles when the trace is full.
        meter: The CPU time of the request; the sampler's thread reads and closes it.
        ready_ns: Time in which it could have computed, had others not held a processor, the interpreter lock or the
            event loop.
        before_first_ns: Time before the first sample.
        hot_lines: The lines with most own time.
    """

    def __init__(self, max_samples: int, meter: Meter) -> None:
        # Reentrant: a collection in the middle of the work here can end the very span, on the same thread.
        self.lock: AbstractContextManager[bool] = native.RLock()
        self.closed: bool = False
        self.stride: int = 1
        self.sample_count: int = 0
        self.meter = meter
        self.hot_lines: HotLines = HotLines()
        self.ready_ns: int = 0
        self.before_first_ns: int = 0
        self._full = max_samples
        self._table = StackTable(max_samples * NODES_PER_SAMPLE)
        self._nodes = array("i")
        self._at = array("q")
        self._wall = array("q")
        self._cpu = array("q")
        self._ready = array("q")
        self._classes = array("b")
        self._sample_leaves = array("i")
        self._unseen: dict[int, tuple[int, int]] = {}
        self._last_at_ns = 0
        self._first_cpu_ns: int | None = None
        self._last_cpu_ns: int | None = None
        self._was_queued = False
        self._waiting = _Pending()
        self._computing = _Pending()
        # The innermost node that all stacks since the last computing sample share.
        self._anchor = ROOT

    def cpu_time_ns(self, duration_ns: int) -> int | None:
        """Return the CPU time of the request from the first sample to the last one or the end, if known.

        Args:
            duration_ns: The most it can be: an explicit end time can make a span shorter than it was.
        """
        if self._first_cpu_ns is None or self._last_cpu_ns is None:
            return None
        return min(self._last_cpu_ns - self._first_cpu_ns, duration_ns)

    @property
    def seen_ns(self) -> int:
        """Time from the first sample to the last one, or to the end once that is known."""
        return max(self._last_at_ns - self.before_first_ns, 0)

    def is_due(self, tick: int, at_ns: int, interval_ns: int) -> bool:
        """Return whether a sample is to be taken.

        Args:
            tick: The number of the sampler's tick.
            at_ns: The time since the start of the span.
            interval_ns: The mean time between two ticks.
        """
        # Never much earlier than at its stride: else that would double again and again, whatever the request's age.
        is_early = self.stride > 1 and at_ns - self._last_at_ns < self.stride * interval_ns // 2
        return tick % self.stride == 0 and not is_early

    def add(
        self,
        at_ns: int,
        accounts: Accounts | None,
        flat: FlatStack,
        line: int,
        sample_class: int,
        *,
        held: bool = False,
    ) -> None:
        """Add one sample. The caller holds ``lock``.

        Args:
            at_ns: Time of the sample since the start of the span, not before the last one's.
            accounts: The thread's accounts, None where there are none.
            flat: The stack, innermost frame first.
            line: Line number of the innermost frame.
            sample_class: ``COMPUTING``, ``READY`` or ``WAITING``; ``WAITING`` where it cannot be told.
            held: Whether the innermost frames are of somebody else, who holds the event loop.
        """
        node = self._table.intern(flat)
        cpu_ns, delay_ns, queued = accounts or (None, 0, False)
        wall, active, cpu = self._gap(at_ns, cpu_ns, delay_ns)
        in_queue = 0
        if self._nodes:
            in_queue = self._share_queue(wall - active, queued=queued)
            self._computing.add(active, cpu, wall)
            self._waiting.add(wall - active - in_queue * (self._was_queued + queued), 0, wall)
        else:
            self.before_first_ns = wall
            self._anchor = node
        if node != self._anchor:
            self._anchor = self._table.common_ancestor(self._anchor, node)
        self._append(node, at_ns, self.hot_lines.leaf(flat, line, held=held), sample_class)
        if queued:
            self._give_ready(len(self._nodes) - 1, in_queue)
        self._was_queued = queued
        if sample_class == COMPUTING:
            self._settle(self._computing)
        elif not queued:
            self._settle(self._waiting)
        if sample_class == COMPUTING:
            self._anchor = node
        if self._computing.gaps >= HORIZON:
            self._give_up_computing()
        if self._waiting.gaps >= HORIZON:
            self._give_up_waiting()
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
        if not self._nodes:
            self.before_first_ns = max(duration_ns, 0)
            return
        wall, active, cpu = self._gap(max(duration_ns, self._last_at_ns), cpu_ns)
        in_queue = self._share_queue(wall - active, queued=False)
        self._computing.add(active, cpu, wall)
        self._waiting.add(wall - active - in_queue * self._was_queued, 0, wall)
        self._give_up_computing()
        self._give_up_waiting()

    def snapshot(self) -> TraceData:
        """Return what was seen so far; the caller holds ``lock``. A closed trace is not copied: it changes no more."""
        columns = (self._nodes, self._at, self._wall, self._cpu, self._ready)
        nodes, at, wall, cpu, ready = columns if self.closed else (column[:] for column in columns)
        return TraceData(
            self._table,
            nodes,
            at,
            wall,
            cpu,
            ready,
            dict(self._unseen),
            self.before_first_ns,
            self.sample_count,
        )

    def _gap(self, at_ns: int, cpu_ns: int | None, delay_ns: int = 0) -> tuple[int, int, int]:
        """Return the time since the last sample, and the parts in which the thread was active and computed."""
        wall = max(at_ns - self._last_at_ns, 0)
        self._last_at_ns = at_ns
        if cpu_ns is None:
            return wall, 0, 0
        if self._last_cpu_ns is None:
            self._first_cpu_ns = self._last_cpu_ns = cpu_ns
            return wall, 0, 0
        cpu = min(max(cpu_ns - self._last_cpu_ns, 0), wall)
        self._last_cpu_ns = cpu_ns
        return wall, min(cpu + delay_ns, wall), cpu

    def _share_queue(self, rest_ns: int, *, queued: bool) -> int:
        """Take of a gap's time what was spent in the queue for the interpreter lock; give the last sample its part.

        Args:
            rest_ns: The time in which the thread was not active.
            queued: Whether the thread is in the queue now.

        Returns:
            The part of each of the gap's two ends that is in the queue: half of the time.
        """
        half = rest_ns // 2
        if self._was_queued:
            self._give_ready(len(self._nodes) - 1, half)
        return half if queued or self._was_queued else 0

    def _give_ready(self, sample: int, wall_ns: int) -> None:
        """Give a sample time in which the thread could have computed."""
        self._wall[sample] += wall_ns
        self._ready[sample] += wall_ns
        self.ready_ns += wall_ns
        self.hot_lines.add(self._sample_leaves[sample], wall_ns)

    def _append(self, node: int, at_ns: int, leaf: int, sample_class: int) -> None:
        self._nodes.append(node)
        self._at.append(at_ns)
        self._wall.append(0)
        self._cpu.append(0)
        self._ready.append(0)
        self._classes.append(sample_class)
        self._sample_leaves.append(leaf)

    def _settle(self, pending: _Pending) -> None:
        """Give the time of a class to its two nearest samples: the newest one and the one before."""
        newest = len(self._nodes) - 1
        wall, cpu = pending.wall_ns, pending.cpu_ns
        if pending.last >= 0 and wall:
            self._give(pending.last, wall // 2, cpu // 2)
            wall -= wall // 2
            cpu -= cpu // 2
        if wall:
            self._give(newest, wall, cpu)
        pending.clear()
        pending.last = newest

    def _give(self, sample: int, wall_ns: int, cpu_ns: int) -> None:
        self._wall[sample] += wall_ns
        self._cpu[sample] += cpu_ns
        if self._classes[sample] != WAITING:
            # Time of a class that neither computes nor waits for something outside waits for its turn.
            self._ready[sample] += wall_ns - cpu_ns
            self.ready_ns += wall_ns - cpu_ns
        self.hot_lines.add(self._sample_leaves[sample], wall_ns)

    def _give_up_computing(self) -> None:
        """Give away computing time after which no computing sample came."""
        pending = self._computing
        wall, cpu = pending.wall_ns, pending.cpu_ns
        if pending.last >= 0:
            self._give(pending.last, wall, cpu)
        elif wall <= TRIFLE * pending.span_ns:
            self._spread(wall, cpu, pending.gaps)
        else:
            known_wall, known_cpu = self._unseen.get(self._anchor, (0, 0))
            self._unseen[self._anchor] = known_wall + wall, known_cpu + cpu
            self.ready_ns += wall - cpu
        pending.clear()
        pending.last = -1
        self._anchor = self._nodes[-1]

    def _give_up_waiting(self) -> None:
        """Give away waiting time after which no waiting sample came."""
        pending = self._waiting
        wall = pending.wall_ns
        if pending.last >= 0:
            self._give(pending.last, wall // 2, 0)
            wall -= wall // 2
        self._spread(wall, 0, pending.gaps)
        pending.clear()
        pending.last = -1

    def _spread(self, wall_ns: int, cpu_ns: int, gaps: int) -> None:
        """Give time to the newest samples, evenly."""
        newest = len(self._nodes) - 1
        oldest = max(newest - gaps, -1)
        for sample in range(newest, oldest, -1):
            left = sample - oldest
            self._give(sample, wall_ns // left, cpu_ns // left)
            wall_ns -= wall_ns // left
            cpu_ns -= cpu_ns // left

    def _halve(self) -> None:
        """Keep every second sample of each class, with the other one's time: totals of classes stay exact."""
        columns = (self._nodes, self._at, self._wall, self._cpu, self._ready, self._classes, self._sample_leaves)
        target = [-1, -1, -1]
        even = [False, False, False]
        size = 0
        near = [
            (pending, self._classes[pending.last]) for pending in (self._waiting, self._computing) if pending.last >= 0
        ]
        for i, sample_class in enumerate(self._classes):
            even[sample_class] = not even[sample_class]
            if even[sample_class]:
                target[sample_class] = size
                for column in columns:
                    column[size] = column[i]
                size += 1
            else:
                self._wall[target[sample_class]] += self._wall[i]
                self._cpu[target[sample_class]] += self._cpu[i]
                self._ready[target[sample_class]] += self._ready[i]
        for column in columns:
            del column[size:]
        for pending, sample_class in near:
            pending.last = target[sample_class]
        self.stride *= 2
