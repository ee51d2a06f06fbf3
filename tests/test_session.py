"""The one file that knows what is private in pyinstrument, against the pyinstrument that is installed."""

from __future__ import annotations

import json
import marshal
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyinstrument import Profiler
from pyinstrument.frame import AWAIT_FRAME_IDENTIFIER
from pyinstrument.frame import Frame as PyinstrumentFrame
from pyinstrument.renderers import ConsoleRenderer, HTMLRenderer, PstatsRenderer, SpeedscopeRenderer
from pyinstrument.session import Session

from profiles import (
    BEFORE,
    HIDDEN,
    MS,
    NOT_SEEN,
    STEM,
    TOTAL,
    VIEW,
    default_records,
    make_process,
    make_profile,
)
from slowspan.recording.profile import Frame
from slowspan.recording.session import (
    SYNTHETIC_FILE,
    VIEW_LIMIT,
    build_session,
    frame_info,
    interactive_view,
    read_session,
    session_json,
)

TYPES_DIFFER = (
    "The installed pyinstrument writes frames in another way than slowspan/recording/session.py does: "
    "compare with get_frame_info in its low_level/stat_profile.c, and adapt frame_info and _read_frame_info."
)


class Busy:
    def work(self) -> int:
        __tracebackhide__ = True
        deadline = time.perf_counter() + 0.05
        turns = 0
        while time.perf_counter() < deadline:
            turns += 1
        return turns


def record_busy_work() -> Session:
    """Let pyinstrument record a method of which everything is known."""
    profiler = Profiler(interval=0.001, async_mode="disabled")
    profiler.start()
    Busy().work()
    return profiler.stop()


def build(records: list[tuple[list[tuple[Frame, int]], float]]) -> Session:
    return build_session(
        records=records,
        start_time=0.0,
        duration=sum(seconds for _, seconds in records),
        cpu_time=0.0,
        interval=0.01,
        sample_count=len(records),
        description="test",
        sys_path=["/srv/shop"],
        sys_prefixes=["/usr"],
    )


def test_our_frame_strings_are_those_that_pyinstrument_records() -> None:
    """A known method gets from us, letter for letter, the string that pyinstrument's own profiler records."""
    code = Busy.work.__code__
    infos = {info for infos, _ in record_busy_work().frame_records for info in infos}
    recorded = {info for info in infos if info.startswith(code.co_name) and not info.startswith(code.co_name + "_")}
    lines = range(code.co_firstlineno, code.co_firstlineno + 8)
    frame = Frame("work", code.co_filename, code.co_firstlineno, "Busy", True)
    ours = {frame_info(frame, line) for line in lines}
    assert recorded, "pyinstrument did not record the method"
    assert recorded <= ours, TYPES_DIFFER


def test_what_pyinstrument_recorded_is_read_back() -> None:
    """Reading a session that pyinstrument recorded and building it again changes no frame and no time."""
    session = record_busy_work()
    assert build(read_session(session)).frame_records == session.frame_records, TYPES_DIFFER


names = st.text(st.characters(exclude_categories=("Cc", "Zl", "Zp")), min_size=1)
places = st.tuples(
    st.builds(
        Frame,
        names,
        names,
        st.integers(1, 10**6),
        st.none() | names.filter(lambda name: name != ""),
        st.booleans(),
    ),
    st.integers(1, 10**6),
)
records_strategy = st.lists(
    st.tuples(st.lists(places, min_size=1, max_size=6), st.floats(0.001, 10)), min_size=1, max_size=5
)


@given(records_strategy)
@settings(max_examples=50, deadline=None)
def test_frames_survive_being_written_and_read(records: list[tuple[list[tuple[Frame, int]], float]]) -> None:
    """Whatever the names, files, classes and lines are, a session gives back the frames it was built from."""
    assert read_session(build(records)) == [(list(path), seconds) for path, seconds in records]


def test_frames_carry_class_line_and_library_distinction() -> None:
    """In pyinstrument's tree our frames have class, file and line, and libraries are told apart."""
    session = make_profile().session()
    frame = find(session, "total_for")
    assert (frame.class_name, frame.file_path, frame.line_no) == ("Pricing", "/srv/shop/pricing.py", 36)
    assert frame.file_path_short == "pricing.py"
    assert frame.is_application_code
    assert not find(session, "_bootstrap").is_application_code
    assert frame.get_attribute_value("l") == "41"


def find(session: Session, function: str) -> PyinstrumentFrame:
    """Find the first frame of a function in pyinstrument's tree."""
    root = session.root_frame()
    assert root is not None
    unseen = [root]
    while unseen:
        frame = unseen.pop()
        if frame.function == function:
            return frame
        unseen.extend(frame.children)
    raise AssertionError(f"no frame {function}")


def test_times_add_up_to_the_duration() -> None:
    """The tree's times are consistent (pyinstrument's own check) and its root has the request's duration."""
    profile = make_profile()
    root = profile.session().root_frame()
    assert root is not None
    root.self_check()
    assert root.time == pytest.approx(profile.duration_ns / 1e9)


