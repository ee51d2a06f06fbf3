"""One channel for alerts: a notifier with its queue, its time limit and its retries."""

from __future__ import annotations

import contextvars
import math
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from slowspan import native
from slowspan.config_secrets import hide
from slowspan.counters import Drop
from slowspan.delivery.queue import DeliveryQueue
from slowspan.notifiers.base import DeliveryError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from slowspan.counters import Counters
    from slowspan.delivery.alert_store import Claim
    from slowspan.delivery.outbox import Pending
    from slowspan.notifiers.base import Notifier
    from slowspan.report.alert import Digest
    from slowspan.report.report import Report

RETRIES = 3
"""Further tries at once; what fails then waits in the outbox."""

FIRST_WAIT = 1.0
"""Seconds before the second try; doubles with each. Up to a second of jitter comes on top."""

LONGEST_WAIT = 60.0
"""Seconds between two tries at once: who asks for more is tried again from the outbox."""


FIRST_BRAKE = 60.0
"""Seconds for which a channel is left alone after a failure that no further try can mend; doubles with each."""

LONGEST_BRAKE = 3600.0


@dataclass(eq=False)
class Telling:
    """One alert on its way to all channels, or again to one of them."""

    report: Report
    claim: Claim
    waiting_for: set[str]
    """Names of the channels that have not answered yet."""
    pending: Pending | None = None
    """What it was in the outbox, where it comes from there."""
    places: dict[str, int] = field(default_factory=dict)
    """Its ids in the outbox, by the names of channels that have not been told."""
    delivered: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Brake:
    """Leaves a channel alone after failures for good, of which each may cost a login, or a page that is uploaded.

    Args:
        clock: Unix time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seconds = 0.0
        self._until = 0.0
        self.reason = ""

    def pull(self, reason: str) -> None:
        """Note a failure."""
        self._seconds = min(max(FIRST_BRAKE, 2 * self._seconds), LONGEST_BRAKE)
        self._until = self._clock() + self._seconds
        self.reason = reason

    def release(self) -> None:
        """Note a success."""
        self._seconds = self._until = 0.0

    def seconds_left(self) -> float:
        """Return for how long the channel is to be left alone, or 0."""
        left = self._until - self._clock()
        # More than it can be is of a clock that was set back.
        return left if 0 < left <= LONGEST_BRAKE else 0.0


class Channel:
    """Tells alerts to one notifier, on a thread of its own.

    A try that outlasts its time limit is given up: its thread is left to itself, and until it ends the notifier is not
    called again. After a failure that no further try can mend, such as a wrong token, nothing is tried for a while.

    Args:
        name: The notifier's name.
        notifier: Where alerts go.
        size: The most alerts that wait.
        time_limit: Seconds for one try.
        counters: Where losses are counted.
        secrets: What must not stand in a message, whoever writes it.
        clock: Unix time in seconds.
        outcome: Called on the channel's thread with the telling, the channel's name and None or what went wrong.
        digest_outcome: Likewise for a message on what was held back. Without it a failure is counted.
    """

    def __init__(
        self,
        name: str,
        notifier: Notifier,
        *,
        size: int,
        time_limit: float,
        counters: Counters,
        secrets: Collection[str] = (),
        clock: Callable[[], float] = time.time,
        outcome: Callable[[Telling, str, DeliveryError | None], None],
        digest_outcome: Callable[[Digest, str, DeliveryError | None], None] | None = None,
    ) -> None:
        self.name = name
        self._notifier = notifier
        self._time_limit = time_limit
        self._counters = counters
        self._secrets = secrets
        self._outcome = outcome
        self._digest_outcome = digest_outcome
        self._brake = _Brake(clock)
        self._closing = threading.Event()
        self._hanging: native.Thread | None = None
        self.queue: DeliveryQueue[Telling | Digest] = DeliveryQueue(
            self._handle,
            name=f"slowspan-{name}",
            size=size,
            counters=counters,
            flush=notifier.force_flush,
            close=notifier.shutdown,
            gave_way=self._give_way,
        )

    def put(self, telling: Telling) -> None:
        """Queue an alert. Takes microseconds; never raises."""
        # Without a thread, as at the exit of Python 3.12, the alert is told on this one: better than not at all.
        if self.queue.start():
            # A name of its own: nothing may take the place of an alert without its outcome being told.
            self.queue.put(f"{telling.claim.token} {telling.report.profile.id}", telling)
        else:
            self._handle(telling)

    @property
    def tells_digests(self) -> bool:
        """Whether the notifier can tell what was held back."""
        return hasattr(self._notifier, "notify_digest")

    def put_digest(self, digest: Digest) -> None:
        """Queue the message on what was held back, where the notifier can tell it."""
        if self.tells_digests:
            # Of one hour there are two when the store was away for a part of it.
            if self.queue.start():
                self.queue.put(f"digest {digest.hour_ns} {id(digest)}", digest)
            else:
                self._handle(digest)

    def is_refused(self) -> bool:
        """Whether nothing is tried for now, because the other side refused it for good."""
        return self._brake.seconds_left() > 0

    def close(self) -> None:
        """Deliver what waits, without further waiting between tries, and end the thread. Does not wait for it."""
        self._closing.set()
        self.queue.close()

    def _handle(self, item: Telling | Digest) -> None:
        if not isinstance(item, Telling):
            self._tell_digest(item)
            return
        error = self._refusal(keep=item.pending is not None)
        if error is None:
            error = self._tell(item)
        self._outcome(item, self.name, error)

    def _tell(self, item: Telling) -> DeliveryError | None:
        try:
            # What comes from the outbox has been tried often enough; the next one may have better luck.
            if item.pending is None:
                self._try_often(self._notifier.notify, item.report)
            else:
                self._limited(self._notifier.notify, item.report)
        except Exception as failure:  # noqa: BLE001 - a notifier is somebody else's code
            return self._failed(failure)
        self._brake.release()
        return None

    def _refusal(self, *, keep: bool) -> DeliveryError | None:
        """Return what goes wrong without a try: the last failure, while nothing is to be tried."""
        left = self._brake.seconds_left()
        if not left:
            return None
        # What has waited in the outbox can wait a little longer.
        text = f"{self._brake.reason} (next try in {math.ceil(left)} s)"
        return DeliveryError(text, retry=keep, retry_after=left if keep else None)

    def _failed(self, failure: Exception) -> DeliveryError:
        error = self._explain(failure)
        if not error.retry and not error.of_message:
            self._brake.pull(str(error))
        return error

    def _give_way(self, item: Telling | Digest) -> None:
        if isinstance(item, Telling):
            what = "did not finish in time" if self._closing.is_set() else "too many alerts waited"
            self._outcome(item, self.name, DeliveryError(f"{self.name}: {what}"))
        else:
            self._note_digest(item, DeliveryError(f"{self.name}: a message on alerts held back was lost"))

    def _tell_digest(self, digest: Digest) -> None:
        error = self._refusal(keep=False)
        if error is None:
            try:
                self._try_often(self._notifier.notify_digest, digest)  # type: ignore[attr-defined]
            except Exception as failure:  # noqa: BLE001 - as above
                error = self._failed(failure)
            else:
                self._brake.release()
        self._note_digest(digest, error)

    def _note_digest(self, digest: Digest, error: DeliveryError | None) -> None:
        if self._digest_outcome is not None:
            self._digest_outcome(digest, self.name, error)
        elif error is not None:
            self._counters.drop(Drop.NOTIFIER_FAILED, detail=str(error))

    def _explain(self, failure: Exception) -> DeliveryError:
        if isinstance(failure, DeliveryError):
            text = hide(f"{self.name}: {failure}", self._secrets)
            return DeliveryError(
                text, retry=failure.retry, retry_after=failure.retry_after, of_message=failure.of_message
            )
        # Libraries like to quote a URL with everything in it.
        return DeliveryError(hide(f"{self.name}: {failure!r}", self._secrets))

    def _try_often(self, function: Callable[[Any], object], item: Report | Digest) -> None:
        try:
            # Imported here because only channels need it; every extra for a channel brings it.
            import tenacity
        except ImportError:
            self._limited(function, item)
            return
        backoff = tenacity.wait_exponential(FIRST_WAIT, LONGEST_WAIT / 2) + tenacity.wait_random(0, FIRST_WAIT)

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked_for = error.retry_after if isinstance(error, DeliveryError) else None
            return backoff(state) if asked_for is None else asked_for

        tenacity.Retrying(
            stop=tenacity.stop_after_attempt(1 + RETRIES) | tenacity.stop_when_event_set(self._closing),
            wait=wait,
            retry=tenacity.retry_if_exception(_is_worth_another_try),
            sleep=tenacity.sleep_using_event(self._closing),
            reraise=True,
        )(self._limited, function, item)

    def _limited(self, function: Callable[..., object], *args: Any) -> None:
        """Call somebody else's code with a time limit."""
        if self._hanging is not None and self._hanging.is_alive():
            raise DeliveryError(f"is still busy with an earlier alert after {self._time_limit:g} s")
        outcome: list[Exception | None] = []

        def run() -> None:
            try:
                function(*args)
            except Exception as error:  # noqa: BLE001 - raised again below, where somebody waits for it
                outcome.append(error)
            else:
                outcome.append(None)

        # The context says that OpenTelemetry's instrumentation is suppressed here.
        context = contextvars.copy_context()
        thread = native.make_thread(partial(context.run, run), f"slowspan-{self.name}-try")
        try:
            thread.start()
        except RuntimeError:
            run()  # Python 3.12 starts no thread at interpreter exit.
        else:
            thread.join(self._time_limit)
            if thread.is_alive():
                self._hanging = thread
                raise DeliveryError(f"took longer than notify_timeout, {self._time_limit:g} s")
        if not outcome:
            raise DeliveryError("was made to end")
        if outcome[0] is not None:
            raise outcome[0]


def _is_worth_another_try(error: BaseException) -> bool:
    if not isinstance(error, DeliveryError):
        return isinstance(error, Exception)
    return error.retry and (error.retry_after or 0.0) <= LONGEST_WAIT
