"""Runs the tests of web frameworks with slowspan watching each of their requests, and without.

Each suite runs three times in the same environment: as it is, with OpenTelemetry, and with OpenTelemetry and slowspan.
OpenTelemetry by itself changes what some tests see, so the last two are compared, test by test. Exit status 1: a
test ended otherwise with slowspan than without, or a suite in which no span was watched proves nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from suites import SUITES

HERE = Path(__file__).parent
MODES = ("plain", "opentelemetry", "slowspan")
SECONDS_FOR_A_RUN = 600
AT_ONCE = 2
"""Most tests wait for something; more at once would only make the impatient ones fail."""
SHOWN = 20
"""The most tests named of a suite that differ."""

Outcomes = dict[str, str]
"""``passed``, ``failed`` or ``skipped``, by the test's name."""


@dataclass(frozen=True)
class Run:
    """How one suite ended in one mode.

    Attributes:
        outcomes: Of each test.
        spans: Watched by slowspan, in all processes that were not killed.
        reports: Made by slowspan.
        drops: Losses that slowspan counted, by reason.
        seconds: How long it took.
        tail: The last lines that it printed.
    """

    outcomes: Outcomes
    spans: int
    reports: int
    drops: Counter[str]
    seconds: float
    tail: str

    def counts(self) -> str:
        """Return how many tests passed, failed and were skipped."""
        by_outcome = Counter(self.outcomes.values())
        return "/".join(str(by_outcome[outcome]) for outcome in ("passed", "failed", "skipped"))


