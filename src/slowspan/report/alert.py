"""What a channel tells beyond the report: how often this has happened, and since when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Why a report is told now. One alert goes to every channel.

    Times are Unix times in nanoseconds.
    """

    key: str
    """32 hexadecimal digits: requests with the same key are told once per window, however many processes see them."""
    told_before: bool = False
    """Whether the key has been told before: its window has passed, or this request is much slower."""
    seen_more: int = 0
    """How many more slow requests of the key there were since it was told."""
    since_ns: int = 0
    """When it was told; 0 when it has not been told before."""
    worst_ns: int = 0
    """The longest duration, in nanoseconds, of those ``seen_more``; 0 when there are none."""
    late_ns: int = 0
    """Unix time of the slow request's end when this channel could not be reached then; else 0."""
    is_test: bool = False
    """Whether somebody only tries the channels."""
    notes: MutableMapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """What a channel wants to know again at the key's next alert, such as the id of the first post: shared by the
    processes of a host, kept for two windows, bounded. Names begin with the channel's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """What the limit ``alerts_per_hour`` held back in one hour: told in one message at its end."""

    hour_ns: int
    """Unix time of the hour's beginning, in nanoseconds."""
    alerts: int
    """How many alerts were held back."""
    endpoints: tuple[tuple[str, int, int], ...]
    """Endpoint, number of alerts, worst duration in nanoseconds; the most frequent ones, bounded, safe for one line."""
    service_name: str | None = None
    host: str = ""
