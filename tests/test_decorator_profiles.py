"""Profiles of functions: slow ones have a report, with OpenTelemetry and without, and it shows their own work."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

import slowspan
from functions import NEVER, only_ours, watched_globally, watched_without_opentelemetry
from slowspan import load_profile
from slowspan.recording import stack_sampler
from slowspan.recording.synthetic import IN_CONSUMER
from slowspan.report.html import render_page
from slowspan.report.summary import summarize
from support import eventually
from watched import ID, WatchingProcessor, compute_here, functions, in_thread, wait_here

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from watched import Watched


@pytest.fixture
def seen(no_global_provider: None) -> Iterator[Watched]:
    with watched_globally(threshold=NEVER) as watched:
        yield watched


def helper() -> None:
    wait_here()


@slowspan.profile("slow one", threshold=0.05)
def slow() -> None:
    helper()


@slowspan.profile("quick one", threshold=NEVER)
def quick(work: Any = None) -> None:
    if work is not None:
        work()


def by_name(profiles: list[slowspan.Profile]) -> dict[str, slowspan.Profile]:
    return {profile.span.name: profile for profile in profiles}


def test_slow_function_in_a_trace(seen: Watched) -> None:
    """A function over its own threshold has a profile of its work, and says so on its exported span."""
    slow()
    profile = seen.profile()
    assert (profile.span.name, profile.span.kind, profile.threshold_ns) == ("slow one", "INTERNAL", 50_000_000)
    assert functions(profile)["helper"] > 0.3
    (span,) = seen.exported()
    assert profile.span.span_id == format(span.context.span_id, "016x")
    assert (span.attributes or {})[ID] == profile.id


def test_spans_inside_a_function(seen: Watched) -> None:
    """A slow function's profile holds the spans inside it, and none beside it."""

    def query() -> None:
        with seen.provider.get_tracer("test").start_as_current_span("query"):
            wait_here()

    @slowspan.profile("with a query", threshold=0.05)
    def load() -> None:
        query()

    with seen.provider.get_tracer("test").start_as_current_span("around"):
        query()
        load()
    assert [span.name for span in seen.profile().spans] == ["query"]


def test_quick_function(seen: Watched) -> None:
    """A function below its threshold has its span, and nothing more."""
    quick(wait_here)
    assert seen.profiles() == []
    assert ID not in seen.attributes()


def test_settings_are_the_default(no_global_provider: None) -> None:
    """Without a threshold of its own a function is slow as the settings say, also by its name."""

    @slowspan.profile("jobs.load")
    def named() -> None:
        wait_here()

    @slowspan.profile("other")
    def other() -> None:
        wait_here()

    with watched_globally(threshold=NEVER, thresholds={"jobs[.].*": 0.05}) as seen:
        named()
        other()
        assert [profile.span.name for profile in seen.profiles()] == ["jobs.load"]


def test_filters_are_for_requests(no_global_provider: None) -> None:
    """Filters by URL and attribute do not keep functions out."""
    with watched_globally(included_urls="/api", included_attributes="tenant", threshold=NEVER) as seen:
        slow()
        assert len(seen.profiles()) == 1


def test_spans_of_a_watched_kind(no_global_provider: None) -> None:
    """Where all internal spans are watched, a function's own threshold is what counts for it."""
    with watched_globally(span_kinds="INTERNAL", threshold=0.001, start_after=0) as seen:
        quick(wait_here)
        assert seen.profiles() == []
        slow()
        assert seen.profile().threshold_ns == 50_000_000


def test_nested_functions(alone: WatchingProcessor) -> None:
    """Each of several functions has a profile of its own, of one trace, with the time of what it called."""

    @slowspan.profile("outer", threshold=0.05)
    def outer() -> None:
        compute_here()
        slow()

    outer()
    profiles = by_name(alone.profiles())
    assert set(profiles) == {"outer", "slow one"}
    assert len({profile.span.trace_id for profile in profiles.values()}) == 1
    assert {"compute_here", "helper"} <= functions(profiles["outer"]).keys()
    assert "compute_here" not in functions(profiles["slow one"])


def test_recursion(alone: WatchingProcessor) -> None:
    """A function inside itself has one profile per call that was slow."""

    @slowspan.profile("deep", threshold=0.05)
    def deep(levels: int) -> None:
        if levels:
            deep(levels - 1)
        else:
            helper()

    deep(2)
    assert len(alone.profiles()) == 3
    assert len({profile.span.trace_id for profile in alone.profiles()}) == 1


def test_without_opentelemetry(alone: WatchingProcessor) -> None:
    """Without OpenTelemetry a slow function is reported, and the application sees no span."""
    contexts = []

    @slowspan.profile("slow one", threshold=0.05)
    def work() -> None:
        contexts.append(trace.get_current_span())
        helper()

    work()
    profile = alone.profile()
    assert functions(profile)["helper"] > 0.3
    assert (profile.span.sampled, profile.span.service_name) == (False, None)
    assert contexts == [trace.INVALID_SPAN]


