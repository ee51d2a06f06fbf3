"""The notifier ``apprise``: alerts to any of Apprise's services, the page attached where the service can."""

from __future__ import annotations

import logging
import shutil
import time
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from slowspan.delivery.naming import PAGE_SUFFIX
from slowspan.notifiers.apprise_service import Progress, make_service
from slowspan.notifiers.base import DeliveryError
from slowspan.notifiers.http import time_limit
from slowspan.notifiers.registry import NotifierError
from slowspan.redaction import one_line
from slowspan.report.renderer import RenderError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from slowspan.config import Settings
    from slowspan.notifiers.apprise_service import Message, Service
    from slowspan.report.alert import Digest
    from slowspan.report.report import Report

_TRIES_IN_A_ROW = 4
"""The last of these tries goes without the page: a service may refuse files while it takes text, for want of a
permission or for their size, and Apprise does not tell the reason."""

_REMEMBERED = 100
"""Messages that are partly told and may be tried again: more than wait for delivery at a time."""

_logger = logging.getLogger("slowspan")


class AppriseNotifier:
    """Sends each alert to all services at the same time, and each service the same alert only once.

    Args:
        urls: Apprise's URLs, one for each service; secrets, of which only the scheme is ever shown.
        timeout: Seconds to wait for the services.

    Raises:
        NotifierError: No URL can be used, or Apprise is not installed.
    """

    def __init__(self, urls: Sequence[str], *, timeout: float = 30.0) -> None:
        made = [make_service(url) for url in urls]
        self._services = [service for service in made if service is not None]
        self._unusable = [_scheme(url) for url, service in zip(urls, made, strict=True) if service is None]
        if not self._services:
            raise NotifierError(f"none of the URLs in apprise_urls can be used ({_names(self._unusable)})")
        if self._unusable:
            _logger.warning("apprise_urls: a URL of %s cannot be used; the others are on", _names(self._unusable))
        self._timeout = timeout
        self._progress: OrderedDict[str, Progress] = OrderedDict()
        self._is_shut_down = False

    @classmethod
    def from_settings(cls, settings: Settings) -> AppriseNotifier:
        """Make the notifier; imports Apprise, and its services, which takes about a second."""
        if not settings.apprise_urls:
            raise NotifierError("set apprise_urls to the URLs of the services")
        return cls(settings.apprise_urls, timeout=time_limit(settings))

    def notify(self, report: Report) -> None:
        """Tell all services that have not yet been told.

        Raises:
            DeliveryError: A service failed; another call for the same report tells those alone.
        """
        if self._is_shut_down:
            return
        key = f"{report.profile.id} {report.profile.running}"
        with _page_file(report) as page:
            remark = "" if page is not None else "The page could not be attached."
            self._tell_all(key, lambda service: service.compose(report, remark), page)

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

    def _tell_all(self, key: str, compose: Callable[[Service], Message], page: Path | None) -> None:
        progress = self._progress.setdefault(key, Progress())
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
        failed = [
            f"{service.name} did not take it: {service.problem or 'no answer in time'}"
            for service in waiting
            if service not in progress.told
        ]
        if failed:
            raise DeliveryError("; ".join(dict.fromkeys(failed)))
        del self._progress[key]


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
