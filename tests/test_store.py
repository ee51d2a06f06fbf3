"""The names of reports, and the private directory they are written into."""

from __future__ import annotations

import os
import re
import stat
import string
import threading
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slowspan.config import Settings
from slowspan.counters import Drop, DropError
from slowspan.delivery import store as store_module
from slowspan.delivery.naming import (
    is_temporary_file,
    report_link,
    report_name,
    report_of_file,
    report_path,
    report_url,
    temporary_file,
    trace_url,
)
from slowspan.delivery.store import ReportDirError, ReportStore

posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this platform has no owners and modes of files")

NAME = "20261121T194410.123Z_GET_orders_id_00000000000000a1"
PAGE = f"{NAME}.html"

ids = st.text("0123456789abcdef", min_size=16, max_size=16)
start_times = st.integers(min_value=0, max_value=2**62)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "parent" / "reports"


@pytest.fixture
def store(directory: Path) -> ReportStore:
    return ReportStore(directory)


# -- Names


def test_a_name_tells_time_endpoint_and_id() -> None:
    """A person who looks at the directory sees when, what and which."""
    name = report_name(1_795_289_524_123_456_789, "GET /orders/<int:id>", "1a2b3c4d5e6f7a8b")
    assert name == "20261121T193204.123Z_GET_orders_int_id_1a2b3c4d5e6f7a8b"


@given(start_times | st.integers(), st.text(), ids)
@example(0, "GET /../../etc/passwd", "0" * 16)
@example(0, "GET /a\n\r\0b/./~/-rf/$(x)/%2e%2e/\u202e", "0" * 16)
@example(2**80, "-" * 1000, "0" * 16)
@example(-(2**80), "/" * 1_000_000, "0" * 16)
@example(0, "x" * 1_000_000, "0" * 16)
@example(0, "/заказы/\uff11\uff12/\ufb00", "0" * 16)
def test_nothing_in_an_endpoint_steers_the_path(start_time_ns: int, endpoint: str, id: str) -> None:
    """Whatever a stranger asks for, the name is short, harmless, known as ours, and inside the directory."""
    name = report_name(start_time_ns, endpoint, id)
    assert set(name) <= set(string.ascii_letters + string.digits + "_.")
    assert len(name) <= 120
    assert name[0].isdigit()
    assert ".." not in name
    assert name.endswith(f"_{id}")
    for suffix in (".html", ".json.gz"):
        assert report_of_file(name + suffix) == name
    assert os.path.normpath(os.path.join("/reports", name)) == f"/reports/{name}"


@given(start_times, start_times, st.text(), st.text(), ids, ids)
def test_names_sort_by_time(first: int, second: int, one: str, other: str, id: str, other_id: str) -> None:
    """Sorted names are in the order of the requests, to the millisecond."""
    first, second = sorted((first, second))
    if first // 1_000_000 < second // 1_000_000:
        assert report_name(first, one, id) < report_name(second, other, other_id)


@given(st.text(), st.text(), ids, ids)
def test_names_of_different_profiles_differ(one: str, other: str, id: str, other_id: str) -> None:
    """Two profiles never meet in one file, not even on a file system that ignores case."""
    same = report_name(0, one, id).lower() == report_name(0, other, other_id).lower()
    assert not same or id == other_id


@given(st.text() | st.from_regex(r"\A\.?[0-9TZ._a-f]*\.(html|json\.gz|tmp)\n?\Z"))
@example(f"{PAGE}\n")
@example(f"../{PAGE}")
@example(f"x{PAGE}")
@example(f"{NAME}.html.bak")
@example(f"{NAME}.json")
@example("alerts.sqlite3")
@example("report.html")
def test_other_files_are_not_ours(file_name: str) -> None:
    """Only the exact form of our names is taken for a report, whatever else lies in the directory."""
    if re.fullmatch(r"\d{8}T\d{6}\.\d{3}Z_\w+_[0-9a-f]{16}\.(html|json\.gz)", file_name, re.ASCII) is None:
        assert report_of_file(file_name) is None
    assert not (report_of_file(file_name) and is_temporary_file(file_name))


def test_a_temporary_file_is_known_but_is_no_report() -> None:
    """A reader of the directory overlooks what is being written; the retention finds it."""
    one, other = temporary_file(PAGE), temporary_file(PAGE)
    assert one != other
    assert is_temporary_file(one)
    assert report_of_file(one) is None
    assert one.startswith(".")


def test_where_a_report_can_be_read(tmp_path: Path) -> None:
    """Path and addresses are known before the report exists; without a template there is no address."""
    plain = Settings(report_dir=tmp_path)
    assert report_path(plain, NAME) == tmp_path / PAGE
    assert report_url(plain, "00a1", NAME) is None
    assert trace_url(plain, "12", "34") is None
    settings = Settings(
        report_url="https://reports.example/{id}/{name}?file={file}",
        trace_url="https://traces.example/{trace_id}#{span_id}",
    )
    assert report_url(settings, "00a1", NAME) == f"https://reports.example/00a1/{NAME}?file={PAGE}"
    assert trace_url(settings, "12", "34") == "https://traces.example/12#34"
    assert report_link(settings, "00a1", NAME) == report_url(settings, "00a1", NAME)
    assert report_link(plain, "00a1", NAME) == (tmp_path / PAGE).as_uri()
    assert report_link(Settings(notifiers=("log",)), "00a1", NAME) is None


