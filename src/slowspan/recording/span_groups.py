"""What the spans inside a request have in common: equal ones added up, the lines they came from, N+1 patterns."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from slowspan.recording.stacks import ROOT, place
from slowspan.recording.synthetic import WAITING_FOR_LOOP
from slowspan.redaction import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slowspan.recording.profile import ChildSpan, Profile

N_PLUS_ONE = 5
"""Equal queries in a request from which they are taken for one query per row of another one."""

SURE = 2 / 3
"""Share of the samples in equal spans from which on their line is named.

Tasks that wait side by side are seen in turns: half of the samples can have the line of another one than that which
asks."""

_NOTE_TEXT = 200
"""Characters of a query in a note."""

_WHAT = (
    ("db.query.text",),
    ("http.request.method", "url.full"),
    ("rpc.service", "rpc.method"),
    ("messaging.operation.type", "messaging.destination.name"),
    ("graphql.operation.name",),
    ("jinja2.template_name",),
    ("db.operation.name", "db.namespace", "db.collection.name"),
)
"""Attributes that say what a span asked for; the first of these lines of which there is one."""

_QUERIES = ("db.query.text", "http.request.method", "rpc.method")
"""One of them marks a question to somebody else, of which many equal ones could be a single one."""


class SpanGroup(NamedTuple):
    """Equal spans: of the same name, that asked for the same."""

    name: str
    text: str
    """What they asked for: the query, the URL, …; empty if that is not known."""
    times: int
    total_ns: int
    """Their durations added up, which can be more than the request's where they overlapped."""
    line: str
    """The innermost line of the application in most samples taken in them: ``orders.py:27 items_of``; or empty."""
    parents: int
    """Under how many different spans they were, the request's own counted."""

    @property
    def title(self) -> str:
        """The name and what was asked for, in as few words as possible."""
        return title(self.name, self.text)


def span_text(span: ChildSpan) -> str:
    """Return what a span asked for: its query, its URL, or what else its attributes say."""
    attributes = dict(span.attributes)
    for names in _WHAT:
        words = [attributes[name] for name in names if name in attributes]
        if words:
            return " ".join(words)
    return ""


def title(name: str, text: str) -> str:
    """Return what people call a span: its name, and what it asked for unless that says the name itself."""
    if not text or text.lower().startswith(name.lower()):
        return text or name
    return f"{name}: {text}"


def span_groups(profile: Profile) -> list[SpanGroup]:
    """Return all spans of a profile, equal ones as one group, the group with the most time first."""
    return _grouped(profile, range(len(profile.spans)))


def n_plus_ones(profile: Profile) -> list[SpanGroup]:
    """Return the equal queries and calls of which there are many in the request, those with the most time first.

    Each may be in a span of its own, such as that of a function which asks once.
    """
    equal: dict[tuple[str, str], list[int]] = {}
    for index, span in enumerate(profile.spans):
        if any(name in _QUERIES for name, _ in span.attributes):
            equal.setdefault((span.name, span_text(span)), []).append(index)
    return _grouped(profile, (index for many in equal.values() if len(many) >= N_PLUS_ONE for index in many))


def explained_ns(profile: Profile) -> int:
    """Return the part of a request's duration in which at least one child span was open."""
    total = reached = 0
    # Not only those right below the request: one can be open for longer than the one around it.
    for span in sorted(profile.spans, key=lambda span: span.start_ns):
        start = max(span.start_ns, reached)
        end = min(span.start_ns + span.duration_ns, profile.duration_ns)
        if end > start:
            total += end - start
            reached = end
    return total


def describe_n_plus_one(group: SpanGroup, *, at_least: bool = False) -> str:
    """Return one sentence about a group of equal queries.

    Args:
        group: The group.
        at_least: Whether there were more, which are not kept.
    """
    where = f" under {group.parents} spans" if group.parents > 1 else ""
    line = f" at {group.line}" if group.line else ""
    text = one_line(group.title, _NOTE_TEXT)
    times = f"at least {group.times}" if at_least else group.times
    return f"N+1: {times} × the same{where}{line}, {_time(group.total_ns)} in all: {text}"


def _time(time_ns: int) -> str:
    return f"{time_ns / 1e9:.2f} s" if time_ns >= 1e9 else f"{time_ns / 1e6:.0f} ms"


def _grouped(profile: Profile, indexes: Iterable[int]) -> list[SpanGroup]:
    members: dict[tuple[str, str], list[ChildSpan]] = {}
    for index in indexes:
        span = profile.spans[index]
        members.setdefault((span.name, span_text(span)), []).append(span)
    lines = _lines(profile)
    groups = [
        SpanGroup(
            name=key[0],
            text=key[1],
            times=len(spans),
            total_ns=sum(span.duration_ns for span in spans),
            line=lines.get(key, ""),
            parents=len({span.parent for span in spans}),
        )
        for key, spans in members.items()
    ]
    return sorted(groups, key=lambda group: group.total_ns, reverse=True)


def _lines(profile: Profile) -> dict[tuple[str, str], str]:
    """Return the application's line that most samples of each group of equal spans have."""
    known: dict[int, str] = {}
    seen: dict[tuple[str, str], dict[str, int]] = {}
    for sample in profile.samples:
        if sample.span < 0:
            continue
        line = known.get(sample.stack)
        if line is None:
            line = known[sample.stack] = application_line(profile, sample.stack)
        span = profile.spans[sample.span]
        counts = seen.setdefault((span.name, span_text(span)), {})
        # At least one each: the clock can have given a sample's time to its neighbours.
        counts[line] = counts.get(line, 0) + max(sample.wall_ns, 1)
    hottest = {key: max(counts, key=counts.__getitem__) for key, counts in seen.items()}
    return {key: line for key, line in hottest.items() if seen[key][line] >= SURE * sum(seen[key].values())}


def application_line(profile: Profile, stack: int) -> str:
    """Return the innermost line of a stack that is the application's own, or an empty text.

    As with pyinstrument, everything below the interpreter's or the environment's folder is a library. Frames of
    another task, which held the event loop, are not this request's.

    Args:
        profile: The profile.
        stack: Index into its stacks, or ``ROOT``.
    """
    prefixes = tuple(prefix for prefix in profile.process.sys_prefixes if prefix)
    found = ""
    while stack != ROOT:
        parent, location = profile.stacks[stack]
        frame_index, line = profile.locations[location]
        frame = profile.frames[frame_index]
        if frame.name == WAITING_FOR_LOOP and not frame.file:
            found = ""
        elif not found and frame.file and not frame.file.startswith(("<", *prefixes)):
            found = place(frame.file, line, frame.name)
        stack = parent
    return found
