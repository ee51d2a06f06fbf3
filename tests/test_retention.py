"""What is deleted from the report directory, and what never is."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slowspan.delivery.naming import report_name, report_of_file, temporary_file
from slowspan.delivery.retention import ABANDONED_AFTER, Retention
from slowspan.delivery.store import ReportStore

NOW = 1_795_290_250
HOUR = 3600
DAY = 24 * HOUR
UNLIMITED = 10**9


class Stored(NamedTuple):
    """A report in the directory."""

    age: int
    page_size: int | None
    profile_size: int | None

    @property
    def size(self) -> int:
        return (self.page_size or 0) + (self.profile_size or 0)


sizes = st.integers(min_value=0, max_value=50)
reports = st.builds(Stored, st.integers(min_value=0, max_value=100), sizes, sizes) | st.builds(
    Stored, st.integers(min_value=0, max_value=100), st.none(), sizes
)


def make_retention(count: int = UNLIMITED, size: int = UNLIMITED, age: float = UNLIMITED) -> Retention:
    return Retention(count=count, size=size, age=age, clock=lambda: NOW)


def name_of(number: int) -> str:
    return report_name(NOW * 10**9, "GET /", f"{number:016x}")


def put(directory: Path, file_name: str, *, age: float = 0, size: int = 10) -> None:
    path = directory / file_name
    path.write_bytes(b"x" * size)
    os.utime(path, (NOW - age, NOW - age))


def put_report(directory: Path, number: int, report: Stored) -> str:
    name = name_of(number)
    if report.page_size is not None:
        put(directory, f"{name}.html", age=report.age, size=report.page_size)
    if report.profile_size is not None:
        # The page was rendered a moment after the profile was written.
        put(directory, f"{name}.json.gz", age=report.age + 0.5, size=report.profile_size)
    return name


def sweep(retention: Retention, directory: Path) -> int:
    with ReportStore(directory).opened() as opened:
        return retention.sweep(opened)


def names_in(directory: Path) -> set[str]:
    return {report_of_file(name) or name for name in os.listdir(directory)}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "reports"
    directory.mkdir(mode=0o700)
    return directory


@settings(max_examples=60, deadline=None)
@given(
    st.lists(reports, max_size=12),
    st.integers(min_value=0, max_value=12),
    st.integers(min_value=0, max_value=500),
    st.integers(min_value=0, max_value=100),
)
def test_what_is_left_is_within_the_limits_and_the_newest(
    stored: list[Stored], count: int, size: int, age: int
) -> None:
    """Whatever the directory holds: all three limits hold, only the oldest went, and none too many."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        by_name = {put_report(directory, number, report): report for number, report in enumerate(stored)}
        removed = sweep(make_retention(count, size, age), directory)
        left = names_in(directory)
        files = os.listdir(directory)
        again = sweep(make_retention(count, size, age), directory)
    age_of = {
        name: report.age if report.page_size is not None else report.age + 0.5 for name, report in by_name.items()
    }
    gone = by_name.keys() - left
    assert removed == len(gone)
    assert again == 0
    assert len(left) <= count
    assert sum(by_name[name].size for name in left) <= size
    assert all(age_of[name] <= age for name in left)
    # Pairs go together.
    for name in left:
        expected = (by_name[name].page_size is not None) + (by_name[name].profile_size is not None)
        assert sum(report_of_file(file) == name for file in files) == expected
    # The oldest went, and the youngest of those that went had to go.
    oldest_first = sorted(by_name, key=lambda name: (-age_of[name], name))
    assert set(oldest_first[: len(gone)]) == gone
    if gone:
        youngest = oldest_first[len(gone) - 1]
        assert (
            len(left) + 1 > count
            or sum(by_name[name].size for name in {*left, youngest}) > size
            or age_of[youngest] > age
        )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.from_regex(r"\A[0-9A-Za-z_.]{1,40}(\.html|\.json\.gz|\.tmp|)\Z"), max_size=10))
def test_other_files_are_never_touched(file_names: list[str]) -> None:
    """Files that are not of our own form stay, however old they are and whatever they are called."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        for file_name in file_names:
            if file_name not in {".", ".."}:
                put(directory, file_name, age=10 * DAY)
        before = sorted(os.listdir(directory))
        sweep(make_retention(0, 0, 0), directory)
        assert sorted(os.listdir(directory)) == before


def test_links_and_folders_are_never_touched(directory: Path, tmp_path: Path) -> None:
    """A link or folder with a report's name stays, and so does what it points to and holds."""
    victim = tmp_path / "victim.html"
    victim.write_text("precious")
    os.utime(victim, (0, 0))
    try:
        (directory / f"{name_of(1)}.html").symlink_to(victim)
    except OSError:
        pytest.skip("this user may not make symbolic links")
    (directory / f"{name_of(2)}.html").mkdir()
    before = set(os.listdir(directory))
    assert sweep(make_retention(0, 0, 0), directory) == 0
    assert set(os.listdir(directory)) == before
    assert victim.read_text() == "precious"


def test_only_abandoned_temporary_files_are_removed(directory: Path) -> None:
    """What a dead process left is removed; what another process writes at this moment is not."""
    abandoned, current = temporary_file(f"{name_of(1)}.html"), temporary_file(f"{name_of(2)}.json.gz")
    put(directory, abandoned, age=ABANDONED_AFTER + 1)
    put(directory, current, age=ABANDONED_AFTER - 1)
    sweep(make_retention(), directory)
    assert os.listdir(directory) == [current]


def test_a_file_from_the_future_is_not_old(directory: Path) -> None:
    """A clock that was set back does not delete new reports."""
    put(directory, f"{name_of(1)}.html", age=-DAY)
    assert sweep(make_retention(age=HOUR), directory) == 0


def test_a_renewed_report_is_young(directory: Path) -> None:
    """A request that hung for a day is as old as its last report, not as its start."""
    put(directory, f"{name_of(1)}.json.gz", age=DAY)
    put(directory, f"{name_of(1)}.html", age=1)
    assert sweep(make_retention(age=HOUR), directory) == 0


def test_several_processes_sweep_one_directory(directory: Path) -> None:
    """That another one deletes the same files at the same time is no error; no more than needed is gone."""
    names = [put_report(directory, number, Stored(1000 - number, 10, 10)) for number in range(300)]
    errors: list[Exception] = []
    barrier = threading.Barrier(4)

    def run() -> None:
        barrier.wait()
        try:
            sweep(make_retention(count=20), directory)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert names_in(directory) == set(names[-20:])
    assert len(os.listdir(directory)) == 40


class BusyDirectory:
    """An open directory in which every file but one is deleted by others, and one cannot be deleted."""

    def __init__(self, directory: Path, stuck: str) -> None:
        self._directory = directory
        self._stuck = stuck

    def entries(self) -> list[os.DirEntry[str]]:
        with os.scandir(self._directory) as found:
            entries = list(found)
        for entry in entries:
            if entry.name != self._stuck:
                os.unlink(entry)
        return entries

    def remove(self, file_name: str) -> None:
        raise PermissionError(13, "in use", file_name)


def test_vanishing_and_stuck_files(directory: Path) -> None:
    """Files that vanish after the listing are overlooked; one that cannot be deleted is told at the end."""
    for number in range(3):
        put_report(directory, number, Stored(10, 10, 10))
    busy = BusyDirectory(directory, stuck=f"{name_of(1)}.html")
    with pytest.raises(PermissionError, match="in use"):
        make_retention(count=0).sweep(busy)  # type: ignore[arg-type]