# -- Writing


def test_a_file_is_written_and_replaced(store: ReportStore, directory: Path) -> None:
    """The final report takes the place of the partial one, and nothing else is left in the directory."""
    assert store.write(PAGE, b"partial") == directory / PAGE
    store.write(PAGE, b"final" * 100_000)
    assert (directory / PAGE).read_bytes() == b"final" * 100_000
    assert os.listdir(directory) == [PAGE]


@posix
def test_directory_and_files_are_private(store: ReportStore, directory: Path) -> None:
    """Nobody else can read a report, even with the most generous umask; the parent is ordinary."""
    before = os.umask(0)
    try:
        store.write(PAGE, b"page")
    finally:
        os.umask(before)
    assert mode(directory) == 0o700
    assert mode(directory / PAGE) == 0o600
    assert mode(directory.parent) == 0o777


def test_a_reader_sees_all_or_nothing(store: ReportStore, directory: Path) -> None:
    """While one file is replaced again and again, whoever reads it finds one whole content."""
    contents = [letter * 300_000 for letter in (b"a", b"b")]
    store.write(PAGE, contents[0])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for content in contents:
                store.write(PAGE, content)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            assert (directory / PAGE).read_bytes() in contents
            assert report_of_file(PAGE) in {report_of_file(name) for name in os.listdir(directory)}
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize("file_name", ["../evil.html", "/etc/evil.html", "evil.html", "", f"sub/{PAGE}"])
def test_only_names_of_reports_are_written(store: ReportStore, tmp_path: Path, file_name: str) -> None:
    """A name that is not of our own form is refused, whoever made it."""
    with pytest.raises(DropError) as refusal:
        store.write(file_name, b"")
    assert refusal.value.reason == Drop.WRITE_FAILED
    assert list(tmp_path.rglob("*.html")) == []


def test_a_failed_write_leaves_nothing(store: ReportStore, directory: Path) -> None:
    """What cannot be put in place is removed, and the error names path and cause."""
    (directory / PAGE).mkdir(parents=True)
    directory.chmod(0o700)
    with pytest.raises(DropError, match=PAGE) as failure:
        store.write(PAGE, b"page")
    assert failure.value.reason == Drop.WRITE_FAILED
    assert os.listdir(directory) == [PAGE]


