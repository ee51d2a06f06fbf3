"""What Mattermost refuses, and what to do about it, in words for the person who set the notifier up."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from slowspan.notifiers.base import DeliveryError

if TYPE_CHECKING:
    from collections.abc import Iterator

PENDING = "api.post.deduplicate_create_post.pending"
"""Mattermost's error for a post of which an earlier try is still being stored."""

_PENDING_WAIT = 1.0
_USELESS = frozenset({400, 401, 403, 404, 405, 413, 501})


class ApiError(Exception):
    """Mattermost refused a request.

    Attributes:
        status: The HTTP status.
        error_id: Mattermost's name of the error, such as ``api.context.permissions.app_error``; empty when the answer
            is none of Mattermost's, for example a proxy's.
        said: The answer's message, on one line, without secrets.
        retry_after: Seconds to wait, when the server has said so.
        doing: What was to be done, in one word: ``login``, ``channel``, ``member``, ``upload``, ``post``.
    """

    def __init__(self, status: int, error_id: str, said: str, retry_after: float | None) -> None:
        super().__init__(f"{status} {said}")
        self.status = status
        self.error_id = error_id
        self.said = said
        self.retry_after = retry_after
        self.doing = ""

    @property
    def is_root_gone(self) -> bool:
        """Whether a reply was refused because the thread's first post is deleted or in another channel."""
        return "root_id" in self.error_id


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Note on every refusal inside the block what was to be done."""
    try:
        yield
    except ApiError as error:
        error.doing = what
        raise


def explain(error: ApiError, *, account: str, channel: str, with_token: bool) -> DeliveryError:
    """Say what to do about a refusal.

    Args:
        error: The refusal.
        account: The account's name; empty before the login.
        channel: The channel, as in the settings.
        with_token: Whether the account is known by a token, not by login and password.

    Returns:
        What the notifier raises.
    """
    status = error.status
    if error.error_id == PENDING:
        return DeliveryError("Mattermost is still storing an earlier try of this post", retry_after=_PENDING_WAIT)
    if "can_not_post_to_deleted" in error.error_id:
        text = f"the channel {channel!r} is archived: set another mattermost_channel"
    elif status == 401:
        text = _unknown_account(error, with_token=with_token)
    elif status == 429:
        text = "Mattermost's rate limit is reached (429)"
    elif status in (403, 404) and error.doing in ("channel", "member", "upload", "post"):
        text = _no_channel(error, account=f"@{account}" if account else "the account", channel=channel)
    else:
        text = f"Mattermost refused {_STEPS.get(error.doing, 'a request')} ({_answer(error)})"
    return DeliveryError(text, retry=status not in _USELESS, retry_after=error.retry_after)


_STEPS = {"login": "the login", "channel": "the channel", "upload": "the file", "post": "the post"}


def _unknown_account(error: ApiError, *, with_token: bool) -> str:
    if with_token:
        return (
            f"Mattermost does not accept mattermost_token ({_answer(error)}): create a new token for the bot account "
            "and set it; user access tokens and bot accounts must be enabled in the System Console"
        )
    return (
        f"Mattermost does not accept mattermost_login with mattermost_password ({_answer(error)}): correct them, or "
        "use mattermost_token, which an account with multi-factor authentication needs"
    )


def _no_channel(error: ApiError, *, account: str, channel: str) -> str:
    if error.doing == "channel" and error.status == 404 and "team" in error.error_id:
        team = channel.partition("/")[0]
        return f"there is no team {team!r}: set mattermost_channel to team/channel, as in the channel's URL"
    if error.doing == "channel" and error.status == 404:
        return (
            f"there is no channel {channel!r}, or {account} may not see it: correct mattermost_channel (an id, or "
            f"team/channel as in the channel's URL), or invite {account} to the channel"
        )
    return (
        f"{account} may not post to the channel {channel!r} ({_answer(error)}): add it to the team, and to the channel "
        f"with /invite {account}"
    )


def _answer(error: ApiError) -> str:
    return f"{error.status}: {error.said}" if error.said else str(error.status)
