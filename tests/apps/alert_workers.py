"""Tells alerts in processes that are killed at random: ``alert_workers.py STORE FILE`` prints figures as JSON.

Forked from one process, because starting interpreters would leave no time for the killing.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from slowspan.delivery.alert_key import AlertKey
from slowspan.delivery.alert_store import AlertPolicy, AlertStore, Claim

KEYS = 1500
PROCESSES = 8
KILLS = 220
POLICY = AlertPolicy(lease=2.0, alerts_per_hour=10**6)
SECONDS_IN_ALL = 100.0


def open_store(where: str) -> AlertStore:
    """Return the store at a URI or in a directory."""
    if "://" in where:
        from slowspan.delivery.alert_limits import LimitsStore

        return LimitsStore(where, POLICY)
    from slowspan.delivery.alert_sqlite import SqliteStore

    return SqliteStore(Path(where), POLICY)


def work(where: str, file: str, seed: int) -> None:
    """See the keys in any order, again and again, and tell those that are due by a line in the file."""
    chance = random.Random(seed)
    store = open_store(where)
    channel = os.open(file, os.O_WRONLY | os.O_APPEND)
    keys = [AlertKey(f"{number:032x}", f"GET /{number}") for number in range(KEYS)]
    while True:
        chance.shuffle(keys)
        for key in keys:
            try:
                claim = store.see(key, 10**9, time.time())
                if isinstance(claim, Claim):
                    time.sleep(chance.uniform(0.06, 0.18))  # what a channel takes, short as that is
                    os.write(channel, f"{key.digest}\n".encode())
                    confirm(store, claim)
                else:
                    time.sleep(0.004)  # leaves the machine, and the store, to those who tell
            except Exception:
                # A store that is busy for a moment; FallbackStore would have memory take over.
                time.sleep(0.01)


def confirm(store: AlertStore, claim: Claim) -> None:
    """Confirm what was told, as soon as the store is not busy; FallbackStore would have memory know it meanwhile."""
    while True:
        try:
            store.confirm(claim, time.time())
        except Exception:
            time.sleep(0.01)
        else:
            return


def start(where: str, file: str, seed: int) -> int:
    """Fork a worker and return its process id."""
    process = os.fork()
    if process == 0:
        try:
            work(where, file, seed)
        finally:
            os._exit(1)
    return process


def kill(process: int) -> None:
    """Kill a worker at once and wait for its end."""
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def main(where: str, file: str) -> None:
    """Run the workers until all is told, and print the figures."""
    Path(file).touch()
    chance = random.Random()
    open_store(where)  # connects to nothing yet, and loads what the workers would each have to load
    begin, kills, seed = time.monotonic(), 0, 0
    workers = [start(where, file, seed := seed + 1) for _ in range(PROCESSES)]
    lines: list[str] = []
    while time.monotonic() - begin < SECONDS_IN_ALL:
        lines = Path(file).read_text(encoding="ascii").split()
        # Spread over the whole of the telling, whatever the machine's speed.
        if kills < KILLS and len(lines) >= KEYS * 0.9 * kills / KILLS:
            time.sleep(chance.uniform(0, 0.01))
            victim = chance.randrange(PROCESSES)
            kill(workers[victim])
            kills += 1
            workers[victim] = start(where, file, seed := seed + 1)
        elif len(set(lines)) == KEYS and kills == KILLS:
            break
        else:
            time.sleep(0.005)
    for worker in workers:
        kill(worker)
    lines = Path(file).read_text(encoding="ascii").split()
    figures = {"kills": kills, "told": len(set(lines)), "twice": len(lines) - len(set(lines))}
    print(json.dumps({**figures, "keys": KEYS, "seconds": round(time.monotonic() - begin, 1)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
