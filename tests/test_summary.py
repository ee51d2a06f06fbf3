"""What a profile says in a few words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles import BEFORE, MS, SECOND, STEM, TOTAL, VIEW, make_profile, make_span
from slowspan.recording.profile import Frame, Profile
from slowspan.report.summary import describe, format_duration, format_share, hot_lines, hot_text, summarize


def summary_of(profile: Profile) -> str:
    return summarize(profile, hot_lines(profile))


def test_hot_lines_are_the_own_times_of_the_innermost_lines() -> None:
    """Time counts for the line that was innermost, added up over samples, hottest first."""
    first, second, *_ = hot_lines(make_profile())
    assert (first.function, first.line, first.class_name) == ("total_for", 41, "Pricing")
    assert (first.file, first.short_file) == ("/srv/shop/pricing.py", "pricing.py")
    assert (first.wall_ns, first.cpu_ns) == (12 * 84 * MS, 12 * 84 * MS)
    assert first.share == pytest.approx(0.71, abs=0.001)
    assert (second.function, second.wall_ns, second.cpu_ns) == ("execute", 176 * MS, 4 * MS)


def test_hot_lines_of_one_function_are_told_apart_by_line() -> None:
    """Two lines of one function are two hot lines."""
    profile = make_profile([(((TOTAL, 41),), 3 * MS, 0), (((TOTAL, 43),), 2 * MS, 0)])
    assert [(line.line, line.wall_ns) for line in hot_lines(profile)] == [(41, 3 * MS), (43, 2 * MS)]


def test_hot_lines_are_limited() -> None:
    """No more lines than asked for are returned."""
    assert len(hot_lines(make_profile(), limit=2)) == 2


def test_synthetic_entries_are_hot_lines_without_a_file() -> None:
    """Time that no sample explains is told by name."""
    profile = make_profile([(((BEFORE, 0),), 900 * MS, 0), (((TOTAL, 41),), 100 * MS, 0)])
    line = hot_lines(profile)[0]
    assert line.synthetic
    assert describe(line) == "90 % [before the first sample]"
    assert summary_of(profile).endswith(" · 90 % [before the first sample]")


def test_the_shares_of_all_lines_add_up_to_one() -> None:
    """No time of the request is missing from its hot lines."""
    assert sum(line.share for line in hot_lines(make_profile(), limit=1000)) == pytest.approx(1.0)


def test_a_profile_without_samples_has_no_hot_lines_but_a_summary() -> None:
    """A request whose stack was never read is still told."""
    profile = make_profile([], duration_ns=2 * SECOND)
    assert hot_lines(profile) == ()
    assert summary_of(profile) == "slow request GET /orders/<id> 2 s > 1 s"


def test_a_sample_without_a_stack_is_told_as_such() -> None:
    """Where the table of stacks was full, the time belongs to no line, least of all to another stack's."""
    profile = make_profile([((), MS, 0), (((TOTAL, 41),), MS // 2, 0)])
    assert [line.function for line in hot_lines(profile)] == ["[not sampled]", "total_for"]


def test_samples_without_time_have_no_share() -> None:
    """A profile of no duration divides by nothing."""
    assert hot_lines(make_profile([(((TOTAL, 41),), 0, 0)]))[0].share == 0.0


def test_describe_names_share_line_and_function() -> None:
    """A hot line reads like the span attribute that is made from raw numbers."""
    line = hot_lines(make_profile())[0]
    assert describe(line) == "71 % pricing.py:41 total_for"
    assert hot_text(0.71, "/srv/shop/pricing.py", 41, "total_for") == describe(line)
    assert hot_text(0.71, "C:\\shop\\pricing.py", 41, "total_for") == describe(line)


def test_summary_of_a_finished_request() -> None:
    """One line names endpoint, duration, threshold and the hottest line."""
    assert summary_of(make_profile()) == "slow request GET /orders/<id> 1.42 s > 1 s · 71 % pricing.py:41"


def test_summary_of_a_running_request() -> None:
    """A partial profile says that the request has not ended."""
    profile = make_profile(running=True, duration_ns=20 * SECOND, threshold_ns=SECOND // 2)
    assert "still running after 20 s > 0.5 s" in summary_of(profile)


def test_summary_of_a_span_that_is_no_request() -> None:
    """A CONSUMER span is not called a request."""
    profile = make_profile(span=make_span(kind="CONSUMER", name="process mail", method=None, route=None, path=None))
    assert summary_of(profile).startswith("slow span process mail 1.42 s > 1 s")


@given(st.text(), st.text(), st.text())
def test_a_summary_is_always_one_printable_bounded_line(route: str, function: str, file: str) -> None:
    """Whatever is in a route, a function or a file, a summary stays one short line that can be printed."""
    frame = Frame(function, file, 1, None, False)
    profile = make_profile([((*STEM, (VIEW, 40), (frame, 1)), MS, 0)], span=make_span(route=route))
    summary = summary_of(profile)
    assert summary.isprintable()
    assert len(summary) < 500


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [
        (0, "0 µs"),
        (85_000, "85 µs"),
        (999_999, "1 ms"),
        (4_200_000, "4.2 ms"),
        (340 * MS, "340 ms"),
        (499_960_000, "500 ms"),
        (SECOND // 2, "0.5 s"),
        (850 * MS, "0.85 s"),
        (543 * MS, "0.543 s"),
        (SECOND, "1 s"),
        (1_420_000_000, "1.42 s"),
        (9_999_000_000, "10 s"),
        (12_345_000_000, "12.3 s"),
        (20 * SECOND, "20 s"),
        (1234 * SECOND, "1234 s"),
    ],
)
def test_durations_have_three_significant_digits(duration_ns: int, text: str) -> None:
    """Durations are short and keep the precision that matters."""
    assert format_duration(duration_ns) == text


@given(st.integers(1, 10**14))
def test_a_duration_in_words_is_close_to_the_duration(duration_ns: int) -> None:
    """The text is never more than half a percent, or half a nanosecond's digit, off."""
    number, unit = format_duration(duration_ns).split()
    scale = {"s": 1e9, "ms": 1e6, "µs": 1e3}[unit]
    assert float(number) * scale == pytest.approx(duration_ns, rel=0.006, abs=6)


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "0 %"), (0.004, "<1 %"), (0.01, "1 %"), (0.714, "71 %"), (1.0, "100 %")]
)
def test_shares_are_whole_percentages(share: float, text: str) -> None:
    """A small share is not rounded down to nothing."""
    assert format_share(share) == text