def test_failure_without_opentelemetry(alone: WatchingProcessor) -> None:
    """A slow function that fails is reported as failed, without the exception's text."""

    @slowspan.profile(threshold=0.05)
    def fails() -> None:
        wait_here()
        raise LookupError("secret")

    with pytest.raises(LookupError):
        fails()
    profile = alone.profile()
    assert profile.span.error
    assert "secret" not in json.dumps(profile.to_dict())


def test_dropped_by_the_sampler(no_global_provider: None) -> None:
    """A function of a trace that is not sampled is profiled; it exports nothing, and its children stay dropped."""
    children = []

    @slowspan.profile("outer", threshold=0.05)
    def outer() -> None:
        with trace.get_tracer("test").start_as_current_span("child") as child:
            children.append(child)
            slow()

    with watched_globally(TracerProvider(sampler=ParentBased(ALWAYS_OFF), shutdown_on_exit=False)) as seen:
        outer()
        profiles = seen.profiles()
        assert seen.exported() == []
    assert [profile.span.sampled for profile in profiles] == [False, False]
    traces = {profile.span.trace_id for profile in profiles}
    assert traces == {format(children[0].get_span_context().trace_id, "032x")}
    assert not children[0].is_recording()


def test_generator_shows_its_own_work(alone: WatchingProcessor) -> None:
    """Between its items a generator shows nothing of its consumer, not even of another one of its kind."""

    @slowspan.profile("items", threshold=0.05)
    def items(work: Any) -> Iterator[int]:
        for number in range(3):
            work()
            yield number

    def produce_there() -> None:
        wait_here()

    def consume_here() -> None:
        compute_here()

    for _ in items(produce_there):
        for _ in items(consume_here):
            pass
    profile = next(profile for profile in alone.profiles() if "produce_there" in functions(profile))
    shares = functions(profile)
    assert not shares.keys() & {"consume_here", "compute_here"}
    assert shares[IN_CONSUMER] > 0.25
    assert shares["produce_there"] + shares[IN_CONSUMER] == pytest.approx(1, abs=0.2)
    # The consumer's computing is not the generator's.
    assert profile.cpu_time_ns is None or profile.cpu_time_ns < 0.4 * profile.duration_ns


def test_generator_on_several_threads(alone: WatchingProcessor) -> None:
    """A generator whose items are taken on other threads shows what it does there."""

    @slowspan.profile("items", threshold=0.05)
    def items() -> Iterator[int]:
        for number in range(3):
            produce()
            yield number

    def produce() -> None:
        recordings = [r for r in stack_sampler.shared.late if r.trace is not None]
        before = [r.trace.sample_count for r in recordings]
        threading.Event().wait(0.1)
        eventually(lambda: all(r.trace.sample_count > n + 3 for r, n in zip(recordings, before, strict=True)))

    running = items()
    next(running)
    for _ in range(2):
        in_thread(lambda: next(running))
    assert list(running) == []
    assert functions(alone.profile())["produce"] > 0.2


def test_coroutines_at_once(seen: Watched) -> None:
    """Each of several coroutines that run at once shows its own chain of awaits."""

    async def left() -> None:
        await asyncio.sleep(0.3)

    async def right() -> None:
        await asyncio.sleep(0.3)

    @slowspan.profile("both", threshold=0.05)
    async def work(inner: Any) -> None:
        await inner()

    async def run() -> None:
        await asyncio.gather(work(left), work(right))

    asyncio.run(run())
    found = [functions(profile).keys() & {"left", "right"} for profile in seen.profiles()]
    assert sorted(map(sorted, found)) == [["left"], ["right"]]


def test_async_generator_shows_its_own_work(alone: WatchingProcessor) -> None:
    """Between its items an asynchronous generator shows nothing of its consumer."""

    @slowspan.profile("items", threshold=0.05)
    async def items() -> AsyncIterator[int]:
        for number in range(3):
            await produce()
            yield number

    async def produce() -> None:
        await asyncio.sleep(0.1)

    async def consume() -> None:
        await asyncio.sleep(0.1)

    async def run() -> None:
        async for _ in items():
            await consume()

    asyncio.run(run())
    shares = functions(alone.profile())
    assert "consume" not in shares
    assert shares["produce"] > 0.25
    assert shares[IN_CONSUMER] > 0.25


def test_inline_engine(no_global_provider: None) -> None:
    """The inline engine profiles the outermost function; what is inside, and a generator, the sampler sees."""

    @slowspan.profile("items", threshold=0.05)
    def items() -> Iterator[int]:
        for _ in range(3):  # Long enough for a machine that stands still for a moment.
            helper()
        yield 1

    @slowspan.profile("outer", threshold=0.05)
    def outer() -> None:
        slow()

    with watched_without_opentelemetry(engine="inline", threshold=NEVER) as alone:
        for _ in items():
            wait_here()
        outer()
        profiles = by_name(alone.profiles())
    engines = {name: profile.engine for name, profile in profiles.items()}
    assert engines == {"items": "thread", "outer": "inline", "slow one": "thread"}
    assert all("helper" in functions(profile) for profile in profiles.values())


