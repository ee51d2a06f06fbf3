"""The words of an alert, for all channels where people read it: one line, facts, markdown, plain text."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from slowspan.notifiers.markup import defang, escape_markdown, markdown_link
from slowspan.redaction import one_line
from slowspan.report.summary import (
    ENDPOINT_LIMIT,
    format_duration,
    format_share,
    kind_for_people,
    summarize,
    time_shares,
)

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

_TEST = "Somebody is trying this channel with slowspan check; no request of yours was slow."
_NO_SAMPLE = "No sample tells where the time went."

# Own names, because strftime's follow the application's locale.
_MONTHS = (
    "January February March April May June July August September October November December".split()  # noqa: SIM905
)


def title(report: Report, limit: int = TITLE_LIMIT) -> str:
    """Return one plain line: ``slow request GET /orders/<id> 1.42 s > 1 s``, marked when it is a test.

    Args:
        report: The report.
        limit: The most characters.
    """
    prefix = "[test] " if report.alert is not None and report.alert.is_test else ""
    line = prefix + defang(summarize(report.profile, ()))
    return line if len(line) <= limit else line[: max(0, limit - 1)] + "…"


def _facts(report: Report) -> list[tuple[str, str]]:
    """Return what there is to tell of the request, as pairs of name and value, without the hot lines.

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
    return [(name, value) for name, value in pairs if value]


def circumstances(report: Report) -> str:
    """Return, as sentences on one line, why this is told now, and when it happened; nothing for a key's first alert."""
    alert = report.alert
    if alert is None:
        return ""
    how_often = _how_often(alert, report.profile.start_time_ns + report.profile.duration_ns)
    late = f"Happened at {_moment(alert.late_ns)}, when this channel could not be reached." if alert.late_ns else ""
    return _joined([_TEST if alert.is_test else "", how_often, late], " ")


def markdown(report: Report, limit: int, *, remark: str = "") -> str:
    """Return the message as markdown: what, how slow, where, how often, links.

    Args:
        report: The report, of an alert or without one.
        limit: The most characters of the message. Whole lines are left out, the least important first, so that no
            table and no code span is broken.
        remark: A sentence of the channel's own at the end, such as where the page is.
    """
    known = dict(_facts(report))
    head = _headline(report, known["endpoint"])
    if len(head) > limit:
        return escape_markdown(title(report), limit // 2 - 1) if limit >= 4 else ""
    # The order in which they are read, each with its rank: what is left out first has the highest one.
    blocks = [
        (1, circumstances(report)),
        (0, "\n" + "\n".join(_hot_table(report.hot_lines)) if report.hot_lines else _NO_SAMPLE),
        (4, _request_line(known)),
        (5, f"{known['time'].capitalize()}." if "time" in known else ""),
        (3, _where_line(known)),
        (2, _links(report)),
        (2, remark),
    ]
    return _fit(head, blocks, limit)


def plain(report: Report, limit: int) -> str:
    """Return the message as plain text, for channels without markdown.

    Args:
        report: The report, of an alert or without one.
        limit: The most characters of the message; it is cut at the end of a line.
    """
    lines = [line for line in (title(report), circumstances(report)) if line]
    hot_lines = [f"{format_duration(line.wall_ns):>9}  {defang(_hot_plain(line))}" for line in report.hot_lines]
    lines += ["", *(hot_lines or [_NO_SAMPLE]), ""]
    # The title has said the first two.
    lines += [f"{name}: {defang(value)}" for name, value in _facts(report)[2:]]
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
        f"{(hour.hour + 1) % 24:02}:{hour:%M} UTC on {_day(digest.hour_ns, digest.hour_ns)}"
        f"{' · ' if where else ''}{where}"
    )
    lines = [
        f"- {escape_markdown(endpoint)} {'once' if count == 1 else f'{count} times'}, worst {format_duration(worst_ns)}"
        for endpoint, count, worst_ns in digest.endpoints
    ]
    others = digest.alerts - sum(count for _, count, _ in digest.endpoints)
    lines += [f"- {others} more on other endpoints"] if digest.endpoints and others > 0 else []
    # Some converters of markdown know a list by the blank line before it.
    return _cut_lines([head, "", *lines] if lines else [head], limit)


def _headline(report: Report, endpoint: str) -> str:
    profile = report.profile
    what = f"Slow {kind_for_people(profile)}"
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


def _links(report: Report) -> str:
    profile = report.profile
    report_link = markdown_link("Report", report.url) if report.url else f"Profile `{profile.id}`"
    trace_link = markdown_link("Trace", report.trace_url) if report.trace_url else f"Trace `{profile.span.trace_id}`"
    unsampled = "" if profile.span.sampled else " (not sampled)"  # who looks for it in vain wants to know why
    return f"{report_link} · {trace_link}{unsampled}"


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


def _how_often(alert: Alert, now_ns: int) -> str:
    if not alert.told_before or not alert.since_ns:
        return ""
    recent = now_ns - alert.since_ns < _DAY_NS
    since = f"{_utc(alert.since_ns):%H:%M} UTC" if recent else _day(alert.since_ns, now_ns)
    if not alert.seen_more:
        return f"Told before, {'at' if recent else 'on'} {since}."
    times = "once more" if alert.seen_more == 1 else f"{alert.seen_more} more times"
    worst = f", worst {format_duration(alert.worst_ns)}" if alert.worst_ns else ""
    return f"Seen {times} since {since}{worst}."


def _service(report: Report) -> str:
    span = report.profile.span
    return one_line(_joined([span.service_name or "", span.service_version or ""], " "), _SHORT_LIMIT)


def _joined(texts: Iterable[str], separator: str) -> str:
    return separator.join(text for text in texts if text)


def _utc(time_ns: int) -> datetime:
    return datetime.fromtimestamp(time_ns / 1e9, timezone.utc)


def _moment(time_ns: int) -> str:
    return f"{_utc(time_ns):%Y-%m-%d %H:%M:%S} UTC"


def _day(time_ns: int, now_ns: int) -> str:
    day = _utc(time_ns)
    year = f" {day.year}" if day.year != _utc(now_ns).year else ""
    return f"{day.day} {_MONTHS[day.month - 1]}{year}"


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
