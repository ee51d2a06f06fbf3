"""How the ended spans of a request become the tree that its report shows. Runs on the delivery thread."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from slowspan.breather import Breather
from slowspan.recording.profile import ChildSpan, Sample
from slowspan.recording.query_text import masked_query
from slowspan.recording.synthetic import SYNTHETIC_FRAMES
from slowspan.redaction import one_line, redact_parameters
from slowspan.semconv import MAX_URL, Attributes, split_url
from slowspan.span_fields import name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence, Set

    from opentelemetry.sdk.trace import ReadableSpan

    from slowspan.recording.finished import Finished
    from slowspan.recording.profile import Frame, Location, Stack

QUERY = "db.query.text"
URL = "url.full"

_MAX_NAME = 200
_MAX_URL = 300
_MAX_VALUE = 200
_MAX_PATH = 4000
_URL_PARAMETERS = 10

_SYSTEM = ("db.system.name", "db.system")

_SHOWN: tuple[tuple[str, ...], ...] = (
    _SYSTEM,
    (QUERY, "db.statement"),
    ("db.operation.name", "db.operation"),
    ("db.namespace", "db.name"),
    ("db.collection.name", "db.sql.table"),
    ("http.request.method", "http.method"),
    (URL, "http.url"),
    ("http.response.status_code", "http.status_code"),
    ("server.address", "net.peer.name"),
    ("rpc.system.name", "rpc.system"),
    ("rpc.service",),
    ("rpc.method",),
    ("rpc.response.status_code", "rpc.grpc.status_code"),
    ("messaging.system",),
    ("messaging.destination.name", "messaging.destination"),
    ("messaging.operation.type", "messaging.operation"),
    ("graphql.operation.name",),
    ("jinja2.template_name",),
    ("error.type",),
)
"""What a report shows of a span: the name in it, then the older name of the same. Nothing else leaves the process."""

# Numbers, identifiers and what looks like a key: some services have their secrets in the path.
_VARIABLE_SEGMENT = re.compile(r"\d+|[0-9a-fA-F-]{16,}|(?=[^/]*\d)(?=[^/]*[A-Za-z])[^/]{16,}|[^/]*@[^/]*|[^/]{33,}")

_URL_MARK = re.compile(r"://|\?")


class SpanTree(NamedTuple):
    """The spans inside a request: a parent before its children, siblings by their start."""

    spans: tuple[ChildSpan, ...] = ()
    left_out: int = 0
    """How many more there were."""


def read_tree(finished: Finished, secret: re.Pattern[str], pause: Callable[[], None] | None = None) -> SpanTree:
    """Read the ended spans inside a finished request's span.

    Args:
        finished: The recording.
        secret: Names of URL parameters of which the value is not shown (``secret_names``).
        pause: Called at every step, to let other threads run now and then; a new :class:`Breather` when None.

    Returns:
        The tree; redacted, bounded, every text safe for one line.
    """
    ended = finished.inside
    root = finished.span.context
    if ended is None or root is None:
        return SpanTree()
    by_id = {span.context.span_id: span for span in ended.spans if span.context is not None}
    children: dict[int, list[ReadableSpan]] = {}
    for span in by_id.values():
        parent = span.parent
        if parent is None:
            continue
        above = parent.span_id
        if above != root.span_id and above not in by_id:
            # Its parent has not ended, or was left out. With one watched span in the trace it can belong to no other.
            if ended.shared or parent.is_remote:
                continue
            above = root.span_id
        children.setdefault(above, []).append(span)
    rows = _in_order(root.span_id, children, finished.start_ns, AttributeReader(secret), pause or Breather())
    return SpanTree(rows, ended.left_out)


def _in_order(
    root: int,
    children: dict[int, list[ReadableSpan]],
    origin_ns: int,
    reader: AttributeReader,
    pause: Callable[[], None],
) -> tuple[ChildSpan, ...]:
    rows: list[ChildSpan] = []
    todo = [(-1, span) for span in _latest_first(children.pop(root, []))]
    while todo:
        parent, span = todo.pop()
        attributes = reader.read(span.attributes or {})
        start_ns = span.start_time or origin_ns
        row = ChildSpan(
            parent=parent,
            name=reader.name(span, dict(attributes)),
            kind=span.kind.name,
            start_ns=start_ns - origin_ns,
            duration_ns=max((span.end_time or start_ns) - start_ns, 0),
            status=span.status.status_code.name,
            attributes=attributes,
        )
        todo += [(len(rows), child) for child in _latest_first(children.pop(_span_id(span), []))]
        rows.append(row)
        pause()
    return tuple(rows)


def _span_id(span: ReadableSpan) -> int:
    return span.context.span_id if span.context is not None else 0


def _latest_first(spans: list[ReadableSpan]) -> list[ReadableSpan]:
    return sorted(spans, key=lambda span: span.start_time or 0, reverse=True)


class AttributeReader:
    """Reads what a report shows of the attributes of one request's spans. A thousand equal queries are read once.

    Args:
        secret: Names of URL parameters of which the value is not shown.
    """

    def __init__(self, secret: re.Pattern[str]) -> None:
        self._secret = secret
        self._known: dict[tuple[str, ...], tuple[tuple[str, str], ...]] = {}

    def read(self, attributes: Attributes) -> tuple[tuple[str, str], ...]:
        """Return what is shown, under the newer names of the conventions.

        Args:
            attributes: Of an ended span.

        Returns:
            Pairs of name and value; redacted, bounded, safe for one line.
        """
        values = tuple(_first(attributes, names) for names in _SHOWN)
        shown = self._known.get(values)
        if shown is None:
            named = zip((names[0] for names in _SHOWN), values, strict=True)
            shown = tuple((name, self._shown(name, value, values[0])) for name, value in named if value)
            self._known[values] = shown
        return shown

    def name(self, span: ReadableSpan, attributes: dict[str, str]) -> str:
        """Return what is shown of a span's name, given what is shown of its attributes."""
        name = name_of(span)
        if QUERY in attributes and " " in name:
            # Some instrumentations call a span what it asks.
            return one_line(masked_query(name, attributes.get(_SYSTEM[0], "")), _MAX_NAME)
        return shown_name(name, self._secret)

    def _shown(self, name: str, value: str, system: str) -> str:
        if name == QUERY:
            return masked_query(value, system)
        return shown_url(value, self._secret) if name == URL else one_line(value, _MAX_VALUE)


