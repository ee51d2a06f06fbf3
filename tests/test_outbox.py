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
from slowspan.delivery.outbox import LONGEST_WAIT, MOST_WAITING, MOST_WAITING_BYTES, GivenUp, Outbox
from slowspan.report.alert import Alert

NOW = 1_800_000_000.0
KEY = "0" * 32
ALERT = Alert(key=KEY, told_before=True, seen_more=134, since_ns=7, worst_ns=8_200_000_000, late_ns=3)
CHANNELS = ("chat", "mail", "channel-0", "channel-1")
CLAIM = Claim(KEY, "token", True, 134, 7, 8_200_000_000, 9_000_000_000)


@pytest.fixture
def outbox(tmp_path: Path) -> Any:
    """Return an outbox in an empty directory."""
    outbox = Outbox(tmp_path / "reports")
    yield outbox
    outbox.close()


def add(
    outbox: Outbox, number: int = 0, *, now: float = NOW, stored: bytes = b"profile", channel: str = "chat"
) -> list[str]:
    """Put an alert with a claim of its own into an outbox, due after a minute; return the tokens it gives up."""
    place, given_up = outbox.add(channel, ALERT, CLAIM._replace(token=f"{number}"), stored, now, 60.0)
    assert given_up.alerts == len(given_up.claims)
    if not place:
        return [str(number)]
    return [claim.token for claim in given_up.claims]


def test_kept_as_it_was(tmp_path: Path) -> None:
    """Another process, after a restart too, gets the alert, its claim and its profile unchanged."""
    first = Outbox(tmp_path)
    assert first.add("chat", ALERT, CLAIM, b"\x1f\x8bprofile\0", NOW, 60.0) == (1, GivenUp())
    first.close()
    second = Outbox(tmp_path)
    assert second.due(NOW + 59, CHANNELS) == []
    (pending,) = second.due(NOW + 60, CHANNELS)
    assert (pending.channel, pending.alert, pending.claim) == ("chat", ALERT, CLAIM)
    assert (pending.stored, pending.attempts) == (b"\x1f\x8bprofile\0", 0)
    second.close()


def test_one_process_takes_it(tmp_path: Path) -> None:
    """What one process has taken the others leave alone, until its lease is over; what is done is gone."""
    first, second = Outbox(tmp_path, lease=600), Outbox(tmp_path, lease=600)
    add(first)
    assert first.due(NOW + 60, CHANNELS)
    assert second.due(NOW + 60, CHANNELS) == []
    assert second.next_due(NOW + 60, CHANNELS) == NOW + 660
    (pending,) = second.due(NOW + 660, CHANNELS)
    second.done(pending.id, pending.claim)
    assert first.due(NOW + 5000, CHANNELS) == []
    assert first.next_due(NOW + 5000, CHANNELS) is None
    first.close()
    second.close()


def test_tried_again_later(outbox: Outbox) -> None:
    """An alert that fails again is due again when its channel says, and counts its tries."""
    add(outbox)
    for attempts in range(3):
        due = outbox.next_due(NOW, CHANNELS)
        assert due == NOW + 60 + attempts * 300
        (pending,) = outbox.due(due, CHANNELS)
        assert pending.attempts == attempts
        outbox.later(pending.id, due, 300)


def test_oldest_come_first_and_few_at_once(outbox: Outbox) -> None:
    """Alerts come in their order, a few at a time, each for its own channel."""
    for number in range(12):
        add(outbox, number, channel=f"channel-{number % 2}")
    first, second = outbox.due(NOW + 60, CHANNELS), outbox.due(NOW + 60, CHANNELS)
    assert [pending.claim.token for pending in first + second] == [str(number) for number in range(12)]
    assert len(first) == 10
    assert first[1].channel == "channel-1"