def main() -> int:
    """Download the suites, run them and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="for downloads and results; what it holds is used again")
    parser.add_argument("suites", nargs="*", metavar="suite", help=f"of {', '.join(SUITES)}; all without")
    arguments = parser.parse_args()
    names = arguments.suites or list(SUITES)
    if unknown := set(names) - set(SUITES):
        parser.error(f"no such suite: {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    directory = arguments.directory.resolve()
    versions = download(directory)
    hook = Path(sysconfig.get_path("purelib"), "zz_slowspan_downstream.pth")
    # Python reads it at each start: so processes that the tests start are watched as well.
    hook.write_text(f"{HERE}\nimport os; 'DOWNSTREAM_MODE' in os.environ and __import__('watched_suite')\n")
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            runs = list(pool.map(lambda name: run_suite(directory, name, versions[name]), names))
    finally:
        hook.unlink()
    return report({f"{name} {versions[name]}": suite for name, suite in zip(names, runs, strict=True)})


def download(directory: Path) -> dict[str, str]:
    """Bring the source distributions that are not there yet, and unpack them anew.

    Returns:
        The version of each.
    """
    listed = (HERE / "sources.txt").read_text().splitlines()
    versions = dict(line.split()[0].split("==") for line in listed if not line.startswith("#"))
    archives = [directory / f"{name}-{version}.tar.gz" for name, version in versions.items()]
    if not all(archive.exists() for archive in archives):
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps")
        sources = ("--no-binary", ",".join(versions), "--require-hashes", "-r", str(HERE / "sources.txt"))
        subprocess.run([*pip, *sources, "--dest", str(directory)], check=True)
    for archive in archives:
        shutil.rmtree(directory / archive.name.removesuffix(".tar.gz"), ignore_errors=True)
        with tarfile.open(archive) as files:
            files.extractall(directory, filter="data")
    return versions


def run_suite(directory: Path, name: str, version: str) -> dict[str, Run]:
    """Run a suite in all modes, one after the other."""
    runs = {}
    for mode in MODES:
        results = directory / "results" / name / mode
        shutil.rmtree(results, ignore_errors=True)
        results.mkdir(parents=True)
        runs[mode] = run_once(directory / f"{name}-{version}", name, mode, results)
        print(f"{name} {mode}: {runs[mode].counts()} in {runs[mode].seconds:.0f} s", flush=True)
    return runs


def run_once(source: Path, name: str, mode: str, results: Path) -> Run:
    """Run a suite in one mode."""
    suite = SUITES[name]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "PYTEST_"))}
    environment |= {"DOWNSTREAM_MODE": mode, "DOWNSTREAM_SUITE": name, "DOWNSTREAM_RESULTS": str(results)}
    # The order of sets must not differ between what is compared.
    environment["PYTHONHASHSEED"] = "0"
    started = time.monotonic()
    with (results / "output.txt").open("w+") as output:
        try:
            subprocess.run(
                [sys.executable, *suite.command(results / "junit.xml")],
                cwd=source / suite.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=SECONDS_FOR_A_RUN,
            )
        except subprocess.TimeoutExpired:
            output.write(f"\nstopped after {SECONDS_FOR_A_RUN} s\n")
        output.seek(0)
        tail = "".join(output.readlines()[-SHOWN:])
    counted = [json.loads(path.read_text()) for path in results.glob("counts-*.json")]
    return Run(
        outcomes=read_outcomes(results),
        spans=sum(counts["spans"] for counts in counted),
        reports=sum(counts["reports"] for counts in counted),
        drops=sum((Counter(counts["drops"]) for counts in counted), Counter()),
        seconds=time.monotonic() - started,
        tail=tail,
    )


def read_outcomes(results: Path) -> Outcomes:
    """Return how each test of a run ended; nothing when the run did not come to its end."""
    of_django = results / "outcomes.json"
    if of_django.exists():
        return dict(json.loads(of_django.read_text()))
    if not (results / "junit.xml").exists():
        return {}
    outcomes: Outcomes = {}
    for case in ElementTree.parse(results / "junit.xml").iter("testcase"):
        test = f"{case.get('classname')}::{case.get('name')}"
        outcomes.setdefault(test, "passed")
        if case.find("failure") is not None or case.find("error") is not None:
            outcomes[test] = "failed"
        elif case.find("skipped") is not None:
            outcomes[test] = "skipped"
    return outcomes


def report(suites: dict[str, dict[str, Run]]) -> int:
    """Print the table and what is wrong; return the exit status."""
    print("\npassed/failed/skipped")
    print(f"{'suite':<18} {'plain':>12} {'OpenTelemetry':>14} {'with slowspan':>14} {'spans':>7} {'reports':>8}")
    for name, runs in suites.items():
        counts = [runs[mode].counts() for mode in MODES]
        watched = runs["slowspan"]
        print(f"{name:<18} {counts[0]:>12} {counts[1]:>14} {counts[2]:>14} {watched.spans:>7} {watched.reports:>8}")
    wrong = [line for name, runs in suites.items() for line in findings(name, runs)]
    print("\n".join(wrong) or "each test ended with slowspan as without")
    return bool(wrong)


def findings(name: str, runs: dict[str, Run]) -> list[str]:
    """Return what is wrong with a suite, as lines."""
    without, watched = runs["opentelemetry"], runs["slowspan"]
    found = [f"{name}, {mode}: no result\n{run.tail}" for mode, run in runs.items() if not run.outcomes]
    if not (watched.spans and watched.reports):
        found.append(f"{name}: {watched.spans} spans watched, {watched.reports} reports made: this proves nothing")
    if watched.drops["internal_error"]:
        found.append(f"{name}: {watched.drops['internal_error']} errors of slowspan's own; see its slowspan.log")
    names = sorted(without.outcomes.keys() | watched.outcomes.keys())
    pairs = {test: (without.outcomes.get(test, "missing"), watched.outcomes.get(test, "missing")) for test in names}
    differ = [f"{name}: {test} {old} without, {new} with" for test, (old, new) in pairs.items() if old != new]
    if len(differ) > SHOWN:
        differ[SHOWN:] = [f"{name}: and {len(differ) - SHOWN} more"]
    return found + differ


if __name__ == "__main__":
    sys.exit(main())
