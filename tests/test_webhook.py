"""The webhook: what it posts, how it is signed, which failures are worth another try, and what it keeps secret."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import ssl
import sys
import traceback
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import requests
import trustme
from opentelemetry.instrumentation.utils import suppress_instrumentation

from http_server import RESET, SILENCE, Answer, RecordingServer, closed_port
from profiles import make_span
from reports import make_report
from slowspan.config import Settings
from slowspan.notifiers.base import DeliveryError
from slowspan.notifiers.registry import NotifierError
from slowspan.notifiers.webhook import WebhookNotifier
from slowspan.report.alert import Alert, Digest
from support import REPOSITORY, instrumented_requests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from slowspan.report.report import Report

SCHEMA = json.loads((REPOSITORY / "docs" / "webhook.schema.json").read_text(encoding="utf-8"))
SECRET_PATH = "/hooks/T0pS3cret?key=4lsoS3cret"
SECRETS = ("T0pS3cret", "4lsoS3cret", "pa55word", "k3y")
NOW = 1_795_290_252.5
ALERT = Alert(
    key="0123456789abcdef" * 2,
    told_before=True,
    seen_more=134,
    since_ns=1_780_000_000_000_000_000,
    worst_ns=8_200_000_000,
    late_ns=1_795_290_251_000_000_000,
)
DIGEST = Digest(
    hour_ns=1_795_287_600_000_000_000,
    alerts=7,
    endpoints=(("GET /orders/<id>", 5, 3_100_000_000), ("GET /a", 2, 1_200_000_000)),
    service_name="shop",
    host="web-1",
)


@pytest.fixture
def server() -> Iterator[RecordingServer]:
    with RecordingServer() as recording:
        yield recording


def make_webhook(server: RecordingServer, **options: Any) -> WebhookNotifier:
    return WebhookNotifier(server.url + SECRET_PATH, clock=lambda: NOW, **options)


def alert_report(number: int = 1, alert: Alert = ALERT, **changes: Any) -> Report:
    report = make_report(number, **changes)
    report.alert = alert
    return report


def posted(server: RecordingServer) -> dict[str, Any]:
    """Return the last body, which the published schema allows."""
    document: dict[str, Any] = json.loads(server.requests[-1].body)
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    return document


def failure(webhook: WebhookNotifier, report: Report | None = None) -> DeliveryError:
    """Return the error of a delivery; whatever is logged of it, there is no secret in it."""
    with pytest.raises(DeliveryError) as raised:
        webhook.notify(report or alert_report())
    logged = "".join(traceback.format_exception(raised.value))
    for secret in SECRETS:
        assert secret not in logged
    return raised.value


# -- What is posted


def test_the_schema_is_one() -> None:
    """The published schema is valid JSON Schema, and every object in it is closed."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$defs"]["alert"]["additionalProperties"] is False


def test_the_documented_bodies_fit_the_schema() -> None:
    """The documentation's examples are what the schema describes."""
    text = (REPOSITORY / "docs" / "webhook.md").read_text(encoding="utf-8")
    examples = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]
    assert [example["format"] for example in examples] == ["slowspan.alert", "slowspan.digest"]
    for example in examples:
        jsonschema.Draft202012Validator(SCHEMA).validate(example)


def test_an_alert(server: RecordingServer) -> None:
    """The facts of the report, in seconds and RFC 3339, in the published form."""
    make_webhook(server).notify(alert_report(url="https://reports.example.com/1"))
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", SECRET_PATH)
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["User-Agent"].startswith("slowspan/")
    body = posted(server)
    assert body["format"] == "slowspan.alert"
    assert body["duration"] == pytest.approx(1.42)
    assert body["start_time"] == "2026-11-21T19:44:10.123Z"
    assert body["request"]["endpoint"] == "GET /orders/<id>"
    assert body["request"]["parameters"][1] == {"name": "token", "value": "[redacted]"}
    assert body["hot_lines"][0]["line"] == 41
    assert body["report_url"] == "https://reports.example.com/1"
    assert body["alert"]["seen_more"] == 134
    assert body["alert"]["worst_duration"] == 8.2
    assert body["alert"]["since"].startswith("2026-05-")
    assert body["test"] is False


