"""What a profile says in a few words: hot lines, and one line for logs and messages.

Imported by the application's process: no pyinstrument here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from slowspan.recording.stacks import ROOT, is_wrapper, place, short_name
from slowspan.recording.synthetic import HELD_THE_LOOP, NOT_SAMPLED, UNKNOWN_FRAMES, WAITING_FOR_LOOP
from slowspan.redaction import one_line

if TYPE_CHECKING:
    from slowspan.recording.profile import Profile

ENDPOINT_LIMIT = 200
"""Characters of the endpoint in a summary: paths are as long as a stranger likes."""

SECONDS_FROM_NS = 500_000_000
"""From here on a duration is told in seconds: people set thresholds of 0.5 s and see queries of 340 ms."""


class HotLine(NamedTuple):
    """The own time of one line: what was spent while it was the innermost one."""

    share: float
    """Part of the request's duration, 0 to 1."""
    wall_ns: int
    cpu_ns: int
    """The part of ``wall_ns`` in which the thread was computing; 0 where no CPU clock exists."""
    ready_ns: int
    """The part in which it could have computed, had others not held a processor, the lock or the event loop."""
    file: str
    """Full path; empty for a synthetic entry."""
    short_file: str
    """The path's last part."""
    line: int
    """Line number; 0 for a synthetic entry."""
    function: str
    """With a word on it where the line is another request's, which held the event loop meanwhile."""
    class_name: str | None
    synthetic: bool
    """Whether this is not a line but time of which no sample tells the line."""

    @property
    def unknown_ns(self) -> int:
        """The part of ``wall_ns`` of which it is not known whether the request computed or waited."""
        return self.wall_ns - self.cpu_ns if self.synthetic and self.function in UNKNOWN_FRAMES else 0


def hot_lines(profile: Profile, limit: int = 5) -> tuple[HotLine, ...]:
    """Return the lines with most own time.

    Args:
        profile: The profile; partial and empty ones too.
        limit: Greatest number of lines.

    Returns:
        The lines, hottest first. Synthetic entries are among them.
    """
    # Imported here because the application imports this module at its start and profiles only when one is there.
    from slowspan.recording.profile import Frame

    no_stack = Frame(NOT_SAMPLED, "", 0, None, False)
    times: dict[tuple[str, int, str], list[int]] = {}
    class_names: dict[tuple[str, int, str], str | None] = {}
    foreign = _foreign_stacks(profile)
    callers = _without_wrappers(profile)
    for sample in profile.samples:
        frame, line, function = no_stack, 0, NOT_SAMPLED
        if sample.stack != ROOT:
            frame_index, line = profile.locations[profile.stacks[callers[sample.stack]].location]
            frame = profile.frames[frame_index]
            function = f"{frame.name} {HELD_THE_LOOP}" if foreign[sample.stack] else frame.name
        key = (frame.file, line, function)
        time = times.setdefault(key, [0, 0, 0])
        time[0] += sample.wall_ns
        time[1] += sample.cpu_ns
        time[2] += sample.ready_ns
        class_names.setdefault(key, frame.class_name)
    hottest = sorted(times, key=lambda key: times[key][0], reverse=True)[:limit]
    return tuple(
        HotLine(
            share=times[key][0] / profile.duration_ns if profile.duration_ns else 0.0,
            wall_ns=times[key][0],
            cpu_ns=times[key][1],
            ready_ns=times[key][2],
            file=key[0],
            short_file=short_name(key[0]),
            line=key[1],
            function=key[2],
            class_name=class_names[key],
            synthetic=not key[0],
        )
        for key in hottest
    )


def _foreign_stacks(profile: Profile) -> list[bool]:
    """Return of each stack whether its innermost frame belongs to another request, which held the event loop."""
    foreign: list[bool] = []
    below: list[bool] = []
    for parent, location in profile.stacks:
        inside = parent != ROOT and below[parent]
        foreign.append(inside)
        below.append(inside or profile.frames[profile.locations[location].frame].name == WAITING_FOR_LOOP)
    return foreign


def _without_wrappers(profile: Profile) -> list[int]:
    """Return of each stack the innermost one of its callers that does not only wrap a call."""
    callers: list[int] = []
    for index, (parent, location) in enumerate(profile.stacks):
        wraps = parent != ROOT and is_wrapper(profile.frames[profile.locations[location].frame].file)
        callers.append(callers[parent] if wraps else index)
    return callers


