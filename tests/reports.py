"""Reports for the tests, with a page and a stored profile that cost nothing; and children made by fork."""

from __future__ import annotations

import os
import pickle
import select
import signal
import warnings
from typing import TYPE_CHECKING, Any

from profiles import make_profile, make_span
from slowspan.delivery.naming import report_name
from slowspan.report.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable

    from slowspan.recording.profile import Profile

PAGE = b"<!DOCTYPE html><title>page</title>"
STORED = b"stored profile"


def make_named_profile(number: int = 1, **changes: Any) -> Profile:
    """Return a profile of which the id ends with the number, named as the processor names it."""
    id = f"{number:016x}"
    start_time_ns = changes.pop("start_time_ns", 1_795_290_250_123_456_789)
    span = changes.pop("span", make_span())
    name = report_name(start_time_ns, span.endpoint, id)
    return make_profile(**{"id": id, "name": name, "start_time_ns": start_time_ns, "span": span, **changes})


def make_report(
    number: int = 1,
    *,
    render_html: Callable[[bytes], bytes] = lambda stored: PAGE,
    compress: Callable[[Profile], bytes] = lambda profile: STORED,
    url: str | None = None,
    **changes: Any,
) -> Report:
    """Return a report of a profile with that number and these changes."""
    return Report(make_named_profile(number, **changes), render_html=render_html, compress=compress, url=url)


def in_forked_child(function: Callable[[], Any]) -> Any:
    """Return what a function returns in a child made by ``os.fork``; an exception there is raised here.

    No other thread may be running Python code at that time: coverage's own lock may be held in the child.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Forking beside running threads is what these tests are about.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            result = pickle.dumps((True, function()))
        except BaseException as error:
            result = pickle.dumps((False, repr(error)))
        os.write(writer, result)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        answered, _, _ = select.select([answers], [], [], 60)
        if not answered:
            os.kill(child, signal.SIGKILL)
        answer = answers.read()
    os.waitpid(child, 0)
    assert answered, "the forked child hangs"
    succeeded, value = pickle.loads(answer)
    if not succeeded:
        raise AssertionError(f"in the forked child: {value}")
    return value