def test_given_up_after_a_day(outbox: Outbox) -> None:
    """An alert that no channel took in a day is given up, and its claim can be released."""
    add(outbox, 1)
    add(outbox, 2, now=NOW + 3600)
    late = NOW + LONGEST_WAIT + 1
    assert outbox.give_up(NOW + LONGEST_WAIT - 1) == GivenUp()
    assert [pending.claim.token for pending in outbox.due(late, CHANNELS)] == ["2"]
    assert outbox.give_up(late) == (1, (CLAIM._replace(token="1"),))
    assert outbox.give_up(late) == GivenUp()


def test_number_is_bounded(outbox: Outbox) -> None:
    """When too many wait the oldest are given up, and said to be."""
    for number in range(MOST_WAITING):
        assert add(outbox, number) == []
    assert add(outbox, 1000) == ["0"]


def test_claim_of_another_channel_is_not_given_up(outbox: Outbox) -> None:
    """As long as an alert waits for one more channel, its claim stays."""
    outbox.add("mail", ALERT, CLAIM, b"", NOW - LONGEST_WAIT, 60.0)
    assert outbox.add("chat", ALERT, CLAIM, b"", NOW, 60.0)[1] == (1, ())
    assert len(outbox.due(NOW + 60, CHANNELS)) == 1


