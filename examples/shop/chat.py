"""A Mattermost channel for the demonstration: the server of the tests, which behaves like Mattermost's API."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "tests"))


@dataclass(frozen=True)
class Chat:
    """A running server."""

    server: Any
    channel: str
    environment: Mapping[str, str]
    """What the shop's workers need to post there."""

    def posts(self) -> list[str]:
        """Return the posts so far as text, oldest first."""
        from mattermost_server import post_text

        return [post_text(self.server, post) for post in list(self.server.posts)]


@contextlib.contextmanager
def chat() -> Iterator[Chat]:
    """Run the server until the end of the block."""
    # Imported here because only this part of the demonstration needs the tests and what they are made of.
    from mattermost_server import CHANNEL, TEAM, TOKEN, MattermostServer

    with MattermostServer() as server:
        settings = {"URL": server.url, "TOKEN": TOKEN, "CHANNEL": f"{TEAM}/{CHANNEL}"}
        environment = {f"OTEL_PYTHON_SLOWSPAN_MATTERMOST_{name}": value for name, value in settings.items()}
        yield Chat(server, f"{TEAM}/{CHANNEL}", environment)
