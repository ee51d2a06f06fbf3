"""Apprise: a real email and real HTTP services, each told once, in its form, with no secret in any log."""

from __future__ import annotations

import base64
import email
import email.policy
import json
import logging
import os
import stat
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiosmtpd.controller import Controller

from http_server import SILENCE, Answer, RecordingServer, closed_port
from profiles import make_span
from reports import PAGE, make_report
from slowspan.config import Settings
from slowspan.notifiers import message
from slowspan.notifiers.apprise import AppriseNotifier
from slowspan.notifiers.base import DeliveryError
from slowspan.notifiers.registry import NotifierError
from slowspan.report.alert import Alert, Digest
from slowspan.report.renderer import RenderError
from support import instrumented_requests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import EmailMessage

    from slowspan.report.report import Report

DIGEST = Digest(hour_ns=1_795_287_600_000_000_000, alerts=7, endpoints=(("GET /a", 7, 3_100_000_000),))
SECRETS = ("T0pS3cret", "pa55word")


class Mailbox:
    """What a mail server took."""

    def __init__(self, port: int) -> None:
        self.mails: list[EmailMessage] = []
        self.url = f"mailto://127.0.0.1:{port}?from=slowspan@example.com&to=team@example.com&smtp=127.0.0.1"

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:
        self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return "250 OK"


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    port = closed_port()
    box = Mailbox(port)
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    yield box
    controller.stop()


@pytest.fixture
def server() -> Iterator[RecordingServer]:
    with RecordingServer() as recording:
        yield recording


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No page stays behind in the temporary directory."""
    yield
    assert list(Path(tempfile.gettempdir()).glob("slowspan-apprise-*")) == []


@pytest.fixture(autouse=True)
def no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that is logged, at any level, holds what is secret in a URL."""
    caplog.set_level(logging.DEBUG)
    yield
    from_apprise = [record for record in caplog.records if record.name == "apprise"]
    assert not [record for record in from_apprise if record.levelno < logging.WARNING]
    assert not [record for record in caplog.records for secret in SECRETS if secret in record.getMessage()]


def alert_report(number: int = 1, **changes: Any) -> Report:
    report = make_report(number, **changes)
    report.alert = Alert(key="0" * 32, told_before=True, seen_more=134, since_ns=1_780_000_000_000_000_000)
    return report


def json_url(server: RecordingServer, path: str = "/T0pS3cret") -> str:
    return f"json://user:pa55word@{server.address}{path}"


def failure(notifier: AppriseNotifier, report: Report) -> DeliveryError:
    with pytest.raises(DeliveryError) as raised:
        notifier.notify(report)
    logged = "".join(traceback.format_exception(raised.value))
    assert not [secret for secret in SECRETS if secret in logged]
    return raised.value


# -- What arrives


def test_an_email(mailbox: Mailbox) -> None:
    """A mail server takes a readable message with the page attached."""
    report = alert_report(url="https://reports.example.com/1")
    AppriseNotifier([mailbox.url]).notify(report)
    (mail,) = mailbox.mails
    assert mail["To"].addresses[0].addr_spec == "team@example.com"
    assert "".join(mail["Subject"].splitlines()) == message.title(report)
    body = mail.get_body(("html",))
    assert body is not None
    html = body.get_content()
    assert "<table>" in html
    assert "pricing.py:41" in html
    assert 'href="https://reports.example.com/1"' in html
    (attachment,) = mail.iter_attachments()
    assert attachment.get_filename() == report.profile.name + ".html"
    assert attachment.get_content_type() == "text/html"
    content = attachment.get_payload(decode=True)
    assert content == PAGE


def test_a_service_for_text(server: RecordingServer) -> None:
    """A service that takes plain text gets plain text, the title once, and the page."""
    report = alert_report()
    AppriseNotifier([json_url(server)]).notify(report)
    (request,) = server.requests
    assert request.path == "/T0pS3cret"
    document = json.loads(request.body)
    assert document["title"] == message.title(report)
    assert document["title"] not in document["message"]
    assert "pricing.py:41" in document["message"]
    assert "`" not in document["message"]
    assert document["type"] == "warning"
    (attachment,) = document["attachments"]
    assert attachment["filename"] == report.profile.name + ".html"
    assert base64.b64decode(attachment["base64"]) == PAGE