def test_bytes_are_bounded(outbox: Outbox, tmp_path: Path) -> None:
    """Profiles take no more room than allowed; one that alone is larger is not kept."""
    half = bytes(MOST_WAITING_BYTES // 2)
    assert [add(outbox, number, stored=half) for number in range(3)] == [[], [], ["0"]]
    assert add(outbox, 9, stored=half * 2 + b"+") == ["9"]
    assert [pending.claim.token for pending in outbox.due(NOW + 60, CHANNELS)] == ["1", "2"]
    for number in range(4):
        add(outbox, number, stored=half)
    outbox.close()
    assert (tmp_path / "reports" / ALERT_STATE).stat().st_size < 2 * MOST_WAITING_BYTES


def test_unusable_directory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without a file nothing is kept, and nothing raises; the log says so once, and it comes back by itself."""
    directory = tmp_path / "reports"
    directory.write_text("in the way")
    outbox = Outbox(directory)
    assert add(outbox, 5) == ["5"]
    assert outbox.due(NOW, CHANNELS) == []
    assert outbox.next_due(NOW, CHANNELS) is None
    assert outbox.give_up(NOW) == GivenUp()
    notes = outbox.notes(KEY)
    notes["chat.post"] = "p1"
    assert dict(outbox.notes(KEY)) == {"chat.post": "p1"}
    del notes["chat.post"]
    assert len(notes) == 0
    assert caplog.text.count("cannot be used") == 1
    directory.unlink()
    assert add(outbox) == []
    assert len(outbox.due(NOW + 60, CHANNELS)) == 1
    outbox.close()


def test_full_disk_is_told_once(outbox: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    """While the file can be read but not written the log does not say so again and again; later it does again."""

    def limit(pages: int) -> None:
        outbox._run(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}"))

    for outages in (1, 2):
        assert add(outbox, outages) == []
        limit(1)
        for number in range(3):
            assert add(outbox, number, stored=bytes(100_000)) == [str(number)]
            assert outbox.next_due(NOW, CHANNELS) == NOW + 60
        assert caplog.text.count("cannot be used") == outages
        limit(1_000_000)


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
    taken = [pending.claim.token for _ in range(8) for pending in outbox.due(NOW + 60, CHANNELS)]
    assert len(taken) == len(set(taken)) == 80
    outbox.close()
    store.close()


def test_forked_child(outbox: Outbox) -> None:
    """A forked child uses the same file; what was taken by one is not by the other."""
    add(outbox, 1)
    add(outbox, 2)
    (first,) = outbox.due(NOW + 60, CHANNELS, limit=1)
    (second,) = in_forked_child(lambda: [pending.claim.token for pending in outbox.due(NOW + 60, CHANNELS)])
    assert {first.claim.token, second} == {"1", "2"}
    assert outbox.due(NOW + 60, CHANNELS) == []


def test_row_of_another_release(outbox: Outbox) -> None:
    """What a newer release has kept of an alert, and this one does not know, is passed over."""
    add(outbox)
    outbox._run(lambda connection: connection.execute("""UPDATE outbox SET alert = '{"key": "k", "mood": "grim"}'"""))
    (pending,) = outbox.due(NOW + 60, CHANNELS)
    assert pending.alert == Alert(key="k")


@pytest.mark.parametrize("claim", ["no JSON", "[1, 2]"])
def test_row_that_cannot_be_read(outbox: Outbox, claim: str) -> None:
    """It is left to the release that wrote it, keeps no other from being told, and goes in the end."""
    add(outbox, 1)
    outbox._run(lambda connection: connection.execute("UPDATE outbox SET claim = ?", (claim,)))
    add(outbox, 2)
    assert [pending.claim.token for pending in outbox.due(NOW + 60, CHANNELS)] == ["2"]
    assert outbox.due(NOW + 60, CHANNELS) == []
    assert outbox.give_up(NOW + LONGEST_WAIT + 1) == (2, (CLAIM._replace(token="2"),))


def test_of_other_channels(outbox: Outbox) -> None:
    """What waits for a channel that this process does not have is left alone, for one that has it."""
    for number in range(12):
        add(outbox, number, channel="elsewhere")
    add(outbox, 99)
    assert [pending.claim.token for pending in outbox.due(NOW + 60, ["chat"])] == ["99"]
    assert outbox.next_due(NOW + 60, ["mail"]) is None
    assert outbox.due(NOW + 60, []) == []
    assert len(outbox.due(NOW + 60, ["elsewhere"])) == 10


def test_done_tells_whether_it_waits_for_others(outbox: Outbox) -> None:
    """An alert that waits for two channels is over when both are done with it."""
    outbox.add("mail", ALERT, CLAIM, b"", NOW, 0.0)
    outbox.add("chat", ALERT, CLAIM, b"", NOW, 0.0)
    first, second = outbox.due(NOW, CHANNELS)
    assert [outbox.done(first.id, CLAIM), outbox.done(second.id, CLAIM)] == [True, False]


def test_knows_that_another_channel_was_told(outbox: Outbox) -> None:
    """What waits for one channel alone is marked, for others to tell it apart from what nobody was told."""
    other = CLAIM._replace(token="other")
    outbox.add("mail", ALERT, CLAIM, b"", NOW, 0.0)
    outbox.add("chat", ALERT, other, b"", NOW, 0.0)
    outbox.note_told(CLAIM, NOW)
    assert [pending.told for pending in outbox.due(NOW, CHANNELS)] == [True, False]
    outbox.note_told(other, NOW + LONGEST_WAIT)
    rows = outbox._run(lambda connection: connection.execute("SELECT count(*) FROM told").fetchone())
    assert rows == (1,)


def test_notes_are_shared_and_kept(tmp_path: Path) -> None:
    """What a channel notes on a key it finds at the key's next alert, in any process, and in the outbox's alerts."""
    first, second = Outbox(tmp_path), Outbox(tmp_path)
    first.notes(KEY)["chat.post"] = "p1"
    first.notes(KEY)["chat.post"] = "p2"
    first.notes("1" * 32)["chat.post"] = "other"
    assert dict(second.notes(KEY)) == {"chat.post": "p2"}
    outbox_alert = replace(ALERT)
    assert second.add("chat", outbox_alert, CLAIM, b"", NOW, 0.0) == (1, GivenUp())
    (pending,) = first.due(NOW, CHANNELS)
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


def test_notes_outlast_the_window(outbox: Outbox) -> None:
    """A note is there when the window is over and its key is told again; it is gone when it was not, by another one."""
    now = [NOW]
    book = NoteBook(outbox._run, 864_000.0, lambda: now[0])
    book.write(KEY, "chat.post", "p1")
    now[0] += 864_001
    assert book.read(KEY) == {"chat.post": "p1"}
    now[0] += 863_998
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
    assert add(outbox, 2) == []
    assert [pending.claim.token for pending in outbox.due(NOW + 60, CHANNELS)] == ["2"]
    assert "state was damaged" in caplog.text
    outbox.close()
