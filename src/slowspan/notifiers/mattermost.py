"""The notifier ``mattermost``: a post in a channel, with the report's page attached."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from slowspan.config_channels import MATTERMOST_ID
from slowspan.notifiers.base import DeliveryError
from slowspan.notifiers.http import time_limit
from slowspan.notifiers.mattermost_errors import ApiError, doing, explain
from slowspan.notifiers.mattermost_options import account, address, channel_parts, make_driver
from slowspan.notifiers.mattermost_uploads import MAX_REMEMBERED, Uploads
from slowspan.notifiers.message import digest_text, markdown
from slowspan.notifiers.registry import NotifierError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slowspan.config import Settings
    from slowspan.report.alert import Digest
    from slowspan.report.report import Report

MAX_MESSAGE = 16383
"""Characters of a post that Mattermost takes, unless its configuration says less."""

ROOT_NOTE = "mattermost.root_id"
"""The name under which an alert's notes keep the first post of a key's thread. A dot and the channel's id follow: each
of two notifiers has its own thread."""

NAME_PROP = "slowspan_name"
"""The property of a post by which we recognize it: the profile's id, or the digest's hour and host."""

_LOOKED_AT = 60
_OF_MESSAGE = (400, 413)
"""Statuses by which one post is refused for its content or its size."""

T = TypeVar("T")


@dataclass(slots=True)
class _Limits:
    """What the server takes: sizes in bytes and characters; None where it does not say."""

    file_size: int | None = None
    message: int = MAX_MESSAGE


class MattermostNotifier:
    """Posts alerts to one channel, by a bot account or a user.

    Makes one try for each call, in at most ``timeout`` seconds; safe to call again after any failure: a post that was
    stored though its answer was lost is recognized, and a page that was uploaded is not uploaded again.

    Args:
        url: Address of the server, with the sub-path where there is one.
        channel: Id of the channel (26 characters), or ``team/channel``, as in the channel's URL.
        token: Token of a bot account or a user; else ``login`` and ``password``.
        login: User name or email address.
        password: The password.
        ca_file: Certificates of the CA to trust instead of the usual ones, in PEM form.
        proxy: URL of a proxy; without it, the environment's ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY`` count.
        threads: Whether a later alert of a key is a reply to the key's first post.
        timeout: Seconds for one call.

    Raises:
        NotifierError: The arguments do not make a notifier, or a package is missing; says what to do.
    """

    def __init__(
        self,
        url: str,
        channel: str,
        *,
        token: str | None = None,
        login: str | None = None,
        password: str | None = None,
        ca_file: Path | None = None,
        proxy: str | None = None,
        threads: bool = True,
        timeout: float = 30.0,
    ) -> None:
        options = {
            **address(url),
            **account(token, login, password),
            "verify": True if ca_file is None else str(ca_file),
            "proxy": proxy,
            "request_timeout": timeout,
        }
        self._channel = channel.strip()
        self._team, self._channel_name = channel_parts(self._channel)
        self._with_token = token is not None
        self._threads = threads
        self._driver = make_driver(options)
        self._client = self._driver.client
        self._channel_id = ""
        self._limits: _Limits | None = None
        self._uploads = Uploads(self._driver)
        # Names of posts that may have been stored without our having had the answer; as a dict, which keeps an order.
        self._unanswered: dict[str, None] = {}
        self._is_shut_down = False

    @classmethod
    def from_settings(cls, settings: Settings) -> MattermostNotifier:
        """Make the notifier from the settings ``mattermost_…`` and ``notify_timeout``.

        Raises:
            NotifierError: A setting or a package is missing.
        """
        if not settings.mattermost_url or not settings.mattermost_channel:
            raise NotifierError("it needs the settings mattermost_url and mattermost_channel")
        return cls(
            settings.mattermost_url,
            settings.mattermost_channel,
            token=settings.mattermost_token,
            login=settings.mattermost_login,
            password=settings.mattermost_password,
            ca_file=settings.mattermost_ca_file,
            proxy=settings.mattermost_proxy,
            threads=settings.mattermost_threads,
            timeout=time_limit(settings),
        )

    def notify(self, report: Report) -> None:
        """Post one report, with its page.

        Raises:
            DeliveryError: It was not posted; the message says what to do.
        """
        if not self._is_shut_down:
            self._connected(lambda: self._tell(report))

    def notify_digest(self, digest: Digest) -> None:
        """Post what the limit on alerts per hour has held back.

        Raises:
            DeliveryError: It was not posted; the message says what to do.
        """
        # Of one hour there can be two, by their contents, or by two processes.
        content = zlib.crc32(repr((digest.alerts, digest.endpoints)).encode())
        name = f"digest-{digest.hour_ns // 1_000_000_000}-{digest.host}-{content:08x}"
        if not self._is_shut_down:
            self._connected(lambda: self._post(name, digest_text(digest), (), ""))

    def check(self) -> str:
        """Log in, find the channel, and see that the account is in it. Posts nothing.

        Returns:
            One line on what was found.

        Raises:
            DeliveryError: What is wrong, and what to do.
        """
        return self._connected(self._check)

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002 -- the protocol's signature
        """Return True: nothing is held back."""
        return True

    def shutdown(self) -> None:
        """Post nothing more. No connection is open between two calls."""
        self._is_shut_down = True

    def _connected(self, action: Callable[[], T]) -> T:
        """Run an action with an account and within the time limit; log in once more when the session has expired."""
        self._client.begin()
        try:
            was_known = self._log_in()
            try:
                return action()
            except ApiError as error:
                self._channel_id = ""
                if error.status != 401 or self._with_token or not was_known:
                    raise
                self._client.token = self._client.userid = ""
                self._log_in()
                return action()
        except ApiError as error:
            failure = explain(error, account=self._client.username, channel=self._channel, with_token=self._with_token)
            is_archived = "can_not_post_to_deleted" in error.error_id
            if error.doing == "post" and error.status in _OF_MESSAGE and not is_archived:
                failure = DeliveryError(str(failure), retry=False, of_message=True)
            raise failure from None
        finally:
            self._client.end()

    def _log_in(self) -> bool:
        """Log in where that was not done before, and return whether it was."""
        if self._client.userid:
            return True
        with doing("login"):
            try:
                self._driver.login()
            except (KeyError, TypeError):  # the driver relies on what only Mattermost answers
                self._client.userid = ""
        if not self._client.userid:
            raise DeliveryError(f"{self._client.url} does not answer a login as Mattermost does: check mattermost_url")
        return False

    def _find_channel(self) -> str:
        if not self._channel_id:
            self._channel_id = str(self._get_channel()["id"]) if self._team else self._channel
        return self._channel_id

    def _get_channel(self) -> dict[str, Any]:
        channels = self._driver.channels
        with doing("channel"):
            if not self._team:
                found = channels.get_channel(self._channel)
            else:
                found = channels.get_channel_by_name_and_team_name(quote(self._team, ""), quote(self._channel_name, ""))
        if not isinstance(found, dict) or not isinstance(found.get("id"), str):
            raise DeliveryError(f"{self._client.url} does not answer as Mattermost does: check mattermost_url")
        return found

    def _read_limits(self) -> _Limits:
        if self._limits is None:
            try:
                config = self._driver.system.get_client_configuration({"format": "old"})
            except (ApiError, DeliveryError):
                return _Limits()  # not everybody may read it: a file that is too large is refused then
            file_size, message = _number(config, "MaxFileSize"), _number(config, "MaxPostSize")
            self._limits = _Limits(file_size, min(message or MAX_MESSAGE, MAX_MESSAGE))
        return self._limits

    def _check(self) -> str:
        channel = self._get_channel()
        name = str(channel.get("name") or channel["id"])
        if channel.get("delete_at"):
            raise DeliveryError(f"the channel {name} is archived: set another mattermost_channel", retry=False)
        with doing("member"):
            self._driver.channels.get_channel_member(quote(channel["id"], ""), "me")
        where = f"{name} of {self._team}" if self._team else name
        size = self._read_limits().file_size
        files = f", files up to {size / 1_048_576:.3g} MB" if size else ""
        return f"posts to {where} as @{self._client.username}{files}"

    def _tell(self, report: Report) -> None:
        channel_id = self._find_channel()
        limits = self._read_limits()
        profile = report.profile
        attachment = self._uploads.attach(report, channel_id, limits.file_size)
        message = markdown(report, limits.message, remark=attachment.remark)
        # With its age, of which a later report of the same request has another: that would be another post.
        name = f"{profile.id}-{profile.duration_ns}" if profile.running else profile.id
        alert = report.alert
        note = f"{ROOT_NOTE}.{channel_id}"
        root_id = alert.notes.get(note, "") if alert is not None and self._threads else ""
        root_id = self._post(name, message, attachment.file_ids, root_id)
        if alert is not None and self._threads:
            alert.notes[note] = root_id
        self._uploads.forget(report)

    def _post(self, name: str, message: str, file_ids: tuple[str, ...], root_id: str) -> str:
        """Post, in the thread where it still exists, and return the id of the thread's first post."""
        channel_id = self._find_channel()
        post = {
            "channel_id": channel_id,
            "message": message,
            "file_ids": list(file_ids),
            # The same for every try, and for nothing else: the server makes one post of them.
            "pending_post_id": f"{self._client.userid}:{channel_id}:{name}",
            "props": {NAME_PROP: name},
        }
        stored = self._stored_unanswered(channel_id, name) or self._create(name, post, root_id)
        self._unanswered.pop(name, None)
        return str(stored.get("root_id") or stored.get("id") or "")

    def _create(self, name: str, post: dict[str, Any], root_id: str) -> dict[str, Any]:
        create = self._driver.posts.create_post
        try:
            with doing("post"):
                if root_id and MATTERMOST_ID.fullmatch(root_id):
                    try:
                        return _object(create({**post, "root_id": root_id}))
                    except ApiError as error:
                        if not error.is_root_gone:
                            raise
                return _object(create(post))
        except (ApiError, DeliveryError) as error:
            if isinstance(error, DeliveryError) or error.status >= 500:
                self._unanswered[name] = None
                while len(self._unanswered) > MAX_REMEMBERED:
                    del self._unanswered[next(iter(self._unanswered))]
            raise

    def _stored_unanswered(self, channel_id: str, name: str) -> dict[str, Any]:
        """Look for the post of an earlier try: the server itself recognizes it for 30 seconds only."""
        if name not in self._unanswered:
            return {}
        try:
            latest = _object(self._driver.posts.get_posts_for_channel(channel_id, {"per_page": str(_LOOKED_AT)}))
        except ApiError:
            return {}  # not everybody may read
        for post in _object(latest.get("posts")).values():
            if _object(_object(post).get("props")).get(NAME_PROP) == name:
                return _object(post)
        return {}


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(config: object, name: str) -> int | None:
    value = config.get(name) if isinstance(config, dict) else None
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else None