@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this platform has no /dev/full")
def test_a_full_disk_is_a_counted_loss(store: ReportStore, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes no more data makes a DropError, not half a report."""
    real_open = os.open

    def open_on_full_disk(path: str, flags: int, *arguments: int, **options: int) -> int:
        created = real_open(path, flags, *arguments, **options)
        if flags & os.O_CREAT:
            full = real_open("/dev/full", os.O_WRONLY)
            os.dup2(full, created)
            os.close(full)
        return created

    monkeypatch.setattr(os, "open", open_on_full_disk)
    with pytest.raises(DropError, match="No space left") as failure:
        store.write(PAGE, b"page" * 100_000)
    assert failure.value.reason == Drop.WRITE_FAILED
    assert os.listdir(directory) == []


def test_without_descriptors_of_directories(
    store: ReportStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system knows no owners and no descriptors of directories, as on Windows, paths serve."""
    monkeypatch.setattr(store_module, "_POSIX", False)
    store.write(PAGE, b"page")
    with store.opened() as opened:
        assert [entry.name for entry in opened.entries()] == [PAGE]
    store.remove(PAGE)
    assert os.listdir(directory) == []


def test_what_cannot_be_removed_is_told(store: ReportStore, directory: Path) -> None:
    """An error of the system becomes a counted loss that names the path."""
    (directory / PAGE).mkdir(parents=True)
    directory.chmod(0o700)
    with pytest.raises(DropError, match=f"cannot delete .*{PAGE}"):
        store.remove(PAGE)


def test_removing_a_file_that_is_gone_is_no_error(store: ReportStore, directory: Path) -> None:
    """Another process may have deleted it first."""
    store.write(PAGE, b"page")
    store.remove(PAGE)
    store.remove(PAGE)
    assert os.listdir(directory) == []


# -- The directory


@posix
def test_a_symbolic_link_is_refused(store: ReportStore, directory: Path, tmp_path: Path) -> None:
    """Nobody can lead our reports elsewhere with a link, whether or not its target exists."""
    target = tmp_path / "target"
    directory.parent.mkdir()
    directory.symlink_to(target)
    for _ in range(2):
        with pytest.raises(ReportDirError, match="is a symbolic link") as refusal:
            store.write(PAGE, b"page")
        assert refusal.value.reason == Drop.REPORT_DIR_REFUSED
        assert str(directory) in str(refusal.value)
        target.mkdir(mode=0o700, exist_ok=True)
    assert os.listdir(target) == []


@posix
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    """A directory that somebody else made first, at the place we use, is not written into."""
    if os.geteuid() == 0:
        directory = tmp_path / "theirs"
        directory.mkdir(mode=0o700)
        os.chown(directory, 12345, 12345)
    else:
        directory = Path("/usr")
    with pytest.raises(ReportDirError, match="belongs to the user with id"):
        ReportStore(directory).write(PAGE, b"page")


def test_a_file_in_its_place_is_refused(store: ReportStore, directory: Path) -> None:
    """A file where the directory should be is named as such."""
    directory.parent.mkdir()
    directory.write_text("a file")
    with pytest.raises(ReportDirError, match="is not a directory"):
        store.write(PAGE, b"page")


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """The message tells the system's reason and what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportDirError, match=r"cannot be used \(Not a directory\): set report_dir"):
        ReportStore(tmp_path / "file" / "reports").write(PAGE, b"page")


@posix
@pytest.mark.parametrize(
    ("wrong_mode", "names"),
    [(0o777, []), (0o770, []), (0o755, []), (0o755, [PAGE, f"{NAME}.json.gz", temporary_file(PAGE)])],
)
def test_our_own_directory_is_tightened(store: ReportStore, directory: Path, wrong_mode: int, names: list[str]) -> None:
    """A directory for reports that was made by hand, with the usual mode, becomes private."""
    directory.mkdir(parents=True)
    for name in names:
        (directory / name).write_text("")
    directory.chmod(wrong_mode)
    store.write(PAGE, b"page")
    assert mode(directory) == 0o700


@posix
@pytest.mark.parametrize(
    ("wrong_mode", "name", "problem"),
    [
        (0o755, "index.html", "can be read by other users .mode 0755. and holds other files"),
        (0o777, "index.html", "can be written by other users .mode 0777."),
        (0o1777, PAGE, "can be written by other users .mode 1777."),
        (0o770, PAGE, "can be written by other users .mode 0770."),
    ],
)
def test_a_shared_directory_is_refused_and_left_as_it_is(
    store: ReportStore, directory: Path, wrong_mode: int, name: str, problem: str
) -> None:
    """A home directory or a web root is not made private behind its owner's back, and not written into."""
    directory.mkdir(parents=True)
    (directory / name).write_text("")
    directory.chmod(wrong_mode)
    with pytest.raises(ReportDirError, match=problem) as refusal:
        store.write(f"{NAME}.json.gz", b"profile")
    assert "chmod 700" in str(refusal.value)
    assert mode(directory) == wrong_mode
    assert os.listdir(directory) == [name]


@posix
def test_a_repaired_directory_works_at_once(store: ReportStore, directory: Path) -> None:
    """The directory is looked at anew for every report: a repair needs no restart."""
    directory.mkdir(parents=True)
    (directory / "index.html").write_text("")
    directory.chmod(0o755)
    with pytest.raises(ReportDirError):
        store.write(PAGE, b"page")
    directory.chmod(0o700)
    store.write(PAGE, b"page")
    (directory / PAGE).unlink()
    (directory / "index.html").unlink()
    directory.rmdir()
    store.write(PAGE, b"page")
    assert mode(directory) == 0o700


@posix
def test_a_verified_directory_stays_the_one_that_was_verified(
    store: ReportStore, directory: Path, tmp_path: Path
) -> None:
    """A directory that is swapped for a link between the check and the use does not lead anywhere else."""
    store.write(PAGE, b"page")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / PAGE).write_text("not ours")
    with store.opened() as opened:
        directory.rename(tmp_path / "moved")
        directory.symlink_to(elsewhere)
        os.close(opened.create(temporary_file(PAGE)))
        opened.remove(PAGE)
        assert [is_temporary_file(entry.name) for entry in opened.entries()] == [True]
    assert os.listdir(elsewhere) == [PAGE]


@posix
def test_a_planted_file_is_not_written_through(store: ReportStore, directory: Path, tmp_path: Path) -> None:
    """A link at the place of a report is replaced, and what it points to is untouched."""
    directory.mkdir(parents=True, mode=0o700)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (directory / PAGE).symlink_to(victim)
    store.write(PAGE, b"page")
    assert victim.read_text() == "precious"
    assert not (directory / PAGE).is_symlink()


def test_many_threads_may_make_the_directory_at_once(store: ReportStore, directory: Path) -> None:
    """Workers that start together, each with a slow request, do not trip over each other."""
    errors: list[Exception] = []
    barrier = threading.Barrier(8)

    def write(number: int) -> None:
        barrier.wait()
        try:
            store.write(f"{NAME[:-2]}{number:02x}.html", b"page")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(os.listdir(directory)) == 8


def test_no_descriptor_is_left_open(store: ReportStore, directory: Path) -> None:
    """Neither writing nor refusing leaks file descriptors."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc: no package brings it")
    store.write(PAGE, b"page")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        store.write(PAGE, b"page")
        with pytest.raises(DropError):
            store.write("evil", b"page")
    (directory / "index.html").write_text("")
    directory.chmod(0o777)
    for _ in range(20):
        with pytest.raises(ReportDirError):
            store.write(PAGE, b"page")
    assert len(os.listdir("/proc/self/fd")) == before
