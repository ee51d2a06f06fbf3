"""No test may leave anything behind in the process; fixtures for those that must touch what is global."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util._once import Once

import slowspan
from functions import NEVER, watched_without_opentelemetry
from slowspan import watcher
from slowspan.recording import stack_sampler
from support import eventually
from watched import Watched, WatchingProcessor, watched

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail skipped tests with ``SLOWSPAN_REQUIRE_ALL`` in the environment, as in CI."""
    report = yield
    expected_failure = hasattr(report, "wasxfail")
    if report.skipped and not expected_failure and os.environ.get("SLOWSPAN_REQUIRE_ALL"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be: {report.longrepr}"
    return report


@pytest.fixture(autouse=True, scope="session")
def own_temporary_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the default report directory of these tests apart from that of other programs."""
    folder = str(tmp_path_factory.mktemp("temporary"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(params=["from the start", "once late"])
def stood_in_for(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Say since when the ends of requests are stood in for, and so by what they are known while they are young.

    From the start each goes by itself, as with all short thresholds; else by its trace.
    """
    if request.param == "once late":
        monkeypatch.setattr(watcher, "SURE_NS", 0)


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves a thread, a recording, a hook, a changed interpreter or a file behind."""
    before = _state()
    threads = set(threading.enumerate())
    yield

    def check() -> bool:
        if _leaked_threads(threads):
            # On 3.10 asgiref leaves a pool in a cycle of references; its thread ends with it.
            gc.collect()
        assert _leaked_threads(threads) == []
        assert _state() == before
        return True

    # A thread that was told to end may need a moment.
    eventually(check, timeout=5.0)


def _leaked_threads(before: set[threading.Thread]) -> list[threading.Thread]:
    new = set(threading.enumerate()) - before
    return [thread for thread in new if not thread.daemon or thread.name.startswith("slowspan")]


def _state() -> dict[str, object]:
    pyinstrument = sys.modules.get("pyinstrument.stack_sampler")
    return {
        "live recordings": stack_sampler.live_recordings(),
        "profile hook": sys.getprofile(),
        "profile hook of new threads": threading.getprofile(),
        "trace hook": sys.gettrace(),
        "running profilers": len(pyinstrument.get_stack_sampler().subscribers) if pyinstrument else 0,
        "switch interval": sys.getswitchinterval(),
        "files in the default report directory": _default_reports(),
        "global tracer provider": trace._TRACER_PROVIDER,
    }


def _default_reports() -> list[str]:
    return sorted(str(path) for path in Path(tempfile.gettempdir()).glob("slowspan-*/*"))


@pytest.fixture
def shop() -> Iterator[Watched]:
    """Return a watched provider with the usual settings."""
    with watched() as shop:
        yield shop


@pytest.fixture
def no_global_provider() -> Iterator[None]:
    """Give the test a process without a global tracer provider, and take away the one that it sets."""
    _forget_provider()
    yield
    provider = trace._TRACER_PROVIDER
    _forget_provider()
    shutdown = getattr(provider, "shutdown", None)
    if shutdown is not None:
        shutdown()


@pytest.fixture
def alone(no_global_provider: None) -> Iterator[WatchingProcessor]:
    """Return what watches profiled functions in a process without OpenTelemetry, each by its own threshold."""
    with watched_without_opentelemetry(threshold=NEVER) as processor:
        yield processor


@pytest.fixture
def switched_off(no_global_provider: None) -> Iterator[None]:
    """Switch slowspan off after each test, in a process without a global provider before and after."""
    yield
    slowspan.uninstrument()


@pytest.fixture
def exporter(no_global_provider: None) -> InMemorySpanExporter:
    """Make a global provider; return what it exports to."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


def _forget_provider() -> None:
    # OpenTelemetry lets the provider be set once in a process and offers no way back.
    trace._TRACER_PROVIDER = None
    trace._TRACER_PROVIDER_SET_ONCE = Once()
