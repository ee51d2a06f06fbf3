"""Makes what strangers wrote harmless in a chat: endpoints, paths, parameters.

What is active in a chat (mentions, links, images, emoji, hashtags, tables) must not work in them. Markdown therefore
shows every such text as a code span, where chats neither look for mentions nor format anything. Some look for a few
things in the raw message as well (Mattermost for hashtags and channels, Apprise for Discord's mentions): there, an
invisible space after the sign helps.
"""

from __future__ import annotations

import re

from slowspan.redaction import one_line
from slowspan.report.summary import ENDPOINT_LIMIT

# A backtick ends a code span and a bar ends a table's cell, in some chats even when escaped: look-alikes do not.
_IN_CODE = {ord("`"): "\u02cb", ord("|"): "\u00a6"}

_SIGN_IN_CODE = re.compile(r"[@#~](?=\w)")
_ACTIVE = re.compile(r"[@#~](?=\w)|<(?=[@!#])|:(?=//)|(?<=\bwww)\.(?=\w)", re.IGNORECASE)
_SPACED = "\\g<0>\u200b"
_NOT_IN_LINK = re.compile(r"[\s()<>\[\]|\\`\"]")


def escape_markdown(text: str, limit: int = ENDPOINT_LIMIT) -> str:
    """Show a text of a stranger in markdown so that nothing in it takes effect, as a code span.

    Must not touch another code span: put a space between them.

    Args:
        text: Any text.
        limit: The most characters of it that are shown, at least 1.

    Returns:
        One line: the text between backticks, with backticks and bars in it replaced by look-alikes and an invisible
        space after ``@``, ``#`` and ``~``; nothing for a blank text. Never longer than ``2 * limit + 2``.
    """
    code = _SIGN_IN_CODE.sub(_SPACED, one_line(text, limit).translate(_IN_CODE).strip())
    return f"`{code}`" if code else ""


def defang(text: str) -> str:
    """Take the effect of mentions and links from a text of a stranger that is shown as plain text.

    Returns:
        The text with an invisible space after ``@``, ``#``, ``~`` and ``<``, and inside ``://`` and ``www.``.
    """
    return _ACTIVE.sub(_SPACED, text)


def markdown_link(name: str, url: str) -> str:
    """Return a link in markdown; nothing in the URL can end it."""
    return f"[{name}]({_NOT_IN_LINK.sub(_percent_encoded, url)})"


def _percent_encoded(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match.group().encode())
