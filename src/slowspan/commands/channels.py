"""How ``slowspan check`` tries the notifiers."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING
from uuid import uuid4

from slowspan.commands.findings import Attempt, Finding, warnings_of_slowspan, without_secrets
from slowspan.config import CHANNEL_SETTINGS
from slowspan.counters import Counters, DropError
from slowspan.delivery.naming import report_url, trace_url
from slowspan.notifiers.base import DeliveryError
from slowspan.notifiers.registry import GROUP, load_notifiers
from slowspan.report.alert import Alert
from slowspan.report.renderer import shared
from slowspan.report.report import Report
from slowspan.report.stored import compress_profile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slowspan.config import Settings
    from slowspan.notifiers.base import Notifier
    from slowspan.recording.profile import Profile

UNTRIED = "cannot be tried without --send"
LATER = " (A real alert would be tried again.)"
TIMEOUT_ADVICE = "Is the address right? Does a firewall or a proxy stand between?"


def make_test_report(profile: Profile, settings: Settings) -> Report:
    """Make the report of a marked test alert, as delivery would."""
    link = trace_url(settings, profile.span.trace_id, profile.span.span_id)
    return Report(
        profile,
        render_html=partial(shared.render_html, trace_url=link),
        compress=compress_profile,
        url=report_url(settings, profile.id, profile.name),
        trace_url=link,
        # A key of its own each time: no test goes into the thread of another.
        alert=Alert(key=uuid4().hex, is_test=True),
    )


def examine_channels(settings: Settings, report: Report | None) -> Iterator[Finding]:
    """Try every notifier that is on, all at the same time, and tell of those that are off.

    Args:
        settings: The settings; each try has ``notify_timeout`` seconds.
        report: The test alert to send, or None to send nothing.

    Yields:
        A finding for each, in the order of the setting, as soon as it is there.
    """
    trials: list[_Trial | Finding] = [_begin(wanted, settings, report) for wanted in settings.notifiers]
    for trial in trials:
        yield trial if isinstance(trial, Finding) else trial.finding()
    if not trials:
        yield Finding("channels", "none", "off", "no notifier is on: nobody is told, no report is kept")
    for name in sorted({point.name for point in entry_points(group=GROUP)} - set(map(str, settings.notifiers))):
        setting = CHANNEL_SETTINGS.get(name)
        is_set = setting is None or getattr(settings, setting)
        why = "not among the setting notifiers" if is_set else f"{setting} is not set"
        yield Finding("channels", name, "off", why)


def _begin(wanted: object, settings: Settings, report: Report | None) -> _Trial | Finding:
    with warnings_of_slowspan() as messages:
        # By itself: what is wrong with one is told of that one.
        loaded = load_notifiers(replace(settings, notifiers=(wanted,)), Counters())
    if not loaded:
        problem = "; ".join(messages) or "cannot be made"
        prefix = f"the notifier {wanted!r} is off: "
        return Finding("channels", str(wanted), "fail", without_secrets(problem.removeprefix(prefix), settings))
    name, notifier = loaded[0]
    return _Trial(name, notifier, settings, report)


class _Trial:
    """One notifier that is being tried on a thread of its own."""

    def __init__(self, name: str, notifier: Notifier, settings: Settings, report: Report | None) -> None:
        self._name = name
        self._notifier = notifier
        self._settings = settings
        self._report = report
        self._attempt = Attempt(self._try, settings.notify_timeout, name)

    def _try(self) -> str:
        try:
            if self._report is not None:
                return self._send(self._report)
            check: Callable[[], str] | None = getattr(self._notifier, "check", None)
            return "" if check is None else str(check())
        finally:
            self._notifier.shutdown()

    def _send(self, report: Report) -> str:
        started = time.monotonic()
        self._notifier.notify(report)
        if not self._notifier.force_flush(int(self._settings.notify_timeout * 1000)):
            raise DeliveryError("took the test alert, but did not deliver it")
        return f"test alert sent in {time.monotonic() - started:.2f} s"

    def finding(self) -> Finding:
        try:
            text = self._attempt.result()
        except TimeoutError:
            return self._failed(
                f"no answer within notify_timeout, {self._settings.notify_timeout:g} s. {TIMEOUT_ADVICE}"
            )
        except DeliveryError as error:
            return self._failed(str(error), again=error.retry)
        except DropError as error:
            return self._failed(str(error))
        except Exception as error:  # noqa: BLE001 - a notifier is somebody else's code
            return self._failed(f"{type(error).__name__}: {error}", again=True)
        if not text:
            return Finding("channels", self._name, "untried", UNTRIED)
        return Finding("channels", self._name, "ok", without_secrets(text, self._settings), self._attempt.seconds)

    def _failed(self, problem: str, *, again: bool = False) -> Finding:
        # Only alerts are tried again; a report that one of the others loses is lost.
        if again and getattr(self._notifier, "receives", "alerts") != "reports":
            problem += LATER
        return Finding("channels", self._name, "fail", without_secrets(problem, self._settings), self._attempt.seconds)
