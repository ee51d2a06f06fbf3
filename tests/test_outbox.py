"""Alerts that wait for a channel: kept, taken by one process, given up in the end; and the notes of channels."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reports import in_forked_child
from slowspan.delivery.alert_notes import MOST_NOTE_BYTES, MOST_NOTES, NoteBook
from slowspan.delivery.alert_sqlite import SqliteStore
from slowspan.delivery.alert_store import AlertPolicy, Claim
from slowspan.delivery.naming import ALERT_STATE
from slowspan.delivery.outbox import LONGEST_WAIT, MOST_WAITING, MOST_WAITING_BYTES, Outbox
from slowspan.report.alert import Alert

NOW = 1_800_000_000.0
KEY = "0" * 32
ALERT = Alert(key=KEY, told_before=True, seen_more=134, since_ns=7, worst_ns=8_200_000_000, late_ns=3)
CLAIM = Claim(KEY, "token", True, 134, 7, 8_200_000_000, 9_000_000_000)


@pytest.fixture
def outbox(tmp_path: Path) -> Any:
    """Return an outbox in an empty directory."""
    outbox = Outbox(tmp_path / "reports")
    yield outbox
    outbox.close()


def add(outbox: Outbox, number: int = 0, *, now: float = NOW, stored: bytes = b"profile", channel: str = "chat") -> int:
    """Put an alert with a claim of its own into an outbox, due after a minute."""
    return outbox.add(channel, ALERT, CLAIM._replace(token=f"{number}"), stored, now, 60.0)


def test_kept_as_it_was(tmp_path: Path) -> None:
    """Another process, after a restart too, gets the alert, its claim and its profile unchanged."""
    first = Outbox(tmp_path)
    assert first.add("chat", ALERT, CLAIM, b"\x1f\x8bprofile\0", NOW, 60.0) == 0
    first.close()
    second = Outbox(tmp_path)
    assert second.due(NOW + 59) == []
    (pending,) = second.due(NOW + 60)
    assert (pending.channel, pending.alert, pending.claim) == ("chat", ALERT, CLAIM)
    assert (pending.stored, pending.created_ns, pending.attempts) == (b"\x1f\x8bprofile\0", int(NOW) * 10**9, 0)
    second.close()


def test_one_process_takes_it(tmp_path: Path) -> None:
    """What one process has taken the others leave alone, until its lease is over; what is done is gone."""
    first, second = Outbox(tmp_path, lease=600), Outbox(tmp_path, lease=600)
    add(first)
    assert first.due(NOW + 60)
    assert second.due(NOW + 60) == []
    assert second.next_due(NOW + 60) == NOW + 660
    (pending,) = second.due(NOW + 660)
    second.done(pending)
    assert first.due(NOW + 5000) == []
    assert first.next_due(NOW + 5000) is None
    first.close()
    second.close()


def test_tried_again_later(outbox: Outbox) -> None:
    """An alert that fails again is due again when its channel says, and counts its tries."""
    add(outbox)
    for attempts in range(3):
        due = outbox.next_due(NOW)
        assert due == NOW + 60 + attempts * 300
        (pending,) = outbox.due(due)
        assert pending.attempts == attempts
        outbox.later(pending, due, 300)


def test_oldest_come_first_and_few_at_once(outbox: Outbox) -> None:
    """Alerts come in their order, a few at a time, each for its own channel."""
    for number in range(12):
        add(outbox, number, channel=f"channel-{number % 2}")
    first, second = outbox.due(NOW + 60), outbox.due(NOW + 60)
    assert [pending.claim.token for pending in first + second] == [str(number) for number in range(12)]
    assert len(first) == 10
    assert first[1].channel == "channel-1"


def test_given_up_after_a_day(outbox: Outbox) -> None:
    """An alert that no channel took in a day is given up, and its claim can be released."""
    add(outbox, 1)
    add(outbox, 2, now=NOW + 3600)
    late = NOW + LONGEST_WAIT + 1
    assert outbox.give_up(NOW + LONGEST_WAIT - 1) == 0
    assert [pending.claim.token for pending in outbox.due(late)] == ["2"]
    assert outbox.give_up(late) == 1
    assert [claim.token for claim in outbox.given_up()] == ["1"]
    assert outbox.given_up() == []


def test_number_is_bounded(outbox: Outbox) -> None:
    """When too many wait the oldest are given up, and said to be."""
    for number in range(MOST_WAITING):
        assert add(outbox, number) == 0
    assert add(outbox, 1000) == 1
    assert [claim.token for claim in outbox.given_up()] == ["0"]


def test_claim_of_another_channel_is_not_given_up(outbox: Outbox) -> None:
    """As long as an alert waits for one more channel, its claim stays."""
    outbox.add("mail", ALERT, CLAIM, b"", NOW - LONGEST_WAIT, 60.0)
    outbox.add("chat", ALERT, CLAIM, b"", NOW, 60.0)
    assert outbox.given_up() == []
    assert len(outbox.due(NOW + 60)) == 1


def test_bytes_are_bounded(outbox: Outbox, tmp_path: Path) -> None:
    """Profiles take no more room than allowed; one that alone is larger is not kept."""
    half = bytes(MOST_WAITING_BYTES // 2)
    assert [add(outbox, number, stored=half) for number in range(3)] == [0, 0, 1]
    assert add(outbox, 9, stored=half * 2 + b"+") == 1
    assert sorted(claim.token for claim in outbox.given_up()) == ["0", "9"]
    assert [pending.claim.token for pending in outbox.due(NOW + 60)] == ["1", "2"]
    for number in range(4):
        add(outbox, number, stored=half)
    outbox.close()
    assert (tmp_path / "reports" / ALERT_STATE).stat().st_size < 2 * MOST_WAITING_BYTES


def test_unusable_directory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without a file nothing is kept, and nothing raises; the log says so once, and it comes back by itself."""
    directory = tmp_path / "reports"
    directory.write_text("in the way")
    outbox = Outbox(directory)
    assert add(outbox, 5) == 1
    assert [claim.token for claim in outbox.given_up()] == ["5"]
    assert outbox.due(NOW) == []
    assert outbox.next_due(NOW) is None
    assert outbox.give_up(NOW) == 0
    notes = outbox.notes(KEY)
    notes["chat.post"] = "p1"
    assert dict(outbox.notes(KEY)) == {"chat.post": "p1"}
    del notes["chat.post"]
    assert len(notes) == 0
    assert caplog.text.count("cannot be used") == 1
    directory.unlink()
    assert add(outbox) == 0
    assert len(outbox.due(NOW + 60)) == 1
    outbox.close()


