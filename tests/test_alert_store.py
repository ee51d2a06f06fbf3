"""Alert state: one contract for all stores, on real servers; and what single stores and the fallback promise."""

from __future__ import annotations

import itertools
import logging
import os
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import servers
from alert_servers import memcached_server, redis_cluster, redis_sentinel, redis_server
from reports import in_forked_child
from slowspan.config import Settings
from slowspan.delivery.alert_fallback import RETRY_AFTER, FallbackStore, make_store
from slowspan.delivery.alert_key import AlertKey
from slowspan.delivery.alert_limits import LimitsStore
from slowspan.delivery.alert_memory import MemoryStore
from slowspan.delivery.alert_sqlite import SqliteStore
from slowspan.delivery.alert_store import AlertPolicy, AlertStore, Claim, Held
from slowspan.delivery.naming import ALERT_STATE
from slowspan.delivery.shared_counters import AlertStoreError, SharedCounters

SECOND = 10**9
DAY = 86_400.0
KEY = AlertKey("e" * 32, "shop GET /orders/<id>")
POLICY = AlertPolicy()
SHORT_LEASE = replace(POLICY, lease=2.0)
"""For tests that wait for a lease's end, which comes up to a second later on servers."""

SERVERS = ("redis", "memcached", "cluster", "sentinel", "valkey")

_worlds = itertools.count()


@dataclass
class World:
    """A store's state, to which any number of stores are opened, and a clock that tests move."""

    kind: str
    open: Callable[[AlertPolicy], AlertStore]
    now: float
    number: int

    def store(self, policy: AlertPolicy = POLICY) -> AlertStore:
        """Open the state, as another process would."""
        return self.open(policy)

    def key(self, number: int = 0) -> AlertKey:
        """Return one of this world's keys."""
        return AlertKey(f"{self.number:016x}{number:016x}", f"shop GET /{number}")

    def pass_time(self, seconds: float) -> None:
        """Move the clock; servers let short leases lapse by their own."""
        self.now += seconds
        if self.kind in SERVERS:
            time.sleep(min(seconds, SHORT_LEASE.lease + 1.1))


@pytest.fixture(scope="module")
def redis() -> Iterator[str]:
    """Return the URI of a Redis."""
    with redis_server() as uri:
        yield uri


@pytest.fixture(scope="module")
def memcached() -> Iterator[str]:
    """Return the URI of a memcached."""
    with memcached_server() as uri:
        yield uri


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Return the URI of a cluster of Redis."""
    with redis_cluster() as uri:
        yield uri


@pytest.fixture(scope="module")
def sentinel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URI of a Redis that is found by its sentinel."""
    with redis_sentinel(tmp_path_factory.mktemp("sentinel")) as uri:
        yield uri


@pytest.fixture(scope="module")
def valkey(redis: str) -> str:
    """Return a URI for Valkey's client. Its server is that of Redis: Debian has none of its own yet."""
    return redis.replace("redis://", "valkey://")


