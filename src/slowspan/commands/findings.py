"""What ``slowspan check`` finds, and trying something with a time limit."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry.instrumentation.utils import suppress_instrumentation

from slowspan.config_secrets import hide, secrets_of
from slowspan.redaction import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Literal

    from slowspan.config import Settings

    State = Literal["ok", "fail", "off", "set", "untried"]

LIMIT = 1000
"""Characters of a finding: an error's text can be a whole page."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the result."""

    area: str
    """``environment``, ``settings``, ``storage`` or ``channels``."""
    name: str
    state: State
    text: str
    """One line: what was found; for ``fail`` what went wrong, and what to do."""
    seconds: float | None = None
    """How long it took, where something was tried."""


class Attempt:
    """Does something on a thread of its own, with OpenTelemetry's instrumentation suppressed, and waits so long.

    What hangs keeps its daemon thread.

    Args:
        work: Returns what was found.
        limit: Seconds.
        name: For the thread's name.
    """

    def __init__(self, work: Callable[[], str], limit: float, name: str) -> None:
        self._work = work
        self._limit = limit
        self._ended = threading.Event()
        self._result = ""
        self._error: BaseException | None = None
        self._started_at = time.monotonic()
        self.seconds: float = limit
        threading.Thread(target=self._run, name=f"check-{name}", daemon=True).start()

    def _run(self) -> None:
        try:
            with suppress_instrumentation():
                self._result = self._work()
        except BaseException as error:  # noqa: BLE001 - SystemExit too: a thread that ends without a word would hang
            self._error = error
        self.seconds = time.monotonic() - self._started_at
        self._ended.set()

    def result(self) -> str:
        """Wait for what was found.

        Raises:
            TimeoutError: It took too long.
            Exception: What the work raised.
        """
        if not self._ended.wait(max(0.0, self._started_at + self._limit - time.monotonic())):
            raise TimeoutError
        if self._error is not None:
            raise self._error
        return self._result


@contextmanager
def warnings_of_slowspan() -> Iterator[list[str]]:
    """Collect what slowspan logs in the block as warnings or errors, instead of logging it."""
    logger = logging.getLogger("slowspan")
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            cause = record.exc_info[1] if record.exc_info else None
            messages.append(text if cause is None else f"{text} ({type(cause).__name__})")

    collector, propagate, level = Collector(logging.WARNING), logger.propagate, logger.level
    logger.addHandler(collector)
    logger.propagate = False
    logger.setLevel(min(level or logging.WARNING, logging.WARNING))
    try:
        yield messages
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagate
        logger.setLevel(level)


def without_secrets(text: str, settings: Settings) -> str:
    """Make any text fit for a finding: one line, bounded, no secret of the settings in it.

    Errors of libraries quote URLs and headers.
    """
    return one_line(" ".join(hide(text, secrets_of(settings)).split()), LIMIT)
