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
    from slowspan.delivery.alert_store import AlertStore
    from slowspan.delivery.outbox import Pending
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

HOLD = 86_400.0
"""Seconds for which an alert that waits in the outbox keeps its key from being told by somebody else."""

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
        self.channels = {
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
            outbox=Outbox(settings.report_dir, window=settings.alert_window),
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

    def tick(self) -> float | None:
        """Try again what waits, and tell what was held back.

        Returns:
            Seconds until there may be something to do, or None.
        """
        now = self._clock()
        self._count_given_up(self._outbox.give_up(now))
        for pending in self._outbox.due(now):
            self._tell_again(pending, now)
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
        waits = [self._store.next_digest(now), self._renew(now)]
        next_due = self._outbox.next_due(now)
        waits.append(None if next_due is None else max(0.0, next_due - now))
        return min((wait for wait in waits if wait is not None), default=None)

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
        waiting = [telling for telling in list(self._under_way) if not telling.delivered and telling.pending is None]
        if waiting and now >= self._renew_at:
            self._renew_at = now + RENEW
            for telling in waiting:
                self._store.hold(telling.claim, 2 * RENEW, now)
        return RENEW if waiting else None

    def _tell(self, telling: Telling) -> None:
        self._under_way[telling] = None
        if len(self._under_way) == 1:
            # A claim has just been given: it need not be renewed now, but somebody must look after it.
            self._renew_at = self._clock() + RENEW
            self._wake()
        for name in list(telling.waiting_for):
            self.channels[name].put(telling)

    def _tell_again(self, pending: Pending, now: float) -> None:
        if pending.channel not in self.channels:
            self._outbox.later(pending, now, LAST_RETRY)  # Another process on this directory may have it.
            return
        report = self._restore(pending.stored, pending.alert)
        ended_ns = report.profile.start_time_ns + report.profile.duration_ns
        report.alert = replace(pending.alert, late_ns=ended_ns)
        self._tell(Telling(report, pending.claim, {pending.channel}, pending=pending))

    def _note(self, telling: Telling, name: str, error: DeliveryError | None) -> None:
        """Note how a channel fared. Runs on the channel's thread."""
        with telling.lock:
            if name not in telling.waiting_for:
                return  # Too late: it is in the outbox.
            telling.waiting_for.discard(name)
            if error is None:
                self._note_success(telling, name)
            else:
                self._note_failure(telling, name, error)
        self._settle(telling)

    def _note_success(self, telling: Telling, name: str) -> None:
        self._counters.add_delivered(name)
        self._failing.discard(name)
        if telling.pending is not None:
            self._outbox.done(telling.pending)
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
        if telling.pending is not None:
            self._outbox.done(telling.pending)

    def _keep(self, telling: Telling, name: str, retry_in: float) -> None:
        """Put an alert into the outbox, or leave it there. The caller holds the telling's lock."""
        now = self._clock()
        alert = telling.report.alert
        if telling.pending is not None:
            patience = min(FIRST_RETRY * 2.0**telling.pending.attempts, LAST_RETRY)
            self._outbox.later(telling.pending, now, max(patience, retry_in))
            telling.kept = True
        elif alert is not None:
            stored = telling.report.stored_profile()
            self._count_given_up(self._outbox.add(name, alert, telling.claim, stored, now, retry_in))
            telling.kept = True
            self._wake()

    def _count_given_up(self, count: int) -> None:
        if count:
            self._counters.drop(Drop.OUTBOX_FULL, count)
            for claim in self._outbox.given_up():
                self._store.release(claim, self._clock())

    def _settle(self, telling: Telling) -> None:
        """Decide about the claim when every channel has answered."""
        with telling.lock:
            if telling.waiting_for or telling not in self._under_way:
                return
            del self._under_way[telling]
            if telling.delivered or telling.pending is not None:
                return
            if telling.kept:
                self._store.hold(telling.claim, HOLD, self._clock())
            else:
                self._store.release(telling.claim, self._clock())
