"""Uploads a report's page once, in the best form that the server takes."""

from __future__ import annotations

import gzip
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slowspan.notifiers.base import DeliveryError
from slowspan.notifiers.mattermost_errors import ApiError, doing
from slowspan.report.renderer import RenderError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slowspan.report.report import Report

MAX_REMEMBERED = 16
"""Reports of which the upload is remembered: retries come within minutes, of a few reports at a time."""

_TRIES = 2
_NOT_ALLOWED = (403, 501)
_TRY_AGAIN = (401, 429)
_FINAL = (400, 404, 405)
"""What no further try mends: without the page the post may well pass, and where not, it says why itself."""


@dataclass(slots=True)
class Attachment:
    """What has become of one report's page."""

    file_ids: tuple[str, ...] = ()
    remark: str = ""
    """A sentence for the reader when the page itself is not attached."""
    failures: int = 0
    settled: bool = False


class Uploads:
    """Uploads pages, and remembers the files until they are posted, so that a further try does not upload again.

    Args:
        driver: The driver, logged in at each call.
    """

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._attachments: OrderedDict[tuple[str, int], Attachment] = OrderedDict()

    def attach(self, report: Report, channel_id: str, max_size: int | None) -> Attachment:
        """Upload a report's page, where that was not done before.

        A page that cannot be made or uploaded does not keep the alert back: after two failures it goes without.

        Args:
            report: The report.
            channel_id: The channel that the file is for.
            max_size: The most bytes that the server takes, where known.

        Returns:
            The files to post, and a word on them.

        Raises:
            ApiError: The upload was refused for now.
            DeliveryError: There was no answer.
        """
        attachment = self._remembered(report)
        if attachment.settled:
            return attachment
        try:
            attachment.file_ids, attachment.remark = self._upload_best(report, channel_id, max_size)
        except RenderError:
            attachment.remark = f"There is no page, for it could not be made: see `slowspan show {report.profile.id}`."
        except (ApiError, DeliveryError) as error:
            status = error.status if isinstance(error, ApiError) else None
            if status in _NOT_ALLOWED:
                attachment.remark = "The page is not attached: this account may not upload files."
                return attachment
            if status in _TRY_AGAIN:
                raise
            attachment.failures += 1
            if attachment.failures < _TRIES and status not in _FINAL:
                raise
            attachment.remark = "The page is not attached: uploading it failed."
        attachment.settled = True
        return attachment

    def forget(self, report: Report) -> None:
        """Forget the files of a report that was posted."""
        self._attachments.pop(_key(report), None)

    def _remembered(self, report: Report) -> Attachment:
        attachment = self._attachments.setdefault(_key(report), Attachment())
        self._attachments.move_to_end(_key(report))
        while len(self._attachments) > MAX_REMEMBERED:
            self._attachments.popitem(last=False)
        return attachment

    def _upload_best(self, report: Report, channel_id: str, max_size: int | None) -> tuple[tuple[str, ...], str]:
        for file_name, content_type, content, remark in _forms(report):
            if max_size is None or len(content) <= max_size:
                file_id = self._upload(channel_id, file_name, content_type, content)
                if file_id:
                    return (file_id,), remark
        return (), "The page is not attached: it is larger than this server takes."

    def _upload(self, channel_id: str, file_name: str, content_type: str, content: bytes) -> str:
        """Upload a file and return its id, or nothing when it is too large."""
        try:
            with doing("upload"):
                answer = self._driver.files.upload_file(channel_id, {"files": (file_name, content, content_type)})
        except ApiError as error:
            if error.status == 413:
                return ""
            raise
        try:
            return str(answer["file_infos"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise DeliveryError("Mattermost's answer to an upload names no file") from None


def _key(report: Report) -> tuple[str, int]:
    # A partial report and the final one of the same request have different pages.
    return report.profile.id, report.profile.duration_ns


def _forms(report: Report) -> Iterator[tuple[str, str, bytes, str]]:
    """Yield the report as files, from the best form to the smallest: name, type, content, remark for the reader."""
    name = report.profile.name
    page = report.html()
    yield f"{name}.html", "text/html", page, ""
    too_large = "The page is larger than this server takes"
    compressed = gzip.compress(page, mtime=0)
    yield f"{name}.html.gz", "application/gzip", compressed, f"{too_large}: it is attached compressed."
    # Imported here because rendering imports pyinstrument, for what hardly ever happens.
    from slowspan.report.text import render_text

    try:
        text = render_text(report.profile).encode("utf-8", "replace")
    except RecursionError:
        return  # Its stacks are deeper than the application lets a thread go.
    yield f"{name}.txt", "text/plain", text, f"{too_large}: the report is attached as text."
