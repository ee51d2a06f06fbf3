"""The stored profile: what is written is read, and the documentation tells all of it."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles import make_profile, make_span
from slowspan.recording.profile import ProcessFacts, Profile, ProfileFormatError, SpanFacts, load_profile, read_profile
from slowspan.recording.synthetic import SYNTHETIC_FRAMES
from support import REPOSITORY

DOCUMENT = REPOSITORY / "docs" / "profile-format.md"


def example() -> dict[str, object]:
    match = re.search(r"```json\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert match is not None
    document = json.loads(match.group(1))
    assert isinstance(document, dict)
    return document


def test_the_documented_example_is_a_profile() -> None:
    """The example is read, and is exactly what would be written for it."""
    profile = Profile.from_dict(example())
    assert json.loads("".join(profile.json_slices())) == example()


def test_the_documented_example_keeps_its_own_rules() -> None:
    """In the example the samples' times add up to the duration, and CPU time is a part of each."""
    profile = Profile.from_dict(example())
    assert sum(sample.wall_ns for sample in profile.samples) == profile.duration_ns
    assert sum(sample.cpu_ns for sample in profile.samples) == profile.cpu_time_ns
    assert all(sample.cpu_ns <= sample.wall_ns for sample in profile.samples)
    profile.session()


@pytest.mark.parametrize(
    "name",
    sorted({field.name for kind in (Profile, SpanFacts, ProcessFacts) for field in fields(kind)} | SYNTHETIC_FRAMES),
)
def test_everything_is_documented(name: str) -> None:
    """No field and no synthetic frame is missing from the documentation."""
    assert f"`{name}`" in DOCUMENT.read_text(encoding="utf-8")


@given(st.text(), st.lists(st.tuples(st.text(), st.text())))
def test_a_profile_survives_being_written_and_read(text: str, parameters: list[tuple[str, str]]) -> None:
    """Whatever its texts are, a profile read back equals the one that was written."""
    profile = make_profile(span=make_span(path=text, parameters=tuple(parameters)), notes=(text,))
    assert read_profile("".join(profile.json_slices(rows=3)).encode()) == profile


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "damaged"),
        (b"\x1f\x8b\x08broken", "damaged"),
        (gzip.compress(b"{}", mtime=0)[:-4], "damaged"),  # Every worker must name this test alike.
        (b"[]", "not a JSON object"),
        (b"{}", "format is None"),
        (b'{"format":"slowspan.profile","version":99}', "profile of version 99"),
        (b'{"format":"slowspan.profile","version":1}', "damaged"),
    ],
)
def test_what_is_no_profile_is_refused_with_a_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    """Files of others, damaged ones and unknown versions are told apart."""
    file = tmp_path / "profile.json.gz"
    file.write_bytes(data)
    with pytest.raises(ProfileFormatError, match=reason):
        load_profile(file)