@pytest.mark.parametrize(
    "report",
    [
        make_report(1),
        alert_report(2, running=True),
        alert_report(3, alert=Alert(key="0" * 32, is_test=True)),
        alert_report(4, records=[], duration_ns=2_000_000_000, cpu_time_ns=None),
        alert_report(5, span=make_span(method=None, route=None, path=None, status_code=None, service_name=None)),
        alert_report(6, span=make_span(kind="CONSUMER", route="x" * 5000, path="\ud800\r\n\0</script>", error=True)),
    ],
    ids=["no alert", "running", "test", "no samples", "bare", "hostile"],
)
def test_every_report_fits_the_schema(server: RecordingServer, report: Report) -> None:
    """Missing facts are null, hostile ones are bounded and on one line, and all of it is ASCII."""
    make_webhook(server).notify(report)
    assert posted(server)["id"] == report.profile.id
    assert server.requests[-1].body.isascii()
    assert b"\\ud800" not in server.requests[-1].body.replace(b"\\\\ud800", b"")


def test_a_digest(server: RecordingServer) -> None:
    """What was held back is one object of its own format."""
    make_webhook(server).notify_digest(DIGEST)
    body = posted(server)
    assert body["format"] == "slowspan.digest"
    assert body["endpoints"][0] == {"endpoint": "GET /orders/<id>", "alerts": 5, "worst_duration": 3.1}


def test_the_signature(server: RecordingServer) -> None:
    """A receiver that knows the secret can check that body and time are ours."""
    make_webhook(server, secret="k3y").notify(alert_report())
    (request,) = server.requests
    timestamp = request.headers["X-Slowspan-Timestamp"]
    assert timestamp == "1795290252"
    expected = hmac.new(b"k3y", timestamp.encode() + b"." + request.body, hashlib.sha256).hexdigest()
    assert request.headers["X-Slowspan-Signature"] == f"sha256={expected}"


def test_without_a_secret_nothing_is_signed(server: RecordingServer) -> None:
    """No header claims a signature that there is not."""
    make_webhook(server).notify(alert_report())
    assert not [name for name in server.requests[0].headers if name.lower().startswith("x-slowspan")]


def test_a_retry_has_the_same_key(server: RecordingServer) -> None:
    """A receiver can tell a repeated alert from another one, a partial from a final one, a digest from the next."""
    webhook = make_webhook(server)
    for report in (alert_report(1), alert_report(1), alert_report(1, running=True), alert_report(2)):
        webhook.notify(report)
    webhook.notify_digest(DIGEST)
    webhook.notify_digest(DIGEST)
    keys = [request.headers["Idempotency-Key"] for request in server.requests]
    assert keys[0] == keys[1]
    assert keys[4] == keys[5]
    assert len(set(keys)) == 4


# -- Failures


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 413, 422])
def test_refused(server: RecordingServer, status: int) -> None:
    """What the same request cannot change is not tried again."""
    server.answers = [Answer(status, {"Retry-After": "5"}, b"no k3y here")]
    error = failure(make_webhook(server))
    assert str(error) == f"{server.url} answered {status}"
    assert (error.retry, error.retry_after) == (False, None)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503])
def test_not_now(server: RecordingServer, status: int) -> None:
    """Overload and failures of the other side are worth another try."""
    server.answers = [Answer(status)]
    error = failure(make_webhook(server))
    assert (error.retry, error.retry_after) == (True, None)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("17", 17.0),
        ("999999999", 3600.0),
        ("Sat, 21 Nov 2026 19:44:42 GMT", pytest.approx(29.5)),
        ("Sat, 21 Nov 2020 19:44:42 GMT", 0.0),
        ("soon", None),
        ("-5", None),
    ],
)
def test_retry_after(server: RecordingServer, header: str, seconds: float | None) -> None:
    """Seconds and dates are understood, within bounds; nonsense counts as nothing."""
    server.answers = [Answer(429, {"Retry-After": header})]
    assert failure(make_webhook(server)).retry_after == seconds


