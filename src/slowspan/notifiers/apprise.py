"""The notifier ``apprise``: alerts to any of Apprise's services, the page attached where the service can."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from slowspan.delivery.naming import PAGE_SUFFIX
from slowspan.notifiers import message
from slowspan.notifiers.base import DeliveryError
from slowspan.notifiers.registry import NotifierError
from slowspan.redaction import one_line
from slowspan.report.renderer import RenderError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from slowspan.config import Settings
    from slowspan.report.alert import Digest
    from slowspan.report.report import Report

_MAX_BODY = 4000
"""Characters of a message: nobody reads more in a chat, and the page tells the rest."""

_TRIES_IN_A_ROW = 4
"""The last of these tries goes without the page: a service may refuse files while it takes text, for want of a
permission or for their size, and Apprise does not tell the reason."""

_SHARE_OF_LIMIT = 0.9

_REMEMBERED = 100
"""Messages that are partly told and may be tried again: more than wait for delivery at a time."""

_logger = logging.getLogger("slowspan")


class Message(NamedTuple):
    """What is told to a service, in its form."""

    title: str
    body: str


class AppriseNotifier:
    """Sends each alert to all services at the same time, and each service the same alert only once.

    Args:
        urls: Apprise's URLs, one for each service; secrets, of which only the scheme is ever shown.
        timeout: Seconds to wait for the services.

    Raises:
        NotifierError: No URL can be used, or Apprise is not installed.
    """

    def __init__(self, urls: Sequence[str], *, timeout: float = 30.0) -> None:
        made = [_make_service(url) for url in urls]
        self._services = [service for service in made if service is not None]
        self._unusable = [_scheme(url) for url, service in zip(urls, made, strict=True) if service is None]
        if not self._services:
            raise NotifierError(f"none of the URLs in apprise_urls can be used ({_names(self._unusable)})")
        if self._unusable:
            _logger.warning("apprise_urls: a URL of %s cannot be used; the others are on", _names(self._unusable))
        self._timeout = timeout
        self._progress: OrderedDict[str, _Progress] = OrderedDict()
        self._is_shut_down = False

    @classmethod
    def from_settings(cls, settings: Settings) -> AppriseNotifier:
        """Make the notifier; imports Apprise, and its services, which takes about a second."""
        if not settings.apprise_urls:
            raise NotifierError("set apprise_urls to the URLs of the services")
        # Less than the limit on the whole try, so that the services that failed are told by name.
        return cls(settings.apprise_urls, timeout=_SHARE_OF_LIMIT * settings.notify_timeout)

    def notify(self, report: Report) -> None:
        """Tell all services that have not yet been told.

        Raises:
            DeliveryError: A service failed; another call for the same report tells those alone.
        """
        if self._is_shut_down:
            return
        key = f"{report.profile.id} {report.profile.running}"
        with _page_file(report) as page:
            remarks = () if page is not None else ("The page could not be attached.",)
            self._tell_all(key, lambda service: service.compose(report, remarks), page)

    def notify_digest(self, digest: Digest) -> None:
        """Tell all services what was held back.

        Raises:
            DeliveryError: As ``notify``.
        """
        if not self._is_shut_down:
            self._tell_all(f"digest {digest.hour_ns}", lambda service: service.compose_digest(digest), None)

    def check(self) -> str:
        """Tell which services the URLs name. Apprise offers no way to reach them without sending something.

        Raises:
            DeliveryError: A URL cannot be used.
        """
        if self._unusable:
            raise DeliveryError(f"a URL of {_names(self._unusable)} in apprise_urls cannot be used", retry=False)
        return f"would send to {_names([service.name for service in self._services])} (not tried)"

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002 -- the protocol's signature
        """Return True: nothing is held back."""
        return True

    def shutdown(self) -> None:
        """Tell no more."""
        self._is_shut_down = True

    def _tell_all(self, key: str, compose: Callable[[_Service], Message], page: Path | None) -> None:
        progress = self._progress.setdefault(key, _Progress())
        self._progress.move_to_end(key)
        while len(self._progress) > _REMEMBERED:
            self._progress.popitem(last=False)
        progress.tries += 1
        attached = page if progress.tries % _TRIES_IN_A_ROW else None
        waiting = [service for service in self._services if service not in progress.told]
        for service in waiting:
            service.start(progress, compose(service), attached)
        deadline = time.monotonic() + self._timeout
        for service in waiting:
            service.join(max(0.0, deadline - time.monotonic()))
        failed = [service.name for service in waiting if service not in progress.told]
        if failed:
            raise DeliveryError(f"{_names(failed)} did not take it; the log of apprise says why")
        del self._progress[key]


class _Progress:
    """How far one message has got."""

    def __init__(self) -> None:
        self.tries = 0
        # Added to on the services' threads, which is atomic.
        self.told: set[_Service] = set()


class _Service:
    """One of Apprise's services."""

    def __init__(self, plugin: Any) -> None:
        import apprise

        self.name = str(plugin.service_name)
        self._apprise = apprise.Apprise([plugin])
        # Apprise 2 has services that take several formats.
        own_format = plugin.resolve_format() if hasattr(plugin, "resolve_format") else plugin.notify_format
        self._is_text = own_format == apprise.NotifyFormat.TEXT
        self._max_title: int = max(0, plugin.title_maxlen)
        self._max_body: int = min(_MAX_BODY, plugin.body_maxlen) if plugin.body_maxlen > 0 else _MAX_BODY
        self._thread: threading.Thread | None = None

    def compose(self, report: Report, remarks: Sequence[str]) -> Message:
        """Write the message on a report in the service's form and within its limits."""
        title = one_line(message.title(report), self._max_title) if self._max_title else ""
        if not self._is_text:
            return Message(title, message.markdown(report, self._max_body, remarks=remarks))
        ending = "".join(f"\n{remark}" for remark in remarks)
        body = message.plain(report, self._max_body - len(ending))
        if title:
            # What stands in the title is not said again.
            body = body.removeprefix(message.title(report)).lstrip("\n")
        return Message(title, body + ending)

    def compose_digest(self, digest: Digest) -> Message:
        """Write the message on what was held back."""
        title = "slowspan: alerts held back" if self._max_title else ""
        return Message(title, message.digest_text(digest, self._max_body))

    def start(self, progress: _Progress, text: Message, page: Path | None) -> None:
        """Send on a thread of its own, unless the service still hangs with an earlier message."""
        if self._thread is not None and self._thread.is_alive():
            return
        thread = threading.Thread(
            target=self._send, args=(progress, text, page), name="slowspan-apprise-service", daemon=True
        )
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

    def _send(self, progress: _Progress, text: Message, page: Path | None) -> None:
        import apprise
        from apprise.attachment.file import AttachFile
        from opentelemetry.instrumentation.utils import suppress_instrumentation

        attach_file: Any = AttachFile
        try:
            # Suppressed again because a new thread begins with an empty context.
            with suppress_instrumentation(), _quiet(logging.WARNING):
                if self._apprise.notify(
                    title=text.title,
                    body=text.body,
                    notify_type=apprise.NotifyType.WARNING,
                    body_format=apprise.NotifyFormat.TEXT if self._is_text else apprise.NotifyFormat.MARKDOWN,
                    attach=None if page is None else attach_file(path=str(page)),
                ):
                    progress.told.add(self)
        except Exception as error:  # noqa: BLE001 -- a service's own error, which may quote its URL
            _logger.warning("apprise: %s failed with %s", self.name, type(error).__name__)