@pytest.fixture(params=["memory", "sqlite", *SERVERS])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Return the state of each kind of store; those on one server meet neither in keys nor in hours."""
    opened: list[AlertStore] = []
    uri = request.getfixturevalue(request.param) if request.param in SERVERS else ""
    shared = MemoryStore(POLICY)

    def open_one(policy: AlertPolicy) -> AlertStore:
        if request.param == "memory":
            # There is nothing to open a second time: one object is all there is.
            shared._policy = policy
            return shared
        store = SqliteStore(tmp_path / "reports", policy) if request.param == "sqlite" else LimitsStore(uri, policy)
        opened.append(store)
        return store

    number = next(_worlds)
    # The middle of an hour.
    yield World(request.param, open_one, 1_800_001_800.0 + 3_600_000.0 * number, number)
    for store in opened:
        store.close()


def claimed(verdict: Claim | Held | None) -> Claim:
    """Return a verdict that must be a claim."""
    assert isinstance(verdict, Claim)
    return verdict


def tell(store: AlertStore, key: AlertKey, duration_ns: int, now: float) -> Claim:
    """Claim an alert, which must be due, and confirm it."""
    claim = claimed(store.see(key, duration_ns, now))
    store.confirm(claim, now)
    return claim


def test_told_once_in_a_window(world: World) -> None:
    """The first slow request is told; further ones are not, in any process, and the next alert has their number."""
    first, second = world.store(), world.store()
    key = world.key()
    claim = tell(first, key, 2 * SECOND, world.now)
    assert claim[2:] == (False, 0, 0, 0, 2 * SECOND)
    told = world.now
    for count in range(10):
        store = (first, second)[count % 2]
        assert store.see(key, 2 * SECOND + count * 10**6, world.now + count) is None
    world.now += POLICY.window + 1
    again = claimed(second.see(key, 2 * SECOND, world.now))
    assert (again.told_before, again.seen_more, again.worst_ns) == (True, 10, 2 * SECOND + 9 * 10**6)
    assert abs(again.since_ns / SECOND - told) <= 1
    second.confirm(again, world.now)
    assert first.see(key, 2 * SECOND, world.now + POLICY.window - 2) is None
    world.now += POLICY.window + 1
    assert claimed(first.see(key, 2 * SECOND, world.now)).seen_more == 1


def test_keys_are_apart(world: World) -> None:
    """What is told of one key says nothing of another."""
    store = world.store()
    for number in range(3):
        assert tell(store, world.key(number), SECOND, world.now).seen_more == 0


def test_much_slower_one_is_told_inside_the_window(world: World) -> None:
    """One that is twice as slow as the worst that was told is told, and raises what is twice as slow."""
    store = world.store()
    key = world.key()
    tell(store, key, 3 * SECOND, world.now)
    assert store.see(key, 6 * SECOND - 10**6, world.now + 5) is None
    claim = tell(store, key, 6 * SECOND, world.now + 10)
    assert (claim.told_before, claim.seen_more) == (True, 1)
    assert store.see(key, 12 * SECOND - 10**6, world.now + 20) is None
    tell(store, key, 12 * SECOND, world.now + 30)
    # Another window, another measure.
    tell(store, key, 1 * SECOND, world.now + POLICY.window + 60)
    assert claimed(store.see(key, 2 * SECOND, world.now + POLICY.window + 70)).told_before


def test_claim_is_respected_until_it_lapses(world: World) -> None:
    """While one process tells an alert the others do not; when it was killed, another one does."""
    first, second = world.store(SHORT_LEASE), world.store(SHORT_LEASE)
    key = world.key()
    lost = claimed(first.see(key, SECOND, world.now))
    assert first.see(key, SECOND, world.now) is None
    assert second.see(key, 5 * SECOND, world.now) is None
    world.pass_time(3.1)
    claim = claimed(second.see(key, SECOND, world.now))
    assert (claim.told_before, claim.seen_more, claim.worst_ns) == (False, 2, 5 * SECOND)
    assert claim.token != lost.token
    # The one that was only slow must not give away what is another's by now.
    first.release(lost, world.now)
    assert first.see(key, SECOND, world.now) is None
    second.confirm(claim, world.now)
    assert second.see(key, SECOND, world.now) is None


def test_memcached_does_not_end_a_lease_early(memcached: str) -> None:
    """Its clock has whole seconds: what is kept for one second there may be gone at once."""
    store = LimitsStore(memcached, replace(POLICY, lease=1.0))
    begin = time.monotonic()
    claimed(store.see(KEY, SECOND, 1_800_000_000.0))
    while store.see(KEY, SECOND, 1_800_000_000.0) is None and time.monotonic() < begin + 1:
        time.sleep(0.02)
    lasted = time.monotonic() - begin
    store.close()
    assert lasted >= 1


def test_released_claim_is_free(world: World) -> None:
    """When nobody could be told, the next slow request may be, at once, and knows of those in between."""
    first, second = world.store(), world.store()
    key = world.key()
    claim = claimed(first.see(key, SECOND, world.now))
    assert second.see(key, 2 * SECOND, world.now) is None
    first.release(claim, world.now)
    again = claimed(second.see(key, SECOND, world.now))
    assert (again.told_before, again.seen_more, again.worst_ns) == (False, 1, 2 * SECOND)


def test_held_claim_lasts(world: World) -> None:
    """A claim whose alert waits for a channel outlasts its lease, until it is confirmed or released."""
    store = world.store(SHORT_LEASE)
    waiting, hopeless = world.key(1), world.key(2)
    claim, other = claimed(store.see(waiting, SECOND, world.now)), claimed(store.see(hopeless, SECOND, world.now))
    for each in (claim, other):
        store.hold(each, 3600, world.now)
        store.hold(each, DAY, world.now)
    world.pass_time(7200)
    assert store.see(waiting, SECOND, world.now) is None
    store.confirm(claim, world.now)
    assert store.see(waiting, SECOND, world.now + DAY) is None
    store.release(other, world.now)
    assert claimed(store.see(hopeless, SECOND, world.now)).seen_more == 0


def test_hold_tells_whether_somebody_else_tells(world: World) -> None:
    """Whoever comes back to a claim after a while learns that the key is another's by now, or was told."""
    store = world.store(SHORT_LEASE)
    key = world.key(1)
    claim = claimed(store.see(key, SECOND, world.now))
    assert store.hold(claim, 3, world.now) is True
    unknown = Claim(world.key(2).digest, "0123456789abcdef", False, 0, 0, 0, SECOND)
    assert store.hold(unknown, 60, world.now) is True
    world.pass_time(6.1)
    other = claimed(store.see(key, SECOND, world.now))
    assert store.hold(claim, 60, world.now) is False
    assert store.hold(other, 60, world.now) is True
    store.confirm(other, world.now + 2)
    assert store.hold(claim, 60, world.now + 2) is False
    assert store.hold(unknown._replace(key=key.digest), 60, world.now + 2) is False


def test_hold_ends(world: World) -> None:
    """A held claim whose holder has died is free after its time."""
    store = world.store(SHORT_LEASE)
    store.hold(claimed(store.see(world.key(), SECOND, world.now)), 600, world.now)
    world.pass_time(601)
    assert claimed(store.see(world.key(), SECOND, world.now))


