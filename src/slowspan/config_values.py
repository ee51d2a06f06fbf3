"""Readers of single settings: what code, the environment or a file gives, brought to one form or refused.

The environment gives text only, and files give lists and mappings where code has tuples; one reader for each
setting serves all of them.
"""

from __future__ import annotations

import math
import os
import re
import string
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from opentelemetry.trace import SpanKind

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})


class NotAllowed(ValueError):
    """A reader's refusal; its text says what is allowed."""


def boolean(value: object) -> bool:
    """Read true or false."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
    raise NotAllowed("true or false")


def to_float(value: object) -> float:
    """Read any number that a setting can hold: the one place where text becomes a number.

    Returns:
        The number; NaN, which is in no range, where the value is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def number(minimum: float, maximum: float, unit: str) -> Callable[[object], float]:
    """Make a reader of numbers within a range, in the unit that the refusal names."""

    def read(value: object) -> float:
        result = to_float(value)
        if minimum <= result <= maximum:
            return result
        raise NotAllowed(f"a number of {unit} from {minimum:.12g} to {maximum:.12g}")

    return read


def integer(minimum: int, maximum: int) -> Callable[[object], int]:
    """Make a reader of whole numbers within a range; ``500e6`` is one."""

    def read(value: object) -> int:
        result = to_float(value)
        if minimum <= result <= maximum and result.is_integer():
            return int(result)
        raise NotAllowed(f"a whole number from {minimum} to {maximum}")

    return read


def choice(*words: str) -> Callable[[object], str]:
    """Make a reader of one of some words."""

    def read(value: object) -> str:
        word = value.strip().lower() if isinstance(value, str) else ""
        if word in words:
            return word
        raise NotAllowed(" or ".join(repr(word) for word in words))

    return read


def texts(value: object, allowed: str) -> list[str]:
    """Read "a, b" or a list of texts, without blank ones: a blank pattern would match everything."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, Collection) and not isinstance(value, (bytes, bytearray, Mapping)):
        given = [item for item in value if isinstance(item, str)]
        if len(given) == len(value):
            return [text for text in given if text.strip()]
    raise NotAllowed(allowed)


def _compile(pattern: str, allowed: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError, Warning) as error:
        raise NotAllowed(f"{allowed} ({pattern!r}: {error})") from None


def patterns(value: object, *, default: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Read regular expressions that can be joined with ``|``, as OpenTelemetry does.

    Args:
        value: "a, b" or a list.
        default: What the entry ``default`` stands for, if anything.

    Returns:
        The patterns.

    Raises:
        NotAllowed: One does not compile, or not together with the others.
    """
    allowed = "regular expressions, comma-separated or as a list"
    result: list[str] = []
    for pattern in texts(value, allowed):
        result.extend(default if default and pattern == "default" else [pattern])
    for pattern in result:
        _compile(pattern, allowed)
    # Flags such as (?i) compile alone, but not behind another pattern; (?i:...) does.
    _compile("|".join(result), f"{allowed}, which also compile when joined with '|'")
    return tuple(result)


def notifiers(value: object) -> tuple[object, ...]:
    """Read names of entry points, and from code also notifiers, classes of notifiers and functions.

    ``none`` means no notifier, as OpenTelemetry's exporters have it.
    """
    allowed = "names of notifiers, comma-separated or as a list, or 'none'; in code also notifiers and functions"
    if isinstance(value, Collection) and not isinstance(value, str):
        given = [entry for entry in value if not isinstance(entry, str)]
        names = texts([entry for entry in value if isinstance(entry, str)], allowed)
    else:
        given, names = [], texts(value, allowed)
    if not given and names == ["none"]:
        return ()
    if any(not re.fullmatch(r"[\w.-]{1,100}", name) for name in names):
        raise NotAllowed(allowed)
    if any(not callable(entry) and not hasattr(entry, "notify") for entry in given):
        raise NotAllowed(allowed)
    return (*dict.fromkeys(names), *given)


