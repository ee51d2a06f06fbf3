"""The page of a slow request: what it says, and that strangers' text stays text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles import BEFORE, MS, SECOND, STEM, TOTAL, VIEW, default_records, make_process, make_profile, make_span
from slowspan.recording.profile import Frame, Profile
from slowspan.report.html import render_page, web_address

# fmt: off
ELEMENTS_OF_OURS = {
    "html", "head", "meta", "title", "style", "body", "header", "p", "span", "time", "h1", "main", "section",
    "strong", "div", "i", "dl", "dt", "dd", "code", "a", "ul", "li", "h2", "table", "thead", "tr", "th",
    "tbody", "td", "b", "noscript", "script", "details", "summary", "small",
}
ATTRIBUTES_OF_OURS = {
    "lang", "charset", "http-equiv", "content", "name", "class", "datetime", "style", "href", "rel", "scope",
    "colspan", "title", "id", "hidden", "type",
}
# fmt: on


class Page(HTMLParser):
    """Reads a page as a browser does: elements, attributes, texts, and what is inside scripts."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.styles: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1] == "script" and self.cdata_elem:
            attrs, text = self.scripts.pop()
            self.scripts.append((attrs, text + data))
        elif self.cdata_elem == "style":
            self.styles.append(data)
        else:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def policy(self) -> str:
        content = dict(self.attributes)
        attributes = [value for name, value in self.attributes if name == "content"]
        assert content["http-equiv"] == "Content-Security-Policy"
        assert attributes[0] is not None
        return attributes[0]

    @property
    def data(self) -> dict[str, object]:
        (text,) = (text for attrs, text in self.scripts if attrs.get("type") == "application/json")
        data = json.loads(text)
        assert isinstance(data, dict)
        return data


def read(profile: Profile, trace_url: str | None = None) -> Page:
    return Page(render_page(profile, trace_url))


def test_the_page_tells_the_facts_of_the_request() -> None:
    """Route, method, status, times, ids, service, host, process, thread and parameters are on the page."""
    text = read(make_profile()).text
    for fact in (
        "Slow request · shop 1.4.0",
        "2026-11-21 19:44:10 UTC",
        "GET /orders/<id> 200 /orders/42",
        "1.42 s threshold 1 s",
        "computing 1.22 s, 86 % waiting 180 ms, 13 % not known 20 ms, 1 %",
        "Trace 0af7651916cd43dd8448eb211c80319c",
        "Span b7ad6b7169203331",
        "Profile 5f3a9c0d1e2b4a68",
        "Host web-1",
        "Process 4711, Python 3.11.7",
        "Thread ThreadPoolExecutor-0_1",
        "Samples 21, every 10 ms",
        "page 2 token [redacted]",
        "100 ms of computing were measured by the CPU clock but seen by no sample.",
        "71 % 1.01 s pricing.py:41 Pricing.total_for",
        "7 % 100 ms [computed, not seen]",
    ):
        assert fact in text, fact


def test_the_page_of_a_running_request_says_so() -> None:
    """A partial profile has a badge."""
    text = read(make_profile(running=True)).text
    assert "still running" in text
    assert "1.42 s so far, threshold 1 s" in text


def test_facts_that_are_not_known_are_left_out() -> None:
    """A span with nothing but a name makes a page without empty places and without the word None."""
    unknown = dict.fromkeys(("method", "route", "path", "status_code", "service_name", "service_version"))
    span = make_span(kind="INTERNAL", parameters=(), sampled=False, **unknown)
    text = read(make_profile(span=span, cpu_time_ns=None, notes=())).text
    assert "Slow function" in text
    assert "(not sampled)" in text
    assert "CPU time is not known." in text
    assert "None" not in text
    assert "Parameters" not in text


def test_computing_and_waiting_of_lines_is_shown_only_where_it_was_measured() -> None:
    """The inline engine knows no CPU time of samples: its lines must not seem to have waited."""
    assert "Computing / waiting" in read(make_profile()).text
    records = [(path, wall_ns, 0) for path, wall_ns, _ in default_records()]
    assert "Computing / waiting" not in read(make_profile(records, cpu_time_ns=SECOND)).text


def test_time_of_which_nothing_is_known_does_not_seem_to_have_waited() -> None:
    """What passed before the first sample is said to be not known, in the bars as in words."""
    records = [*default_records(), (((BEFORE, 0),), 300 * MS, 0)]
    page = read(make_profile(records))
    titles = {title for name, title in page.attributes if name == "title"}
    assert "1.01 s computing, 0 µs waiting" in titles
    assert "30 ms computing, 320 ms not known" in titles
    assert [value for name, value in page.attributes if name == "class"].count(
        "not-known"
    ) == 3  # The legend, two bars.
    alone = read(make_profile([*default_records()[1:], (((BEFORE, 0),), 300 * MS, 0)]))
    assert "300 ms not known" in {title for name, title in alone.attributes if name == "title"}


def test_an_error_without_a_status_is_shown() -> None:
    """A span that failed outside HTTP is marked."""
    assert "error" in read(make_profile(span=make_span(status_code=None, error=True))).text


def test_a_profile_without_samples_has_a_page_without_scripts() -> None:
    """A request whose stack was never read still has its facts; nothing is there to be run."""
    never = [(((BEFORE, 0),), 2 * SECOND, 0)]
    page = read(make_profile(never, sample_count=0, interval_ns=0))
    assert "100 % 2 s [before the first sample]" in page.text
    assert "No stack of this request was read." in page.text
    assert "Samples none" in page.text
    assert page.scripts == []
    assert "script-src 'none'" in page.policy


