"""The finished profile of one request: what is stored, and its versioned JSON form.

The format is documented in ``docs/profile-format.md``. A profile is plain data: every report format is made
from it, in any process, at any later time.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from slowspan.recording.stacks import ROOT
from slowspan.recording.synthetic import UNKNOWN_FRAMES
from slowspan.semconv import endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyinstrument.session import Session

FORMAT = "slowspan.profile"
FORMAT_VERSION = 1


class ProfileFormatError(ValueError):
    """A stored profile cannot be read: not ours, damaged, or of a version unknown to this release."""


class Frame(NamedTuple):
    """One code object, or one synthetic entry (``file`` is then empty)."""

    name: str
    file: str
    first_line: int
    class_name: str | None
    hidden: bool
    """Whether the function asked to be left out of tracebacks (``__tracebackhide__``)."""


class Location(NamedTuple):
    """A line in a frame: the index into ``Profile.frames`` and the line number."""

    frame: int
    line: int


class Stack(NamedTuple):
    """A stack as a node of a tree: the index of the caller's stack (or ``ROOT``) and of the location."""

    parent: int
    location: int


class Sample(NamedTuple):
    """One stack reading with the time that it stands for.

    ``wall_ns`` of all samples of a profile add up to its duration; ``cpu_ns`` is the part of it in which the
    thread was computing, and 0 where no CPU clock of other threads exists.
    """

    stack: int
    at_ns: int
    """Time of the reading, in nanoseconds since the span's start."""
    wall_ns: int
    cpu_ns: int
    ready_ns: int = 0
    """The part in which it could have computed, had others not held a processor, the interpreter lock or the event
    loop. The rest of ``wall_ns`` it waited for something else."""
    span: int = -1
    """Index into ``Profile.spans`` of the child span in which it was taken, or -1."""


class ChildSpan(NamedTuple):
    """One span inside the request's: what a database client, an HTTP client, a template engine says of itself.

    Safe to show: query texts have ``?`` in the place of values, URLs are redacted, texts are bounded.
    """

    parent: int
    """Index into ``Profile.spans``, always a smaller one, or -1 for the request's own span."""
    name: str
    kind: str
    """``CLIENT``, ``INTERNAL``, …: the name of the OpenTelemetry span kind."""
    start_ns: int
    """Time of the start, in nanoseconds since the request's; a clock that was set can make it negative."""
    duration_ns: int
    status: str
    """``UNSET``, ``OK`` or ``ERROR``."""
    attributes: tuple[tuple[str, str], ...]
    """Pairs of name and value; the names are the newer ones of OpenTelemetry's conventions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanFacts:
    """What a report says of its span. Safe to show: parameters are redacted, texts are bounded."""

    name: str
    kind: str
    """``SERVER``, ``CONSUMER``, …: the name of the OpenTelemetry span kind."""
    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    sampled: bool = True
    method: str | None = None
    route: str | None = None
    """The route's template, for example ``/orders/<id>``."""
    path: str | None = None
    parameters: tuple[tuple[str, str], ...] = ()
    """Query parameters in their order, values of secret names replaced."""
    status_code: int | None = None
    error: bool = False
    service_name: str | None = None
    service_version: str | None = None

    @property
    def endpoint(self) -> str:
        """What people call this request."""
        return endpoint(self.method, self.route or self.path, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """Where a request ran, and what pyinstrument needs to tell the application's code from libraries."""

    host: str
    pid: int
    thread_name: str
    thread_id: int
    python: str
    sys_path: tuple[str, ...]
    sys_prefixes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A finished profile, or a partial one of a request that is still running.

    Immutable and safe to share between threads. Times are nanoseconds.
    """

    id: str
    """16 hexadecimal digits, the value of the span's ``slowspan.profile.id``."""
    name: str
    """File name without extension: start time, endpoint and id, made of harmless characters only."""
    running: bool
    """Whether the request had not ended yet: the profile is partial."""
    engine: str
    """``thread`` (the background stack sampler) or ``inline`` (pyinstrument in the request's thread)."""
    start_time_ns: int
    """Unix time of the span's start."""
    duration_ns: int
    threshold_ns: int
    cpu_time_ns: int | None
    """CPU time of the request's thread from the first sample on; None where it is not known."""
    interval_ns: int
    """Mean time between two samples."""
    sample_count: int
    """Number of stack readings, which can be more than ``len(samples)``."""
    span: SpanFacts
    process: ProcessFacts
    notes: tuple[str, ...]
    """Sentences for the reader on what this profile could not see."""
    frames: tuple[Frame, ...]
    locations: tuple[Location, ...]
    stacks: tuple[Stack, ...]
    samples: tuple[Sample, ...]
    spans: tuple[ChildSpan, ...] = ()
    """The spans that ended inside the request, as a tree: a parent before its children, siblings by their start."""
    spans_left_out: int = 0
    """How many more ended in its trace, which were not kept."""

    @property
    def unknown_ns(self) -> int:
        """Time of which it is not known whether the thread computed or waited: before the first sample, or unseen."""
        return sum(
            sample.wall_ns - sample.cpu_ns
            for sample in self.samples
            if self.frames[self.locations[self.stacks[sample.stack].location].frame].name in UNKNOWN_FRAMES
        )

    def stack_locations(self, stack: int) -> list[Location]:
        """Return the locations of a stack, root first.

        Args:
            stack: Index into ``stacks``.

        Returns:
            The locations from the outermost caller to the innermost frame.
        """
        path: list[Location] = []
        while stack != ROOT:
            parent, location = self.stacks[stack]
            path.append(self.locations[location])
            stack = parent
        path.reverse()
        return path

    def session(self) -> Session:
        """Build pyinstrument's session, which all its renderers and processors take.

        Imports pyinstrument (about 40 ms): not for a request's thread.

        Returns:
            A ``pyinstrument.session.Session``; its frame records' times add up to ``duration_ns``.
        """
        # Imported here because only reports need pyinstrument, and its import costs as much as a request.
        from slowspan.recording.session import build_session

        return build_session(
            records=[(self.stack_frames(sample.stack), sample.wall_ns / 1e9) for sample in self.samples],
            start_time=self.start_time_ns / 1e9,
            duration=self.duration_ns / 1e9,
            cpu_time=(self.cpu_time_ns or 0) / 1e9,
            interval=self.interval_ns / 1e9,
            sample_count=self.sample_count,
            # The endpoint comes from the URL, and pyinstrument's page embeds the description unescaped.
            description=f"slowspan {self.id}",
            sys_path=self.process.sys_path,
            sys_prefixes=self.process.sys_prefixes,
        )

    def stack_frames(self, stack: int) -> list[tuple[Frame, int]]:
        """Return a stack as pairs of frame and line, root first."""
        return [(self.frames[location.frame], location.line) for location in self.stack_locations(stack)]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of this profile, without the sample tables turned into text."""
        document: dict[str, Any] = {"format": FORMAT, "version": FORMAT_VERSION}
        for field in fields(self):
            document[field.name] = getattr(self, field.name)
        document["span"] = asdict(self.span)
        document["process"] = asdict(self.process)
        return document

    def json_slices(self, rows: int = 100) -> Iterator[str]:
        """Yield the JSON text in slices, so that a writer can let other threads run in between.

        Args:
            rows: Table rows in one slice; 100 take some 0.1 ms.

        Yields:
            Pieces that make one JSON object when joined.
        """
        document = self.to_dict()
        tables = {name: document.pop(name) for name in ("frames", "locations", "stacks", "samples", "spans")}
        yield json.dumps(document, separators=(",", ":"))[:-1]
        for name, table in tables.items():
            yield f',"{name}":['
            # Only the rows of spans hold long texts.
            step = rows if name != "spans" else max(rows // 10, 1)
            for start in range(0, len(table), step):
                text = json.dumps(table[start : start + step], separators=(",", ":"))[1:-1]
                yield text if start == 0 else "," + text
            yield "]"
        yield "}"

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Profile:
        """Read a profile from its JSON object.

        Args:
            document: What ``json.loads`` made of a stored profile.

        Returns:
            The profile, equal to the one that was stored.

        Raises:
            ProfileFormatError: The object is not a profile of a known version.
        """
        if document.get("format") != FORMAT:
            raise ProfileFormatError(f"not a slowspan profile: format is {document.get('format')!r}, not {FORMAT!r}")
        if document.get("version") != FORMAT_VERSION:
            raise ProfileFormatError(
                f"profile of version {document.get('version')!r}; this slowspan reads version {FORMAT_VERSION}"
            )
        try:
            profile = cls(**{field.name: _read_field(field.name, document[field.name]) for field in fields(cls)})
            profile._check_indexes()
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ProfileFormatError(f"damaged slowspan profile: {error!r}") from error
        return profile

    def _check_indexes(self) -> None:
        """Refuse what a reader would stumble over, or follow for ever."""
        if any(not 0 <= location.frame < len(self.frames) for location in self.locations):
            raise IndexError("a location without a frame")
        for index, stack in enumerate(self.stacks):
            if not (ROOT <= stack.parent < index and 0 <= stack.location < len(self.locations)):
                raise IndexError("a stack without a caller or a location")
        if any(not 0 <= sample.stack < len(self.stacks) for sample in self.samples):
            raise IndexError("a sample without a stack")
        if any(not -1 <= sample.span < len(self.spans) for sample in self.samples):
            raise IndexError("a sample without a span")
        if any(not -1 <= span.parent < index for index, span in enumerate(self.spans)):
            raise IndexError("a span without a parent")


_ROWS = {"frames": Frame, "locations": Location, "stacks": Stack, "samples": Sample}


def _read_field(name: str, value: Any) -> Any:
    if name in _ROWS:
        return tuple(_ROWS[name](*row) for row in value)
    if name == "notes":
        return tuple(value)
    if name == "spans":
        return tuple(ChildSpan._make((*row, tuple((key, text) for key, text in pairs))) for *row, pairs in value)
    if name == "span":
        return SpanFacts(**{**value, "parameters": tuple((key, text) for key, text in value["parameters"])})
    if name == "process":
        lists = {key: tuple(value[key]) for key in ("sys_path", "sys_prefixes")}
        return ProcessFacts(**{**value, **lists})
    return value


def load_profile(path: str | Path) -> Profile:
    """Read a stored profile (``*.json.gz``, or the same uncompressed).

    Args:
        path: The file that the file notifier wrote.

    Returns:
        The profile.

    Raises:
        ProfileFormatError: The file is not a profile of a known version.
        OSError: The file cannot be read.
    """
    data = Path(path).read_bytes()
    return read_profile(data)


def read_profile(data: bytes) -> Profile:
    """Read a profile from its stored bytes, gzip-compressed or not.

    Raises:
        ProfileFormatError: The bytes are not a profile of a known version.
    """
    try:
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        document = json.loads(data)
    except (OSError, EOFError, ValueError) as error:
        raise ProfileFormatError(f"damaged slowspan profile: {error}") from error
    if not isinstance(document, dict):
        raise ProfileFormatError("not a slowspan profile: not a JSON object")
    return Profile.from_dict(document)
