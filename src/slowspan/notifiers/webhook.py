"""The notifier ``webhook``: each alert's facts as JSON, signed, to one URL. The body: ``docs/webhook.md``."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from slowspan._version import __version__
from slowspan.notifiers.base import DeliveryError
from slowspan.notifiers.http import CONNECT_TIMEOUT, is_tls_error, reason, retry_after, shown_address, time_limit
from slowspan.notifiers.registry import NotifierError
from slowspan.redaction import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from slowspan.config import Settings
    from slowspan.report.alert import Alert, Digest
    from slowspan.report.report import Report
    from slowspan.report.summary import HotLine

FORMAT = "slowspan.alert"
DIGEST_FORMAT = "slowspan.digest"
VERSION = 1

_MAX_TEXT = 500

_OF_MESSAGE = (400, 413, 422)
"""Answers that refuse one report for its content or its size."""

_RETRIED = frozenset({408, 425, 429})
"""Answers below 500 after which the same request can succeed later: timeout, too early, too many requests."""


class WebhookNotifier:
    """Posts each alert, and each digest, as one JSON object.

    Redirects are not followed: they would lead the report, and its signature, to a server that nobody has configured.
    The URL may be a secret, so messages show its scheme and host only.

    Args:
        url: Where to post.
        secret: Key of the signature; None for none.
        timeout: Seconds for connection and answer together.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: str | None = None,
        timeout: float = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._url = url
        self._shown_url = shown_address(url)
        self._secret = secret
        connecting = min(CONNECT_TIMEOUT, timeout / 3)
        self._timeout = (connecting, timeout - connecting)
        self._clock = clock
        self._is_shut_down = False

    @classmethod
    def from_settings(cls, settings: Settings) -> WebhookNotifier:
        """Make the notifier.

        Raises:
            NotifierError: No URL is set, or requests is not installed.
        """
        if settings.webhook_url is None:
            raise NotifierError("set webhook_url to the URL that takes the alerts")
        try:
            # Imported late because only those who use it need it, and it costs more than all of slowspan.
            import requests  # noqa: F401
        except ImportError:
            raise NotifierError('it needs requests: pip install "slowspan[webhook]"') from None
        return cls(settings.webhook_url, secret=settings.webhook_secret, timeout=time_limit(settings))

    def notify(self, report: Report) -> None:
        """Post one alert.

        Raises:
            DeliveryError: It was not accepted, or the other side was not reached.
        """
        if not self._is_shut_down:
            state = "-running" if report.profile.running else ""
            self._post(alert_body(report), key=report.profile.id + state)

    def notify_digest(self, digest: Digest) -> None:
        """Post what was held back in one hour.

        Raises:
            DeliveryError: As ``notify``.
        """
        if not self._is_shut_down:
            body = digest_body(digest)
            self._post(body, key=hashlib.sha256(body).hexdigest()[:32])

    def check(self) -> str:
        """Ask the URL for its methods (``OPTIONS``), which tells nobody anything.

        Returns:
            What was found. Any answer shows that the server is there, since few receivers know the method.

        Raises:
            DeliveryError: The server cannot be reached.
        """
        status, _ = self._send("OPTIONS", b"", {})
        signed = "signed" if self._secret else "not signed, since webhook_secret is not set"
        return f"{self._shown_url} answers ({status} to OPTIONS); alerts are {signed}"

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002 -- the protocol's signature
        """Return True: nothing is held back."""
        return True

    def shutdown(self) -> None:
        """Post no more."""
        self._is_shut_down = True

    def _post(self, body: bytes, key: str) -> None:
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        if self._secret is not None:
            timestamp = str(int(self._clock()))
            headers["X-Slowspan-Timestamp"] = timestamp
            headers["X-Slowspan-Signature"] = f"sha256={signature(self._secret, timestamp, body)}"
        status, wait = self._send("POST", body, headers)
        if 200 <= status < 300:
            return
        problem = f"{self._shown_url} answered {status}"
        if 300 <= status < 400:
            problem += ": a redirect, which is not followed; set webhook_url to the address it leads to"
        retry = status >= 500 or status in _RETRIED
        seconds = retry_after(wait, self._clock()) if retry else None
        raise DeliveryError(problem, retry=retry, retry_after=seconds, of_message=status in _OF_MESSAGE)

    def _send(self, method: str, body: bytes, headers: dict[str, str]) -> tuple[int, str | None]:
        """Return the answer's status and its ``Retry-After``."""
        # Imported where it is used: see from_settings.
        import requests

        try:
            # The answer's body is not read: nothing is done with it, and it may never end.
            with requests.request(
                method,
                self._url,
                data=body,
                headers={"User-Agent": f"slowspan/{__version__}", **headers},
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
            ) as answer:
                return answer.status_code, answer.headers.get("Retry-After")
        except (requests.RequestException, OSError, ValueError) as error:
            # Not chained: the text of these errors quotes the URL, which may be a secret.
            advice = "; REQUESTS_CA_BUNDLE names the certificates of an own CA" if is_tls_error(error) else ""
            problem = f"cannot reach {self._shown_url}: {reason(error)}{advice}"
            raise DeliveryError(problem, retry=not isinstance(error, ValueError)) from None


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return the signature of a body.

    Args:
        secret: ``webhook_secret``.
        timestamp: Unix time in whole seconds, as the header ``X-Slowspan-Timestamp`` says it: a request that somebody
            recorded cannot be sent again later.
        body: The request's body.

    Returns:
        HMAC-SHA-256 of timestamp, full stop and body, in hexadecimal digits.
    """
    return hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def alert_body(report: Report) -> bytes:
    """Return the JSON object on one report: ASCII, the same for the same report."""
    profile, span = report.profile, report.profile.span
    return _encode(
        {
            "format": FORMAT,
            "version": VERSION,
            "test": report.alert is not None and report.alert.is_test,
            "summary": report.summary,
            "id": profile.id,
            "running": profile.running,
            "start_time": _moment(profile.start_time_ns),
            "duration": profile.duration_ns / 1e9,
            "threshold": profile.threshold_ns / 1e9,
            "cpu_time": None if profile.cpu_time_ns is None else profile.cpu_time_ns / 1e9,
            "request": {
                "endpoint": _text(span.endpoint),
                "kind": span.kind,
                "method": _text(span.method),
                "route": _text(span.route),
                "path": _text(span.path),
                "parameters": [{"name": _text(name), "value": _text(value)} for name, value in span.parameters],
                "status_code": span.status_code,
                "error": span.error,
            },
            "service": {"name": _text(span.service_name), "version": _text(span.service_version)},
            "host": _text(profile.process.host),
            "pid": profile.process.pid,
            "trace": {
                "trace_id": span.trace_id,
                "span_id": span.span_id,
                "sampled": span.sampled,
                "url": report.trace_url,
            },
            "report_url": report.url,
            "hot_lines": [_hot_line(line) for line in report.hot_lines],
            "notes": [_text(note) for note in profile.notes],
            "alert": None if report.alert is None else _alert(report.alert),
        }
    )


def digest_body(digest: Digest) -> bytes:
    """Return the JSON object on what was held back in one hour."""
    return _encode(
        {
            "format": DIGEST_FORMAT,
            "version": VERSION,
            "hour": _moment(digest.hour_ns),
            "alerts": digest.alerts,
            "endpoints": [
                {"endpoint": _text(endpoint), "alerts": alerts, "worst_duration": worst_ns / 1e9}
                for endpoint, alerts, worst_ns in digest.endpoints
            ],
            "service": {"name": _text(digest.service_name)},
            "host": _text(digest.host),
        }
    )


def _alert(alert: Alert) -> dict[str, Any]:
    return {
        "key": alert.key,
        "told_before": alert.told_before,
        "seen_more": alert.seen_more,
        "since": _moment(alert.since_ns) if alert.since_ns else None,
        "worst_duration": alert.worst_ns / 1e9 if alert.worst_ns else None,
        "late_since": _moment(alert.late_ns) if alert.late_ns else None,
    }


def _hot_line(line: HotLine) -> dict[str, Any]:
    return {
        "share": round(line.share, 4),
        "wall_time": line.wall_ns / 1e9,
        "cpu_time": line.cpu_ns / 1e9,
        "file": _text(line.file) or None,
        "line": line.line or None,
        "function": _text(line.function),
        "class": _text(line.class_name),
    }


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def _text(text: str | None) -> str | None:
    return None if text is None else one_line(text, _MAX_TEXT)


def _moment(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest // 1_000_000:03d}Z"
