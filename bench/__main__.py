"""Runs the benchmarks and judges them.

The exit status is 1 when a figure misses its target beyond doubt, and 2 when none does but noise could have hidden
one (see ``bench.figures``). With ``--handicap`` it is 0 only when every figure misses: then the benchmark can fail.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
import time
import traceback

from bench.figures import (
    HANDICAP_VARIABLE,
    HEADER,
    Figure,
    Options,
    exit_status,
    exit_status_of_handicapped,
    line,
)

BENCHMARKS = {
    "fast": "fast_request",
    "functions": "function_call",
    "asyncio": "uvicorn_request",
    "gevent": "gevent_request",
    "served": "served_request",
    "unsampled": "unsampled",
    "import": "imports",
    "end": "end_of_request",
    "flight": "in_flight",
    "latency": "latency",
    "reports": "report_writing",
    "channels": "channels",
    "memory": "memory",
    "truth": "truth",
    "shares": "time_shares",
    "servers": "server_truth",
}
"""Modules by name. Each has ``measure(options: Options) -> Iterator[Figure]``."""

WITHOUT_HANDICAP = ("truth", "shares", "servers")


def main() -> int:
    """Run the benchmarks that were named, or all of them."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, wider intervals, the same targets")
    parser.add_argument("--handicap", action="store_true", help="make slowspan worse on purpose")
    parser.add_argument("names", nargs="*", help=f"which: {', '.join(BENCHMARKS)}; all without")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    options = Options(quick=arguments.quick, handicap=arguments.handicap)
    names = arguments.names or list(BENCHMARKS)
    if options.handicap:
        os.environ[HANDICAP_VARIABLE] = "1"
        names = [name for name in names if name not in WITHOUT_HANDICAP]
    _print_conditions(options)
    figures: list[Figure] = []
    broken = []
    for name in names:
        started = time.monotonic()
        try:
            for figure in importlib.import_module(f"bench.{BENCHMARKS[name]}").measure(options):
                figures.append(figure)
                print(line(figure), flush=True)
        except Exception:
            broken.append(name)
            traceback.print_exc()
        print(f"  {name} took {time.monotonic() - started:.0f} s", flush=True)
    return _conclude(figures, options) or bool(broken)


def _print_conditions(options: Options) -> None:
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores{load}")
    print(f"[low, high]: where the true value lies with {options.confidence:.0%} confidence\n")
    print(HEADER)


def _conclude(figures: list[Figure], options: Options) -> int:
    counts: dict[str, int] = {}
    for figure in figures:
        if figure.verdict:
            counts[figure.verdict] = counts.get(figure.verdict, 0) + 1
    print("\n" + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    if options.handicap:
        return exit_status_of_handicapped(figures)
    return exit_status(figures, quick=options.quick)


if __name__ == "__main__":
    sys.exit(main())