def test_requests_while_it_is_told_are_counted(world: World) -> None:
    """What comes between claim and confirmation is in the next alert."""
    store = world.store()
    key = world.key()
    claim = claimed(store.see(key, 3 * SECOND, world.now))
    for _ in range(3):
        assert store.see(key, 4 * SECOND, world.now) is None
    store.confirm(claim, world.now)
    assert store.see(key, 2 * SECOND, world.now) is None
    world.now += POLICY.window + 2
    again = tell(store, key, SECOND, world.now)
    assert (again.seen_more, again.worst_ns) == (4, 4 * SECOND)
    world.now += POLICY.window + 2
    last = claimed(store.see(key, SECOND, world.now))
    assert (last.seen_more, last.worst_ns) == (0, 0)


def test_late_and_foreign_confirmations_count(world: World) -> None:
    """That an alert was told counts, also when its claim has lapsed or was given by another store."""
    store = world.store()
    lapsed = claimed(store.see(world.key(1), SECOND, world.now))
    store.confirm(lapsed, world.now + 3600)
    foreign = Claim(world.key(2).digest, "x", False, 0, 0, 0, SECOND)
    store.confirm(foreign, world.now + 3600)
    store.confirm(foreign, world.now + 3600)
    for number in (1, 2):
        assert store.see(world.key(number), SECOND, world.now + 3601) is None
        assert store.see(world.key(number), SECOND, world.now + POLICY.window + 3590) is None


def test_second_confirmation_changes_nothing(world: World) -> None:
    """When a channel that was away tells an alert later than another, neither window nor counts begin anew."""
    store = world.store()
    key = world.key()
    tell(store, key, SECOND, world.now - 3600)
    claim = tell(store, key, 2 * SECOND, world.now)
    for count in range(15):
        assert store.see(key, 3 * SECOND, world.now + count) is None
    for seconds in (0, 20, 3600, 80_000):
        store.confirm(claim, world.now + seconds)
    assert store.see(key, 3 * SECOND, world.now + POLICY.window - 2) is None
    again = claimed(store.see(key, 3 * SECOND, world.now + POLICY.window + 2))
    assert (again.told_before, again.seen_more, again.worst_ns) == (True, 16, 3 * SECOND)
    assert abs(again.since_ns / SECOND - world.now) <= 1


def test_late_confirmation_of_an_earlier_claim(world: World) -> None:
    """An alert that is told late, after a slower one of its key, restarts nothing, and makes nothing less slow."""
    store = world.store()
    key = world.key()
    first = tell(store, key, 2 * SECOND, world.now)
    tell(store, key, 8 * SECOND, world.now + 10)
    store.confirm(first, world.now + 3600)
    assert store.see(key, 15 * SECOND, world.now + 3600) is None
    again = claimed(store.see(key, SECOND, world.now + POLICY.window + 12))
    assert (again.seen_more, again.worst_ns) == (1, 15 * SECOND)


def test_told_claim_is_not_given_back(world: World) -> None:
    """Whoever gives up an alert for one channel that another one has told takes nothing from the hour's count."""
    store = world.store(replace(POLICY, alerts_per_hour=1))
    claim = tell(store, world.key(1), SECOND, world.now)
    store.release(claim, world.now)
    assert store.see(world.key(1), SECOND, world.now) is None
    assert isinstance(store.see(world.key(2), SECOND, world.now), Held)


@pytest.mark.parametrize("token", ["", "x", "0123456789abcdef", "1234567890123456", "12e4567890123456", "nan", "1e400"])
def test_claim_of_another_store_is_harmless(world: World, token: str) -> None:
    """A claim that memory gave while the store was away holds nothing here, and gives nothing back."""
    store = world.store(replace(POLICY, alerts_per_hour=2))
    foreign = Claim(world.key(1).digest, token, False, 0, 0, 0, SECOND)
    store.hold(foreign, DAY, world.now)
    store.release(foreign, world.now)
    own = claimed(store.see(world.key(1), SECOND, world.now))
    store.release(foreign, world.now)
    assert store.see(world.key(1), SECOND, world.now) is None
    store.confirm(own, world.now)
    store.release(foreign, world.now)
    tell(store, world.key(2), SECOND, world.now)
    assert isinstance(store.see(world.key(3), SECOND, world.now), Held)
    assert store.see(world.key(1), SECOND, world.now + 1) is None


def test_request_that_is_heard_of_again(world: World) -> None:
    """One that was counted while it ran is not counted again, and no longer when it is told after all."""
    store = world.store()
    key = world.key()
    tell(store, key, 8 * SECOND, world.now)
    assert store.see(key, 9 * SECOND, world.now) is None
    assert store.see(key, 10 * SECOND, world.now) is None
    assert store.see(key, 15 * SECOND, world.now, counted=True) is None
    claim = claimed(store.see(key, 600 * SECOND, world.now, counted=True))
    assert (claim.told_before, claim.seen_more, claim.duration_ns) == (True, 1, 600 * SECOND)
    store.confirm(claim, world.now + 1)
    again = claimed(store.see(key, SECOND, world.now + POLICY.window + 3))
    assert (again.seen_more, again.worst_ns) == (0, 0)


