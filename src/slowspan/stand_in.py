"""What stands in for ``span.end`` on a single span: the only thing in the application that slowspan replaces."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import Span

if TYPE_CHECKING:
    from collections.abc import Callable


class StandIn(partial[None]):
    """A function in the place of a span's ``end``, called with what was there before, the span, and the end time.

    It keeps the span alive, as the bound method does in whose place it stands.
    """

    @property
    def owner(self) -> Any:
        """The object of which it calls a method."""
        return self.func.__self__  # type: ignore[attr-defined]


def stand_in(span: Span, end: Callable[..., None]) -> StandIn | None:
    """Put a stand-in in the place of a span's end.

    Args:
        span: A span that has not ended; it can end meanwhile.
        end: The method to call.

    Returns:
        The stand-in that was there already, which is left there; None when there was none.
    """
    below: Any = span.end
    if isinstance(below, StandIn):
        return below
    span.end = StandIn(end, below, span)  # type: ignore[method-assign]
    return None


def stand_aside(span: Span, below: Callable[..., None]) -> None:
    """Take a span's stand-in away.

    Args:
        span: The span.
        below: What was there before.
    """
    if getattr(below, "__func__", None) is not Span.end:
        # Somebody else's, which may be going to take itself away as well.
        span.end = below  # type: ignore[method-assign]
        return
    try:
        del span.end
    except AttributeError:
        """One above ours has taken itself away and ours with it."""


def stand_aside_if_there(span: Span) -> None:
    """Take a span's stand-in away if it is there: it was not called."""
    end: Any = span.end
    if isinstance(end, StandIn):
        stand_aside(span, end.args[0])
