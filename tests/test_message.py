"""The words of an alert: complete, bounded, and harmless whatever a stranger wrote into the URL."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from profiles import SECOND, make_process, make_profile, make_span
from slowspan.notifiers.markup import defang, escape_markdown
from slowspan.notifiers.message import circumstances, digest_text, markdown, plain, title
from slowspan.report.alert import Alert, Digest
from slowspan.report.report import Report

DAY_NS = 86_400 * SECOND
STARTED_NS = 1_795_290_250_123_456_789  # 21 November 2026, 19:44 UTC

HOSTILE = (
    "@all",
    "`@channel`",
    "``@here``",
    "![x](http://evil.example/x.png)",
    "[click](http://evil.example)",
    "a|b\n|---|---|\n|c|d|",
    "# heading",
    "#hashtag",
    "~town-square",
    ":smile:",
    "www.evil.example",
    "**bold** _it_ ~~no~~ $x$",
    "\\`@all",
    "`",
    "` `",
    "\u2028@all\u202e",
)
texts = st.one_of(
    st.text(),
    st.text(alphabet="`@#~|\\!:[]()<>*_ \n\u200bal"),
    st.lists(st.sampled_from(HOSTILE)).map(" ".join),
)


def outside_code(message: str) -> str:
    """Return what a chat formats: a message without its code spans, found as CommonMark and Mattermost find them."""
    rest, position = [], 0
    while position < len(message):
        if message[position] == "\\" and message[position + 1 : position + 2]:
            position += 2
        elif message[position] == "`":
            ticks = re.compile("`+").match(message, position)
            assert ticks is not None
            closing = re.compile(rf"(?<!`){ticks[0]}(?!`)").search(message, ticks.end())
            rest.append("\0" if closing else ticks[0])
            position = closing.end() if closing else ticks.end()
        else:
            rest.append(message[position])
            position += 1
    return "".join(rest)


def assert_raw_is_harmless(message: str) -> None:
    """Assert that even who looks at the raw message, code spans included, finds nothing that takes effect."""
    assert not re.search(r"[@~]\w", message), "a mention"
    assert not re.search(r"#[^\W\d_]", message), "a hashtag"


def make_alert_report(alert: Alert | None = None, **changes: Any) -> Report:
    return Report(
        make_profile(start_time_ns=STARTED_NS, **changes),
        render_html=lambda stored: b"",
        compress=lambda profile: b"",
        url=changes.pop("url", None),
        alert=alert,
    )


@given(texts, st.integers(1, 300))
@example("@all", 300)
@example("`@all", 5)
def test_escaped_text_is_one_code_span(text: str, limit: int) -> None:
    """An escaped text is one code span on one line, or nothing; it holds no mention, hashtag or table cell."""
    escaped = escape_markdown(text, limit)
    assert len(escaped) <= 2 * limit + 2
    assert escaped == "" or outside_code(escaped) == "\0"
    assert escaped == "" or escaped[1:-1].strip(), "a chat would show the backticks"
    assert not re.search(r"[\n\r|\u2028\u2029\u202e]", escaped)
    assert_raw_is_harmless(escaped)


@pytest.mark.parametrize("text", ["GET /orders/<id>", "page=2&token=[redacted]", "/ünïcode/日本"])
def test_harmless_text_is_shown_as_it_is(text: str) -> None:
    """What needs no escaping stands in the code span unchanged."""
    assert escape_markdown(text) == f"`{text}`"


@given(texts)
def test_plain_text_mentions_nobody_and_links_nowhere(text: str) -> None:
    """Plain text of a stranger holds no mention and no address that a chat makes a link of."""
    shown = defang(text)
    assert not re.search(r"[@~#]\w|<[@!#]|://|\bwww\.\w", shown, re.IGNORECASE)
    assert shown.replace("\u200b", "") == text.replace("\u200b", "")


@settings(max_examples=60, deadline=None)
@given(texts, texts, texts, st.integers(0, 3000))
def test_message_of_a_hostile_request(path: str, name: str, value: str, limit: int) -> None:
    """Whatever stands in the URL, the message keeps its limit, its table, its code spans, and mentions nobody."""
    span = make_span(route=None, path=path, parameters=((name, value),), name=name, service_name=value)
    report = make_alert_report(Alert(key="k", told_before=True, seen_more=3, since_ns=1), span=span)
    message = markdown(report, limit)
    assert len(message) <= limit
    assert len(plain(report, limit)) <= max(limit, 1)
    rest = outside_code(message)
    assert "`" not in rest
    assert_raw_is_harmless(message)
    assert not re.search(r"@|://|\]\(|!\[|^#", rest)
    rows = [line for line in message.split("\n") if line.startswith("|")]
    assert len(rows) != 1
    assert len(rows) != 2
    assert {row.count("|") for row in rows} <= {5}


def test_message_tells_what_a_person_wants_to_know() -> None:
    """The message has the endpoint, the durations, the hot lines, the host, the service, how often, and the links."""
    alert = Alert(key="k", told_before=True, seen_more=134, since_ns=STARTED_NS - 172 * DAY_NS, worst_ns=8_200_000_000)
    report = make_alert_report(alert)
    report.url, report.trace_url = "https://reports.example/r/1", "https://traces.example/t?id=(1)"
    lines = markdown(report, 16383, remark="The page is compressed.").split("\n")
    assert lines[0] == "**Slow request** `GET /orders/<id>` took **1.42 s** (threshold 1 s), status 200"
    assert lines[1] == "Seen 134 more times since 2 June, worst 8.2 s."
    assert lines[2:6] == [
        "",
        "| own time | share | line | function |",
        "|---:|---:|:---|:---|",
        "| 1.01 s | 71 % | `pricing.py:41` | `total_for` |",
    ]
    assert "| 100 ms | 7 % |  | `[computed, not seen]` |" in lines
    assert "Request: path `/orders/42`, parameters `page=2&token=[redacted]`" in lines
    assert "Service: `shop 1.4.0` on `web-1`, process 4711" in lines
    assert "[Report](https://reports.example/r/1) · [Trace](https://traces.example/t?id=%281%29)" in lines
    assert lines[-1] == "The page is compressed."


def test_message_without_anything() -> None:
    """A report without hot lines, names, status and links makes a message too, which names profile and trace."""
    span = make_span(
        route=None, path=None, method=None, parameters=(), status_code=None, service_name=None, service_version=None
    )
    report = make_alert_report(None, records=[], span=span, duration_ns=2 * SECOND, process=make_process(host=""))
    message = markdown(report, 16383)
    assert "|" not in message
    assert f"Profile `{report.profile.id}` · Trace `{span.trace_id}`" in message
    assert "No sample tells where the time went." in message.split("\n")
    assert "Process 4711" in message
    assert plain(report, 16383).startswith(
        "slow request GET /orders/<id> 2 s > 1 s\n\nNo sample tells where the time went.\n\n"
    )


def test_short_messages_lose_the_least_important_lines() -> None:
    """A message is cut by whole lines: the table's last rows go before the head line does."""
    report = make_alert_report()
    whole = markdown(report, 16383).split("\n")
    for limit in range(80, 700, 7):
        lines = markdown(report, limit).split("\n")
        assert lines[0] == whole[0]
        assert [line for line in lines if line] == [line for line in whole if line in lines and line]
    assert markdown(report, 30).startswith("`slow request")
    assert markdown(report, 0) == ""


