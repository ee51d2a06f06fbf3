"""The words of an alert, for all channels where people read it: one line, facts, markdown, plain text.

Endpoints, paths and parameters are written by strangers. What is active in a chat (mentions, links, images, emoji,
hashtags, tables) must not work in them. Markdown therefore shows every such text as a code span, where chats neither
look for mentions nor format anything. Some look for a few things in the raw message as well (Mattermost for hashtags
and channels, Apprise for Discord's mentions): there, an invisible space after the sign helps.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from slowspan.redaction import one_line
from slowspan.report.summary import ENDPOINT_LIMIT, format_duration, format_share, summarize, time_shares

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from slowspan.report.alert import Alert, Digest
    from slowspan.report.report import Report
    from slowspan.report.summary import HotLine

DIGEST_LIMIT = 4000
"""Characters of a digest: what every chat takes in one message."""

TITLE_LIMIT = 500
"""Characters of a title, unless a channel takes fewer."""

_PARAMETERS_LIMIT = 500
_SHORT_LIMIT = 100
_DAY_NS = 86_400 * 1_000_000_000

# Own names, because strftime's follow the application's locale.
_MONTHS = (
    "January February March April May June July August September October November December".split()  # noqa: SIM905
)

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


def title(report: Report, limit: int = TITLE_LIMIT) -> str:
    """Return one plain line: ``slow request GET /orders/<id> 1.42 s > 1 s``, marked when it is a test.

    Args:
        report: The report.
        limit: The most characters.
    """
    prefix = "[test] " if report.alert is not None and report.alert.is_test else ""
    line = prefix + defang(summarize(report.profile, ()))
    return line if len(line) <= limit else line[: max(0, limit - 1)] + "…"


def facts(report: Report) -> list[tuple[str, str]]:
    """Return what there is to tell, as pairs of name and value, without the hot lines.

    The values are of one line and bounded, but as strangers wrote them: escape them for where they are shown.
    """
    profile, span = report.profile, report.profile.span
    shares = [f"{s.name} {format_duration(s.time_ns)} ({format_share(s.share)})" for s in time_shares(profile)]
    running = "still running after " if profile.running else ""
    pairs = [
        ("endpoint", one_line(span.endpoint, ENDPOINT_LIMIT)),
        ("duration", f"{running}{format_duration(profile.duration_ns)} > {format_duration(profile.threshold_ns)}"),
        ("status", str(span.status_code or ("error" if span.error else ""))),
        ("path", one_line(span.path or "", ENDPOINT_LIMIT)),
        ("parameters", one_line("&".join(f"{name}={value}" for name, value in span.parameters), _PARAMETERS_LIMIT)),
        ("time", ", ".join(shares)),
        ("service", _service(report)),
        ("host", one_line(profile.process.host, _SHORT_LIMIT)),
        ("process", str(profile.process.pid)),
        ("started", _moment(profile.start_time_ns)),
        ("profile", profile.id),
        ("trace", span.trace_id),
    ]
    if report.alert is not None:
        pairs += [("how often", _how_often(report)), ("late", _late(report.alert))]
    return [(name, value) for name, value in pairs if value]


def markdown(report: Report, limit: int, *, remarks: Iterable[str] = ()) -> str:
    """Return the message as markdown: what, how slow, where, how often, links.

    Args:
        report: The report, of an alert or without one.
        limit: The most characters of the message. Whole lines are left out, the least important first, so that no
            table and no code span is broken.
        remarks: Sentences of the channel's own at the end, such as where the page is.
    """
    known = dict(facts(report))
    head = _headline(report, known["endpoint"])
    if len(head) > limit:
        return escape_markdown(title(report), limit // 2 - 1) if limit >= 4 else ""
    often = [known["how often"]] if "how often" in known else []
    late = [known["late"]] if "late" in known else []
    links = _markdown_links(report)
    # The order in which they are read, each with its rank: what is left out first has the highest one.
    blocks = [
        (1, _sentences(often + late)),
        (0, "\n" + "\n".join(_hot_table(report.hot_lines)) if report.hot_lines else ""),
        (4, _request_line(known)),
        (5, f"{known['time'].capitalize()}." if "time" in known else ""),
        (3, _where_line(known)),
        (2, links or f"Profile `{known['profile']}`, trace `{known['trace']}`"),
        (2, "\n".join(remarks)),
    ]
    return _fit(head, blocks, limit)


def plain(report: Report, limit: int) -> str:
    """Return the message as plain text, for channels without markdown.

    Args:
        report: The report, of an alert or without one.
        limit: The most characters of the message; it is cut at the end of a line.
    """
    lines = [title(report), ""]
    lines += [f"{format_duration(line.wall_ns):>9}  {defang(_hot_plain(line))}" for line in report.hot_lines]
    lines += [""] if report.hot_lines else []
    # The title has said the first two.
    lines += [f"{name}: {defang(value)}" for name, value in facts(report)[2:]]
    lines += [f"{name}: {url}" for name, url in (("report", report.url), ("trace at", report.trace_url)) if url]
    return _cut_lines(lines, limit)


def digest_text(digest: Digest, limit: int = DIGEST_LIMIT) -> str:
    """Return the message on what the limit on alerts per hour held back: readable as markdown and as plain text.

    Args:
        digest: What was held back.
        limit: The most characters.
    """
    hour = _utc(digest.hour_ns)
    where = _joined([escape_markdown(digest.service_name or "", _SHORT_LIMIT), escape_markdown(digest.host)], " on ")
    alerts = "1 alert was" if digest.alerts == 1 else f"{digest.alerts} alerts were"
    head = (
        f"slowspan: {alerts} held back by the limit on alerts per hour, from {hour:%H:%M} to "
        f"{(hour.hour + 1) % 24:02}:{hour:%M} UTC on {_day(digest.hour_ns)}{' · ' if where else ''}{where}"
    )
    lines = [
        f"- {escape_markdown(endpoint)} {'once' if count == 1 else f'{count} times'}, worst {format_duration(worst_ns)}"
        for endpoint, count, worst_ns in digest.endpoints
    ]
    return _cut_lines([head, *lines], limit)


def _headline(report: Report, endpoint: str) -> str:
    profile = report.profile
    what = "Slow request" if profile.span.kind == "SERVER" else "Slow span"
    test = "Test alert: " if report.alert is not None and report.alert.is_test else ""
    verb = "is **still running** after" if profile.running else "took"
    status = profile.span.status_code or ("error" if profile.span.error else None)
    text = (
        f"{test}**{what}** {escape_markdown(endpoint)} {verb} **{format_duration(profile.duration_ns)}** "
        f"(threshold {format_duration(profile.threshold_ns)})"
    )
    return text + (f", status {status}" if status else "")


def _request_line(known: dict[str, str]) -> str:
    pieces = [
        f"{name} {escape_markdown(known[name], _PARAMETERS_LIMIT)}" for name in ("path", "parameters") if name in known
    ]
    return f"Request: {', '.join(pieces)}" if pieces else ""


def _where_line(known: dict[str, str]) -> str:
    host = escape_markdown(known.get("host", ""))
    where = _joined([escape_markdown(known.get("service", "")), host], " on ")
    return f"Service: {where}, process {known['process']}" if where else f"Process {known['process']}"


def _markdown_links(report: Report) -> str:
    links = [(name, url) for name, url in (("Report", report.url), ("Trace", report.trace_url)) if url]
    return " · ".join(f"[{name}]({_NOT_IN_LINK.sub(_percent_encoded, url)})" for name, url in links)


def _percent_encoded(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match.group().encode())


def _hot_table(hot_lines: Sequence[HotLine]) -> list[str]:
    rows = ["| own time | share | line | function |", "|---:|---:|:---|:---|"]
    for line in hot_lines:
        where = "" if line.synthetic else escape_markdown(f"{line.short_file}:{line.line}", _SHORT_LIMIT)
        name = escape_markdown(line.function, _SHORT_LIMIT)
        rows.append(f"| {format_duration(line.wall_ns)} | {format_share(line.share)} | {where} | {name} |")
    return [*rows, ""]


def _hot_plain(line: HotLine) -> str:
    where = line.function if line.synthetic else f"{line.short_file}:{line.line} {line.function}"
    return f"{format_share(line.share):>5}  {one_line(where, 2 * _SHORT_LIMIT)}"


def _how_often(report: Report) -> str:
    alert = report.alert
    if alert is None or not alert.told_before:
        return ""
    now_ns = report.profile.start_time_ns + report.profile.duration_ns
    if not alert.seen_more:
        return f"told before, on {_day(alert.since_ns)}" if alert.since_ns else ""
    times = "once more" if alert.seen_more == 1 else f"{alert.seen_more} more times"
    recent = now_ns - alert.since_ns < _DAY_NS
    since = f"{_utc(alert.since_ns):%H:%M} UTC" if recent else _day(alert.since_ns)
    worst = f", worst {format_duration(alert.worst_ns)}" if alert.worst_ns else ""
    return f"seen {times} since {since}{worst}"


def _late(alert: Alert) -> str:
    return f"happened at {_moment(alert.late_ns)}, when no channel could be reached" if alert.late_ns else ""


def _service(report: Report) -> str:
    span = report.profile.span
    return one_line(_joined([span.service_name or "", span.service_version or ""], " "), _SHORT_LIMIT)


def _sentences(texts: Iterable[str]) -> str:
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in texts)


def _joined(texts: Iterable[str], separator: str) -> str:
    return separator.join(text for text in texts if text)


def _utc(time_ns: int) -> datetime:
    return datetime.fromtimestamp(time_ns / 1e9, timezone.utc)


def _moment(time_ns: int) -> str:
    return f"{_utc(time_ns):%Y-%m-%d %H:%M:%S} UTC"


def _day(time_ns: int) -> str:
    day = _utc(time_ns)
    return f"{day.day} {_MONTHS[day.month - 1]}"


def _fit(head: str, blocks: Sequence[tuple[int, str]], limit: int) -> str:
    kept: dict[int, str] = {}
    room = limit - len(head)
    for index in sorted(range(len(blocks)), key=lambda index: blocks[index][0]):
        text = blocks[index][1]
        while text and len(text) + 1 > room:
            text = _without_last_row(text)
        if text:
            kept[index] = text
            room -= len(text) + 1
    return "\n".join([head, *(kept[index] for index in sorted(kept))])


def _without_last_row(text: str) -> str:
    # A table loses its last rows first; one without rows is none, and other lines go as a whole.
    rows = text.split("\n")
    is_table = len(rows) > 5 and rows[1].startswith("|")  # blank, two of the head, at least two rows, blank
    return "\n".join([*rows[:-2], ""]) if is_table else ""


def _cut_lines(lines: Sequence[str], limit: int) -> str:
    text = "\n".join(lines)
    if len(text) <= limit:
        return text
    kept = text[: max(0, limit - 2)].rpartition("\n")[0]
    return f"{kept}\n…" if kept else one_line(lines[0], max(1, limit))
