"""The page of a slow request: one self-contained HTML file.

Much of what it shows was chosen by strangers: paths, parameters, in odd cases even the names of functions and
files. Three walls stand between them and the reader's browser: every text is escaped where it is put into the
page; the content security policy lets only two fixed scripts run, by their hashes; and no variable text is
part of a script, because the profile travels in a data block.
"""

from __future__ import annotations

import base64
import hashlib
import pkgutil
import re
from datetime import datetime, timezone
from html import escape
from typing import TYPE_CHECKING

from slowspan.recording.session import interactive_view
from slowspan.redaction import one_line
from slowspan.report.html_spans import spans_section
from slowspan.report.summary import format_duration, format_share, hot_lines, kind_for_people, time_shares

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slowspan.recording.profile import Profile
    from slowspan.report.summary import HotLine

TEXT_LIMIT = 2000
"""Characters of any one text in the page; what is longer is cut with an ellipsis."""

HOT_LINES = 8
"""Rows of the table of hot lines: as many as fit on a screen together with the facts."""

_WEB_ADDRESS = re.compile(r"https?://[^\s\x00-\x20\x7f<>\"'`\\]+", re.IGNORECASE)

# In JSON these characters can only stand inside strings, where the escape means the same.
_JSON_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def render_page(profile: Profile, trace_url: str | None = None) -> str:
    """Render the page of a profile.

    Imports pyinstrument and takes 50 ms and more: not for the application's process.

    Args:
        profile: The profile, finished or partial, of any number of samples.
        trace_url: Where the trace can be read; shown as a link if it is an http or https address.

    Returns:
        HTML that needs no other file and makes no request. It can be encoded as UTF-8.
    """
    style = _resource("page.css")
    scripts: list[str] = []
    view = '<p class="empty">No stack of this request was read.</p>'
    if profile.sample_count:
        parts = interactive_view(profile.session())
        style = f"{parts.style}\n{style}"
        scripts = [parts.script, _resource("page.js")]
        data = parts.data.translate(_JSON_ESCAPES)
        view = (
            '<p id="call-tree-error" hidden>The interactive view could not start in this browser.</p>'
            "<noscript><p>The interactive view needs JavaScript.</p></noscript>"
            '<div id="call-tree" class="view"></div>'
            f'<script type="application/json" id="call-tree-data">{data}</script>'
        )
    page = "".join(
        (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{_policy(style, scripts)}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            '<meta name="referrer" content="no-referrer">\n<meta name="color-scheme" content="light dark">\n',
            f"<title>{_text(_title(profile))}</title>\n<style>{style}</style>\n</head>\n<body>\n",
            _header(profile),
            "<main>\n",
            _time(profile),
            _facts(profile, trace_url),
            _parameters(profile),
            _notes(profile),
            _hot_lines(profile),
            spans_section(profile),
            f"<section><h2>Call tree</h2>{view}</section>\n</main>\n",
            "".join(f"<script>{script}</script>\n" for script in scripts),
            "</body>\n</html>\n",
        )
    )
    # File names can hold bytes that are no text; as escapes they survive in markup and in JSON.
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def web_address(url: str | None) -> str | None:
    """Return a URL if it is an http or https address and harmless as a link, else None."""
    return url if url and _WEB_ADDRESS.fullmatch(url) else None


def _resource(name: str) -> str:
    data = pkgutil.get_data(__package__, name)
    if data is None:
        raise FileNotFoundError(name)
    # The hashes of the policy are over the text as the browser's parser sees it: with plain line ends.
    return data.decode("utf-8").replace("\r\n", "\n")