@pytest.mark.parametrize(
    ("changes", "alert", "expected"),
    [
        ({}, None, "slow request GET /orders/<id> 1.42 s > 1 s"),
        ({"running": True}, None, "slow request GET /orders/<id> still running after 1.42 s > 1 s"),
        ({}, Alert(key="k", is_test=True), "[test] slow request GET /orders/<id> 1.42 s > 1 s"),
        ({"span": make_span(route="/@all")}, None, "slow request GET /@\u200ball 1.42 s > 1 s"),
    ],
)
def test_title(changes: dict[str, Any], alert: Alert | None, expected: str) -> None:
    """The title is one line, marked for tests and for requests that still run, and cut to what the channel takes."""
    report = make_alert_report(alert, **changes)
    assert title(report) == expected
    assert title(report, 12) == expected[:11] + "…"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ""),
        ({"told_before": True, "since_ns": STARTED_NS - 10 * DAY_NS}, "Told before, on 11 November."),
        ({"told_before": True, "since_ns": STARTED_NS - 3600 * SECOND}, "Told before, at 18:44 UTC."),
        (
            {"told_before": True, "seen_more": 1, "since_ns": STARTED_NS - 3600 * SECOND},
            "Seen once more since 18:44 UTC.",
        ),
        (
            {"told_before": True, "seen_more": 134, "since_ns": STARTED_NS - 354 * DAY_NS, "worst_ns": 8_200_000_000},
            "Seen 134 more times since 2 December 2025, worst 8.2 s.",
        ),
    ],
)
def test_how_often(changes: dict[str, Any], expected: str | None) -> None:
    """How often the key was seen is told in words, since a time within a day, else a date, with the year if need be."""
    report = make_alert_report(Alert(key="k", **changes))
    assert circumstances(report) == expected
    assert plain(report, 16383).startswith(f"{title(report)}\n{expected}\n")


def test_late_alert_is_marked_with_its_time() -> None:
    """An alert that the channel did not take at its time says when it happened, in every form."""
    report = make_alert_report(Alert(key="k", late_ns=STARTED_NS))
    moment = "2026-11-21 19:44:10 UTC"
    assert f"Happened at {moment}, when this channel could not be reached." in markdown(report, 16383)
    assert f"\nHappened at {moment}, when this channel could not be reached.\n" in plain(report, 16383)


def test_running_and_test_messages_say_so() -> None:
    """A partial report's message says that the request still runs, and a test's that it is one."""
    report = make_alert_report(Alert(key="k", is_test=True), running=True)
    head = "Test alert: **Slow request** `GET /orders/<id>` is **still running** after **1.42 s**"
    assert markdown(report, 16383).startswith(head)
    assert "\nSomebody is trying this channel with slowspan check; no request of yours was slow.\n" in plain(
        report, 999
    )


def test_links_and_ids() -> None:
    """Where there is a link to the report and none to the trace, the trace is still named, and the other way round."""
    report = make_alert_report()
    report.url = "https://reports.example/r/1"
    assert f"[Report](https://reports.example/r/1) · Trace `{report.profile.span.trace_id}`" in markdown(report, 16383)
    report.url, report.trace_url = None, "https://traces.example/1"
    assert f"Profile `{report.profile.id}` · [Trace](https://traces.example/1)\n" in markdown(report, 16383) + "\n"
    dropped = markdown(make_alert_report(span=make_span(sampled=False)), 16383)
    assert dropped.endswith(f"Trace `{report.profile.span.trace_id}` (not sampled)")


def test_digest() -> None:
    """A digest names the hour, the number, and each endpoint with how often and how slow, harmlessly."""
    digest = Digest(
        hour_ns=STARTED_NS - STARTED_NS % (3600 * SECOND),
        alerts=12,
        endpoints=(("GET /orders", 11, 8_200_000_000), ("GET /`@all", 1, SECOND)),
        service_name="shop",
        host="web-1",
    )
    assert digest_text(digest).split("\n") == [
        "slowspan: 12 alerts were held back by the limit on alerts per hour, from 19:00 to 20:00 UTC on 21 November · "
        "`shop` on `web-1`",
        "",
        "- `GET /orders` 11 times, worst 8.2 s",
        "- `GET /\u02cb@\u200ball` once, worst 1 s",
    ]
    assert digest_text(replace(digest, alerts=15)).endswith("\n- 3 more on other endpoints")
    assert digest_text(digest, 170).endswith("worst 8.2 s\n…")
