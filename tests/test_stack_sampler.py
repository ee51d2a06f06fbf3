"""The sampler's thread: when it runs, what it looks at, what it changes in the interpreter, and what it costs."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from slowspan.recording import gauge, stack_sampler
from slowspan.recording.budget import WHILE_SATURATED, WINDOW_NS, Budget
from slowspan.recording.carriers import ThreadCarrier, this_thread
from slowspan.recording.gauge import ThreadEndedError, ThreadGauge, thread_cpu_ns
from slowspan.recording.late import some_home
from slowspan.recording.load import Load, Solo
from slowspan.recording.recording import Lost, Recording
from slowspan.recording.sampling import give_up_reused_threads
from slowspan.recording.stack_sampler import StackSampler
from slowspan.recording.switching import FINE_INTERVAL, FINEST_INTERVAL, FineSwitching
from support import eventually
from watched import compute_here, in_thread, wait_here

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MS = 1_000_000


class FakeSpan(SimpleNamespace):
    """What the sampler asks of a span."""

    __hash__ = object.__hash__

    def __init__(self, trace_id: int = 1) -> None:
        super().__init__(start_time=time.time_ns(), end_time=None, context=SimpleNamespace(trace_id=trace_id))


class FakeWatcher:
    """An owner of recordings that takes every one, and notes what it is told."""

    def __init__(self, **limits: Any) -> None:
        self.start_after_ns = 10 * MS
        self.margin_ns = 200 * MS
        self.max_age_ns = 3600 * 1000 * MS
        self.interval_ns = 2 * MS
        self.overhead_budget = 1.0
        self.fine_switching = False
        self.max_samples = 1000
        self.max_recordings = 100
        self.hung_after_ns = 3600 * 1000 * MS
        self.young: dict[FakeSpan, tuple[FakeSpan, Any, list[object], object]] = {}
        self.recordings: dict[int, Recording] = {}
        self.errors: list[Exception] = []
        self.lost: list[str] = []
        self.is_wary: bool | None = None
        self.parked = True
        vars(self).update(limits)

    def on_late(self, key: FakeSpan, young: tuple[FakeSpan, ThreadCarrier, list[object], object]) -> Recording | None:
        """Take it."""
        span, *_ = self.young.pop(key)
        assert span is young[0]
        return self.recordings.pop(id(span))

    def on_threshold(self, recording: Recording, age_ns: int) -> None:
        """Do nothing."""

    def on_hung(self, recording: Recording, age_ns: int) -> None:
        """Do nothing."""

    def on_lost(self, recording: Recording, reason: str) -> None:
        """Note the reason."""
        self.lost.append(reason)

    def on_holdups(self, is_wary: bool) -> None:
        """Note it."""
        self.is_wary = is_wary

    def on_ended(self, recording: Recording) -> None:
        """Do nothing."""

    def on_rest(self) -> None:
        """Do nothing."""

    def on_error(self, error: Exception) -> None:
        """Note the error."""
        self.errors.append(error)

    def end(self, recording: Recording, span: Any, end_time: int | None) -> None:
        """Do nothing."""


@pytest.fixture
def sampler() -> Iterator[StackSampler]:
    """Return a sampler of the test's own; stop it in the end."""
    sampler = StackSampler()
    yield sampler
    sampler.stop(10)


def watch(sampler: StackSampler, **limits: Any) -> FakeWatcher:
    """Make a sampler's watcher."""
    watcher = FakeWatcher(**limits)
    sampler.watch(watcher)
    return watcher


def begin(sampler: StackSampler, watcher: FakeWatcher, span: FakeSpan) -> Recording:
    """Begin a recording of the calling thread, as a span's start does."""
    recording = watcher.recordings[id(span)] = Recording(watcher, span, this_thread())
    watcher.young[span] = span, recording.carrier, [], span.context
    if sampler.parked:
        sampler.wake()
    return recording


def end(recording: Recording) -> None:
    """End a recording, as a span's end does."""
    recording.ended = True
    span = recording.span()
    if span is not None:
        recording.owner.young.pop(span, None)


def samples_of(recording: Recording) -> int:
    """Return the number of samples so far."""
    return recording.trace.sample_count if recording.trace is not None else 0


@contextmanager
def recorded(sampler: StackSampler, watcher: FakeWatcher) -> Iterator[Recording]:
    """Record the calling thread in the block."""
    span = FakeSpan()
    recording = begin(sampler, watcher, span)
    yield recording
    end(recording)


# -- The thread's life.


