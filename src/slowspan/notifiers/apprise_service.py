"""One of Apprise's services: the message in its form, sent on a thread of its own, and why it failed."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from slowspan import native
from slowspan.config_secrets import hide, secret_parts
from slowspan.notifiers import message
from slowspan.notifiers.registry import NotifierError
from slowspan.redaction import one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from slowspan.report.alert import Digest
    from slowspan.report.report import Report

_MAX_BODY = 4000
"""Characters of a message: nobody reads more in a chat, and the page tells the rest."""

_MAX_PROBLEM = 300


class Message(NamedTuple):
    """What is told to a service, in its form."""

    title: str
    body: str


class Progress:
    """How far one message has got."""

    def __init__(self) -> None:
        self.tries = 0
        # Added to on the services' threads, which is atomic.
        self.told: set[Service] = set()


class Service:
    """One of Apprise's services."""

    def __init__(self, plugin: Any, secrets: Collection[str]) -> None:
        import apprise

        self.name: str = str(plugin.service_name)
        self.problem: str = ""
        """What Apprise had to say on the last failure; empty while the service has not answered."""
        self._secrets = secrets
        self._apprise = apprise.Apprise([plugin])
        # Apprise 2 has services that take several formats.
        own_format = plugin.resolve_format() if hasattr(plugin, "resolve_format") else plugin.notify_format
        self._is_text = own_format == apprise.NotifyFormat.TEXT
        self._max_title: int = max(0, plugin.title_maxlen)
        self._max_body: int = min(_MAX_BODY, plugin.body_maxlen) if plugin.body_maxlen > 0 else _MAX_BODY
        self._thread: native.Thread | None = None

    def compose(self, report: Report, remark: str) -> Message:
        """Write the message on a report in the service's form and within its limits."""
        title = one_line(message.title(report), self._max_title) if self._max_title else ""
        if not self._is_text:
            return Message(title, message.markdown(report, self._max_body, remark=remark))
        ending = f"\n{remark}" if remark else ""
        body = message.plain(report, self._max_body - len(ending))
        if title:
            # What stands in the title is not said again.
            body = body.removeprefix(message.title(report)).lstrip("\n")
        return Message(title, body + ending)

    def compose_digest(self, digest: Digest) -> Message:
        """Write the message on what was held back."""
        title = "slowspan: alerts held back" if self._max_title else ""
        return Message(title, message.digest_text(digest, self._max_body))

    def start(self, progress: Progress, text: Message, page: Path | None) -> None:
        """Send on a thread of its own, unless the service still hangs with an earlier message."""
        if self._thread is not None and self._thread.is_alive():
            return
        thread = native.make_thread(partial(self._send, progress, text, page), "slowspan-apprise-service")
        try:
            thread.start()
        except RuntimeError:
            # Python 3.12 starts no thread at interpreter exit.
            self._send(progress, text, page)
        else:
            self._thread = thread

    def join(self, timeout: float) -> None:
        """Wait for the thread."""
        if self._thread is not None:
            self._thread.join(timeout)

    def _send(self, progress: Progress, text: Message, page: Path | None) -> None:
        import apprise
        from apprise.attachment.file import AttachFile
        from opentelemetry.instrumentation.utils import suppress_instrumentation

        attach_file: Any = AttachFile
        self.problem = ""
        try:
            # Suppressed again because a new thread begins with an empty context.
            with suppress_instrumentation(), _kept_to_itself() as said:
                if self._apprise.notify(
                    title=text.title,
                    body=text.body,
                    notify_type=apprise.NotifyType.WARNING,
                    body_format=apprise.NotifyFormat.TEXT if self._is_text else apprise.NotifyFormat.MARKDOWN,
                    attach=None if page is None else attach_file(path=str(page)),
                ):
                    progress.told.add(self)
                    return
            problem = said[-1] if said else "Apprise tells no reason"
        except Exception as error:  # noqa: BLE001 -- a service's own error, which may quote its URL
            problem = type(error).__name__
        self.problem = one_line(hide(" ".join(problem.split()), self._secrets), _MAX_PROBLEM).rstrip(".")


def make_service(url: str) -> Service | None:
    """Make the service of a URL; None when Apprise cannot use it.

    Raises:
        NotifierError: Apprise is not installed.
    """
    try:
        # Imported late because few use it, and it takes a second.
        import apprise
    except ImportError:
        raise NotifierError('it needs Apprise: pip install "slowspan[apprise]"') from None
    options: dict[str, Any] = {
        "async_mode": False,
        "app_id": "slowspan",
        "app_desc": "slow requests",
        "app_url": "",
        # Nothing on the disk: what services would keep there are tokens.
        "storage_mode": apprise.PersistentStoreMode.MEMORY,
    }
    if hasattr(apprise.AppriseAsset, "_service_timeout"):
        # Apprise 2 enforces its own limit with a pool of threads, for which the interpreter would wait at its exit.
        options["service_timeout"] = 0
    asset = apprise.AppriseAsset(**options)
    try:
        # Apprise's messages on a wrong URL quote it, secrets included.
        with _kept_to_itself():
            plugin = apprise.Apprise.instantiate(url, asset=asset)
    except Exception:  # noqa: BLE001 -- an error of a service's own, which may quote its URL
        return None
    return None if plugin is None else Service(plugin, {url, *secret_parts(url)})


@contextmanager
def _kept_to_itself() -> Iterator[list[str]]:
    """Keep what Apprise logs on this thread out of the log, for it holds URLs, and give the warnings instead."""
    log_filter = _ThreadFilter()
    apprise_logger = logging.getLogger("apprise")
    apprise_logger.addFilter(log_filter)
    try:
        yield log_filter.warnings
    finally:
        apprise_logger.removeFilter(log_filter)


class _ThreadFilter(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()
        self.warnings: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if record.thread != self._thread:
            return True
        if record.levelno >= logging.WARNING:
            self.warnings.append(record.getMessage())
        return False