def test_beside_the_alert_state(tmp_path: Path) -> None:
    """The outbox and the alert state share a file, from many threads, without being in each other's way."""
    store, outbox = SqliteStore(tmp_path, AlertPolicy()), Outbox(tmp_path)

    def run(number: int) -> None:
        for count in range(20):
            add(outbox, number * 100 + count)
            store.check(NOW)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = [pending.claim.token for _ in range(8) for pending in outbox.due(NOW + 60)]
    assert len(taken) == len(set(taken)) == 80
    outbox.close()
    store.close()


def test_forked_child(outbox: Outbox) -> None:
    """A forked child uses the same file; what was taken by one is not by the other."""
    add(outbox, 1)
    add(outbox, 2)
    (first,) = outbox.due(NOW + 60, limit=1)
    (second,) = in_forked_child(lambda: [pending.claim.token for pending in outbox.due(NOW + 60)])
    assert {first.claim.token, second} == {"1", "2"}
    assert outbox.due(NOW + 60) == []


def test_row_of_another_release(outbox: Outbox) -> None:
    """What a newer release has kept of an alert, and this one does not know, is passed over."""
    add(outbox)
    outbox._run(lambda connection: connection.execute("""UPDATE outbox SET alert = '{"key": "k", "mood": "grim"}'"""))
    (pending,) = outbox.due(NOW + 60)
    assert pending.alert == Alert(key="k")


def test_notes_are_shared_and_kept(tmp_path: Path) -> None:
    """What a channel notes on a key it finds at the key's next alert, in any process, and in the outbox's alerts."""
    first, second = Outbox(tmp_path), Outbox(tmp_path)
    first.notes(KEY)["chat.post"] = "p1"
    first.notes(KEY)["chat.post"] = "p2"
    first.notes("1" * 32)["chat.post"] = "other"
    assert dict(second.notes(KEY)) == {"chat.post": "p2"}
    outbox_alert = replace(ALERT)
    assert second.add("chat", outbox_alert, CLAIM, b"", NOW, 0.0) == 0
    (pending,) = first.due(NOW)
    assert pending.alert.notes["chat.post"] == "p2"
    with pytest.raises(KeyError):
        pending.alert.notes["chat.thread"]
    with pytest.raises(KeyError):
        del pending.alert.notes["chat.thread"]
    del pending.alert.notes["chat.post"]
    assert dict(second.notes(KEY)) == {}
    first.close()
    second.close()


@pytest.mark.parametrize("usable", [True, False])
def test_notes_are_bounded(tmp_path: Path, usable: bool) -> None:
    """Of too many notes on a key the oldest go, and what is too long is not kept; in memory too."""
    if not usable:
        (tmp_path / "reports").write_text("in the way")
    outbox = Outbox(tmp_path / "reports")
    notes = outbox.notes(KEY)
    for number in range(MOST_NOTES + 5):
        notes[f"chat.{number}"] = str(number)
    notes["chat.long"] = "é" * (MOST_NOTE_BYTES // 2)
    assert list(notes) == [f"chat.{number}" for number in range(5, MOST_NOTES + 5)]
    outbox.close()


def test_notes_end_with_the_window(outbox: Outbox) -> None:
    """A note is gone when its window is over."""
    now = [NOW]
    book = NoteBook(outbox._run, 864_000.0, lambda: now[0])
    book.write(KEY, "chat.post", "p1")
    now[0] += 863_999
    assert book.read(KEY) == {"chat.post": "p1"}
    now[0] += 2
    assert book.read(KEY) == {}
    book.write("1" * 32, "chat.post", "p2")
    rows = outbox._run(lambda connection: connection.execute("SELECT key FROM notes").fetchall())
    assert rows == [("1" * 32,)]


def test_damaged_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged file is replaced: what waited is lost, what comes is kept."""
    caplog.set_level(logging.WARNING)
    outbox = Outbox(tmp_path)
    add(outbox, 1)
    outbox.close()
    (tmp_path / ALERT_STATE).write_bytes(b"not a database" * 1000)
    assert add(outbox, 2) == 0
    assert [pending.claim.token for pending in outbox.due(NOW + 60)] == ["2"]
    assert "state was damaged" in caplog.text
    outbox.close()
