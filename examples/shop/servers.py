"""Starts servers as processes of their own and stops them again, whatever happens in between."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

SHOP = Path(__file__).parent
SECONDS_TO_START = 60
SECONDS_TO_STOP = 15


class ServerError(RuntimeError):
    """A server did not start; the message holds the end of its log."""


def free_port() -> int:
    """Return a port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(url: str) -> bool:
    """Tell whether a server answers this URL at all."""
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@contextlib.contextmanager
def running(
    command: Sequence[str], *, url: str, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the end of the block.

    Args:
        command: What to start.
        url: Where it will answer; the block begins when it does.
        log: File for its output.
        env: Environment variables to set beside this process's own.

    Yields:
        The process.

    Raises:
        ServerError: It ended or did not answer within a minute.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            # A group of its own: Ctrl-C reaches only us, and we stop the server in our order.
            start_new_session=True,
        )
    try:
        wait_until_it_answers(process, url, log)
        yield process
    finally:
        stop(process)


def wait_until_it_answers(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Return when the server answers its URL.

    Raises:
        ServerError: It ended or did not answer within a minute.
    """
    deadline = time.monotonic() + SECONDS_TO_START
    while not answers(url):
        ended = process.poll() is not None
        if ended or time.monotonic() > deadline:
            what = f"ended with code {process.returncode}" if ended else f"does not answer {url}"
            last_lines = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise ServerError(f"{Path(process.args[0]).name} {what}; its last words:\n{last_lines}")
        time.sleep(0.05)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and everything that it started."""
    try:
        if process.poll() is None:
            process.terminate()
            process.wait(SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        pass
    finally:
        # Also after a second Ctrl-C. The group has the children too, and is gone when all have ended.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def gunicorn(
    application: str, port: int, *, workers: int = 2, threads: int = 4, options: Sequence[str] = ()
) -> list[str]:
    """Return the command that serves an application under ``opentelemetry-instrument``."""
    scripts = Path(sys.executable).parent
    return [
        str(scripts / "opentelemetry-instrument"),
        str(scripts / "gunicorn"),
        f"--bind=127.0.0.1:{port}",
        f"--workers={workers}",
        "--worker-class=gthread",
        f"--threads={threads}",
        "--graceful-timeout=5",
        *options,
        application,
    ]


def exporting_to(endpoint: str, *, service: str) -> dict[str, str]:
    """Return the environment in which OpenTelemetry sends spans, soon and over HTTP, to an OTLP receiver."""
    return {
        "OTEL_SERVICE_NAME": service,
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "500",
    }
