"""The span processors that are measured."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar

from bench.figures import HANDICAP_VARIABLE
from slowspan import SlowSpanProcessor
from slowspan.report.report import Report


class _Handicapped(SlowSpanProcessor):
    """A slowspan that is too slow and too fat for every target: a benchmark that lets it pass proves nothing.

    Where it is switched off, for a control, it wastes nothing.
    """

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self._watcher.enabled:
            self._waste()
        super().on_start(span, parent_context)

    def on_end(self, span: Any) -> None:
        duration = (span.end_time - span.start_time) / 1e9
        if duration > 0.01 and self._watcher.enabled:
            _burn(min(0.08 * duration, 0.1))

    def _waste(self) -> None:
        _burn(0.00001)


class _HandicappedDefault(_Handicapped):
    def _resolve(self, finished: Any, facts: Any) -> Any:
        _burn(0.1)
        return super()._resolve(finished, facts)


class _HandicappedSilent(_Handicapped):
    _ballast: ClassVar[deque[bytearray]] = deque(maxlen=100)

    def _waste(self) -> None:
        self._ballast.append(bytearray(400_000))
        super()._waste()


def greedy() -> dict[str, Any]:
    """Return the settings of a sampler that keeps to no budget, if slowspan is to be made worse on purpose."""
    return {"overhead_budget": 1, "interval": 0.001} if os.environ.get(HANDICAP_VARIABLE) else {}


NO_LIMIT = 1_000_000
"""Reports an hour: more than are made here, so that every slow request pays in full."""


def default_processor(**options: Any) -> SlowSpanProcessor:
    """Make a processor with everything that users get, but for the limit on reports."""
    kind = _HandicappedDefault if os.environ.get(HANDICAP_VARIABLE) else SlowSpanProcessor
    return kind(**{"reports_per_hour": NO_LIMIT, **options})


def silent_processor(also: Sequence[str] = (), **options: Any) -> SlowSpanProcessor:
    """Make a processor of which the reports reach nobody: they are resolved, but neither written nor rendered.

    Args:
        also: Names of notifiers that get them as well.
        **options: Settings.
    """
    kind = _HandicappedSilent if os.environ.get(HANDICAP_VARIABLE) else SlowSpanProcessor
    return kind(notifiers=[_tell_nobody, *also], **{"reports_per_hour": NO_LIMIT, **options})


def _tell_nobody(report: Report) -> None:
    pass


_tell_nobody.receives = "reports"  # type: ignore[attr-defined]


def _burn(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass
