"""pyinstrument's session, made from a profile. What is private in pyinstrument is touched in this file only.

Private are the strings that stand for a frame, the JSON that its page takes, and the page's files. The tests
compare each of them with what the installed pyinstrument makes itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from slowspan.recording.profile import Frame
from slowspan.recording.synthetic import SYNTHETIC_FRAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pyinstrument import Profiler
    from pyinstrument.session import Session


_FIELD = "\x00"
_ATTRIBUTE = "\x01"
# The separators, and what would break a line of a text report. No honest name has one of them.
_CONTROLS = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029), "\ufffd")

RECURSION_LIMIT = 10_000
"""For processes that only render: pyinstrument recurses as deep as a stack, up to 1 000 frames."""

SYNTHETIC_FILE = "slowspan"
"""What stands for the file of our synthetic frames.

A frame without a file counts as library code, and pyinstrument folds neighbouring library frames into one
line "12 frames hidden": the time that no sample explains would be the first thing out of sight.
"""

SMALLEST_INTERVAL = 0.001
"""Seconds. pyinstrument prints as many decimals as the interval has; more than three are noise."""

SMALLEST_SHARES = (0.001, 0.003, 0.01)
"""Frames with less of the duration are left out of the interactive view.

The first is the view's own default filter; a profile in which no two stacks are alike needs a coarser one.
"""

VIEW_LIMIT = 300_000
"""Characters of data up to which the finer filter is kept; typical are 30 000 to 60 000."""


def build_session(
    *,
    records: Iterable[tuple[Sequence[tuple[Frame, int]], float]],
    start_time: float,
    duration: float,
    cpu_time: float,
    interval: float,
    sample_count: int,
    description: str,
    sys_path: Sequence[str],
    sys_prefixes: Sequence[str],
) -> Session:
    """Build a ``pyinstrument.session.Session`` from stacks.

    Imports pyinstrument (about 40 ms): not for a request's thread.

    Args:
        records: Stacks as pairs of frame and line (root first), each with its seconds.
        start_time: Unix time in seconds.
        duration: Seconds.
        cpu_time: Seconds.
        interval: Mean seconds between two samples.
        sample_count: Number of stack readings.
        description: What pyinstrument calls the target. Its own page embeds it unescaped: no stranger's text.
        sys_path: ``sys.path`` of the profiled process, for short file names.
        sys_prefixes: Folders of the interpreter and its environment: what is below them is library code.

    Returns:
        The session; the times of its frame records are those of ``records``.
    """
    from pyinstrument.session import Session  # costs 40 ms, and only reports need it

    known: dict[tuple[Frame, int], str] = {}
    frame_records = []
    for path, seconds in records:
        infos = []
        for place in path:
            info = known.get(place)
            if info is None:
                info = known[place] = frame_info(*place)
            infos.append(info)
        frame_records.append((infos, seconds))
    session: Session = Session.from_json(
        {
            "frame_records": frame_records,
            "start_time": start_time,
            "duration": duration,
            "min_interval": max(interval, SMALLEST_INTERVAL),
            "max_interval": max(interval, SMALLEST_INTERVAL),
            "sample_count": sample_count,
            # Equal to no frame: pyinstrument cuts off callers that it finds here, and fails on an empty list.
            "start_call_stack": [""],
            "target_description": description,
            "cpu_time": cpu_time,
            "sys_path": list(sys_path),
            # An embedded interpreter can have an empty prefix, which would make every file library code.
            "sys_prefixes": [prefix for prefix in sys_prefixes if prefix],
        }
    )
    return session


def frame_info(frame: Frame, line: int) -> str:
    """Return pyinstrument's string for a frame at a line.

    Args:
        frame: The code object, or a synthetic entry without a file.
        line: Line number; 0 where it is not known.

    Returns:
        ``name NUL file NUL first line``, then SOH and one letter before each attribute: class, line, hidden.
    """
    if not frame.file and frame.name not in SYNTHETIC_FRAMES:
        return _clean(frame.name)  # pyinstrument's own synthetic frames, such as "[await]"
    file = frame.file or SYNTHETIC_FILE
    info = f"{_clean(frame.name)}{_FIELD}{_clean(file)}{_FIELD}{frame.first_line}"
    if frame.class_name:
        info += f"{_ATTRIBUTE}c{_clean(frame.class_name)}"
    if line > 0:
        info += f"{_ATTRIBUTE}l{line}"
    if frame.hidden:
        info += f"{_ATTRIBUTE}h1"
    return info


def read_session(session: Session) -> list[tuple[list[tuple[Frame, int]], float]]:
    """Read the stacks of a session that pyinstrument recorded itself.

    Args:
        session: What ``Profiler.stop`` returned.

    Returns:
        Stacks as pairs of frame and line (root first), each with its seconds: what ``build_session`` takes.
    """
    known: dict[str, tuple[Frame, int]] = {}
    records = []
    for infos, seconds in session.frame_records:
        for info in infos:
            if info not in known:
                known[info] = _read_frame_info(info)
        records.append(([known[info] for info in infos], seconds))
    return records


def _read_frame_info(info: str) -> tuple[Frame, int]:
    identifier, *attributes = info.split(_ATTRIBUTE)
    name, file, first_line = (*identifier.split(_FIELD), "", "")[:3]
    values = {attribute[:1]: attribute[1:] for attribute in attributes}
    line = int(values.get("l", "0"))
    return Frame(name, file, int(first_line or "0"), values.get("c"), "h" in values), line


def thin_out(profiler: Profiler, most: int) -> None:
    """Halve what a profiler of another thread has recorded while that is twice as much as wanted. On any thread.

    Of two neighbours the longer one stays, with the time of both.

    Args:
        profiler: A running one; one that has stopped is left alone.
        most: Samples that are kept at least.
    """
    session = profiler._active_session
    records = session.frame_records if session is not None else []
    while len(records) >= 2 * most:
        even = len(records) // 2 * 2
        pairs = zip(records[0:even:2], records[1:even:2], strict=True)
        # At once: the profiler's thread goes on appending.
        records[:even] = [
            (max(first, second, key=lambda record: record[1])[0], first[1] + second[1]) for first, second in pairs
        ]


def stop_from_its_own_thread(profiler: Profiler) -> None:
    """Let a profiler of another thread stop itself with its next sample: nobody else can stop it.

    Args:
        profiler: A running profiler.
    """
    session = profiler._active_session
    if session is not None:
        session.frame_records = _StopAtAppend(profiler)


class _StopAtAppend(list[Any]):
    """Takes the place of a profiler's records; the first sample, in the right thread, stops it."""

    def __init__(self, profiler: Profiler) -> None:
        super().__init__()
        self._profiler = profiler

    def append(self, _record: Any) -> None:
        if self._profiler.is_running:
            self._profiler.stop()


class InteractiveView(NamedTuple):
    """The parts of pyinstrument's page: ``pyinstrumentHTMLRenderer.render(element, data)`` joins them."""

    script: str
    style: str
    data: str
    """A JSON text with strangers' words in it, unescaped."""


def interactive_view(session: Session) -> InteractiveView:
    """Return what a page needs to show pyinstrument's interactive view of a session.

    Repeated calls are added up, which keeps the page small; the order in time is lost.

    Args:
        session: The session; not changed.

    Returns:
        Script, style and data. Whoever embeds the data must escape it.
    """
    from pyinstrument import processors  # costs 40 ms, and only reports need it
    from pyinstrument.renderers import html

    folder = Path(html.__file__).parent / "html_resources"
    session = _without_order(session)
    renderer = html.JSONForHTMLRenderer()
    renderer.processors = [processors.aggregate_repeated_calls, processors.remove_irrelevant_nodes]
    data = ""
    for share in SMALLEST_SHARES:
        renderer.processor_options = {"filter_threshold": share}
        data = renderer.render(session)
        if len(data) <= VIEW_LIMIT:
            break
    return InteractiveView(
        script=(folder / "app.js").read_text(encoding="utf-8"),
        style=(folder / "app.css").read_text(encoding="utf-8"),
        data=data,
    )


def _without_order(session: Session) -> Session:
    """Return a session with equal stacks added up and similar ones side by side.

    pyinstrument makes a tree of frames in the order of time first and adds up afterwards: with thousands of
    samples that tree is ten times as large as the one that is wanted.
    """
    from pyinstrument.session import Session

    seconds: dict[tuple[str, ...], float] = {}
    for infos, time in session.frame_records:
        stack = tuple(infos)
        seconds[stack] = seconds.get(stack, 0.0) + time
    records = [(list(stack), seconds[stack]) for stack in sorted(seconds)]
    merged: Session = Session.from_json({**session.to_json(include_frame_records=False), "frame_records": records})
    return merged


def session_json(session: Session) -> str:
    """Return the text of the file that ``pyinstrument --load`` opens."""
    return json.dumps(session.to_json())


def _clean(text: str) -> str:
    return text.translate(_CONTROLS)
