"""Who is told what: each slow endpoint once per window, on every channel, and again when a channel is back."""

from __future__ import annotations

import logging
import socket
import time
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

from slowspan.counters import Drop
from slowspan.delivery.alert_fallback import make_store
from slowspan.delivery.alert_key import alert_key
from slowspan.delivery.alert_store import Held
from slowspan.delivery.channel import Channel, Telling
from slowspan.delivery.outbox import Outbox
from slowspan.report.alert import Alert, Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slowspan.config import Settings
    from slowspan.counters import Counters
    from slowspan.delivery.alert_store import AlertStore, Claim
    from slowspan.delivery.outbox import GivenUp, Pending
    from slowspan.notifiers.base import DeliveryError, Notifier
    from slowspan.recording.profile import Profile
    from slowspan.report.report import Report

_logger = logging.getLogger("slowspan")

FIRST_RETRY = 60.0
"""Seconds until a channel that failed is tried from the outbox; doubles with each try."""

LAST_RETRY = 900.0
"""The most seconds between two tries from the outbox: a channel that is back has its alerts soon after."""

RENEW = 60.0
"""Seconds between two renewals of the claims of alerts that are still under way, however long their channels take."""

LEASE = 2 * RENEW
"""Seconds after which another process tells what one that was killed had under way."""

LOOK = 60.0
"""The most seconds between two looks for that."""

HOLD = 86_400.0
"""Seconds for which an alert that waits in the outbox keeps its key from being told by somebody else."""

_LEASE_OF_CLAIM = LEASE + RENEW  # longer, so that nobody else claims the key before it is told

_MOST_PARTIAL = 1000
"""Requests of which it is remembered that they were told while they ran."""


