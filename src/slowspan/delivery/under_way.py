"""Alerts under way: told by every channel, put off by those that are away, and lost by nobody who is killed."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

from slowspan.config_secrets import secrets_of
from slowspan.counters import Drop
from slowspan.delivery.alert_digests import Digests
from slowspan.delivery.channel import Channel, Telling

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slowspan.config import Settings
    from slowspan.counters import Counters
    from slowspan.delivery.alert_store import AlertStore, Claim
    from slowspan.delivery.outbox import GivenUp, Outbox, Pending
    from slowspan.notifiers.base import DeliveryError, Notifier
    from slowspan.report.alert import Alert
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

HOLD = 86_400.0
"""Seconds for which an alert that waits in the outbox keeps its key from being told by somebody else."""

_MOST_GROWN = 1000
"""Alerts of which it is remembered how long their requests have taken since."""

_LEASE_OF_CLAIM = LEASE + RENEW  # longer, so that nobody else claims the key before it is told


class UnderWay:
    """The alerts that are being told, with the channels that tell them. On the delivery thread, but for ``shutdown``.

    Args:
        settings: The settings.
        counters: Where outcomes and losses are counted.
        notifiers: The notifiers that get alerts, with their names.
        store: Who has been told, shared with other processes.
        outbox: What could not be told yet.
        restore: Makes a report of a stored profile and its alert.
        wake: Has somebody look after what is under way soon; from any thread.
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
        clock: Callable[[], float],
    ) -> None:
        self._counters = counters
        self._store = store
        self._outbox = outbox
        self._restore = restore
        self._wake = wake
        self._clock = clock
        self._tellings: dict[Telling, None] = {}
        self._failing: set[str] = set()
        self._renew_at = 0.0
        self._grown: OrderedDict[Claim, int] = OrderedDict()
        secrets = secrets_of(settings)
        self.channels: dict[str, Channel] = {}
        self.digests: Digests = Digests(self.channels, counters, wake=wake, clock=clock)
        self.channels |= {
            name: Channel(
                name,
                notifier,
                size=settings.queue_size,
                time_limit=settings.notify_timeout,
                counters=counters,
                secrets=secrets,
                clock=clock,
                outcome=self._note,
                digest_outcome=self.digests.note,
            )
            for name, notifier in notifiers
        }

    def shutdown(self) -> None:
        """Leave alerts that no channel has answered in time to the outbox, for the next process."""
        for telling in list(self._tellings):
            with telling.lock:
                unanswered, telling.waiting_for = telling.waiting_for, set()
                for name in unanswered:
                    self._keep(telling, name, FIRST_RETRY)
                self._settle(telling)
        self.digests.close()

    def renew(self, now: float) -> float | None:
        """Renew claims that nobody has confirmed yet; return the seconds until the next time, if there are any."""
        waiting = list(self._tellings)
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

    def idle_channels(self) -> list[str]:
        """Return the channels that have told what was last taken from the outbox for them, so that little is at once.

        Of all others nothing is known: what waits for them is for another process. What waits for one that refuses
        everything can wait until that has changed.
        """
        busy = {telling.pending.channel for telling in list(self._tellings) if telling.pending is not None}
        return [name for name, channel in self.channels.items() if name not in busy and not channel.is_refused()]

    def tell(self, telling: Telling) -> None:
        """Hand an alert to the channels that it waits for."""
        now = self._clock()
        if not self._tellings:
            # What has just been claimed need not be renewed now, but somebody must look after it.
            self._renew_at = now + RENEW
        self._tellings[telling] = None
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

    def grow(self, claim: Claim, duration_ns: int) -> None:
        """Note that the request of an alert takes longer than was told, for the measure of those to come."""
        # Noted first: should a channel tell the alert at this moment, one of the two finds what the other has done.
        self._grown[claim] = duration_ns
        if len(self._grown) > _MOST_GROWN:
            self._grown.popitem(last=False)
        self._store.grow(claim, duration_ns, self._clock())

    def _stored(self, telling: Telling) -> bytes | None:
        try:
            return telling.report.stored_profile()
        except Exception as error:  # noqa: BLE001 - it can be told all the same
            self._counters.drop(Drop.INTERNAL_ERROR, detail=f"an alert cannot be kept: {error!r}")
            return None

    def tell_again(self, pending: Pending) -> None:
        """Hand an alert of the outbox to its channel, unless somebody else tells its like."""
        is_to_be_told = self._store.hold(pending.claim, _LEASE_OF_CLAIM, self._clock())
        if not is_to_be_told and not pending.told:
            # Nobody held the claim for a while, as when the machine was down, and the next slow request was told.
            self._outbox.done(pending.id, pending.claim)
            return
        try:
            report = self._restore(pending.stored, pending.alert)
        except Exception as error:  # noqa: BLE001 - a damaged one must not keep the others from being told
            self._counters.drop(Drop.INTERNAL_ERROR, detail=f"an alert in the outbox cannot be read: {error!r}")
            self._end(pending.id, pending.claim)
            return
        ended_ns = report.profile.start_time_ns + report.profile.duration_ns
        report.alert = replace(pending.alert, late_ns=ended_ns)
        places = {pending.channel: pending.id}
        self.tell(Telling(report, pending.claim, {pending.channel}, pending=pending, places=places))

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
        # First of all, and also where another telling of the alert, which this one does not know, may wait for other
        # channels: else the store's answer, that it was told, would be taken for somebody else's.
        others_may_wait = telling.waiting_for or telling.places or telling.pending is not None
        if not telling.delivered and others_may_wait:
            self._outbox.note_told(telling.claim, self._clock())
        if place is not None:
            self._outbox.done(place, telling.claim)
        if not telling.delivered:
            telling.delivered = True
            self._store.confirm(telling.claim, self._clock())
            duration_ns = self._grown.get(telling.claim)
            if duration_ns is not None:
                self._store.grow(telling.claim, duration_ns, self._clock())

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
                if telling.delivered:
                    self._outbox.note_told(telling.claim, now)
            self.count_given_up(given_up)

    def count_given_up(self, given_up: GivenUp) -> None:
        """Count what the outbox has given up, and let the next slow request of its key be told."""
        if given_up.alerts:
            self._counters.drop(Drop.OUTBOX_FULL, given_up.alerts)
        for claim in given_up.claims:
            self._store.release(claim, self._clock())

    def _settle(self, telling: Telling) -> None:
        """Decide about the claim when every channel has answered. The caller holds the telling's lock."""
        if telling.waiting_for or telling not in self._tellings:
            return
        del self._tellings[telling]
        if telling.pending is not None:
            self._wake()  # For the next ones that wait for this channel.
        if telling.places and not telling.delivered:
            self._store.hold(telling.claim, HOLD, self._clock())
        elif telling.pending is None and not telling.delivered:
            self._store.release(telling.claim, self._clock())
