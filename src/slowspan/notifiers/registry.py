"""Finding the notifiers that are on: entry points by name, or whatever code gave."""

from __future__ import annotations

import inspect
import logging
from itertools import count
from typing import TYPE_CHECKING, Any

from slowspan.config import ConfigError
from slowspan.counters import Drop
from slowspan.notifiers.base import Notifier

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.metadata import EntryPoint

    from slowspan.config import Settings
    from slowspan.counters import Counters
    from slowspan.report.report import Report

GROUP = "slowspan_notifier"

_logger = logging.getLogger("slowspan")


class NotifierError(Exception):
    """What is to be a notifier does not exist, or is none; the message says what to do."""


class FunctionNotifier:
    """Makes a notifier of a plain function that takes the report.

    Args:
        function: Called with each report, on a thread of its own.
    """

    def __init__(self, function: Callable[[Report], object]) -> None:
        self._function = function
        # As a notifier says it: without it the function gets alerts.
        self.receives: str = getattr(function, "receives", "alerts")
        self._is_shut_down = False

    def notify(self, report: Report) -> None:
        """Call the function."""
        if not self._is_shut_down:
            self._function(report)

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002 -- the protocol's signature
        """Return True: nothing is held back."""
        return True

    def shutdown(self) -> None:
        """Call the function no more."""
        self._is_shut_down = True


def load_notifiers(settings: Settings, counters: Counters) -> list[tuple[str, Notifier]]:
    """Make the notifiers that are on.

    Reads the metadata of the installed packages, which takes milliseconds: for the delivery thread. A
    notifier that cannot be made is logged, counted, and left out.

    Args:
        settings: The settings; ``notifiers`` has names of entry points and, from code, notifiers, classes of
            notifiers, and functions that take the report.
        counters: Where failures are counted, as ``notifier_failed``.

    Returns:
        Pairs of name and notifier, in the order of the setting. No name comes twice: of several notifiers of one name
        the second is ``name-2``, also where the first is off, so that what waits for it finds it after a restart.
    """
    all_wanted: tuple[object, ...] = settings.notifiers
    available = _entry_points() if any(isinstance(wanted, str) for wanted in all_wanted) else {}
    notifiers: list[tuple[str, Notifier]] = []
    for name, wanted in zip(_unique_names(all_wanted), all_wanted, strict=True):
        try:
            target = _load(wanted, available) if isinstance(wanted, str) else wanted
            notifiers.append((name, _make(target, settings)))
        except Exception as error:
            counters.drop(Drop.NOTIFIER_FAILED, detail=f"{name} is off")
            explained = isinstance(error, (NotifierError, ConfigError))
            # The text of somebody else's may say nothing by itself: that of a KeyError is the key.
            text = "the notifier %r is off: %s" if explained else "the notifier %r is off: %r"
            _logger.warning(text, name, error, exc_info=not explained)
    return notifiers


def _entry_points() -> dict[str, EntryPoint]:
    # Imported here because it imports email and zipfile, which most processes never need.
    from importlib.metadata import entry_points

    available: dict[str, EntryPoint] = {}
    for entry_point in entry_points(group=GROUP):
        available.setdefault(entry_point.name, entry_point)
    return available


def _load(name: str, available: dict[str, EntryPoint]) -> object:
    if name in available:
        return available[name].load()
    # Imported here because it is needed for a mistake only.
    from difflib import get_close_matches

    nearest = get_close_matches(name, available, n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    known = ", ".join(sorted(available)) or "none, not even slowspan's own: is slowspan installed?"
    raise NotifierError(f"there is no such notifier; {hint}Installed: {known}")


def _make(target: Any, settings: Settings) -> Notifier:
    if inspect.isclass(target):
        from_settings = getattr(target, "from_settings", None)
        target = target() if from_settings is None else from_settings(settings)
    if isinstance(target, Notifier):
        return target
    if hasattr(target, "notify"):
        missing = [name for name in ("force_flush", "shutdown") if not hasattr(target, name)]
        raise NotifierError(f"{target!r} is no notifier: it has no method {' and no '.join(missing)}")
    if callable(target):
        return FunctionNotifier(target)
    raise NotifierError(f"{target!r} is neither a notifier nor a function that takes the report")


def _unique_names(all_wanted: Sequence[object]) -> list[str]:
    """Return a name for each; those of entry points stay, since commands and the log name them so."""
    taken = {wanted for wanted in all_wanted if isinstance(wanted, str)}
    names: list[str] = []
    for wanted in all_wanted:
        name = wanted if isinstance(wanted, str) else _name_of(wanted)
        if name in (names if isinstance(wanted, str) else taken):
            name = next(numbered for n in count(2) if (numbered := f"{name}-{n}") not in taken)
        taken.add(name)
        names.append(name)
    return names


def _name_of(given: object) -> str:
    return str(getattr(given, "__name__", type(given).__name__))