def test_the_policy_allows_the_pages_own_two_scripts_and_nothing_else() -> None:
    """The hashes in the content security policy are those of the page's scripts and style."""
    page = read(make_profile())
    executed = [text for attrs, text in page.scripts if "type" not in attrs]
    assert len(executed) == 2
    for text in (*executed, *page.styles):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in page.policy
    assert page.policy.startswith("default-src 'none'; ")
    assert page.policy.count("sha256-") == 3
    assert "unsafe-inline" not in page.policy.replace("style-src-attr 'unsafe-inline'", "")


def test_the_scripts_are_the_same_for_every_profile() -> None:
    """No variable text is part of a script that runs."""
    one, other = read(make_profile()), read(make_profile(span=make_span(route="/other"), running=True))
    assert one.policy == other.policy


def test_the_page_needs_no_other_file() -> None:
    """No element of the page loads anything."""
    page = read(make_profile())
    assert not {"link", "img", "iframe", "object", "embed", "video", "audio", "source"} & set(page.elements)
    assert not {"src", "srcset", "background", "action"} & {name for name, _ in page.attributes}
    assert "url(" not in "".join(page.styles)
    assert "@import" not in "".join(page.styles)


def test_the_call_tree_has_the_whole_request() -> None:
    """The data of the interactive view has the request's duration, and a description of our own."""
    session = read(make_profile()).data["session"]
    assert isinstance(session, dict)
    assert session["duration"] == pytest.approx(1.42)
    assert session["target_description"] == "slowspan 5f3a9c0d1e2b4a68"


@pytest.mark.parametrize("url", ["https://traces.example/t/0af7?a=1&b=2#c", "HTTP://localhost:3000/x"])
def test_the_trace_is_linked(url: str) -> None:
    """A web address becomes a link."""
    assert ("href", url) in read(make_profile(), url).attributes


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        "javascript:alert(1)",
        "java\nscript:alert(1)",
        " https://traces.example",
        "https://a b",
        'https://a"onclick="alert(1)',
        "data:text/html,<script>alert(1)</script>",
        "//traces.example",
        "file:///etc/passwd",
    ],
)
def test_what_is_no_web_address_is_no_link(url: str | None) -> None:
    """Other schemes, relative addresses and addresses with blanks or quotes are not linked."""
    assert web_address(url) is None
    assert "a" not in read(make_profile(), url).elements


hostile = st.one_of(
    st.text(),
    st.sampled_from(
        [
            "</script><script>alert(1)</script>",
            "<!--<script>",
            "]]>",
            "<img src=x onerror=alert(1)>",
            '"onmouseover="alert(1)',
            "'onmouseover='alert(1)",
            "</title></style></noscript><svg/onload=alert(1)>",
            "\u2028alert(1)\u2029",
            "${alert(1)}`",
            "&lt;script&gt;",
            "\ud800\udfff\udcff",
            "\x00\x01\x1b[2J",
            "\u202egnp.exe",
        ]
    ),
)


def profile_of(text: str) -> Profile:
    """Return a profile with a text in every place where a text can be."""
    frame = Frame(text or "?", f"/srv/{text}", 1, text, False)
    return make_profile(
        [((*STEM, (VIEW, 40), (TOTAL, 41), (frame, 1)), 900 * MS, 0), (((frame, 1),), 100 * MS, 0)],
        id=text,
        name=text,
        engine=text,
        notes=(text,),
        span=make_span(
            name=text,
            kind=text,
            trace_id=text,
            span_id=text,
            method=text,
            route=text,
            path=text,
            parameters=((text, text),),
            service_name=text,
            service_version=text,
        ),
        process=make_process(
            host=text, thread_name=text, python=text, sys_path=(text,), sys_prefixes=(f"/usr/{text}",)
        ),
    )


@given(hostile)
@settings(max_examples=40, deadline=None)
def test_no_text_becomes_markup(text: str) -> None:
    """Whatever a stranger's text is, the page has our elements, attributes and two scripts only."""
    rendered = render_page(profile_of(text), f"https://traces.example/{text}")
    rendered.encode("utf-8")
    page = Page(rendered)
    assert set(page.elements) <= ELEMENTS_OF_OURS
    assert {name for name, _ in page.attributes} <= ATTRIBUTES_OF_OURS
    assert len([attrs for attrs, _ in page.scripts if "type" not in attrs]) == 2
    assert page.policy == read(make_profile()).policy
    assert page.data.keys() == {"session", "frame_tree"}
    assert rendered.count("<!--") == 0


@given(hostile)
@settings(max_examples=15, deadline=None)
def test_texts_are_shown_on_one_line_without_invisible_characters(text: str) -> None:
    """Control characters, direction marks and line breaks are shown as escapes: no path is disguised."""
    title = re.search(r"<title>(.*?)</title>", render_page(profile_of(text)), re.DOTALL)
    assert title is not None
    assert title.group(1).isprintable()


def test_very_long_texts_are_cut() -> None:
    """A path of a megabyte does not make a page of a megabyte."""
    page = render_page(make_profile(span=make_span(path="/" + "x" * 1_000_000)))
    assert len(page) < 200_000