def test_request_that_is_heard_of_again_and_is_alone(world: World) -> None:
    """When nothing else was counted the alert speaks of nothing else; what is not told has its last duration."""
    store = world.store()
    key = world.key()
    tell(store, key, 8 * SECOND, world.now)
    assert store.see(key, 10 * SECOND, world.now) is None
    claim = claimed(store.see(key, 20 * SECOND, world.now, counted=True))
    assert (claim.seen_more, claim.worst_ns) == (0, 0)
    store.confirm(claim, world.now + 1)
    assert store.see(key, 21 * SECOND, world.now + 2) is None
    assert store.see(key, 33 * SECOND, world.now + 2, counted=True) is None
    again = claimed(store.see(key, SECOND, world.now + POLICY.window + 3))
    assert (again.seen_more, again.worst_ns) == (1, 33 * SECOND)


def test_told_request_that_grows(world: World) -> None:
    """What was told while it ran is measured by its end; while nobody is told it measures nothing."""
    store = world.store()
    key = world.key()
    claim = claimed(store.see(key, 10 * SECOND, world.now))
    store.grow(claim, 600 * SECOND, world.now)
    store.confirm(claim, world.now + 1)
    slower = claimed(store.see(key, 20 * SECOND, world.now + 2))
    store.release(slower, world.now + 2)
    for seconds in (600, 500):
        store.grow(claim, seconds * SECOND, world.now + 3)
    assert store.see(key, 1199 * SECOND, world.now + 4) is None
    assert claimed(store.see(key, 1201 * SECOND, world.now + 4)).seen_more == 1


def test_request_that_is_held_back_again(world: World) -> None:
    """One that is held back whenever it is heard of is one in the message, and is counted once for its key."""
    store = world.store(replace(POLICY, alerts_per_hour=1))
    tell(store, world.key(1), SECOND, world.now)
    for number, was_told in ((1, True), (2, False)):
        first = store.see(world.key(number), 5 * SECOND, world.now)
        assert isinstance(first, Held)
        assert first.counted == was_told
        again = store.see(world.key(number), 9 * SECOND, world.now, counted=first.counted, held=True)
        assert again == first
    digest = store.digest(world.now + 3600)
    assert digest is not None
    assert digest[1] == 2
    assert sorted(count for _, count, _ in digest[2]) == [1, 1]
    next_hour = claimed(store.see(world.key(1), 9 * SECOND, world.now + 3600, counted=True, held=True))
    assert next_hour.seen_more == 0


def test_limit_per_hour(world: World) -> None:
    """No more alerts than the limit are told in an hour, by all together; one message sums up the others."""
    policy = replace(POLICY, alerts_per_hour=3)
    first, second = world.store(policy), world.store(policy)
    begin = int(world.now) // 3600 * 3600
    for number in range(3):
        tell((first, second)[number % 2], world.key(number), SECOND, world.now)
    for number in (4, 5, 5):
        held = second.see(world.key(number), number * SECOND, world.now)
        assert held == Held(begin * SECOND)
    assert second.digest(world.now) is None
    wait = second.next_digest(world.now)
    assert wait is not None
    assert wait == begin + 3600 - world.now
    world.now += wait + 1
    assert second.next_digest(world.now) == 0
    digest = second.digest(world.now)
    assert digest == (begin * SECOND, 3, ((world.key(5).text, 2, 5 * SECOND), (world.key(4).text, 1, 4 * SECOND)))
    assert second.digest(world.now) is None
    assert first.digest(world.now) is None
    assert claimed(first.see(world.key(4), SECOND, world.now)).told_before is False


def test_released_claim_gives_its_place_back(world: World) -> None:
    """An alert that could not be told takes nothing from the hour's limit."""
    store = world.store(replace(POLICY, alerts_per_hour=1))
    for number in range(3):
        store.release(claimed(store.see(world.key(number), SECOND, world.now)), world.now)
    tell(store, world.key(9), SECOND, world.now)
    assert isinstance(store.see(world.key(10), SECOND, world.now), Held)


def test_digest_is_bounded(world: World) -> None:
    """However many keys are held back, the message names the twenty most frequent."""
    store = world.store(replace(POLICY, alerts_per_hour=0))
    for number in range(230):
        for _ in range(1 + (number < 2)):
            assert isinstance(store.see(world.key(number), SECOND, world.now), Held)
    digest = store.digest(world.now + 3600)
    assert digest is not None
    _, alerts, endpoints = digest
    assert alerts == 232
    assert len(endpoints) == 20
    assert {text for text, count, _ in endpoints if count == 2} == {world.key(0).text, world.key(1).text}


