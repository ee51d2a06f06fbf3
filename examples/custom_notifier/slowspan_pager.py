"""A notifier of one's own: posts one line on each slow endpoint to a pager's URL.

Only ``notify``, ``force_flush`` and ``shutdown`` are needed. A plain function that takes the report would do, too.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from slowspan import DeliveryError

if TYPE_CHECKING:
    from slowspan import Digest, Report, Settings


class PagerNotifier:
    """Posts lines of text.

    Args:
        url: Where to.
        timeout: Seconds to wait for an answer.
    """

    # receives = "reports" would get every report that is kept, instead of each slow endpoint once.

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._is_shut_down = False

    @classmethod
    def from_settings(cls, settings: Settings) -> PagerNotifier:
        """Make the notifier; called once in each process, on slowspan's delivery thread."""
        return cls(os.environ["PAGER_URL"], settings.notify_timeout)

    def notify(self, report: Report) -> None:
        """Tell one alert. What raises is tried again, unless a DeliveryError says that it is of no use."""
        line = report.summary
        if report.alert is not None and report.alert.seen_more:
            line += f" · seen {report.alert.seen_more} more times"
        self._post(line)

    def notify_digest(self, digest: Digest) -> None:
        """Tell what the limit on alerts per hour has held back. Optional."""
        self._post(f"{digest.alerts} more alerts were held back")

    def check(self) -> str:
        """Tell ``slowspan check`` whether the pager is there, without telling anybody anything. Optional."""
        self._open(urllib.request.Request(self._url, method="HEAD"))
        return "the pager answers"

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Deliver what is held back; True when nothing is."""
        return True

    def shutdown(self) -> None:
        """Deliver nothing from now on."""
        self._is_shut_down = True

    def _post(self, line: str) -> None:
        if not self._is_shut_down:
            self._open(urllib.request.Request(self._url, line.encode("utf-8", "replace"), method="POST"))

    def _open(self, request: urllib.request.Request) -> None:
        try:
            urllib.request.urlopen(request, timeout=self._timeout).close()
        except urllib.error.HTTPError as error:
            # The URL stays out of all messages: a pager's URL is a secret. A 4xx would be refused the next time, too.
            raise DeliveryError(f"the pager answered {error.code}", retry=error.code >= 500) from None
        except OSError:
            raise DeliveryError("the pager cannot be reached") from None