def test_synthetic_entries_are_seen_in_every_renderer() -> None:
    """Time that no sample explains is named in text, speedscope and pstats, not folded away."""
    library = Frame("query", "/usr/lib/python3.11/sqlite.py", 3, None, False)
    deep = (*STEM, (VIEW, 40), (library, 4), (library, 5), (NOT_SEEN, 0))
    profile = make_profile([(((BEFORE, 0),), 100 * MS, 0), (deep, 900 * MS, 0)])
    text = ConsoleRenderer().render(profile.session())
    assert re.search(r"0\.90+ \[computed, not seen\]  slowspan", text)
    assert re.search(r"0\.10+ \[before the first sample\]  slowspan", text)
    speedscope = json.loads(SpeedscopeRenderer().render(profile.session()))
    assert {"name": "[computed, not seen]", "file": SYNTHETIC_FILE, "line": 0} in speedscope["shared"]["frames"]
    pstats = PstatsRenderer().render(profile.session()).encode("utf-8", "surrogateescape")
    assert (SYNTHETIC_FILE, 0, "[computed, not seen]") in marshal.loads(pstats)


def test_pyinstruments_own_synthetic_frames_stay_its_own() -> None:
    """A frame that pyinstrument made up itself, such as [await], is written as pyinstrument knows it."""
    assert frame_info(Frame(AWAIT_FRAME_IDENTIFIER, "", 0, None, False), 0) == AWAIT_FRAME_IDENTIFIER


def test_hidden_frames_are_removed_by_pyinstruments_processor() -> None:
    """A function with __tracebackhide__ is left out of the text, its callees are not."""
    text = ConsoleRenderer().render(make_profile().session())
    assert HIDDEN.name not in text
    assert "load_items" in text


def test_names_cannot_break_the_frame_strings() -> None:
    """Separators and line breaks inside a name are replaced: they forge no frame, attribute or line."""
    evil = Frame("a\x00b\x01cEvil\nnext", "/x\x00y.py", 1, "C\x01h1", False)
    profile = make_profile([(((evil, 1),), MS, 0)])
    root = profile.session().root_frame()
    assert root is not None
    assert root.function == "a\ufffdb\ufffdcEvil\ufffdnext"
    assert (root.line_no, root.has_tracebackhide) == (1, False)


def test_an_empty_session_can_be_built_and_rendered() -> None:
    """A profile without samples is no error for pyinstrument."""
    session = make_profile([]).session()
    assert session.root_frame() is None
    assert "No samples" in ConsoleRenderer().render(session)


def test_an_empty_prefix_does_not_make_all_code_library_code() -> None:
    """An embedded interpreter without a prefix still has application code."""
    session = make_profile([(((TOTAL, 41),), MS, 0)], process=make_process(sys_prefixes=("", "/usr"))).session()
    root = session.root_frame()
    assert root is not None
    assert root.is_application_code


def test_pyinstruments_command_loads_the_session_file(tmp_path: Path) -> None:
    """What ``session_json`` writes is what ``pyinstrument --load`` opens."""
    file = tmp_path / "profile.pyisession"
    file.write_text(session_json(make_profile().session()))
    command = [sys.executable, "-m", "pyinstrument", "--load", str(file), "-r", "text"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "Pricing.total_for" in shown.stdout


def test_the_interactive_view_is_that_of_pyinstruments_page() -> None:
    """Script, style and the shape of the data are those of the page that the installed HTMLRenderer makes."""
    session = make_profile().session()
    view = interactive_view(session)
    page = HTMLRenderer().render(session)
    assert f"<script>{view.script}</script>" in page
    assert f"<style>{view.style}</style>" in page
    assert "pyinstrumentHTMLRenderer.render(document.getElementById('app'), sessionData)" in page
    start = page.index("const sessionData = ") + len("const sessionData = ")
    whole, _ = json.JSONDecoder().raw_decode(page[start:])
    ours = json.loads(view.data)
    assert ours.keys() == whole.keys()
    assert ours["session"] == whole["session"]
    assert ours["frame_tree"].keys() == whole["frame_tree"].keys()
    assert ours["frame_tree"]["time"] == whole["frame_tree"]["time"]


def test_the_interactive_view_adds_repeated_calls_up() -> None:
    """A loop of a thousand turns is as large in the page as one turn, and no time is lost."""
    turn = default_records()
    small = json.loads(interactive_view(make_profile(turn).session()).data)
    large = json.loads(interactive_view(make_profile(turn * 100).session()).data)
    assert count_frames(large["frame_tree"]) == count_frames(small["frame_tree"])
    assert large["frame_tree"]["time"] == pytest.approx(142.0)


def test_the_interactive_view_stays_small_when_no_stack_is_like_another() -> None:
    """Two thousand stacks of a hundred frames each, all different, do not make a page of many megabytes."""
    records = [
        (
            tuple(
                (Frame(f"f{(sample * 7 + depth) % 997}", f"/srv/shop/m{depth}.py", 1, None, False), 1)
                for depth in range(60)
            ),
            MS,
            0,
        )
        for sample in range(1200)
    ]
    assert len(interactive_view(make_profile(records).session()).data) < 2 * VIEW_LIMIT


def count_frames(tree: dict[str, object]) -> int:
    children = tree["children"]
    assert isinstance(children, list)
    return 1 + sum(count_frames(child) for child in children)
