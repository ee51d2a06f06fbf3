"""The one background thread that looks at the stacks of requests which are already late."""

from __future__ import annotations

import random
import sys
import time
import weakref
from typing import TYPE_CHECKING

from slowspan import native
from slowspan.fork import call_after_fork
from slowspan.recording.bell import Bell
from slowspan.recording.budget import Budget
from slowspan.recording.classify import Lock
from slowspan.recording.kernel_files import keep_lock
from slowspan.recording.late import Late, collect_late, prune_late, some_home
from slowspan.recording.load import Load
from slowspan.recording.runners import notice_new_libraries
from slowspan.recording.sampling import give_up_reused_threads, sample
from slowspan.recording.switching import FineSwitching

if TYPE_CHECKING:
    from slowspan.recording.recording import Watcher

LINGER_NS = 2_000_000_000
"""Time of short sleeps after the last open span: waking a parked thread costs a request up to 36 µs."""

MIN_SLEEP_NS = 1_000_000
"""Shortest sleep between two looks, where thresholds of a few milliseconds ask for shorter ones."""

WARY_NS = 60_000_000_000
"""How long spans' ends are stood in for from their starts, after the sampler could not run for long."""

REST_NS = 5_000_000_000
"""Time between two occasions on which owners may do what has time, such as telling of losses."""

SOON_NS = 100_000_000
"""What a request's end has left waits for so long: a process that is killed meanwhile has lost it."""

MOMENT_NS = 1_000_000
"""The mean time for which threads that compete for the interpreter lock switch finely, so that one can be stopped."""

JITTER = 0.5
"""Each sleep is 0.5 to 1.5 intervals long: a fixed one locks on to whatever the application does periodically."""


def unavailable() -> str | None:
    """Return why this interpreter's stacks cannot be sampled from another thread, or None when they can."""
    gil_enabled = getattr(sys, "_is_gil_enabled", None)
    if gil_enabled is not None and not gil_enabled():
        return "this is a free-threaded interpreter, on which walking another thread's stack is not safe"
    if native.eventlet_has_replaced_threads():
        return "eventlet has replaced the threads of this process, and its locks do not work between real ones"
    if not hasattr(sys, "_current_frames"):
        return "this interpreter has no sys._current_frames()"
    return None