def test_a_redirect_is_not_followed(server: RecordingServer) -> None:
    """The report goes nowhere but where it was configured to go; the message says what to do."""
    with RecordingServer() as other:
        server.answers = [Answer(307, {"Location": other.url + "/elsewhere"})]
        error = failure(make_webhook(server, secret="k3y"))
        assert other.requests == []
    assert not error.retry
    assert "set webhook_url to the address it leads to" in str(error)


def test_nobody_listens() -> None:
    """A server that is away is told by its host, without the path."""
    port = closed_port()
    error = failure(WebhookNotifier(f"http://user:pa55word@127.0.0.1:{port}{SECRET_PATH}"))
    assert error.retry
    assert str(error).startswith(f"cannot reach http://127.0.0.1:{port}: ")
    assert "refused" in str(error)


def test_an_unknown_host() -> None:
    """A name that does not resolve is an ordinary failure."""
    error = failure(WebhookNotifier(f"http://nowhere.invalid{SECRET_PATH}"))
    assert error.retry
    assert str(error).startswith("cannot reach http://nowhere.invalid: ")


@pytest.mark.parametrize("fault", [RESET, SILENCE])
def test_a_lost_answer(server: RecordingServer, fault: str) -> None:
    """A reset connection and a silent server end in time, and are tried again."""
    server.answers = [fault]
    assert failure(make_webhook(server, timeout=0.3)).retry


def test_an_answer_without_end_is_not_read(server: RecordingServer) -> None:
    """The status is all that counts: a body of any length costs nothing."""
    server.answers = [Answer(204, {"X-Padding": "x"}, b""), Answer(200, {}, b"x" * 50_000_000)]
    webhook = make_webhook(server, timeout=5.0)
    webhook.notify(alert_report(1))
    webhook.notify(alert_report(2))
    assert len(server.requests) == 2


def test_tls_with_an_unknown_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate is checked; one of an own authority is accepted where the environment names it."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    with RecordingServer(tls=context) as server:
        problem = str(failure(make_webhook(server)))
        assert "unable to get local issuer certificate; REQUESTS_CA_BUNDLE" in problem
        assert server.requests == []
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
        make_webhook(server).notify(alert_report())
        assert len(server.requests) == 1


# -- Around it


def test_check_tells_nobody(server: RecordingServer) -> None:
    """Checking sends no body; any answer shows that somebody is there."""
    server.answers = [Answer(405)]
    line = make_webhook(server, secret="k3y").check()
    assert line == f"{server.url} answers (405 to OPTIONS); alerts are signed"
    (request,) = server.requests
    assert (request.method, request.body) == ("OPTIONS", b"")
    with pytest.raises(DeliveryError, match="cannot reach"):
        WebhookNotifier(f"http://127.0.0.1:{closed_port()}").check()


def test_from_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a URL, and without requests, the notifier says what to do."""
    with pytest.raises(NotifierError, match="set webhook_url"):
        WebhookNotifier.from_settings(Settings())
    settings = Settings(webhook_url="https://example.com/hook", webhook_secret="k3y")
    assert "k3y" not in repr(WebhookNotifier.from_settings(settings))
    monkeypatch.setitem(sys.modules, "requests", None)
    with pytest.raises(NotifierError, match=r"slowspan\[webhook\]"):
        WebhookNotifier.from_settings(settings)


def test_no_spans_and_no_trace_headers(server: RecordingServer, caplog: pytest.LogCaptureFixture) -> None:
    """On a delivery thread, where instrumentation is suppressed, the post makes no span and carries no trace."""
    caplog.set_level(logging.DEBUG)
    with instrumented_requests() as (tracer, exporter), tracer.start_as_current_span("request"):
        requests.get(server.url, timeout=5).close()
        with suppress_instrumentation():
            make_webhook(server).notify(alert_report())
    assert [span.name for span in exporter.get_finished_spans()] == ["GET", "request"]
    control, post = server.requests
    assert "traceparent" in control.headers
    assert "traceparent" not in post.headers
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("slowspan")]
    assert not [line for line in ours for secret in SECRETS if secret in line]
