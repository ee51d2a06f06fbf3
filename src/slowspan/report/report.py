"""The report: a profile rendered for people, with its request's facts. What every notifier gets."""

from __future__ import annotations

import threading
from copy import copy
from typing import TYPE_CHECKING

from slowspan.report.summary import hot_lines, summarize

if TYPE_CHECKING:
    from collections.abc import Callable

    from slowspan.recording.profile import Profile
    from slowspan.report.alert import Alert
    from slowspan.report.summary import HotLine


class Report:
    """One slow request, ready to be told.

    Shared by all notifiers. The page and the compressed profile are made once, by whoever asks first; the
    others wait for it.

    Attributes:
        profile: The profile with the facts of its span and process.
        hot_lines: The lines with most own time, hottest first.
        summary: One line for logs and messages, without line breaks.
        url: Where the report can be read, or None.
        trace_url: Where the trace can be read, or None.
        alert: Why it is told now; None for notifiers that get every report.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        render_html: Callable[[bytes], bytes],
        compress: Callable[[Profile], bytes],
        url: str | None = None,
        trace_url: str | None = None,
        alert: Alert | None = None,
    ) -> None:
        self.profile = profile
        self.hot_lines: tuple[HotLine, ...] = hot_lines(profile)
        self.summary: str = summarize(profile, self.hot_lines)
        self.url = url
        self.trace_url = trace_url
        self.alert = alert
        self._render_html = render_html
        self._compress = compress
        self._made = _Made()

    def with_alert(self, alert: Alert) -> Report:
        """Return the same report for those who are told an alert. What one of them has made, both have."""
        report = copy(self)
        report.alert = alert
        return report

    def stored_profile(self) -> bytes:
        """Return the profile as it is stored: JSON, gzip-compressed.

        Runs in slices on the calling thread, which must not be a request's.
        """
        made = self._made
        with made.storing:
            if made.stored is None:
                made.stored = self._compress(self.profile)
            return made.stored

    def html(self) -> bytes:
        """Return the self-contained page, rendered in a child process.

        Returns:
            UTF-8 encoded HTML.

        Raises:
            RenderError: No child process could render it; the profile can be rendered later.
        """
        stored = self.stored_profile()
        made = self._made
        with made.rendering:
            if made.html is None:
                made.html = self._render_html(stored)
            return made.html


class _Made:
    """What a report has made so far. Who wants the profile does not wait for the page."""

    def __init__(self) -> None:
        self.storing = threading.Lock()
        self.rendering = threading.Lock()
        self.stored: bytes | None = None
        self.html: bytes | None = None