class TimeShare(NamedTuple):
    """One kind of a request's time."""

    name: str
    """``computing``, ``waiting``, ``ready to run`` (but others held what it needs) or ``not known``."""
    time_ns: int
    share: float
    """Part of the request's duration, 0 to 1."""


def time_shares(profile: Profile) -> list[TimeShare]:
    """Split a request's duration into computing, waiting, ready to run, and what is not known.

    Returns:
        The kinds that there are, which add up to the duration; none where no CPU time is known.
    """
    if profile.cpu_time_ns is None or not profile.duration_ns:
        return []
    unknown_ns = min(profile.unknown_ns, profile.duration_ns)
    computing_ns = min(profile.cpu_time_ns, profile.duration_ns - unknown_ns)
    rest_ns = profile.duration_ns - unknown_ns - computing_ns
    ready_ns = min(sum(sample.ready_ns for sample in profile.samples), rest_ns)
    kinds = [("computing", computing_ns), ("waiting", rest_ns - ready_ns)]
    if ready_ns:
        kinds.append(("ready to run", ready_ns))
    if unknown_ns:
        kinds.append(("not known", unknown_ns))
    return [TimeShare(name, time_ns, time_ns / profile.duration_ns) for name, time_ns in kinds]


def describe(hot_line: HotLine) -> str:
    """Return a hot line in words: ``71 % pricing.py:41 total_for``."""
    return hot_text(hot_line.share, hot_line.file, hot_line.line, hot_line.function)


def hot_text(share: float, file: str, line: int, function: str) -> str:
    """Return a hot line in words, from its raw parts.

    Args:
        share: Part of the duration, 0 to 1.
        file: Path of any length; empty for a synthetic entry.
        line: Line number.
        function: Name of the function or of the synthetic entry.

    Returns:
        ``71 % pricing.py:41 total_for``, or ``12 % [computed, not seen]``.
    """
    if not file:
        return f"{format_share(share)} {function}"
    return f"{format_share(share)} {place(file, line, function)}"


def summarize(profile: Profile, hot_lines: tuple[HotLine, ...]) -> str:
    """Return one line about a slow request.

    Args:
        profile: The profile, finished or partial.
        hot_lines: Its hot lines, hottest first.

    Returns:
        ``slow request GET /orders/<id> 1.42 s > 1 s · 71 % pricing.py:41``, without control characters.
    """
    what = kind_for_people(profile)
    duration = format_duration(profile.duration_ns)
    if profile.running:
        duration = f"still running after {duration}"
    endpoint = one_line(profile.span.endpoint, ENDPOINT_LIMIT)
    text = f"slow {what} {endpoint} {duration} > {format_duration(profile.threshold_ns)}"
    if hot_lines:
        hottest = hot_lines[0]
        where = hottest.function if hottest.synthetic else f"{hottest.short_file}:{hottest.line}"
        text += f" · {format_share(hottest.share)} {one_line(where, ENDPOINT_LIMIT)}"
    return text


def kind_for_people(profile: Profile) -> str:
    """Return what was slow: a ``request``, a ``function`` (of ``slowspan.profile``), or a ``span`` of another kind."""
    return {"SERVER": "request", "INTERNAL": "function"}.get(profile.span.kind, "span")


def format_duration(duration_ns: int) -> str:
    """Return a duration for people, with three significant digits.

    Args:
        duration_ns: Nanoseconds.

    Returns:
        For example ``1.42 s``, ``20 s``, ``340 ms``, ``85 µs``.
    """
    if duration_ns >= SECONDS_FROM_NS:
        return f"{_three_digits(duration_ns / 1e9)} s"
    if duration_ns >= 999_500:  # below, it would be rounded to 1000 µs
        return f"{_three_digits(duration_ns / 1e6)} ms"
    return f"{_three_digits(duration_ns / 1e3)} µs"


def format_share(share: float) -> str:
    """Return a share of 0 to 1 as a percentage: ``71 %``, ``<1 %``."""
    if 0 < share < 0.01:
        return "<1 %"
    return f"{share * 100:.0f} %"


def _three_digits(value: float) -> str:
    if value <= 0:
        return "0"
    decimals = max(2 - math.floor(math.log10(value)), 0)
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