def _make_service(url: str) -> _Service | None:
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
        with _quiet(logging.CRITICAL):
            plugin = apprise.Apprise.instantiate(url, asset=asset)
    except Exception:  # noqa: BLE001 -- an error of a service's own, which may quote its URL
        return None
    return None if plugin is None else _Service(plugin)


@contextmanager
def _quiet(level: int) -> Iterator[None]:
    """Keep what Apprise logs on this thread below a level to itself: it holds URLs."""
    thread = threading.get_ident()
    log_filter = _ThreadFilter(thread, level)
    apprise_logger = logging.getLogger("apprise")
    apprise_logger.addFilter(log_filter)
    try:
        yield
    finally:
        apprise_logger.removeFilter(log_filter)


class _ThreadFilter(logging.Filter):
    def __init__(self, thread: int, level: int) -> None:
        super().__init__()
        self._thread = thread
        self._level = level

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread != self._thread or record.levelno >= self._level


@contextmanager
def _page_file(report: Report) -> Iterator[Path | None]:
    """Give the page as a private file for the time of the block; None where there is no page.

    A file, because several of Apprise's services read attachments by their path.
    """
    # Imported late because it is heavy.
    import tempfile

    folder: Path | None = None
    path: Path | None = None
    try:
        page = report.html()
        # mkdtemp makes the directory private, which hides the file whatever the umask.
        folder = Path(tempfile.mkdtemp(prefix="slowspan-apprise-"))
        written = folder / (report.profile.name + PAGE_SUFFIX)
        written.touch(mode=0o600)
        written.write_bytes(page)
        path = written
    except (RenderError, OSError) as error:
        # A message without the page is better than none, as on a full disk.
        _logger.info("apprise: no page is attached: %s", error)
    try:
        yield path
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _scheme(url: str) -> str:
    return one_line(url.partition("://")[0], 32) + "://" if "://" in url else "no scheme"


def _names(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(names))