def _policy(style: str, scripts: Iterable[str]) -> str:
    sources = " ".join(f"'{_digest(script)}'" for script in scripts) or "'none'"
    # pyinstrument's view sets style attributes, and its favicon is a data address.
    return (
        f"default-src 'none'; script-src {sources}; style-src-elem '{_digest(style)}'; "
        "style-src-attr 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _text(value: object) -> str:
    return escape(one_line(str(value), TEXT_LIMIT))


def _title(profile: Profile) -> str:
    return f"{format_duration(profile.duration_ns)} {profile.span.endpoint} · slowspan"


def _header(profile: Profile) -> str:
    span = profile.span
    where = span.route or span.path
    heading = _text(where if where is not None else span.name)
    method = f'<span class="method">{_text(span.method)}</span> ' if span.method and where is not None else ""
    badges = ""
    if span.status_code is not None or span.error:
        kind = "bad" if span.error or (span.status_code or 0) >= 500 else "plain"
        badges += f' <span class="badge {kind}">{_text(span.status_code or "error")}</span>'
    if profile.running:
        badges += ' <span class="badge running">still running</span>'
    service = " ".join(filter(None, (span.service_name, span.service_version)))
    started = datetime.fromtimestamp(profile.start_time_ns / 1e9, timezone.utc)
    path = f'<p class="path">{_text(span.path)}</p>' if span.path and span.path != where else ""
    what = kind_for_people(profile)
    if what == "span":
        what = f"{span.kind.lower()} span"
    return (
        f'<header><p class="eyebrow"><span>Slow {_text(what)}{" · " + _text(service) if service else ""}</span>'
        f'<time datetime="{started.isoformat()}">{started:%Y-%m-%d %H:%M:%S} UTC</time></p>'
        f"<h1>{method}{heading}{badges}</h1>{path}</header>\n"
    )


def _time(profile: Profile) -> str:
    verb = "so far, threshold" if profile.running else "threshold"
    figures = (
        f'<p class="figures"><strong>{format_duration(profile.duration_ns)}</strong> '
        f"<span>{verb} {format_duration(profile.threshold_ns)}</span></p>"
    )
    shares = time_shares(profile)
    if not shares:
        return f'<section class="timing">{figures}<p class="legend">CPU time is not known.</p></section>\n'
    legend = "".join(
        f'<span class="{share.name.replace(" ", "-")}">{share.name} {format_duration(share.time_ns)}, '
        f"{format_share(share.share)}</span>"
        for share in shares
    )
    kinds = {share.name: share.share for share in shares}
    bar = _split_bar(kinds["computing"], kinds.get("ready to run", 0.0), kinds.get("not known", 0.0))
    return f'<section class="timing">{figures}<div>{bar}<p class="legend">{legend}</p></div></section>\n'


def _split_bar(computing: float, ready: float, unknown: float) -> str:
    parts = (("computing", computing), ("ready-to-run", ready), ("not-known", unknown))
    shown = "".join(f'<i class="{name}" style="width:{share * 100:.1f}%"></i>' for name, share in parts if share)
    return f'<div class="split">{shown}</div>'


def _facts(profile: Profile, trace_url: str | None) -> str:
    span, process = profile.span, profile.process
    trace = f"<code>{_text(span.trace_id)}</code>"
    address = web_address(trace_url)
    if address is not None:
        trace = f'<a href="{escape(address)}" rel="noopener noreferrer">{trace}</a>'
    if not span.sampled:
        trace += " (not sampled)"
    engine = "" if profile.engine == "thread" else f", engine {_text(profile.engine)}"
    every = f", every {format_duration(profile.interval_ns)}" if profile.interval_ns else ""
    samples = f"{profile.sample_count or 'none'}{every}{engine}"
    facts = (
        ("Trace", trace),
        ("Span", f"<code>{_text(span.span_id)}</code>"),
        ("Profile", f"<code>{_text(profile.id)}</code>"),
        ("Host", _text(process.host)),
        ("Process", f"{process.pid}, Python {_text(process.python)}"),
        ("Thread", _text(process.thread_name or str(process.thread_id))),
        ("Samples", samples),
    )
    rows = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    return f'<dl class="facts">{rows}</dl>\n'


def _parameters(profile: Profile) -> str:
    if not profile.span.parameters:
        return ""
    rows = "".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in profile.span.parameters
    )
    return f'<section><h2>Parameters</h2><dl class="parameters">{rows}</dl></section>\n'


def _notes(profile: Profile) -> str:
    if not profile.notes:
        return ""
    return f'<ul class="notes">{"".join(f"<li>{_text(note)}</li>" for note in profile.notes)}</ul>\n'


def _hot_lines(profile: Profile) -> str:
    lines = hot_lines(profile, HOT_LINES)
    if not lines:
        return ""
    known = any(sample.cpu_ns for sample in profile.samples)
    rows = "".join(_hot_line(line, lines[0].share, known) for line in lines)
    split = '<th scope="col" class="shape">Computing / waiting</th>' if known else ""
    return (
        '<section><h2>Hot lines</h2><div class="scroll"><table>'
        '<thead><tr><th scope="col" colspan="2">Own time</th>'
        f'{split}<th scope="col">Line</th><th scope="col">Function</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>\n"
    )


def _kinds_of_time(line: HotLine) -> str:
    waiting_ns = max(line.wall_ns - line.cpu_ns - line.ready_ns - line.unknown_ns, 0)
    is_known = line.unknown_ns < line.wall_ns
    kinds = (
        ("computing", line.cpu_ns, is_known),
        ("waiting", waiting_ns, is_known and not line.unknown_ns),
        ("ready to run", line.ready_ns, line.ready_ns > 0),
        ("not known", line.unknown_ns, line.unknown_ns > 0),
    )
    return ", ".join(f"{format_duration(time_ns)} {name}" for name, time_ns, is_told in kinds if is_told)


def _hot_line(line: HotLine, largest: float, cpu_known: bool) -> str:
    split = ""
    if cpu_known:
        whole = line.wall_ns or 1
        computing = min(line.cpu_ns / whole, 1.0)
        ready = min(line.ready_ns / whole, 1.0 - computing)
        bar = _split_bar(computing, ready, min(line.unknown_ns / whole, 1.0 - computing))
        split = f'<td class="shape" title="{_kinds_of_time(line)}">{bar}</td>'
    where, function = "", _text(line.function)
    if not line.synthetic:
        where = f'<code title="{_text(line.file)}">{_text(line.short_file)}:{line.line}</code>'
        if line.class_name:
            function = f"{_text(line.class_name)}.{function}"
    width = 100 * line.share / largest if largest else 0.0
    return (
        f"<tr{' class=synthetic' if line.synthetic else ''}>"
        f'<td class="share"><i style="width:{width:.1f}%"></i><b>{format_share(line.share)}</b></td>'
        f'<td class="number">{format_duration(line.wall_ns)}</td>{split}'
        f"<td>{where}</td><td>{function}</td></tr>"
    )
