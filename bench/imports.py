"""Proves that importing slowspan costs a process little, and brings in neither pyinstrument nor Flask.

Fresh interpreters import OpenTelemetry's SDK and then slowspan; what counts is the CPU time of the second
part. ``slowspan`` resolves its public names when they are first touched, so both are measured: the package,
and its span processor. The SDK's own import varies by more than the target from one interpreter to the
next, so there is no control to subtract: both parts are timed in the same interpreter.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from bench.estimates import Interval, median_interval
from bench.figures import Figure, Options

STATEMENTS = {
    "import slowspan": "import slowspan",
    "slowspan.SlowSpanProcessor": "import slowspan; slowspan.SlowSpanProcessor",
    "slowspan.SlowSpanProcessor()": "import slowspan; slowspan.SlowSpanProcessor()",
}

TARGETS = {"import slowspan": 10.0, "slowspan.SlowSpanProcessor": 10.0}

HANDICAP = "import pyinstrument, flask; "

UNWANTED = ("pyinstrument", "flask", "werkzeug")

_TIMED = """
import opentelemetry.sdk.trace, time
start = time.process_time_ns()
{}
print(time.process_time_ns() - start)
"""

_COUNT = "import sys; {}; print(sum(m.partition('.')[0] in {} for m in sys.modules))"


def measure(options: Options) -> Iterator[Figure]:
    """Measure import times in milliseconds, and count the modules that must not be there."""
    handicap = HANDICAP if options.handicap else ""
    statements = {name: handicap + statement for name, statement in STATEMENTS.items()}
    with tempfile.TemporaryDirectory(prefix="slowspan-bench-") as byte_code:
        times = _times(statements, 12 if options.quick else 40, byte_code)
        unwanted = _run(_COUNT.format(statements["slowspan.SlowSpanProcessor()"], UNWANTED), byte_code)
    for name in STATEMENTS:
        value = median_interval(times[name], options.confidence)
        yield Figure(f"{name}, after OpenTelemetry's SDK", "ms", value, TARGETS.get(name))
    yield Figure(f"imported with it: {', '.join(UNWANTED)}", "", Interval.exact(unwanted), 0)


def _times(statements: dict[str, str], rounds: int, byte_code: str) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in statements}
    rng = random.Random(0)
    _run(_TIMED.format(statements["slowspan.SlowSpanProcessor()"]), byte_code)  # Writes the byte code.
    for _ in range(rounds):
        for name in rng.sample(list(statements), k=len(statements)):
            times[name].append(_run(_TIMED.format(statements[name]), byte_code) / 1e6)
    return times


def _run(code: str, byte_code: str) -> int:
    output = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPYCACHEPREFIX": byte_code,
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return int(output.stdout)