def test_no_thread_before_the_first_recording(sampler: StackSampler) -> None:
    """The thread starts with the first recording, not with a watcher."""
    watcher = watch(sampler)
    assert sampler._thread is None
    with recorded(sampler, watcher):
        assert sampler._thread.daemon


def uses_nothing(native_id: int) -> bool:
    """Return whether a thread uses no CPU time for a while."""
    before = thread_cpu_ns(native_id)
    time.sleep(0.05)
    return thread_cpu_ns(native_id) == before


def test_parks_and_wakes(sampler: StackSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread lingers after the last recording, then parks without using any CPU time, and wakes for the next."""
    monkeypatch.setattr(stack_sampler, "LINGER_NS", 100 * MS)
    watcher = watch(sampler)
    for _ in range(3):
        with recorded(sampler, watcher) as recording:
            assert not sampler.parked
            eventually(lambda recording=recording: samples_of(recording) > 0)
        assert not sampler.parked
        eventually(lambda: sampler.parked)
        assert sampler.late == watcher.young == {}
        # On a busy machine it may need a moment to lie down.
        assert eventually(lambda: uses_nothing(sampler._thread.native_id))


def test_tells_all_watchers_when_it_must_be_woken(sampler: StackSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each watcher knows whether its next span has to wake the thread, also one that came while it was awake."""
    monkeypatch.setattr(stack_sampler, "LINGER_NS", 1)
    first, second = watch(sampler), watch(sampler)
    with recorded(sampler, first):
        assert [first.parked, second.parked] == [False, False]
        third = watch(sampler)
    eventually(lambda: sampler.parked)
    assert [first.parked, second.parked, third.parked] == [True, True, True]
    with recorded(sampler, third):
        assert [first.parked, second.parked, third.parked] == [False, False, False]
    sampler.stop()
    assert [first.parked, second.parked, third.parked] == [True, True, True]


def test_does_not_park_while_a_recording_is_young(sampler: StackSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording that is not late yet keeps the thread awake, however long it takes to become so."""
    monkeypatch.setattr(stack_sampler, "LINGER_NS", 1)
    watcher = watch(sampler, start_after_ns=200 * MS)
    with recorded(sampler, watcher) as recording:
        assert samples_of(recording) == 0
        eventually(lambda: samples_of(recording) > 0)
    assert time.time_ns() - recording.start_ns >= 200 * MS


@pytest.mark.parametrize("state", ["sampling", "lingering", "parked", "never started"])
def test_stops_from_every_state(sampler: StackSampler, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    """Stopped in whatever state, the thread ends, and the next recording starts another one."""
    monkeypatch.setattr(stack_sampler, "LINGER_NS", 1 if state == "parked" else 60_000 * MS)
    watcher = watch(sampler)
    span = FakeSpan()
    if state != "never started":
        recording = begin(sampler, watcher, span)
        eventually(lambda: samples_of(recording) > 0)
        if state != "sampling":
            end(recording)
            eventually(lambda: not sampler.late)
        if state == "parked":
            eventually(lambda: sampler.parked)
    before = sampler._thread
    sampler.stop(10)
    assert before is None or not before.is_alive()
    sampler.late.clear()
    with recorded(sampler, watcher) as recording:
        eventually(lambda: samples_of(recording) > 0)


def test_a_thread_that_ends_late_leaves_the_next_one_its_recordings(sampler: StackSampler) -> None:
    """A thread that is held up for longer than its end is waited for forgets nothing of what another one samples."""
    watcher, may_go_on = watch(sampler), threading.Event()
    watcher.on_threshold = lambda *_: may_go_on.wait(30)  # type: ignore[method-assign]
    with recorded(sampler, watcher) as recording:
        eventually(lambda: recording in sampler.late)
        late = sampler._thread
        sampler.stop(0.01)
    del watcher.on_threshold
    with recorded(sampler, watcher) as recording:
        eventually(lambda: samples_of(recording) > 0)
        may_go_on.set()
        late.join(10)
        assert not late.is_alive()
        count = samples_of(recording)
        eventually(lambda: samples_of(recording) > count)


def test_last_watcher_ends_the_thread(sampler: StackSampler) -> None:
    """The thread runs as long as one watcher is there, and forgets the recordings of those that are not."""
    first, second = watch(sampler), watch(sampler)
    with recorded(sampler, first) as one, recorded(sampler, second) as other:
        eventually(lambda: samples_of(one) and samples_of(other))
        sampler.unwatch(first)
        eventually(lambda: one not in sampler.late)
        count = samples_of(other)
        eventually(lambda: samples_of(other) > count)
        thread = sampler._thread
        sampler.unwatch(second)
        assert not thread.is_alive()
        assert sampler.late == {}


def test_watcher_that_is_gone_is_forgotten(sampler: StackSampler) -> None:
    """A watcher that nobody has any more, though it was never unwatched, is not kept alive."""
    watch(sampler)
    gc.collect()
    assert list(sampler._watchers) == []


def test_processors_that_are_added_while_it_looks(sampler: StackSampler) -> None:
    """Going through the watchers raises nothing, and those that stay are always among them."""
    lasting = {watch(sampler) for _ in range(100)}
    done = threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            watchers = [FakeWatcher() for _ in range(5)]
            for watcher in watchers:
                sampler._watchers[watcher] = None

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(5000):
            assert lasting <= set(sampler._all_watchers())
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(usual)


def test_strictest_limits_hold(sampler: StackSampler) -> None:
    """Of several watchers the shortest interval and the smallest budget count; each keeps its own delay."""
    patient = watch(sampler, interval_ns=50 * MS, start_after_ns=300 * MS)
    quick = watch(sampler, overhead_budget=0.5)
    assert sampler.interval == pytest.approx(0.002)
    assert sampler._budget.share == 0.5
    with recorded(sampler, patient) as late, recorded(sampler, quick) as early:
        eventually(lambda: samples_of(early) > 3)
        assert time.time_ns() - late.start_ns > 300 * MS or samples_of(late) == 0
        eventually(lambda: samples_of(late) > 0)
    sampler.unwatch(quick)
    assert sampler.interval == pytest.approx(0.05)


# -- What it looks at.


def test_samples_late_recordings_only(sampler: StackSampler) -> None:
    """A recording is not sampled before its time."""
    watcher = watch(sampler, start_after_ns=60_000 * MS)
    with recorded(sampler, watcher) as recording:
        wait_here(0.05)
        assert recording.trace is None
        assert len(watcher.young) == 1


def test_looks_for_new_requests_no_more_often_than_for_samples(sampler: StackSampler) -> None:
    """Thresholds of a few milliseconds do not wake it each millisecond; a request that it knows has its time."""
    watcher = watch(sampler, start_after_ns=MS, interval_ns=20 * MS)
    sampler._linger_until_ns = time.perf_counter_ns() + 60_000 * MS
    assert sampler._tick() == 20 * MS
    span = FakeSpan()
    recording = watcher.recordings[id(span)] = Recording(watcher, span, this_thread())
    watcher.young[span] = span, this_thread(), [], span.context
    span.start_time += 3 * MS
    assert sampler._tick() <= 4 * MS
    span.start_time -= 5 * MS
    assert 10 * MS <= sampler._tick() <= 20 * MS
    assert list(sampler.late) == [recording]
    end(recording)
    sampler._tick()


def test_jitter(sampler: StackSampler) -> None:
    """The sleeps between samples differ, between half and one and a half of the interval."""
    watcher = watch(sampler, interval_ns=20 * MS, start_after_ns=1_000 * MS)
    span = FakeSpan()
    span.start_time -= 2_000 * MS
    recording = watcher.recordings[id(span)] = Recording(watcher, span, this_thread())
    watcher.young[span] = span, recording.carrier, [], span.context
    delays = []
    for _ in range(50):
        sampler._sample_at_ns = 0  # As if it had slept until then.
        delays.append(sampler._tick() or 0)
    assert all(10 * MS <= delay <= 30 * MS for delay in delays)
    assert max(delays) - min(delays) > 5 * MS
    end(recording)
    sampler._tick()


def test_dead_thread(sampler: StackSampler) -> None:
    """When its thread has ended a recording is given up, with the reason, and no other thread is taken for it."""
    watcher = watch(sampler)
    span = FakeSpan()
    recordings = []

    def request() -> None:
        recordings.append(begin(sampler, watcher, span))
        eventually(lambda: samples_of(recordings[0]) > 0)

    in_thread(request)
    in_thread(wait_here)  # It gets the same identifier.
    eventually(lambda: recordings[0].lost is Lost.THREAD_ENDED)
    data = recordings[0].trace.snapshot()
    assert "wait_here" not in {code.co_name for code in data.table.codes}
    end(recordings[0])


def test_abandoned_span(sampler: StackSampler) -> None:
    """A span that is thrown away, before or after it was late, is reported lost and forgotten."""
    watcher = watch(sampler)
    young, late = FakeSpan(), FakeSpan()
    recording = begin(sampler, watcher, late)
    eventually(lambda: samples_of(recording) > 0)
    begin(sampler, watcher, young)
    del young, late

    def is_forgotten() -> bool:
        gc.collect()
        return len(watcher.lost) == 2

    eventually(is_forgotten)
    assert sampler.late == watcher.young == {}


def test_span_that_nobody_ends(sampler: StackSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leaked span that stays alive is given up when it is old enough, so that the sampler can park."""
    monkeypatch.setattr(stack_sampler, "LINGER_NS", 1)
    watcher = watch(sampler, max_age_ns=100 * MS)
    leaked = FakeSpan()
    begin(sampler, watcher, leaked)
    eventually(lambda: sampler.parked)
    assert len(watcher.lost) == 1
    assert leaked.end_time is None


def test_a_hung_request_is_asked_for_until_it_is_slow(sampler: StackSampler) -> None:
    """One that is not slow by its own threshold yet is asked for at each look, and only then at twice its age."""
    ages: list[int] = []

    def on_hung(_recording: Recording, age_ns: int) -> bool:
        ages.append(age_ns)
        return len(ages) > 5

    watcher = watch(sampler, hung_after_ns=20 * MS, on_hung=on_hung)
    with recorded(sampler, watcher):
        eventually(lambda: len(ages) > 6)
    assert any(later < 2 * earlier for earlier, later in itertools.pairwise(ages[:6]))
    assert ages[6] >= 2 * ages[5]


@pytest.mark.parametrize("method", ["on_late", "on_threshold", "on_hung"])
def test_broken_watcher_harms_no_other(sampler: StackSampler, method: str) -> None:
    """A watcher that always raises is told of its errors; another one's requests are sampled and told as ever."""

    def fail(*args: object) -> None:
        raise RuntimeError("broken on purpose")

    told = []
    broken = watch(sampler, hung_after_ns=20 * MS, **{method: fail})
    sound = watch(sampler, hung_after_ns=20 * MS, on_threshold=lambda *args: told.append("threshold"))
    sound.on_hung = lambda *args: told.append("hung")
    with recorded(sampler, broken), recorded(sampler, sound) as recording:
        eventually(lambda: broken.errors)
        eventually(lambda: samples_of(recording) > 5)
        eventually(lambda: {"threshold", "hung"} <= set(told))
    eventually(lambda: not sampler.late)
    assert all("broken on purpose" in str(error) for error in broken.errors)


def test_reused_thread() -> None:
    """Of two recordings of one thread the earlier one is given up, unless both are of the same trace."""
    watcher = FakeWatcher()
    spans = [FakeSpan(trace_id=1), FakeSpan(trace_id=1), FakeSpan(trace_id=2)]
    here, elsewhere = ThreadCarrier(7, 7), ThreadCarrier(8, 8)
    outer, nested, following = (Recording(watcher, span, here) for span in spans)
    give_up_reused_threads([outer], [{1: (spans[1], here, [])}, {2: (spans[2], elsewhere, [])}])
    give_up_reused_threads([outer, nested, Recording(watcher, spans[2], elsewhere)], [])
    assert [r.lost for r in (outer, nested)] == [None, None]
    give_up_reused_threads([outer], [{2: (spans[2], here, [])}])
    assert outer.lost is Lost.THREAD_REUSED
    outer.lost = None
    give_up_reused_threads([outer, following], [])
    assert [r.lost for r in (outer, following)] == [Lost.THREAD_REUSED, None]


def test_nested_recording_that_has_ended() -> None:
    """A nested request that has ended, and its span with it, does not pass for another request of the thread."""
    watcher = FakeWatcher()
    spans = [FakeSpan(trace_id=1), FakeSpan(trace_id=1)]
    outer, nested = (Recording(watcher, span, ThreadCarrier(7, 7)) for span in spans)
    nested.ended = True
    give_up_reused_threads([outer, nested], [])
    del spans[1]
    gc.collect()
    give_up_reused_threads([outer, nested], [])
    assert outer.lost is None


def test_others_beside_a_recording_that_is_sampled_seldom(sampler: StackSampler) -> None:
    """A request of hours does not keep the sampler away from others, nor has their coming it sampled more often."""
    watcher = watch(sampler)
    spans = [FakeSpan() for _ in range(32)]
    first = begin(sampler, watcher, spans[0])
    eventually(lambda: samples_of(first) > 0)
    assert first.trace is not None
    with first.trace.lock:
        first.trace.stride = 1 << 300
        count = first.trace.sample_count
    for span in spans[1:-1]:
        fast = begin(sampler, watcher, span)
        time.sleep(0.003)
        end(fast)
    time.sleep(0.03)  # It sleeps now.
    slow = begin(sampler, watcher, spans[-1])
    eventually(lambda: samples_of(slow) > 2)
    assert first.trace.sample_count <= count + 1
    assert watcher.errors == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_thread_that_dies(sampler: StackSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the thread end by an error after all, the next span starts another one."""

    def fail(delay_ns: float) -> None:
        monkeypatch.undo()
        raise SystemExit

    watcher = watch(sampler)
    monkeypatch.setattr(sampler._bell, "sleep", fail)
    span = FakeSpan()
    begin(sampler, watcher, span)
    eventually(lambda: sampler.parked)
    recording = begin(sampler, watcher, span)
    eventually(lambda: samples_of(recording) > 1)


def open_files() -> int:
    """Return the number of this process's open files, without those that nobody knows any more."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the kernel's files on threads")
def test_open_files_are_few_and_closed(sampler: StackSampler) -> None:
    """However many requests are sampled at once, few files are open, and none when they have ended."""
    watcher = watch(sampler, max_recordings=500)
    before = open_files()
    spans = [FakeSpan() for _ in range(300)]
    recordings = [begin(sampler, watcher, span) for span in spans]
    eventually(lambda: len(sampler.late) == 300)
    assert open_files() - before <= 2 * gauge.MAX_OPEN
    for recording in recordings[:200]:
        end(recording)
    eventually(lambda: len(sampler.late) == 100)
    sampler.stop(10)
    assert open_files() == before
    assert ThreadGauge._open == 0


def test_no_file_can_be_opened(sampler: StackSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process without a free descriptor, or in a sandbox, requests are sampled without the kernel's files."""

    def refuse(*args: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(gauge, "open_file", refuse)
    watcher = watch(sampler)
    with recorded(sampler, watcher) as recording:
        eventually(lambda: samples_of(recording) > 3)
    assert watcher.errors == []


def test_without_thread_clocks(sampler: StackSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system that does not tell other threads' CPU time requests are sampled by wall time alone."""
    monkeypatch.setattr(gauge, "HAS_THREAD_CLOCKS", False)
    watcher = watch(sampler)
    with recorded(sampler, watcher) as recording:
        compute_here(0.05)
        eventually(lambda: samples_of(recording) > 3)
    assert watcher.errors == []
    assert sum(recording.trace.snapshot().cpu_ns) == 0


# -- The CPU clock of another thread.


def has_ended(ask: Callable[[], object]) -> bool:
    """Tell whether asking for the accounts of a thread says that it has ended."""
    try:
        ask()
    except ThreadEndedError:
        return True
    return False


@pytest.mark.skipif(not gauge.HAS_THREAD_CLOCKS, reason="only Linux tells other threads' CPU time")
def test_clock_of_another_thread() -> None:
    """Another thread's CPU clock goes on while it computes, and stands while it waits; a dead one has none."""
    readings: list[int] = []
    native_ids = []

    def compute() -> None:
        native_ids.append(threading.get_native_id())
        before = time.thread_time_ns()
        compute_here(0.05)
        in_thread(lambda: readings.append(thread_cpu_ns(native_ids[0])))
        readings.append(time.thread_time_ns())
        assert before < readings[0] <= readings[1]

    in_thread(compute)
    eventually(lambda: has_ended(lambda: thread_cpu_ns(native_ids[0])))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the kernel's files on threads")
def test_gauge_of_a_dead_thread() -> None:
    """A gauge whose thread has ended says so, and can be closed twice."""
    gauges: list[ThreadGauge] = []
    in_thread(lambda: gauges.append(ThreadGauge(threading.get_native_id())))
    (dead,) = gauges
    eventually(lambda: has_ended(dead.cpu_ns))
    dead.close()
    dead.close()
    assert ThreadGauge._open == 0


# -- The switch interval.


@pytest.fixture
def usual() -> Iterator[float]:
    """Return the switch interval, and set it again in the end."""
    usual = sys.getswitchinterval()
    yield usual
    sys.setswitchinterval(usual)


def test_switch_interval_is_fine_while_sampling_only(sampler: StackSampler, usual: float) -> None:
    """The switch interval is short while a late request is sampled, and as before afterwards."""
    patient = watch(sampler, fine_switching=True, start_after_ns=60_000 * MS)
    with recorded(sampler, patient):
        wait_here(0.05)
        assert sys.getswitchinterval() == pytest.approx(usual)
    watcher = watch(sampler, fine_switching=True)
    with recorded(sampler, watcher):
        eventually(lambda: sys.getswitchinterval() <= FINE_INTERVAL)
    eventually(lambda: sys.getswitchinterval() == pytest.approx(usual))


def test_switch_interval_after_stop(sampler: StackSampler, usual: float) -> None:
    """Stopping in the middle of a late request restores the switch interval."""
    watcher = watch(sampler, fine_switching=True)
    with recorded(sampler, watcher):
        eventually(lambda: sys.getswitchinterval() <= FINE_INTERVAL)
        sampler.stop(10)
        assert sys.getswitchinterval() == pytest.approx(usual)


def test_switch_interval_is_left_alone_when_told_so(sampler: StackSampler, usual: float) -> None:
    """With ``fine_switching`` off the switch interval is not touched, one watcher's word is enough."""
    watcher = watch(sampler, fine_switching=True)
    watch_off = watch(sampler, fine_switching=False)
    with recorded(sampler, watcher) as recording:
        eventually(lambda: samples_of(recording) > 3)
        assert sys.getswitchinterval() == pytest.approx(usual)
    assert not watch_off.errors


def test_somebody_elses_switch_interval_stays(usual: float) -> None:
    """Whoever changes the switch interval meanwhile keeps what they set."""
    switching = FineSwitching()
    switching.update()
    assert sys.getswitchinterval() == pytest.approx(FINE_INTERVAL)
    sys.setswitchinterval(0.02)
    switching.restore()
    assert sys.getswitchinterval() == pytest.approx(0.02)
    switching.update()
    switching.restore()
    assert sys.getswitchinterval() == pytest.approx(0.02)


def test_shorter_switch_interval_stays(usual: float) -> None:
    """A switch interval that is shorter than ours already is not made longer."""
    sys.setswitchinterval(0.0001)
    switching = FineSwitching()
    switching.update()
    assert sys.getswitchinterval() == pytest.approx(0.0001)
    switching.restore()
    assert sys.getswitchinterval() == pytest.approx(0.0001)


@pytest.mark.parametrize("contended", [False, True])
def test_switch_interval_under_load(usual: float, contended: bool) -> None:
    """The switch interval is fine only while requests do not compete for the lock."""
    switching = FineSwitching()
    for switching.contended in (not contended, contended):
        switching.update()
    assert (sys.getswitchinterval() < usual) != contended
    switching.restore()
    assert sys.getswitchinterval() == pytest.approx(usual)


def test_switch_interval_while_one_thread_computes(usual: float) -> None:
    """The switch interval is finest while there is only one thread to be stopped."""
    switching = FineSwitching()
    for switching.alone, expected in ((False, FINE_INTERVAL), (True, FINEST_INTERVAL), (False, FINE_INTERVAL)):
        switching.update()
        assert sys.getswitchinterval() == pytest.approx(expected)
    switching.alone = True
    sys.setswitchinterval(0.02)
    switching.update()
    assert sys.getswitchinterval() == pytest.approx(0.02)
    switching.restore()
    assert sys.getswitchinterval() == pytest.approx(0.02)


def test_switch_interval_between_ours(usual: float) -> None:
    """Somebody else's switch interval is never made longer, also not on the way back from a shorter one."""
    sys.setswitchinterval(0.0003)
    switching = FineSwitching()
    for switching.alone, expected in ((False, 0.0003), (True, FINEST_INTERVAL), (False, 0.0003)):
        switching.update()
        assert sys.getswitchinterval() == pytest.approx(expected)


def test_switch_interval_for_a_moment(usual: float) -> None:
    """For one look threads that compete can be stopped as well, if that is allowed at all."""
    switching = FineSwitching()
    switching.contended = True
    assert switching.force()
    assert sys.getswitchinterval() == pytest.approx(FINEST_INTERVAL)
    switching.update()
    assert sys.getswitchinterval() == pytest.approx(usual)
    switching.allowed = False
    assert not switching.force()
    assert sys.getswitchinterval() == pytest.approx(usual)


# -- The load.


def measured(monkeypatch: pytest.MonkeyPatch, load: Load, *looks: tuple[int, int], idle: bool = False) -> list[bool]:
    """Measure at some times, given with the CPU time used by then, in milliseconds; return what was found each time."""
    found = []
    for now, cpu in looks:
        monkeypatch.setattr("slowspan.recording.load.time.perf_counter_ns", lambda now=now: (1000 + now) * MS)
        monkeypatch.setattr("slowspan.recording.load.time.process_time_ns", lambda cpu=cpu: cpu * MS)
        load.measure(idle=idle)
        found.append(load.is_busy)
    return found


def test_load_is_told_by_the_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process's CPU clock tells whether it is busy; before the first look it is not known."""
    assert measured(monkeypatch, Load(40 * MS, 0.6), (0, 0), (100, 70)) == [False, True]
    assert measured(monkeypatch, Load(40 * MS, 0.6), (0, 0), (100, 50)) == [False, False]
    assert measured(monkeypatch, Load(40 * MS, 0.6), (0, 500)) == [False]


def test_load_is_measured_over_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found stands until there is enough time to decide anew."""
    looks = (0, 0), (100, 100), (101, 100), (139, 100), (140, 100)
    assert measured(monkeypatch, Load(40 * MS, 0.6), *looks) == [False, True, True, True, False]


def test_load_that_goes_up_and_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the two limits what was found before stands."""
    shares = 75, 95, 75, 61, 59, 75, 89, 91
    cpu = itertools.accumulate(shares, initial=0)
    looks = [(number * 100, used) for number, used in enumerate(cpu)]
    found = measured(monkeypatch, Load(100 * MS, 0.9, 0.6), *looks)
    assert found == [False, False, True, True, True, False, False, False, True]


def test_load_after_idle_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle time before the first request does not hide that the process is busy from then on."""
    load = Load(40 * MS, 0.6)
    assert measured(monkeypatch, load, (0, 0), (39, 0), idle=True) == [False, False]
    assert measured(monkeypatch, load, (60, 0), (99, 39), (100, 40)) == [False, False, True]


def test_load_of_an_idle_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short time without a request changes nothing; what was found is over when there is none for long."""
    load = Load(40 * MS, 0.6)
    assert measured(monkeypatch, load, (0, 0), (40, 40)) == [False, True]
    assert measured(monkeypatch, load, (41, 41), (80, 41), idle=True) == [True, True]
    assert measured(monkeypatch, load, (85, 46)) == [True]
    assert measured(monkeypatch, load, (90, 50), (130, 90), idle=True) == [True, False]


HOME = 4711
"""The id of a thread."""


def alone(monkeypatch: pytest.MonkeyPatch, solo: Solo, *looks: tuple[int, int, int, int]) -> list[bool]:
    """Measure at some times, with the CPU time of the process, of the caller and of the thread; all in milliseconds."""
    found = []
    for now, process, own, home in looks:
        monkeypatch.setattr("slowspan.recording.load.time.perf_counter_ns", lambda now=now: (1000 + now) * MS)
        monkeypatch.setattr("slowspan.recording.load.time.process_time_ns", lambda cpu=process: cpu * MS)
        monkeypatch.setattr("slowspan.recording.load.time.thread_time_ns", lambda cpu=own: cpu * MS)
        monkeypatch.setattr("slowspan.recording.load.thread_cpu_ns", lambda _, cpu=home: cpu * MS if cpu >= 0 else None)
        solo.measure(lambda: (HOME, False))
        found.append(solo.is_alone)
    return found


def test_a_thread_that_computes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is alone when what the process has computed is its own, but for a trifle, and the sampler's."""
    assert alone(monkeypatch, Solo(40 * MS), (0, 0, 0, 0), (100, 100, 8, 88)) == [False, True]
    assert alone(monkeypatch, Solo(40 * MS), (0, 0, 0, 0), (100, 100, 8, 80)) == [False, False]
    assert alone(monkeypatch, Solo(40 * MS), (0, 0, 0, 0), (39, 39, 0, 39), (40, 40, 0, 40)) == [False, False, True]
    # Where no clock tells, or the process hardly computes.
    assert alone(monkeypatch, Solo(40 * MS), (0, 0, 0, -1), (100, 100, 0, -1)) == [False, False]
    assert alone(monkeypatch, Solo(40 * MS), (0, 0, 0, -1), (100, 2, 0, -1)) == [False, True]


def test_a_thread_is_alone_until_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is likely to be alone is taken to be; while there is none, what was found for the last one stands."""
    solo = Solo(40 * MS)
    for thread, expected in (((HOME, True), True), ((0, False), True), ((HOME + 1, False), False), ((0, False), False)):
        monkeypatch.setattr(solo, "_began_ns", 0)
        solo.measure(lambda thread=thread: thread)  # type: ignore[misc]
        assert solo.is_alone is expected


def test_whose_thread_may_be_alone(sampler: StackSampler) -> None:
    """That of a late request, or else of any other; one that many requests share is likely to be alone."""
    watcher, span, thread = watch(sampler), FakeSpan(), this_thread()
    assert some_home(sampler.late, [watcher]) == (0, False)
    watcher.young[span] = span, thread, [], span.context
    assert some_home(sampler.late, [watcher]) == (thread.native_id, False)

    async def begin_in_task() -> None:
        watcher.young[span] = span, (thread, asyncio.current_task()), [], span.context
        assert some_home(sampler.late, [watcher]) == (thread.native_id, True)

    asyncio.run(begin_in_task())
    watcher.young.clear()
    sampler.late[Recording(watcher, span, ThreadCarrier(1, HOME))] = None
    assert some_home(sampler.late, [watcher]) == (HOME, False)


# -- The budget.


def test_budget_pays_for_bursts() -> None:
    """What was not spent for a while can be spent at once; the interval asked for is kept meanwhile."""
    budget = Budget(0.01)
    now = 10**12
    budget.spend(0, now)
    spent = 0
    while budget.stretch(10 * MS, saturated=False) == 10 * MS:
        now += 10 * MS
        budget.spend(1 * MS, now)
        spent += 1 * MS
    assert 0.01 * WINDOW_NS <= spent <= 0.012 * WINDOW_NS


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1])
@pytest.mark.parametrize("cost_ns", [50_000, 5 * MS])
def test_budget_settles_at_its_share(share: float, cost_ns: int) -> None:
    """In the long run the share of one core is kept, whatever a tick costs."""
    budget = Budget(share)
    now, spent = 10**12, 0
    budget.spend(0, now)
    started = None
    for _ in range(20_000):
        interval = budget.stretch(1 * MS, saturated=False)
        now += int(interval)
        budget.spend(cost_ns, now)
        if started is None:
            started = now if interval > 1 * MS else None
        else:
            spent += cost_ns
    assert started is None or spent / (now - started) <= 1.1 * share
    assert spent / (now - 10**12) <= 1.1 * share + 0.001


def test_budget_saves_nothing_up_for_a_saturated_process() -> None:
    """While the process computes without a pause the share is kept from the first tick on, and not all of it used."""
    budget = Budget(0.01)
    now, spent = 10**12, 0
    budget.spend(0, now)
    for _ in range(100):  # Until the mean is known.
        budget.spend(1 * MS, now)
    started = now
    for _ in range(100):
        now += int(budget.stretch(10 * MS, saturated=True))
        budget.spend(1 * MS, now)
        spent += 1 * MS
    assert spent / (now - started) == pytest.approx(WHILE_SATURATED * 0.01, rel=0.01)
    assert budget.stretch(10 * MS, saturated=False) == 10 * MS  # What was saved up is there for later.


def test_cheap_ticks_need_no_longer_interval() -> None:
    """Where a tick costs little the interval asked for is kept in a saturated process, too."""
    budget = Budget(0.01)
    for _ in range(100):
        budget.spend(20_000, 10**12)
    assert budget.stretch(10 * MS, saturated=True) == 10 * MS


def test_expensive_ticks_widen_the_interval(sampler: StackSampler) -> None:
    """The sampler measures itself, and with a small budget looks less often than it was told."""
    watcher = watch(sampler, overhead_budget=0.0001, interval_ns=1 * MS)
    with recorded(sampler, watcher) as recording:
        eventually(lambda: sampler.interval > 0.005)
        eventually(lambda: samples_of(recording) > 0)
    assert 0 < sampler.cost() < 1
    sampler.unwatch(watcher)
    watch(sampler, overhead_budget=0.0001, interval_ns=1 * MS)
    assert sampler.interval == pytest.approx(0.001)  # The next processor has no debts.


def test_a_sampler_that_is_held_up_bewares(sampler: StackSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so when it came much too late for a span, and takes it back when that has not happened for a while."""
    watcher = watch(sampler, start_after_ns=0)
    assert watcher.is_wary is False
    late = FakeSpan()
    late.start_time -= 101 * MS
    begin(sampler, watcher, late)
    eventually(lambda: watcher.is_wary)
    assert watch(sampler).is_wary
    monkeypatch.setattr(sampler, "_wary_until_ns", 0)
    eventually(lambda: watcher.is_wary is False)
