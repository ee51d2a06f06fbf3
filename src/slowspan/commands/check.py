"""``slowspan check``: what a worker would do with this configuration, and whether it works."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from slowspan.commands.channels import examine_channels, make_test_report
from slowspan.commands.common import counted, json_option, print_json, progress
from slowspan.commands.examine import (
    examine_alert_store,
    examine_environment,
    examine_report_dir,
    examine_sampling,
    examine_settings,
)
from slowspan.commands.findings import Finding
from slowspan.commands.sample import sample_profile
from slowspan.report.columns import wrap

if TYPE_CHECKING:
    from collections.abc import Iterator

_MARKS = {"ok": "ok", "fail": "FAIL", "off": "off", "set": "set", "untried": "?"}
_MARK = 6
_NAME = 19
_WIDEST = 120

LONG = 1.0
"""Seconds from which on it is worth telling how long something took."""


@click.command()
@click.option("--send", is_flag=True, help="Send one test alert, marked as such, through every channel.")
@json_option
def check(send: bool, as_json: bool) -> None:
    """Try the configuration as a worker would have it.

    Tells line by line what is on and from where each setting comes, and whether the report directory, the
    alert store and each channel can be reached. "ok" works, "FAIL" does not, "off" is switched off, "set"
    is a setting that is not the default, "?" could only be tried by sending.

    Run it as the application's user, with its environment. Settings in code are not seen.

    Exit status: 0 all is well, 1 something does not work, 2 wrong use.
    """
    findings: list[Finding] = []
    for finding in _examine(send=send):
        findings.append(finding)
        if not as_json:
            _print(finding, is_first=len(findings) == 1 or findings[-2].area != finding.area)
    failed = sum(finding.state == "fail" for finding in findings)
    if as_json:
        print_json({"ok": not failed, "findings": [asdict(finding) for finding in findings]})
    else:
        click.echo(f"\nNot all is well: FAIL stands {counted(failed, 'time')} above." if failed else "\nAll is well.")
    if failed:
        raise click.exceptions.Exit(1)


def _examine(*, send: bool) -> Iterator[Finding]:
    yield from examine_environment()
    loaded, findings = examine_settings()
    settings = loaded.settings
    with progress("profiling a test function"):
        sampling, profile = examine_sampling(settings, sample_profile)
    yield sampling
    yield from findings
    yield examine_report_dir(settings)
    with progress("reaching the alert store"):
        store = examine_alert_store(settings)
    yield store
    report = make_test_report(profile, settings) if send and profile is not None else None
    trials = examine_channels(settings, report)
    while True:
        with progress("sending the test alert" if report is not None else "reaching the channels"):
            finding = next(trials, None)
        if finding is None:
            break
        yield finding
    if send and report is None:
        yield Finding("channels", "--send", "fail", "nothing was sent: no profile came of a slow test function")


def _print(finding: Finding, *, is_first: bool) -> None:
    if is_first:
        click.echo(f"\n{finding.area}")
    head = f"  {_MARKS[finding.state]:<{_MARK}}{finding.name:<{_NAME}}"
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    text = finding.text
    if finding.seconds is not None and finding.seconds >= LONG:
        text += f" ({finding.seconds:.1f} s)"
    # A name may be longer than its column: the text then begins later, but the lines below it do not.
    indent = " " * (3 + _MARK + _NAME)
    # A long path is not broken, so that it can be copied.
    click.echo("\n".join(wrap(text, width, f"{head} ", indent, break_words=False)))
