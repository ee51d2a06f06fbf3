"""What several tests need: waiting, tools that pip cannot bring, and the servers of real applications."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import servers

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from opentelemetry.trace import Tracer

T = TypeVar("T")

REPOSITORY = Path(__file__).parent.parent
APPS = Path(__file__).parent / "apps"
"""Where the tests' own applications are."""

DISABLED = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
OTHERS = sorted(
    {point.name for point in entry_points(group="opentelemetry_instrumentor")} - {"flask", "sqlite3", "slowspan"}
)
"""Instrumentations that the tests' Flask applications have no use for: to load them all takes a server two seconds."""
FEW_INSTRUMENTATIONS = {DISABLED: ",".join(OTHERS)}
"""Environment variables with which ``opentelemetry-instrument`` leaves these out."""

QUIET = {"threshold": 0.05, "notifiers": "none"}
"""Settings of a slowspan that tells nobody."""

needs_configuration = pytest.mark.skipif(
    find_spec("opentelemetry.configuration") is None,
    reason="needs a newer OpenTelemetry: pip install opentelemetry-configuration",
)
"""For tests of the declarative configuration file."""

INSTALLED_BY = {
    "chromium": "apt-get install chromium",
    "redis-server": "apt-get install redis-server",
    "memcached": "apt-get install memcached",
}


def requires(tool: str) -> str:
    """Return the path of a tool, or skip the test where it is missing and name the command that installs it.

    In CI a skipped test fails (``conftest.py``).

    Args:
        tool: One of ``INSTALLED_BY``.
    """
    path = shutil.which(tool)
    if path is None:
        pytest.skip(f"needs {tool}: {INSTALLED_BY[tool]}")
    return path


def eventually(check: Callable[[], T], timeout: float = 30.0) -> T:
    """Call a function until it returns something true, and return that.

    Args:
        check: What must become true. An AssertionError counts as not yet.
        timeout: Seconds to give up after: generous, since a test that passes does not wait for it.

    Raises:
        AssertionError: It did not become true; the last failed assertion or the last value tells more.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            value = check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        else:
            if value:
                return value
            assert time.monotonic() < deadline, f"still {value!r} after {timeout} s"
        time.sleep(0.02)


@contextlib.contextmanager
def instrumented_requests() -> Iterator[tuple[Tracer, InMemorySpanExporter]]:
    """Have OpenTelemetry instrument ``requests`` until the end of the block; give a tracer, and where its spans go."""
    # Imported here because few of the tests need it, and it imports requests.
    from opentelemetry.instrumentation.requests import RequestsInstrumentor

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = RequestsInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        yield provider.get_tracer("test"), exporter
    finally:
        instrumentor.uninstrument()
        provider.shutdown()


@dataclass(frozen=True)
class Served:
    """An application that a real server serves under ``opentelemetry-instrument``."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    report_dir: Path

    def pages(self) -> list[Path]:
        """Return the reports' pages, oldest first."""
        return sorted(self.report_dir.glob("*.html"))

    def profiles(self) -> list[Path]:
        """Return the stored profiles, oldest first."""
        return sorted(self.report_dir.glob("*.json.gz"))


@contextlib.contextmanager
def served(
    application: str,
    folder: Path,
    *,
    source: Path = APPS,
    env: Mapping[str, str] | None = None,
    workers: int = 1,
    threads: int = 4,
    options: Sequence[str] = (),
) -> Iterator[Served]:
    """Serve an application with gunicorn under ``opentelemetry-instrument`` until the end of the block.

    Spans are not exported unless ``env`` says so, for example with ``servers.exporting_to``; of the installed
    instrumentations only Flask's, sqlite3's and slowspan's are on.

    Args:
        application: The module and the WSGI callable, ``module:app``.
        folder: An empty folder, for the log and the reports.
        source: The folder of the module.
        env: Environment variables, for example slowspan's settings.
        workers: Number of worker processes.
        threads: Threads of each worker.
        options: More options of gunicorn.
    """
    port = servers.free_port()
    url = f"http://127.0.0.1:{port}"
    log, report_dir = folder / "server.log", folder / "reports"
    environment = {
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_PYTHON_SLOWSPAN_REPORT_DIR": str(report_dir),
        **FEW_INSTRUMENTATIONS,
        **(env or {}),
    }
    command = servers.gunicorn(
        application, port, workers=workers, threads=threads, options=[f"--chdir={source}", *options]
    )
    with servers.running(command, url=url, log=log, env=environment) as process:
        yield Served(url, process, log, report_dir)