class StackSampler:
    """Samples late recordings from one daemon thread.

    A request's thread only puts its span into its watcher's ``young`` and takes it out again. Everything else happens
    here.

    Attributes:
        late: Recordings that are being sampled. Only this thread changes it.
    """

    def __init__(self) -> None:
        # In the order in which they came: of two that watch one span the first one takes it.
        self._watchers: weakref.WeakKeyDictionary[Watcher, None] = weakref.WeakKeyDictionary()
        self._interval_ns = 10_000_000
        self._start_after_ns = 50_000_000
        self._patience_ns = 500_000_000
        self._switching = FineSwitching()
        self._budget = Budget(0.01)
        self._reset()

    def _reset(self) -> None:
        self.late: Late = Late()
        self.parked = True
        self._thread: native.Thread | None = None
        # What tells a thread that it is still the one that is to run.
        self._term: object | None = None
        self._start_lock = native.allocate_lock()
        self._bell = Bell()
        self._tick_number = 0
        self._lock = Lock.FREE
        self._forced = False
        self._cpu_ns = 0
        self._awake_ns = 0
        self._linger_until_ns = 0
        self._sample_at_ns = 0
        self._next_look_ns = 0
        self._rest_at_ns = 0
        self._wary_until_ns = 0
        self._is_wary = False
        self._begin_accounts()

    def _begin_accounts(self) -> None:
        self._budget = Budget(self._budget.share)
        self._switching.measure_anew()
        # It decides how many samples there are, so it must not follow a request that computes and waits in turns.
        self._saturation = Load(window_ns=80_000_000, above=0.9, below=0.6)

    @property
    def parked(self) -> bool:
        """Whether the thread sleeps without a time limit and must be woken for a new span; or there is none."""
        return self._parked

    @parked.setter
    def parked(self, parked: bool) -> None:
        self._parked = parked
        # Each request asks its watcher, which it has at hand: an object more to look at would cost it half a µs.
        for watcher in self._all_watchers():
            watcher.parked = parked

    # -- Called by processors and request threads.

    def watch(self, watcher: Watcher) -> None:
        """Take a processor's limits into account; the strictest of all processors hold."""
        self._watchers[watcher] = None
        watcher.on_holdups(self._is_wary)
        self._apply_limits()
        if not self.parked:
            self._bell.ring()  # It may sleep for longer than these limits let it.

    def unwatch(self, watcher: Watcher) -> None:
        """Forget a processor and its recordings, and end the thread when it was the last one."""
        self._watchers.pop(watcher, None)
        self.forget(watcher)
        if self._watchers:
            self._apply_limits()
        else:
            self.stop()

    def forget(self, watcher: Watcher) -> None:
        """Forget a processor's recordings; their spans end as if they had never been watched."""
        watcher.young.clear()
        self.late.hand_on(watcher)
        for recording in list(self.late):
            if recording.owner is watcher:
                recording.selected = False

    def is_away(self) -> bool:
        """Return whether the next look is too far away for what has ended to wait for it. Any thread."""
        return self._next_look_ns - time.perf_counter_ns() > SOON_NS

    def wake(self) -> None:
        """Start the thread, or wake it from its long sleep. Runs on a request's thread.

        Raises:
            RuntimeError: No thread can be started, or this interpreter cannot be sampled.
        """
        reason = unavailable()
        if reason is not None:
            raise RuntimeError(reason)
        self.parked = False
        if self._thread is None:
            self._start()
        else:
            self._bell.ring()

    def beware(self) -> None:
        """Have requests watched from their start for a while, as this thread cannot rely on being let run in time."""
        self._wary_until_ns = time.perf_counter_ns() + WARY_NS
        if not self._is_wary:
            self._set_wary(True)

    def _set_wary(self, is_wary: bool) -> None:
        self._is_wary = is_wary
        for watcher in self._all_watchers():
            watcher.on_holdups(is_wary)

    def stop(self, timeout: float = 1.0) -> None:
        """End the thread and restore what it changed; it starts again with the next span.

        Args:
            timeout: Time limit in seconds.
        """
        with self._start_lock:
            thread, self._thread = self._thread, None
            self._term = None
            self.parked = True
            if thread is not None:
                self._bell.ring()
                # Before another one can start: it would take this one's ring.
                thread.join(timeout)
            # What was spent on others' requests is not the next processor's debt.
            self._begin_accounts()

    def cost(self) -> float:
        """Return the sampler's own CPU time as a share of one core, over the time in which it was not parked."""
        return self._cpu_ns / self._awake_ns if self._awake_ns else 0.0

    @property
    def interval(self) -> float:
        """The mean time between two ticks that the budget allows now, in seconds."""
        return self._stretch(self._interval_ns) / 1e9

    def reset_after_fork(self) -> None:
        """Start anew in a forked child, whose threads are gone and whose locks may be held for ever."""
        self._switching.restore()
        # The requests go on in the parent.
        for watcher in self._all_watchers():
            watcher.young.clear()
            watcher.on_holdups(False)
        for recording in self.late:
            recording.selected = False
            if recording.trace is not None:
                recording.trace.meter.close()
        self._reset()

    def _all_watchers(self) -> list[Watcher]:
        # Not by iterating over them: another thread may add a processor meanwhile.
        return [watcher for known in self._watchers.keyrefs() if (watcher := known()) is not None]

    def _apply_limits(self) -> None:
        watchers = self._all_watchers()
        self._interval_ns = min(watcher.interval_ns for watcher in watchers)
        self._start_after_ns = min(watcher.start_after_ns for watcher in watchers)
        # Of the time in which it has to come, half may be lost once: twice that would be too much.
        self._patience_ns = min(watcher.margin_ns for watcher in watchers) // 2
        self._budget.share = min(watcher.overhead_budget for watcher in watchers)
        self._switching.allowed = all(watcher.fine_switching for watcher in watchers)

    def _start(self) -> None:
        with self._start_lock:
            if self._thread is None:
                self._term = term = object()
                thread = native.make_thread(lambda: self._run(term), "slowspan-sampler")
                self._thread = thread
                try:
                    thread.start()
                except BaseException:
                    self._thread = None
                    self.parked = True
                    raise

    # -- The thread.

    def _run(self, term: object) -> None:
        try:
            self._work(term)
        finally:
            if self._term is term:
                # Nobody has told it to end: the next span starts another one.
                self._thread = None
                self.parked = True
            # One that was held up for longer than ``stop`` waits finds that another thread samples now.
            if self._thread is None:
                self._switching.restore()
                for recording in list(self.late):
                    self.late.forget(recording)

    def _work(self, term: object) -> None:
        # Now, when no request is late: where many threads queue for the lock this would take half a second.
        keep_lock()
        cpu, clock = time.thread_time_ns(), time.perf_counter_ns()
        self._linger_until_ns = clock + LINGER_NS
        self._rest_at_ns = clock + REST_NS
        slept_ns: float = 0
        while self._term is term:
            delay_ns = self._turn(clock)
            cpu_before, clock_before = cpu, clock
            cpu, clock = time.thread_time_ns(), time.perf_counter_ns()
            self._cpu_ns += cpu - cpu_before
            self._awake_ns += clock - clock_before
            self._budget.spend(cpu - cpu_before, clock)
            if clock - clock_before - (cpu - cpu_before) - slept_ns > self._patience_ns:
                self.beware()
            elif self._is_wary and clock > self._wary_until_ns:
                self._set_wary(False)
            slept_ns = 0
            if delay_ns is None:
                self._park()
                clock = time.perf_counter_ns()
                # An event loop lets this thread run only between two requests, when there is none to be seen. A park
                # at each of these looks would have the next request wake it again.
                self._linger_until_ns = clock + LINGER_NS
            else:
                slept_ns = max(delay_ns, self._stretch(MIN_SLEEP_NS))
                self._next_look_ns = time.perf_counter_ns() + int(slept_ns)
                self._sleep(slept_ns)

    def _sleep(self, delay_ns: float) -> None:
        self._lock = self._bell.sleep(delay_ns)
        # A thread that gives the lock up begins to wait at this instant. If all compute for less than the switch
        # interval, none would ever be seen to. A moment later any instant is as likely as another.
        is_biased = self._switching.contended and self._lock is not Lock.HELD
        self._forced = is_biased and self._is_sample_due() and self._switching.force()
        if self._forced:
            self._lock = self._bell.sleep(MOMENT_NS * _jitter())
            # Before anybody can stop this thread in the middle of a look.
            self._switching.update()

    def _is_sample_due(self) -> bool:
        return bool(self.late) and time.perf_counter_ns() >= self._sample_at_ns

    def _turn(self, clock: int) -> float | None:
        """Tick, and rest when it is time; return the nanoseconds to sleep, or None to park."""
        try:
            delay_ns = self._tick()
            if delay_ns is None or clock > self._rest_at_ns:
                self._rest_at_ns = clock + REST_NS
                notice_new_libraries()
                for watcher in self._all_watchers():
                    watcher.on_rest()
        except Exception as error:  # noqa: BLE001 - one bad tick must not end the thread
            for watcher in self._all_watchers():
                watcher.on_error(error)
            return self._start_after_ns
        return delay_ns

    def _park(self) -> None:
        self._switching.restore()
        self.parked = True
        # A request may have looked at ``parked`` just before.
        if not self._young_count():
            self._bell.wait()
        # Without a thread the next span must start one.
        self.parked = self._thread is None

    def _tick(self) -> float | None:
        """Look at everything once; return the nanoseconds to sleep, or None to park."""
        now = time.time_ns()
        watchers = self._all_watchers()
        known = len(self.late)
        # A request that starts right after this look is late at the next one, or was so for less than an interval.
        longest_ns = max(self._start_after_ns, self._interval_ns)
        next_due_ns, overdue_ns = collect_late(self.late, watchers, now, longest_ns)
        if overdue_ns > self._patience_ns:
            self.beware()
        young = self._young_count()
        # Before the first of them is looked at: what that costs depends on it.
        self._saturation.measure(idle=not (young or self.late))
        self._switching.measure(young + len(self.late), lambda: some_home(self.late, watchers))
        if self.late:
            self._switching.update()
            if young + len(self.late) > 1:
                give_up_reused_threads(self.late, [watcher.young for watcher in watchers])
            stride = prune_late(self.late, now)
            clock = time.perf_counter_ns()
            if clock >= self._sample_at_ns or len(self.late) > known:
                self._sample_at_ns = clock + self._sample(stride)
            # It also wakes up for requests that become late before that.
            return min(max(self._sample_at_ns - clock, 0), next_due_ns)
        if self._is_wary and self._switching.alone:
            # Where it could not run for long, it would not either when the next request becomes late.
            self._switching.update()
        else:
            self._switching.restore()
        clock = time.perf_counter_ns()
        if young:
            self._linger_until_ns = clock + LINGER_NS
        elif clock > self._linger_until_ns:
            return None
        return next_due_ns

    def _sample(self, stride: int) -> int:
        """Take a sample of all requests whose turn it is; return the nanoseconds until the next one."""
        self._tick_number = (self._tick_number // stride + 1) * stride
        sample(
            self.late,
            self._tick_number,
            interval_ns=self._interval_ns,
            lock=self._lock,
            contended=self._switching.contended,
            forced=self._forced,
        )
        interval_ns = self._stretch(self._interval_ns * stride)
        return int(interval_ns * _jitter())

    def _stretch(self, interval_ns: float) -> float:
        return self._budget.stretch(interval_ns, saturated=self._saturation.is_busy)

    def _young_count(self) -> int:
        return sum(len(watcher.young) for watcher in self._all_watchers())


def _jitter() -> float:
    return 1 - JITTER + 2 * JITTER * random.random()


shared: StackSampler = StackSampler()
"""The sampler of this process."""

call_after_fork(shared.reset_after_fork)


def live_recordings() -> int:
    """Return the number of spans that are being watched now."""
    return shared._young_count() + len(shared.late)
