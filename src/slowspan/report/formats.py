"""The formats in which a profile can be had, by name. A new format is one function here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slowspan.recording.session import session_json
from slowspan.report.html import render_page
from slowspan.report.text import render_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from slowspan.recording.profile import Profile


def _json(profile: Profile) -> str:
    return "".join(profile.json_slices()) + "\n"


def _session(profile: Profile) -> str:
    return session_json(profile.session()) + "\n"


def _speedscope(profile: Profile) -> str:
    # Imported here because it costs 40 ms.
    from pyinstrument.renderers import SpeedscopeRenderer

    text: str = SpeedscopeRenderer().render(profile.session())
    return text


FORMATS: Mapping[str, Callable[[Profile], str]] = {
    "html": render_page,
    "json": _json,
    "session": _session,
    "speedscope": _speedscope,
    "text": render_text,
}
"""``session`` is what ``pyinstrument --load`` opens, ``json`` the stored profile uncompressed."""