def span_kinds(value: object) -> tuple[str, ...]:
    """Read names of OpenTelemetry's span kinds, or the kinds themselves."""
    allowed = f"at least one of {', '.join(kind.name for kind in SpanKind)}"
    if isinstance(value, Collection) and not isinstance(value, str):
        value = [kind.name if isinstance(kind, SpanKind) else kind for kind in value]
    result = tuple(dict.fromkeys(name.strip().upper() for name in texts(value, allowed)))
    if not result or any(name not in SpanKind.__members__ for name in result):
        raise NotAllowed(allowed)
    return result


def attribute_filters(value: object) -> tuple[str, ...]:
    """Read attribute filters: each ``name``, or ``name=regular expression``."""
    allowed = "attribute filters 'name' or 'name=regular expression', comma-separated or as a list"
    filters = texts(value, allowed)
    for entry in filters:
        name, _, pattern = entry.partition("=")
        if not name.strip():
            raise NotAllowed(allowed)
        _compile(pattern, allowed)
    return tuple(filters)


def thresholds(seconds: Callable[[object], float]) -> Callable[[object], tuple[tuple[str, float], ...]]:
    """Make a reader of thresholds by pattern: a mapping, pairs, or text ``/reports/.*=5, /api/.*=0.3``.

    Args:
        seconds: The reader of one threshold.
    """
    allowed = "regular expressions with seconds: a mapping, pairs, or '/reports/.*=5, /api/.*=0.3'"

    def read(value: object) -> tuple[tuple[str, float], ...]:
        result = []
        for pattern, threshold in _pairs(value, allowed):
            _compile(pattern, allowed)
            try:
                result.append((pattern, seconds(threshold)))
            except NotAllowed as error:
                raise NotAllowed(f"{allowed}, each {error}") from None
        return tuple(result)

    return read


def _pairs(value: object, allowed: str) -> list[tuple[str, object]]:
    if isinstance(value, str):
        # The last "=" separates: a pattern may hold one itself, as in "/search?full=1".
        pairs: list[Sequence[object]] = [text.rpartition("=")[::2] for text in texts(value, allowed)]
    elif isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, (list, tuple)):
        pairs = list(value)
    else:
        raise NotAllowed(allowed)
    result: list[tuple[str, object]] = []
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise NotAllowed(allowed)
        pattern, threshold = pair
        if not isinstance(pattern, str) or not pattern.strip():
            raise NotAllowed(allowed)
        result.append((pattern.strip(), threshold))
    return result


def link_template(*placeholders: str) -> Callable[[object], str | None]:
    """Make a reader of a URL with placeholders such as ``{id}``, or None."""
    shown = " ".join(f"{{{name}}}" for name in placeholders)
    allowed = f"an http://, https:// or file:// URL whose only placeholders are {shown}"

    def read(value: object) -> str | None:
        if value is None:
            return None
        if not isinstance(value, str) or not re.match(r"(https?|file)://", value, re.IGNORECASE):
            raise NotAllowed(allowed)
        try:
            fields = [field for _, *field in string.Formatter().parse(value) if field[0] is not None]
        except ValueError:
            raise NotAllowed(allowed) from None
        # Formats and conversions ({id!r}, {id:>9}) would run at delivery, where nobody sees that they fail.
        if any(name not in placeholders or form or conversion for name, form, conversion in fields):
            raise NotAllowed(allowed)
        if not value.isprintable() or " " in value:
            raise NotAllowed(allowed)
        return value

    return read


def path(kind: str) -> Callable[[object], Path]:
    """Make a reader of paths; ``~`` is the home directory, and a relative path is made absolute at once.

    Args:
        kind: What the path must be of, for the refusal: "a directory".
    """
    allowed = f"the path of {kind}"

    def read(value: object) -> Path:
        try:
            text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else ""
            if not isinstance(text, str) or not text.strip() or "\0" in text:
                raise NotAllowed(allowed)
            return Path(text).expanduser().absolute()
        except (RuntimeError, OSError) as error:
            raise NotAllowed(f"{allowed} ({error})") from None

    return read