def test_the_format_in_the_url_counts(server: RecordingServer) -> None:
    """Whoever asks for another format in the URL gets it."""
    AppriseNotifier([json_url(server) + "?format=markdown"]).notify(alert_report())
    assert "`pricing.py:41`" in json.loads(server.requests[0].body)["message"]


def test_the_page_is_private(server: RecordingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is attached, only this user can read the page."""
    seen: list[tuple[int, int]] = []
    notifier = AppriseNotifier([json_url(server)])
    (service,) = notifier._services
    send = service._send

    def look_and_send(progress: Any, text: Any, page: Any) -> None:
        seen.append((stat.S_IMODE(page.stat().st_mode), stat.S_IMODE(page.parent.stat().st_mode)))
        send(progress, text, page)

    monkeypatch.setattr(service, "_send", look_and_send)
    previous = os.umask(0)
    try:
        notifier.notify(alert_report())
    finally:
        os.umask(previous)
    assert seen == [(0o600, 0o700)]


def test_without_a_page(server: RecordingServer) -> None:
    """Where no page can be made, the message goes alone and says so."""

    def cannot_render(stored: bytes) -> bytes:
        raise RenderError("no child process could be started")

    AppriseNotifier([json_url(server)]).notify(alert_report(render_html=cannot_render))
    document = json.loads(server.requests[0].body)
    assert document["attachments"] == []
    assert document["message"].endswith("The page could not be attached.")


def test_without_a_place_for_the_page(server: RecordingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be written, as on a full disk, the message goes alone."""
    notifier = AppriseNotifier([json_url(server)])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    notifier.notify(alert_report())
    assert json.loads(server.requests[0].body)["attachments"] == []


def test_a_digest(server: RecordingServer, mailbox: Mailbox) -> None:
    """What was held back is told to all services, once."""
    notifier = AppriseNotifier([json_url(server), mailbox.url])
    notifier.notify_digest(DIGEST)
    assert "7 alerts were held back" in json.loads(server.requests[0].body)["message"]
    assert len(mailbox.mails) == 1
    assert list(mailbox.mails[0].iter_attachments()) == []


def test_a_hostile_request(server: RecordingServer, mailbox: Mailbox) -> None:
    """Markup and mentions of a stranger have no effect in an email, and reach no service unescaped."""
    evil = "/<img src=x>/@all/`</code><script>alert(1)</script>/[a](http://evil.example)"
    report = alert_report(span=make_span(route=evil, path=evil, parameters=((evil, evil),)))
    AppriseNotifier([json_url(server), mailbox.url]).notify(report)
    body = mailbox.mails[0].get_body(("html",))
    assert body is not None
    html = body.get_content()
    assert "<script" not in html
    assert "<img" not in html
    assert "http://evil.example" not in html.replace("<code>", "").split('href="')[1:]
    assert "@all" not in json.loads(server.requests[0].body)["message"]


# -- Several services


def test_a_retry_tells_only_those_that_failed(server: RecordingServer) -> None:
    """One failing service does not make the others get the alert twice."""
    with RecordingServer() as failing:
        failing.answers = [Answer(500), Answer(500)]
        notifier = AppriseNotifier([json_url(failing), json_url(server)])
        report = alert_report()
        error = failure(notifier, report)
        assert str(error).startswith("JSON did not take it: Failed to send JSON")
        assert "T0pS3cret" not in str(error)
        assert error.retry
        failure(notifier, report)
        notifier.notify(report)
        assert (len(failing.requests), len(server.requests)) == (3, 1)
        notifier.notify(alert_report(2))
        assert (len(failing.requests), len(server.requests)) == (4, 2)


def test_a_service_that_refuses_the_page_gets_the_text(server: RecordingServer) -> None:
    """The last of four tries in a row goes without the page; a later one, after an outage, has it again."""
    server.answers = [Answer(413)] * 4
    notifier = AppriseNotifier([json_url(server)])
    report = alert_report()
    for _ in range(4):
        failure(notifier, report)
    notifier.notify(report)
    attached = [bool(json.loads(request.body)["attachments"]) for request in server.requests]
    assert attached == [True, True, True, False, True]


def test_the_reason_of_a_failure(server: RecordingServer, caplog: pytest.LogCaptureFixture) -> None:
    """A failure is told in Apprise's words, without the URL's secrets, once, and not in Apprise's own log."""
    with RecordingServer() as silent:
        server.answers, silent.answers = [Answer(403)], [SILENCE]
        notifier = AppriseNotifier(
            [json_url(server), json_url(silent) + "?rto=30", f"json://127.0.0.1:{closed_port()}/T0pS3cret"], timeout=0.7
        )
        problem = str(failure(notifier, alert_report()))
    assert "error=403" in problem
    assert "JSON did not take it: no answer in time" in problem
    assert "onnection" in problem
    assert not [record for record in caplog.records if record.name == "apprise" and record.levelno >= logging.WARNING]
    for service in notifier._services:
        service.join(30)


def test_one_hangs(server: RecordingServer) -> None:
    """A silent service costs the others nothing, is told by name, and is not asked twice at the same time."""
    with RecordingServer() as silent:
        silent.answers = [SILENCE]
        notifier = AppriseNotifier([json_url(silent) + "?rto=30", json_url(server)], timeout=0.5)
        assert "JSON did not take it" in str(failure(notifier, alert_report(1)))
        assert len(server.requests) == 1
        failure(notifier, alert_report(2))
        assert (len(silent.requests), len(server.requests)) == (1, 2)
    for service in notifier._services:
        service.join(30)


def test_a_late_answer_counts(server: RecordingServer) -> None:
    """A service that answered after the time limit is not told again by the retry."""

    def cannot_render(stored: bytes) -> bytes:
        raise RenderError("the page is not there any more when the service is told")

    notifier = AppriseNotifier([json_url(server)], timeout=0.01)
    (service,) = notifier._services
    report = alert_report(render_html=cannot_render)
    send, waiting = service._send, threading.Event()

    def send_late(*arguments: Any) -> None:
        waiting.wait(30)
        send(*arguments)

    service._send = send_late  # type: ignore[method-assign]
    failure(notifier, report)
    waiting.set()
    service.join(30)
    notifier.notify(report)
    assert len(server.requests) == 1


def test_what_is_remembered_is_bounded(server: RecordingServer) -> None:
    """Alerts that nobody tries again are forgotten in time."""
    server.answers = [Answer(500)] * 120
    notifier = AppriseNotifier([json_url(server)])
    for number in range(110):
        failure(notifier, make_report(number))
    assert len(notifier._progress) == 100


def test_after_shutdown_nobody_is_told(server: RecordingServer) -> None:
    """Neither alerts nor digests are sent any more."""
    notifier = AppriseNotifier([json_url(server)])
    notifier.shutdown()
    notifier.notify(alert_report())
    notifier.notify_digest(DIGEST)
    assert server.requests == []


def test_no_spans_and_no_trace_headers(server: RecordingServer) -> None:
    """The services' threads do not inherit the suppression of instrumentation, and suppress it themselves."""
    with instrumented_requests() as (_, exporter):
        AppriseNotifier([json_url(server)]).notify(alert_report())
    assert exporter.get_finished_spans() == ()
    assert "traceparent" not in server.requests[0].headers


# -- Setting it up


@pytest.mark.parametrize(
    "wrong",
    ["bogus://T0pS3cret/pa55word", "slack://T0pS3cret", "mailto://user:pa55word@", "discord://pa55word", "T0pS3cret"],
)
def test_an_unusable_url(wrong: str, server: RecordingServer, caplog: pytest.LogCaptureFixture) -> None:
    """It is named by its scheme, in the log and by check; the other services are on."""
    notifier = AppriseNotifier([wrong, json_url(server)])
    shown = wrong.partition("://")[0] + "://" if "://" in wrong else "no scheme"
    assert f"a URL of {shown} cannot be used; the others are on" in caplog.text
    with pytest.raises(DeliveryError, match=shown):
        notifier.check()
    notifier.notify(alert_report())
    assert len(server.requests) == 1
    with pytest.raises(NotifierError, match=shown):
        AppriseNotifier([wrong])


def test_check_sends_nothing(server: RecordingServer, mailbox: Mailbox) -> None:
    """The services are named, and nobody is told anything."""
    notifier = AppriseNotifier([json_url(server), mailbox.url])
    assert notifier.check() == "would send to JSON, E-Mail (not tried)"
    assert server.requests == []


def test_from_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without URLs, and without Apprise, the notifier says what to do; its repr holds no URL."""
    with pytest.raises(NotifierError, match="set apprise_urls"):
        AppriseNotifier.from_settings(Settings())
    settings = Settings(apprise_urls=("json://user:pa55word@localhost",))
    assert "pa55word" not in repr(AppriseNotifier.from_settings(settings))
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(NotifierError, match=r"slowspan\[apprise\]"):
        AppriseNotifier.from_settings(settings)