class Alerter:
    """Decides what is told, and sees to it that it is. On the delivery thread, but for ``shutdown``.

    Args:
        settings: The settings.
        counters: Where outcomes and losses are counted.
        notifiers: The notifiers that get alerts, with their names.
        store: Who has been told, shared with other processes.
        outbox: What could not be told yet.
        restore: Makes a report of a stored profile and its alert.
        wake: Has ``tick`` called soon, from any thread.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        settings: Settings,
        counters: Counters,
        notifiers: Sequence[tuple[str, Notifier]],
        *,
        store: AlertStore,
        outbox: Outbox,
        restore: Callable[[bytes, Alert], Report],
        wake: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._counters = counters
        self._store = store
        self._outbox = outbox
        self._restore = restore
        self._wake = wake
        self._words = settings.alert_key
        self._clock = clock
        self._service_name: str | None = None
        self._told_while_running: OrderedDict[str, None] = OrderedDict()
        self._under_way: dict[Telling, None] = {}
        self._failing: set[str] = set()
        self._renew_at = 0.0
        self._held_hour_ns = 0
        self.channels: dict[str, Channel] = {
            name: Channel(
                name,
                notifier,
                size=settings.queue_size,
                time_limit=settings.notify_timeout,
                counters=counters,
                outcome=self._note,
            )
            for name, notifier in notifiers
        }

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        counters: Counters,
        notifiers: Sequence[tuple[str, Notifier]],
        *,
        restore: Callable[[bytes, Alert], Report],
        wake: Callable[[], None],
        clock: Callable[[], float],
    ) -> Alerter:
        """Make an alerter with the store and the outbox that the settings name."""
        return cls(
            settings,
            counters,
            notifiers,
            store=make_store(settings),
            outbox=Outbox(
                settings.report_dir,
                window=settings.alert_window,
                # What is taken at once from there, and what may wait before it in a channel's queue.
                lease=max(600.0, 20 * settings.notify_timeout),
            ),
            restore=restore,
            wake=wake,
            clock=clock,
        )

    def consider(self, profile: Profile, make_report: Callable[[Alert], Report]) -> None:
        """Count a slow request, and tell it if nobody has been told of its like.

        Args:
            profile: Its profile, finished or partial.
            make_report: Makes the report that goes with the alert.
        """
        self._service_name = profile.span.service_name
        if profile.id in self._told_while_running:
            return  # One request is one alert, however often it is heard of.
        if profile.running:
            self._told_while_running[profile.id] = None
            if len(self._told_while_running) > _MOST_PARTIAL:
                self._told_while_running.popitem(last=False)
        key = alert_key(profile, self._words)
        verdict = self._store.see(key, profile.duration_ns, self._clock())
        if isinstance(verdict, Held):
            self._counters.drop(Drop.ALERT_LIMIT)
            if verdict.hour_ns != self._held_hour_ns:
                # Somebody must look when the hour is over, also if no alert comes any more.
                self._held_hour_ns = verdict.hour_ns
                self._wake()
        elif verdict is not None:
            alert = Alert(
                key=key.digest,
                told_before=verdict.told_before,
                seen_more=verdict.seen_more,
                since_ns=verdict.since_ns,
                worst_ns=verdict.worst_ns,
                notes=self._outbox.notes(key.digest),
            )
            self._tell(Telling(make_report(alert), verdict, set(self.channels)))

    def tick(self) -> float:
        """Try again what waits, and tell what was held back.

        Returns:
            Seconds until there may be something to do.
        """
        now = self._clock()
        self._count_given_up(self._outbox.give_up(now))
        for pending in self._outbox.due(now, self._idle_channels()):
            self._tell_again(pending)
        digest = self._store.digest(now)
        if digest is not None:
            hour_ns, alerts, endpoints = digest
            told = Digest(
                hour_ns=hour_ns,
                alerts=alerts,
                endpoints=endpoints,
                service_name=self._service_name,
                host=socket.gethostname(),
            )
            for channel in self.channels.values():
                channel.put_digest(told)
        waits = [LOOK, self._store.next_digest(now), self._renew(now)]
        next_due = self._outbox.next_due(now, self._idle_channels())
        # Not at once: on a full disk what is due can be seen, but not taken.
        waits.append(None if next_due is None else max(1.0, next_due - now))
        return min((wait for wait in waits if wait is not None), default=LOOK)

    def close(self) -> None:
        """Let the channels deliver what waits, and end. Does not wait for it."""
        for channel in self.channels.values():
            channel.close()

    def shutdown(self) -> None:
        """Put what no channel has answered in time into the outbox, for the next process, and close the stores."""
        for telling in list(self._under_way):
            with telling.lock:
                unanswered, telling.waiting_for = telling.waiting_for, set()
                for name in unanswered:
                    self._keep(telling, name, FIRST_RETRY)
                self._settle(telling)
        self._store.close()
        self._outbox.close()

    def _renew(self, now: float) -> float | None:
        """Renew claims that nobody has confirmed yet; return the seconds until the next time, if there are any."""
        waiting = list(self._under_way)
        if waiting and now >= self._renew_at:
            self._renew_at = now + RENEW
            places: list[int] = []
            for telling in waiting:
                with telling.lock:
                    # Of those that failed already the outbox knows better when they are due.
                    places += [id for name, id in telling.places.items() if name in telling.waiting_for]
            self._outbox.renew(places, now, LEASE)
            for telling in waiting:
                if not telling.delivered:
                    self._store.hold(telling.claim, _LEASE_OF_CLAIM, now)
        return max(0.0, self._renew_at - now) if waiting else None

    def _idle_channels(self) -> list[str]:
        """Return the channels that have told what was last taken from the outbox for them, so that little is at once.

        Of all others nothing is known: what waits for them is for another process.
        """
        busy = {telling.pending.channel for telling in list(self._under_way) if telling.pending is not None}
        return [name for name in self.channels if name not in busy]

    def _tell(self, telling: Telling) -> None:
        now = self._clock()
        if not self._under_way:
            # What has just been claimed need not be renewed now, but somebody must look after it.
            self._renew_at = now + RENEW
        self._under_way[telling] = None
        self._wake()
        # Before a channel asks for the page, which whoever wants the profile has to wait for then.
        stored = self._stored(telling) if telling.pending is None else None
        for name in list(telling.waiting_for):
            self.channels[name].put(telling)
        if stored is not None:
            # Should this process be killed, another one tells it.
            with telling.lock:
                for name in telling.waiting_for:
                    self._add(telling, name, stored, now, LEASE)

    def _stored(self, telling: Telling) -> bytes | None:
        try:
            return telling.report.stored_profile()
        except Exception as error:  # noqa: BLE001 - it can be told all the same
            self._counters.drop(Drop.INTERNAL_ERROR, detail=f"an alert cannot be kept: {error!r}")
            return None

    def _tell_again(self, pending: Pending) -> None:
        try:
            report = self._restore(pending.stored, pending.alert)
        except Exception as error:  # noqa: BLE001 - a damaged one must not keep the others from being told
            self._counters.drop(Drop.INTERNAL_ERROR, detail=f"an alert in the outbox cannot be read: {error!r}")
            self._end(pending.id, pending.claim)
            return
        ended_ns = report.profile.start_time_ns + report.profile.duration_ns
        report.alert = replace(pending.alert, late_ns=ended_ns)
        self._store.hold(pending.claim, _LEASE_OF_CLAIM, self._clock())
        places = {pending.channel: pending.id}
        self._tell(Telling(report, pending.claim, {pending.channel}, pending=pending, places=places))

    def _note(self, telling: Telling, name: str, error: DeliveryError | None) -> None:
        """Note how a channel fared. Runs on the channel's thread."""
        with telling.lock:
            if name not in telling.waiting_for:
                return  # Too late: it is in the outbox.
            telling.waiting_for.discard(name)
            try:
                if error is None:
                    self._note_success(telling, name)
                else:
                    self._note_failure(telling, name, error)
            finally:
                self._settle(telling)

    def _note_success(self, telling: Telling, name: str) -> None:
        self._counters.add_delivered(name)
        self._failing.discard(name)
        place = telling.places.pop(name, None)
        if place is not None:
            self._outbox.done(place, telling.claim)
        if not telling.delivered:
            telling.delivered = True
            self._store.confirm(telling.claim, self._clock())

    def _note_failure(self, telling: Telling, name: str, error: DeliveryError) -> None:
        self._counters.add_failed(name)
        if error.retry:
            if name not in self._failing:
                self._failing.add(name)
                _logger.warning("%s; the alert is kept and tried again", error)
            self._keep(telling, name, error.retry_after or FIRST_RETRY)
            return
        self._counters.drop(Drop.NOTIFIER_FAILED, detail=str(error))
        place = telling.places.pop(name, None)
        if place is not None and telling.pending is not None:
            self._end(place, telling.claim)
        elif place is not None:
            self._outbox.done(place, telling.claim)

    def _end(self, id: int, claim: Claim) -> None:
        """Give up an alert of the outbox, and its claim if no other channel waits for it."""
        if not self._outbox.done(id, claim):
            self._store.release(claim, self._clock())

    def _keep(self, telling: Telling, name: str, retry_in: float) -> None:
        """Leave an alert in the outbox for later. The caller holds the telling's lock."""
        now = self._clock()
        if name not in telling.places:
            stored = self._stored(telling)
            if stored is not None:
                self._add(telling, name, stored, now, retry_in)
        if name not in telling.places:
            self._counters.drop(Drop.OUTBOX_FULL)
            return
        attempts = telling.pending.attempts if telling.pending is not None else 0
        patience = min(FIRST_RETRY * 2.0**attempts, LAST_RETRY)
        self._outbox.later(telling.places[name], now, max(patience, retry_in))
        self._wake()

    def _add(self, telling: Telling, name: str, stored: bytes, now: float, retry_in: float) -> None:
        """Put an alert into the outbox, where that is possible. The caller holds the telling's lock."""
        alert = telling.report.alert
        if alert is not None:
            place, given_up = self._outbox.add(name, alert, telling.claim, stored, now, retry_in)
            if place:
                telling.places[name] = place
            self._count_given_up(given_up)

    def _count_given_up(self, given_up: GivenUp) -> None:
        if given_up.alerts:
            self._counters.drop(Drop.OUTBOX_FULL, given_up.alerts)
        for claim in given_up.claims:
            self._store.release(claim, self._clock())

    def _settle(self, telling: Telling) -> None:
        """Decide about the claim when every channel has answered. The caller holds the telling's lock."""
        if telling.waiting_for or telling not in self._under_way:
            return
        del self._under_way[telling]
        if telling.pending is not None:
            self._wake()  # For the next ones that wait for this channel.
        if telling.places and not telling.delivered:
            self._store.hold(telling.claim, HOLD, self._clock())
        elif telling.pending is None and not telling.delivered:
            self._store.release(telling.claim, self._clock())