def _first(attributes: Attributes, names: tuple[str, ...]) -> str:
    for name in names:
        value = attributes.get(name)
        if isinstance(value, (str, int, float)) and not isinstance(value, bool) and value != "":
            return str(value)
    return ""


def shown_url(url: str, secret: re.Pattern[str]) -> str:
    """Return a URL without login, with the variable parts of its path and the values of secret parameters hidden."""
    url = url[:MAX_URL]
    scheme, host, path, query = split_url(url)
    if not scheme:
        path, _, query = url.partition("#")[0].partition("?")
    parts = ["*" if _VARIABLE_SEGMENT.fullmatch(part) else part for part in path[:_MAX_PATH].split("/")]
    text = f"{scheme}://{host}{'/'.join(parts)}" if scheme else "/".join(parts)
    if query:
        pairs = redact_parameters(query, secret, limit=_URL_PARAMETERS)
        text += "?" + "&".join(f"{name}={value}" if value else name for name, value in pairs)
    return one_line(text, _MAX_URL)


def shown_name(name: str, secret: re.Pattern[str]) -> str:
    """Return a span's name; where a URL, or a path with a query, stands in it, that as ``shown_url`` returns it."""
    name = name[:MAX_URL]
    mark = _URL_MARK.search(name)
    if mark is not None:
        start = name.rfind(" ", 0, mark.start()) + 1
        name = name[:start] + shown_url(name[start:], secret)
    return one_line(name, _MAX_NAME)


def carry_spans(
    samples: Sequence[Sample],
    spans: Sequence[ChildSpan],
    frames: Sequence[Frame],
    locations: Sequence[Location],
    stacks: Sequence[Stack],
) -> tuple[Sample, ...]:
    """Give every sample the child span in which it was taken: the innermost one.

    Of concurrent ones nothing tells which the stack belongs to: then it is the span around them, if there is one.

    Args:
        samples: The samples, in any order.
        spans: The tree.
        frames: Of the profile, like the other tables. A sample that saw no stack was taken in no span.
        locations: Where in the frames.
        stacks: Of which locations.

    Returns:
        The samples in the same order.
    """
    if not spans:
        return tuple(samples)
    carrying = list(samples)
    by_start = sorted(range(len(spans)), key=lambda index: (spans[index].start_ns, index))
    running: list[int] = []
    innermost, position = -1, 0
    for row in sorted(range(len(samples)), key=lambda row: samples[row].at_ns):
        sample = samples[row]
        still = [index for index in running if _end_ns(spans[index]) > sample.at_ns]
        while position < len(by_start) and spans[by_start[position]].start_ns <= sample.at_ns:
            if _end_ns(spans[by_start[position]]) > sample.at_ns:
                still.append(by_start[position])
            position += 1
        if still != running:
            running, innermost = still, _innermost(set(still), spans)
        leaf = sample.stack
        if running and leaf >= 0 and frames[locations[stacks[leaf].location].frame].name not in SYNTHETIC_FRAMES:
            carrying[row] = sample._replace(span=innermost)
    return tuple(carrying)


def _innermost(running: Set[int], spans: Sequence[ChildSpan]) -> int:
    """Return the innermost of some spans that run at the same time, or the one around those that are concurrent."""
    common: list[int] | None = None
    inner = set(running)
    for index in running:
        # One step where the parent runs too, as in a chain of calls: that one discards its own.
        around = spans[index].parent
        while around >= 0 and around not in running:
            around = spans[around].parent
        inner.discard(around)
    if len(inner) == 1:
        return inner.pop()
    for index in inner:
        path = [index, *_around(index, spans)]
        common = path if common is None else [other for other in common if other in path]
    return common[0] if common else -1


def _around(index: int, spans: Sequence[ChildSpan]) -> list[int]:
    """Return the spans around one, from the inside out."""
    around = []
    while (index := spans[index].parent) >= 0:
        around.append(index)
    return around


def _end_ns(span: ChildSpan) -> int:
    return span.start_ns + span.duration_ns