def test_one_winner_of_many_threads(world: World) -> None:
    """Of many who see a key at the same time exactly one tells it, and the others are counted."""
    policy = replace(POLICY, alerts_per_hour=1000)
    stores = [world.store(policy) for _ in range(4)]
    won: list[Claim] = []

    def see(store: AlertStore) -> None:
        for number in range(25):
            verdict = store.see(world.key(number), SECOND, world.now)
            if verdict is not None:
                won.append(claimed(verdict))
                store.confirm(won[-1], world.now)

    threads = [threading.Thread(target=see, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claim.key for claim in won) == sorted(world.key(number).digest for number in range(25))
    again = [claimed(stores[0].see(world.key(n), SECOND, world.now + policy.window + 60)) for n in range(25)]
    counts = [claim.seen_more for claim in again]
    if world.kind in ("memory", "sqlite"):
        assert counts == [3] * 25
    else:
        # Servers of counters may lose one that comes at the very moment of a confirmation.
        assert max(counts) <= 3


def test_forked_child(world: World) -> None:
    """A child that was forked from a process with an open store uses it, and so does the parent afterwards."""
    store = world.store()
    tell(store, world.key(1), SECOND, world.now)

    def in_child() -> Any:
        seen = store.see(world.key(1), SECOND, world.now)
        return seen, tell(store, world.key(2), SECOND, world.now)

    seen, told = in_forked_child(in_child)
    assert seen is None
    assert isinstance(told, Claim)
    verdict = store.see(world.key(2), SECOND, world.now)
    assert (verdict is None) == (world.kind != "memory")
    assert store.see(world.key(1), SECOND, world.now) is None


def test_check_and_close(world: World) -> None:
    """A check says what the store is and leaves nothing behind; a closed store opens itself again."""
    store = world.store()
    words = {"sqlite": ALERT_STATE, "cluster": "redis+cluster://127", "sentinel": "redis+sentinel://127"}
    word = words.get(world.kind, "memory" if world.kind == "memory" else f"{world.kind}://127")
    assert word in store.check(world.now)
    assert store.check(world.now) == store.check(world.now)
    store.close()
    tell(store, world.key(), SECOND, world.now)
    store.close()
    assert store.see(world.key(), SECOND, world.now) is None


@pytest.mark.parametrize("window", [60.0, 100 * DAY])
def test_windows_of_any_length(world: World, window: float) -> None:
    """A minute and a hundred days are windows too, also where a server counts time in its own way."""
    store = world.store(replace(POLICY, window=window))
    tell(store, world.key(), SECOND, world.now)
    assert store.see(world.key(), SECOND, world.now + window - 2) is None
    assert claimed(store.see(world.key(), SECOND, world.now + window + 2)).seen_more == 1


def test_clock_that_was_wrong_silences_nothing(world: World) -> None:
    """An alert that was told by a clock years ahead is told again."""
    store = world.store()
    tell(store, world.key(), SECOND, world.now + 10 * 365 * DAY)
    assert claimed(store.see(world.key(), SECOND, world.now))


# -- What is particular to one store.


def rows(directory: Path, table: str = "alerts") -> int:
    """Return the number of rows of a table."""
    with sqlite3.connect(directory / ALERT_STATE) as connection:
        (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    connection.close()
    return int(count)


def test_sqlite_state_is_bounded_and_expires(tmp_path: Path) -> None:
    """No more keys are kept than allowed, those told least recently go, and expired ones go in bounded steps."""
    store = SqliteStore(tmp_path, AlertPolicy(max_keys=60, alerts_per_hour=1000))
    for number in range(100):
        tell(store, AlertKey(f"{number:032x}", ""), SECOND, 1000.0 + number)
    assert rows(tmp_path) == 60
    assert store.see(AlertKey(f"{99:032x}", ""), SECOND, 1100.0) is None
    assert claimed(store.see(AlertKey(f"{0:032x}", ""), SECOND, 1100.0)).told_before is False
    store.see(KEY, SECOND, 1100.0 + 21 * DAY)
    assert rows(tmp_path) == 11
    store.see(KEY, SECOND, 1100.0 + 21 * DAY)
    assert rows(tmp_path) == 1
    store.close()


def test_memory_state_is_bounded_and_expires() -> None:
    """The same holds of memory."""
    store = MemoryStore(AlertPolicy(max_keys=60, alerts_per_hour=1000))
    for number in range(100):
        tell(store, AlertKey(f"{number:032x}", ""), SECOND, 1000.0 + number)
    assert len(store._keys) == 60
    store.see(KEY, SECOND, 1100.0 + 21 * DAY)
    store.see(KEY, SECOND, 1100.0 + 21 * DAY)
    assert set(store._keys) == {KEY.digest}


def test_held_back_strangers_do_not_grow_the_state(tmp_path: Path) -> None:
    """Whoever varies a parameter beyond the limit of the hour adds no key, and a bounded list for the message."""
    store = SqliteStore(tmp_path, AlertPolicy(alerts_per_hour=2))
    for number in range(500):
        store.see(AlertKey(f"{number:032x}", f"GET /?q={number}"), SECOND, 1000.0)
    assert rows(tmp_path) == 2
    assert rows(tmp_path, "held") == 200
    store.close()


def test_everything_in_redis_expires(redis: str) -> None:
    """No key that is written to Redis stays for longer than two windows, or two days."""
    import redis as client

    store = LimitsStore(redis + "/7", replace(POLICY, alerts_per_hour=2))
    for number in range(4):
        key = AlertKey(f"{number:032x}", "")
        verdict = store.see(key, SECOND, 1000.0)
        store.see(key, 2 * SECOND, 1000.0)
        if isinstance(verdict, Claim):
            store.hold(verdict, DAY, 1000.0)
            store.confirm(verdict, 1000.0)
            store.see(key, SECOND, 1000.0)
    store.check(1000.0)
    with client.Redis.from_url(redis + "/7") as look:
        times_to_live = [look.ttl(name) for name in look.scan_iter()]
    assert times_to_live
    assert all(0 < seconds <= 2 * POLICY.window for seconds in times_to_live)
    store.close()


def test_sqlite_files_are_private(tmp_path: Path) -> None:
    """The directory and all files of the state are their owner's alone, under any umask."""
    code = f"""
import os
os.umask(0)
from pathlib import Path
from slowspan.delivery.alert_sqlite import SqliteStore
from slowspan.delivery.alert_store import AlertPolicy
store = SqliteStore(Path({str(tmp_path / "reports")!r}), AlertPolicy())
store.check(1.0)
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "reports").iterdir()}
    assert set(files) == {ALERT_STATE, f"{ALERT_STATE}-wal", f"{ALERT_STATE}-shm"}
    assert set(files.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "reports").stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", ["header", "pages"])
def test_damaged_file_is_moved_aside(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    """A corrupt file is kept aside, a new one begins, and the log says so once."""
    store = FallbackStore(lambda: SqliteStore(tmp_path, POLICY), POLICY)
    for number in range(20):
        tell(store, AlertKey(f"{number:032x}", ""), SECOND, 1000.0)
    store.close()
    path = tmp_path / ALERT_STATE
    content = bytearray(path.read_bytes())
    begin = 0 if damage == "header" else 4096
    content[begin:] = b"\xa5" * (len(content) - begin)
    path.write_bytes(bytes(content))
    other = SqliteStore(tmp_path, POLICY)
    for _ in range(2):
        try:
            assert "0 alerts" in other.check(1000.0)
            break
        except sqlite3.DatabaseError:
            continue
    assert (tmp_path / f"{ALERT_STATE}.corrupt").exists()
    assert caplog.text.count("state was damaged") == 1
    # The first one, which had the old file open, finds the new one.
    assert claimed(store.see(KEY, SECOND, 1000.0))
    store.close()
    other.close()
    assert rows(tmp_path) == 1


def test_many_open_a_new_file_at_once(tmp_path: Path) -> None:
    """Workers that all have their first slow request at the same moment share one file from the start."""
    for round in range(10):
        stores = [SqliteStore(tmp_path / f"{round}", POLICY) for _ in range(8)]
        barrier = threading.Barrier(len(stores))
        verdicts: list[object] = []

        def see(store: SqliteStore, barrier: threading.Barrier = barrier, verdicts: list[object] = verdicts) -> None:
            barrier.wait()
            verdicts.append(store.see(KEY, SECOND, 1000.0))

        threads = [threading.Thread(target=see, args=(store,)) for store in stores]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for store in stores:
            store.close()
        assert len(verdicts) == 8
        assert len([verdict for verdict in verdicts if verdict is not None]) == 1


def test_deleted_directory_is_made_anew(tmp_path: Path) -> None:
    """Whoever cleans temporary directories under a running process loses the state, and nothing else."""
    import shutil

    store, other = SqliteStore(tmp_path / "reports", POLICY), SqliteStore(tmp_path / "reports", POLICY)
    tell(store, KEY, SECOND, 1000.0)
    other.check(1000.0)
    shutil.rmtree(tmp_path / "reports")
    tell(store, KEY, SECOND, 1000.0)
    assert other.see(KEY, SECOND, 1000.0) is None
    store.close()
    assert other.see(KEY, SECOND, 1000.0) is None
    other.close()


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no limit on the size of files")
def test_full_disk(tmp_path: Path) -> None:
    """When the file cannot grow any more memory takes over; when it can, what was told meanwhile is in the file."""
    code = f"""
import resource, signal
from pathlib import Path
from slowspan.delivery.alert_fallback import RETRY_AFTER, FallbackStore
from slowspan.delivery.alert_key import AlertKey
from slowspan.delivery.alert_sqlite import SqliteStore
from slowspan.delivery.alert_store import AlertPolicy, Claim

now, policy = [0.0], AlertPolicy(alerts_per_hour=10**6)
open_store = lambda: SqliteStore(Path({str(tmp_path)!r}), policy)
store = FallbackStore(open_store, policy, lambda: now[0])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

def tell(numbers):
    for number in numbers:
        claim = store.see(AlertKey(f"{{number:032x}}", ""), 10**9, 1000.0)
        assert isinstance(claim, Claim)
        store.confirm(claim, 1000.0)

tell(range(10))
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
tell(range(10, 500))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
now[0] += RETRY_AFTER
tell([500])
store.close()
other = open_store()
assert [other.see(AlertKey(f"{{number:032x}}", ""), 10**9, 1000.0) for number in range(501)] == [None] * 501
other.close()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("cannot be used") == 1
    assert result.stderr.count("is back") == 1


def test_fork_beside_a_writing_thread(tmp_path: Path) -> None:
    """Children forked while another thread writes have a working store, and the file stays sound."""
    store = SqliteStore(tmp_path, replace(POLICY, alerts_per_hour=10**6))
    ended = threading.Event()

    def write() -> None:
        for number in itertools.count():
            if ended.is_set():
                return
            store.see(AlertKey(f"{number:032x}", ""), SECOND, 1000.0)
            time.sleep(0.0005)  # Or nobody else would ever get the file on a busy machine.

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(10):
            key = AlertKey(f"f{number:031x}", "")
            assert isinstance(in_forked_child(lambda key=key: tell(store, key, SECOND, 1000.0)), Claim)
            assert store.see(key, SECOND, 1000.0) is None
    finally:
        ended.set()
        thread.join()
    store.close()
    connection = sqlite3.connect(tmp_path / ALERT_STATE)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


# -- The fallback.


class Clock:
    """A monotonic clock that tests move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Broken:
    """A store in the place of one that works, as long as it is told to fail."""

    def __init__(self) -> None:
        self.fails = True
        self.calls = 0
        self.real = MemoryStore(POLICY)

    def __getattr__(self, name: str) -> Any:
        self.calls += 1
        if self.fails:
            raise OSError("no space left on device")
        return getattr(self.real, name)


def test_fallback_tells_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    """While the store fails memory decides; the log says so once; when it is back it learns what was told."""
    caplog.set_level(logging.INFO)
    broken, clock = Broken(), Clock()
    store = FallbackStore(lambda: broken, POLICY, clock)  # type: ignore[arg-type, return-value]
    for number in range(5):
        tell(store, AlertKey(f"{number:032x}", ""), SECOND, 1000.0)
        assert store.see(AlertKey(f"{number:032x}", ""), SECOND, 1000.0) is None
    assert broken.calls == 1
    key = AlertKey("0" * 32, "")
    clock.now += RETRY_AFTER
    assert store.see(key, SECOND, 1000.0) is None
    assert broken.calls == 2
    assert caplog.text.count("cannot be used") == 1
    broken.fails = False
    clock.now += RETRY_AFTER
    assert store.see(key, SECOND, 1000.0) is None
    assert caplog.text.count("is back") == 1
    for number in range(5):
        assert broken.real.see(AlertKey(f"{number:032x}", ""), SECOND, 1000.0) is None
    assert isinstance(broken.real.see(AlertKey("9" * 32, ""), SECOND, 1000.0), Claim)


def test_fallback_knows_what_was_told_before() -> None:
    """What a process has heard from the store to be told is not told again when the store goes away."""
    broken, clock = Broken(), Clock()
    broken.fails = False
    tell(broken.real, KEY, SECOND, 1000.0)
    store = FallbackStore(lambda: broken, POLICY, clock)  # type: ignore[arg-type, return-value]
    assert store.see(KEY, SECOND, 1000.0) is None
    own = claimed(store.see(AlertKey("1" * 32, ""), SECOND, 1000.0))
    broken.fails = True
    store.confirm(own, 1000.0)
    assert store.see(AlertKey("1" * 32, ""), SECOND, 1000.0) is None
    assert store.see(KEY, SECOND, 1000.0) is None


def test_fallback_never_raises_but_in_check() -> None:
    """Every method works while the store fails; only a check says what is wrong."""
    store = FallbackStore(lambda: Broken(), POLICY)  # type: ignore[arg-type, return-value]
    claim = claimed(store.see(KEY, SECOND, 1000.0))
    store.hold(claim, 60, 1000.0)
    store.release(claim, 1000.0)
    assert store.digest(1000.0) is None
    assert store.next_digest(1000.0) is None
    with pytest.raises(OSError, match="no space"):
        store.check(1000.0)
    store.close()


def test_server_that_restarts(caplog: pytest.LogCaptureFixture) -> None:
    """A Redis that goes away and comes back is used again, and knows what was told without it."""
    port = servers.free_port()
    clock = Clock()
    store = FallbackStore(lambda: LimitsStore(f"redis://127.0.0.1:{port}", POLICY), POLICY, clock)
    with redis_server(port):
        tell(store, KEY, SECOND, 1000.0)
    other = AlertKey("5" * 32, "")
    tell(store, other, SECOND, 1000.0)
    assert store.see(KEY, SECOND, 1000.0) is None
    clock.now += RETRY_AFTER
    with redis_server(port) as uri:
        # An idle connection that the server has closed is no failure: one more try opens another.
        assert store.see(other, SECOND, 1000.0) is None
        second = LimitsStore(uri, POLICY)
        assert second.see(other, SECOND, 1000.0) is None
        second.close()
    store.close()
    assert caplog.text.count("cannot be used") == 1


def test_stale_connection_is_no_failure(redis: str, caplog: pytest.LogCaptureFixture) -> None:
    """A connection that the server closed in the meantime is opened again, without a word."""
    import redis as client

    store = FallbackStore(lambda: LimitsStore(redis, POLICY), POLICY)
    tell(store, AlertKey("6" * 32, ""), SECOND, 1000.0)
    with client.Redis.from_url(redis) as admin:
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert store.see(AlertKey("6" * 32, ""), SECOND, 1000.0) is None
    store.close()
    assert caplog.text == ""


@pytest.mark.parametrize("scheme", ["redis", "memcached"])
def test_silent_server_costs_seconds(scheme: str, caplog: pytest.LogCaptureFixture) -> None:
    """A server that never answers is given up after a short time, and its password is in no message."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        login = "user:s3cr%40t@" if scheme == "redis" else ""
        store = FallbackStore(lambda: LimitsStore(f"{scheme}://{login}{place}", POLICY), POLICY)
        begin = time.monotonic()
        assert claimed(store.see(KEY, SECOND, 1000.0))
        assert time.monotonic() - begin < 10
        with pytest.raises(AlertStoreError) as failure:
            store.check(1000.0)
        store.close()
    assert place in str(failure.value)
    for secret in ("s3cr", "user:"):
        assert secret not in caplog.text + str(failure.value) + repr(store)


@pytest.mark.parametrize("password", ["pa55/w0rd", "pa55#w0rd", "pa55?w0rd", "[pa55]w0rd", "9876/w0rd", "pa55@/w0rd"])
def test_password_that_is_not_encoded(password: str, caplog: pytest.LogCaptureFixture) -> None:
    """Of a password with a character that ends a URI's login nothing is shown, and the message says what to do."""
    store = FallbackStore(lambda: LimitsStore(f"redis://:{password}@127.0.0.1:{servers.free_port()}/0", POLICY), POLICY)
    assert claimed(store.see(KEY, SECOND, 1000.0))
    with pytest.raises(AlertStoreError) as failure:
        store.check(1000.0)
    store.close()
    assert "redis://" in str(failure.value)
    assert "%2F" in str(failure.value)
    for secret in ("pa55", "w0rd", "9876"):
        assert secret not in caplog.text + str(failure.value)


def test_sentinels_are_asked_for_the_master_alone() -> None:
    """A replica may lag behind, and whoever asks it would tell again what has just been told."""
    counters = SharedCounters("redis+sentinel://127.0.0.1:1/mymaster")
    storage = counters._opened()
    assert storage.get_connection(readonly=True) is storage.storage
    counters.close()


@pytest.mark.parametrize(
    ("uri", "missing", "advice"),
    [
        ("redis://:s3cret@host", "limits", "pip install 'slowspan[redis]'"),
        ("memcached://host", "limits", "pip install 'slowspan[memcached]'"),
        ("redis://:s3cret@host", "redis", "pip install 'slowspan[redis]'"),
        ("valkey://:s3cret@host", "limits", "pip install 'slowspan[valkey]'"),
        ("valkey://:s3cret@host", "valkey", "pip install 'slowspan[valkey]'"),
        ("memcached://host", "pymemcache", "pip install 'slowspan[memcached]'"),
        ("rabbit://:s3cret@host", None, "unknown scheme, 'rabbit'"),
        ("async+redis://:s3cret@host", None, "unknown scheme, 'async+redis'"),
    ],
)
def test_store_that_cannot_be_made(uri: str, missing: str | None, advice: str) -> None:
    """A missing package or an unknown scheme is explained, without the password."""
    code = f"""
import sys
sys.modules.update({{name: None for name in [{missing!r}] if name}})
from slowspan.delivery.alert_limits import LimitsStore
from slowspan.delivery.shared_counters import AlertStoreError, SharedCounters
from slowspan.delivery.alert_store import AlertPolicy
try:
    LimitsStore({uri!r}, AlertPolicy())
except AlertStoreError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert advice in result.stdout
    assert "s3cret" not in result.stdout + result.stderr


def test_store_of_the_settings(tmp_path: Path, redis: str) -> None:
    """The setting chooses the store: SQLite in the report directory without one."""
    now = time.time()
    for uri, word in ((None, ALERT_STATE), ("memory://", "memory"), (redis, "redis://127")):
        settings = Settings(report_dir=tmp_path / "reports", alert_store=uri, alerts_per_hour=1)
        store = make_store(settings)
        assert word in store.check(now)
        store.close()


def test_making_a_store_loads_nothing(tmp_path: Path) -> None:
    """Neither SQLite nor ``limits`` is loaded before the first slow request."""
    code = """
import sys
from slowspan.config import Settings
from slowspan.delivery.alert_fallback import make_store
from slowspan.delivery.outbox import Outbox
stores = [make_store(Settings(alert_store=uri)) for uri in (None, "redis://host", "memory://")]
outbox = Outbox(Settings().report_dir)
print(sorted({"sqlite3", "limits", "redis", "pymemcache"} & set(sys.modules)))
"""
    # Coverage itself keeps its data in SQLite.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"
