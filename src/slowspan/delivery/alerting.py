"""Who is told what: each slow endpoint once per window, on every channel, and again when a channel is back."""

from __future__ import annotations

import socket
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slowspan.counters import Drop
from slowspan.delivery.alert_fallback import make_store
from slowspan.delivery.alert_key import HOT_LINE, alert_key, hottest_place
from slowspan.delivery.alert_store import Claim, Held
from slowspan.delivery.channel import Telling
from slowspan.delivery.outbox import Outbox
from slowspan.delivery.under_way import UnderWay
from slowspan.report.alert import Alert, Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from slowspan.config import Settings
    from slowspan.counters import Counters
    from slowspan.delivery.alert_key import AlertKey
    from slowspan.delivery.channel import Channel
    from slowspan.delivery.pipeline import Submitted
    from slowspan.notifiers.base import Notifier
    from slowspan.recording.profile import SpanFacts
    from slowspan.report.report import Report

LOOK = 60.0
"""The most seconds between two looks for what waits in the outbox."""

_MOST_PARTIAL = 1000
"""Requests of which it is remembered what became of them while they ran."""


@dataclass(slots=True)
class _Running:
    """A request that was heard of while it ran."""

    key: AlertKey
    counted: bool = False
    held: bool = False
    claim: Claim | None = None
    """That of its alert, once it is told."""


class Alerter:
    """Decides what is told. On the delivery thread, but for ``close`` and ``shutdown``.

    Args:
        settings: The settings.
        counters: Where outcomes and losses are counted.
        notifiers: The notifiers that get alerts, with their names.
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
        restore: Callable[[bytes, Alert], Report],
        wake: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._counters = counters
        self._words = settings.alert_key
        self._wake = wake
        self._clock = clock
        self._store = make_store(settings)
        # What is taken at once from there, and what may wait before it in a channel's queue.
        lease = max(600.0, 20 * settings.notify_timeout)
        self._outbox = Outbox(settings.report_dir, window=settings.alert_window, lease=lease)
        self._under_way = UnderWay(
            settings,
            counters,
            notifiers,
            store=self._store,
            outbox=self._outbox,
            restore=restore,
            wake=wake,
            clock=clock,
        )
        self._service_name: str | None = None
        self._running: OrderedDict[str, _Running] = OrderedDict()
        self._held_hour_ns = 0

    @property
    def channels(self) -> Mapping[str, Channel]:
        """The channels by their names."""
        return self._under_way.channels

    def consider(self, request: Submitted, span: SpanFacts, report: Callable[[], Report]) -> None:
        """Count a slow request, and tell it if nobody has been told of its like.

        Args:
            request: The request, ended or still running.
            span: The facts of its span.
            report: Makes its report, which takes milliseconds: only when it is told.
        """
        self._service_name = span.service_name
        known = self._running.get(request.id)
        if known is not None and known.claim is not None:
            # One request is one alert, however often it is heard of.
            self._under_way.grow(known.claim, request.duration_ns)
            return
        heard = known or _Running(self._key(span, report))
        verdict = self._store.see(heard.key, request.duration_ns, self._clock(), counted=heard.counted, held=heard.held)
        if request.running and known is None:
            self._running[request.id] = heard
            if len(self._running) > _MOST_PARTIAL:
                self._running.popitem(last=False)
        if isinstance(verdict, Held):
            self._note_held(verdict, heard)
        elif verdict is None:
            heard.counted = True
        else:
            heard.claim = verdict
            told = report().with_alert(self._alert(verdict))
            self._under_way.tell(Telling(told, verdict, set(self.channels)))

    def _note_held(self, verdict: Held, heard: _Running) -> None:
        if not heard.held:
            self._counters.drop(Drop.ALERT_LIMIT)
        heard.held, heard.counted = True, verdict.counted
        if verdict.hour_ns != self._held_hour_ns:
            # Somebody must look when the hour is over, also if no alert comes any more.
            self._held_hour_ns = verdict.hour_ns
            self._wake()

    def _key(self, span: SpanFacts, report: Callable[[], Report]) -> AlertKey:
        hot_line = hottest_place(report().hot_lines) if HOT_LINE in self._words else ""
        return alert_key(span, self._words, hot_line)

    def tick(self) -> float:
        """Try again what waits, and tell what was held back.

        Returns:
            Seconds until there may be something to do.
        """
        now = self._clock()
        under_way, outbox = self._under_way, self._outbox
        under_way.count_given_up(outbox.give_up(now))
        for pending in outbox.due(now, under_way.idle_channels()):
            under_way.tell_again(pending)
        self._tell_digest(now)
        waits = [LOOK, self._store.next_digest(now), under_way.digests.tick(now), under_way.renew(now)]
        next_due = outbox.next_due(now, under_way.idle_channels())
        # Not at once: on a full disk what is due can be seen, but not taken.
        waits.append(None if next_due is None else max(1.0, next_due - now))
        return min((wait for wait in waits if wait is not None), default=LOOK)

    def close(self) -> None:
        """Let the channels deliver what waits, and end. Does not wait for it."""
        for channel in self.channels.values():
            channel.close()

    def shutdown(self) -> None:
        """Leave what is not told to the next process, and close the stores."""
        self._under_way.shutdown()
        self._store.close()
        self._outbox.close()

    def _alert(self, claim: Claim) -> Alert:
        return Alert(
            key=claim.key,
            told_before=claim.told_before,
            seen_more=claim.seen_more,
            since_ns=claim.since_ns,
            worst_ns=claim.worst_ns,
            notes=self._outbox.notes(claim.key),
        )

    def _tell_digest(self, now: float) -> None:
        held_back = self._store.digest(now)
        if held_back is None:
            return
        hour_ns, alerts, endpoints = held_back
        digest = Digest(
            hour_ns=hour_ns,
            alerts=alerts,
            endpoints=endpoints,
            service_name=self._service_name,
            host=socket.gethostname(),
        )
        self._under_way.digests.tell(digest)