def test_function_on_a_pools_thread(alone: WatchingProcessor) -> None:
    """A function is profiled on a thread of a pool that has never run anything else that is watched."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(slow).result()
        pool.submit(in_thread, slow).result()
    profiles = alone.profiles()
    assert [profile.notes for profile in profiles] == [(), ()]
    assert all(functions(profile)["helper"] > 0.3 for profile in profiles)


def test_block_is_profiled(alone: WatchingProcessor) -> None:
    """A slow block has a profile of what ran inside."""
    with slowspan.profile("nightly import", threshold=0.05):
        helper()
    assert functions(alone.profile())["helper"] > 0.3


def test_wording(alone: WatchingProcessor) -> None:
    """Reports call a function a function."""
    slow()
    profile = alone.profile()
    assert summarize(profile, ()).startswith("slow function slow one ")
    page = render_page(profile)
    assert "Slow function" in page
    assert ">slow one" in page


def test_disable_and_enable(alone: WatchingProcessor) -> None:
    """While slowspan is off functions only run, and what runs at that moment is forgotten."""

    @slowspan.profile("around", threshold=0.05)
    def around() -> None:
        helper()
        slowspan.disable()
        slow()

    around()
    assert (alone.profiles(), slowspan.status().enabled) == ([], False)
    slowspan.enable()
    slow()
    assert (len(alone.profiles()), slowspan.status().seen) == (1, 2)


def test_shutdown(no_global_provider: None) -> None:
    """After slowspan has been shut down functions only run, with their spans; a new processor profiles them again."""
    with only_ours():
        first = WatchingProcessor()
        slow()
        first.shutdown()
        slow()
        second = WatchingProcessor()
        slow()
        second.shutdown()
    assert (len(first.notifier.reports), len(second.notifier.reports)) == (1, 1)


def test_errors_of_our_own(alone: WatchingProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should slowspan fail the function runs all the same, and the failure is counted."""
    quick()

    def broken(*_: object) -> None:
        raise LookupError

    watcher = next(iter(alone._function_watchers.values()))
    monkeypatch.setattr(watcher, "take_over", broken)
    assert quick() is None
    assert slowspan.status().drops == {"internal_error": 1}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_forked_child(tmp_path: Path) -> None:
    """A function is profiled in a forked child too, also when it was called before the fork."""
    code = """
import os, time, warnings, slowspan
warnings.simplefilter("ignore")  # Newer versions warn of any fork beside threads.
@slowspan.profile(threshold=0.1)
def work(): time.sleep(0.3)
work()
pid = os.fork()
if not pid:
    work()
    work()
else:
    os.waitpid(pid, 0)
"""
    run(code, tmp_path)
    assert len(list(tmp_path.glob("*.json.gz"))) == 3


def test_processor_of_its_own(tmp_path: Path) -> None:
    """In a process without any processor the first call makes one, with the environment's settings."""
    code = """
import sys, time, opentelemetry.sdk.trace
before = set(sys.modules)
import slowspan
@slowspan.profile
def work(seconds): time.sleep(seconds)
assert "slowspan.processor" not in sys.modules
work(0)
assert not {"asyncio", "http", "email", "pyinstrument"} & (set(sys.modules) - before)
work(0.3)
"""
    run(code, tmp_path, OTEL_PYTHON_SLOWSPAN_THRESHOLD="0.1")
    # On a busy machine the first call can be slow as well.
    profile = max(map(load_profile, tmp_path.glob("*.json.gz")), key=lambda profile: profile.duration_ns)
    assert profile.span.name == "__main__.work"
    assert profile.duration_ns >= 300_000_000


@pytest.mark.parametrize(
    ("off", "before"),
    [
        ({"OTEL_PYTHON_SLOWSPAN_ENABLED": "false"}, ""),
        ({"OTEL_SDK_DISABLED": "true"}, ""),
        ({}, "slowspan.disable()"),
        ({}, "slowspan.SlowSpanProcessor().shutdown()"),
    ],
    ids=["setting", "opentelemetry", "disabled", "shut down"],
)
def test_switched_off(tmp_path: Path, off: dict[str, str], before: str) -> None:
    """Where slowspan is switched off, in whichever way and whenever, functions only run."""
    code = f"""
import time, slowspan
{before}
@slowspan.profile(threshold=0.01)
def work(): time.sleep(0.1); return 7
assert work() == 7
"""
    run(code, tmp_path, **off)
    assert list(tmp_path.glob("*.json.gz")) == []


def run(code: str, report_dir: Path, **env: str) -> None:
    """Run a program in a process of its own, and let nothing be said in it but of reports."""
    ours = {"OTEL_PYTHON_SLOWSPAN_REPORT_DIR": str(report_dir), "OTEL_PYTHON_SLOWSPAN_FLUSH_TIMEOUT": "60"}
    environment = {**os.environ, **ours, **env}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = ("slow function", "SDK is disabled")
    assert [line for line in done.stderr.splitlines() if not line.startswith(expected)] == []
