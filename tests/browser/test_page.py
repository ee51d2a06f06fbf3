"""The page in a real browser: that it works, and that strangers' text does nothing."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import pytest
from pyinstrument.renderers import HTMLRenderer

from profiles import MS, STEM, TOTAL, VIEW, make_process, make_profile, make_span, make_spans
from slowspan.recording.profile import Frame, Profile
from slowspan.report.html import render_page
from slowspan.report.renderer import ChildRenderer
from slowspan.report.stored import compress_profile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

HOSTILE = {
    "script": "</script><script>window.pwned=1</script>",
    "script in a comment": "<!--<script>window.pwned=1</script>-->",
    "open comment": "<!--<script>",
    "image": "<img src=https://evil.example/x.png onerror=window.pwned=1>",
    "svg": "<svg/onload=window.pwned=1>",
    "end of all": "</title></style></noscript></textarea></template><script>window.pwned=1</script>",
    "double quote": '"><img src=x onerror=window.pwned=1><a x="',
    "single quote": "'><img src=x onerror=window.pwned=1><a x='",
    "attribute": '" onmouseover="window.pwned=1" autofocus onfocus="window.pwned=1',
    "script address": "javascript:window.pwned=1",
    "template": "${window.pwned=1}`+(window.pwned=1)+`",
    "string end": "\\\"};window.pwned=1;//'};window.pwned=1;//",
    "line separators": "\u2028window.pwned=1\u2029window.pwned=1\n\r\x00\x1b",
    "entities": "&lt;script&gt;window.pwned=1&lt;/script&gt;&#60;",
    "style": "</style><style>body{display:none}</style>@import url(https://evil.example/x.css);",
    "surrogates": "\ud800\udfff<img src=x onerror=window.pwned=1>\udcff",
    "meta": '<meta http-equiv="refresh" content="0;url=https://evil.example">',
    "base": "<base href=https://evil.example/>",
}


@dataclass
class Visit:
    """A page that is open, and what the browser noticed while it was."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@contextlib.contextmanager
def visit(browser: Browser, html: str, folder: Path, **options: Any) -> Iterator[Visit]:
    """Open a page from a file, as somebody does who got it by mail."""
    file = folder / "page.html"
    file.write_text(html, encoding="utf-8")
    context = browser.new_context(**options)
    try:
        page = context.new_page()
        page.set_default_timeout(15_000)
        seen = Visit(page)
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("console", lambda message: seen.complaints.append(message.text))
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        page.on("dialog", lambda dialog: seen.complaints.append(dialog.message))
        page.goto(file.as_uri())
        yield seen
        assert [url for url in seen.requests if url != file.as_uri()] == []
    finally:
        context.close()


def hostile_profile(text: str) -> Profile:
    """Return a profile with a text in every place where a text can be."""
    frame = Frame(text, f"/srv/{text}.py", 1, text, False)
    library = Frame(text, f"/usr/lib/{text}/x.py", 1, text, False)
    return make_profile(
        [
            ((*STEM, (VIEW, 40), (TOTAL, 41), (frame, 1)), 900 * MS, 300 * MS),
            (((frame, 1), (library, 2), (library, 3)), 100 * MS, 0),
        ],
        id=text,
        engine=text,
        notes=(text,),
        spans=make_spans(name=text, kind=text, status=text, attributes=(("db.query.text", text), (text, text))),
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
            host=text,
            thread_name=text,
            python=text,
            sys_path=(text,),
            sys_prefixes=("/srv/venv", "/usr", text),
        ),
    )


def hover_everywhere(page: Page) -> str:
    """Move the mouse over the flame graph; return what its tooltips said."""
    page.get_by_text("Flame graph").click()
    canvas = page.locator(".view canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    tooltips = ""
    for y in range(40, 400, 18):
        page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + y)
        page.evaluate("new Promise(requestAnimationFrame)")
        tooltips += "".join(page.locator(".timeline-canvas-view-tooltip").all_inner_texts())
    return tooltips


def pwned(page: Page) -> bool:
    return bool(page.evaluate("window.pwned !== undefined"))


def test_the_interactive_view_works(chromium: Browser, tmp_path: Path) -> None:
    """The call tree is there, can be folded, has the synthetic entries; the browser complains of nothing."""
    with visit(chromium, render_page(make_profile()), tmp_path) as seen:
        tree = seen.page.locator(".call-stack-view")
        assert "Pricing.total_for" in tree.inner_text()
        assert "4 frames hidden" in tree.inner_text()
        assert "[computed, not seen]" in tree.inner_text()
        assert "[before the first sample]" in tree.inner_text()
        seen.page.get_by_text("4 frames hidden").click()
        assert "ThreadWorker.handle_request" in tree.inner_text()
        assert seen.page.title() == "1.42 s GET /orders/<id> · slowspan"
        assert not seen.page.locator("#call-tree-error").is_visible()
    assert seen.complaints == []


def test_the_flame_graph_works(chromium: Browser, tmp_path: Path) -> None:
    """The second view draws, is called what it is, and tells what is under the mouse."""
    with visit(chromium, render_page(make_profile()), tmp_path) as seen:
        assert "Pricing.total_for" in hover_everywhere(seen.page)
        assert seen.page.get_by_text("Timeline", exact=True).count() == 0
    assert seen.complaints == []


def test_the_check_for_hostile_text_can_fail(chromium: Browser, tmp_path: Path) -> None:
    """In pyinstrument's own page a script in the description runs: what follows would notice."""
    session = make_profile().session()
    session.target_description = HOSTILE["script"]
    page = HTMLRenderer().render(session).replace("https://fonts.googleapis.com", "data:")
    with visit(chromium, page, tmp_path) as seen:
        assert pwned(seen.page)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_does_nothing(chromium: Browser, tmp_path: Path, text: str) -> None:
    """Strangers' text in every field runs nothing, loads nothing and does not keep the view from working."""
    with visit(chromium, render_page(hostile_profile(text), trace_url=text), tmp_path) as seen:
        assert "Pricing.total_for" in seen.page.locator(".call-stack-view").inner_text()
        seen.page.get_by_text("frames hidden").first.click()
        for link in seen.page.locator("a").all():
            assert (link.get_attribute("href") or "").startswith("https://")
        assert seen.page.locator("body").is_visible()
        assert not pwned(seen.page)
    assert seen.complaints == []


def test_hostile_names_do_nothing_in_the_flame_graph(chromium: Browser, tmp_path: Path) -> None:
    """Tooltips, which the view makes from markup, show functions and files of any name."""
    stack = [(Frame(text, f"/srv/{text}.py", 1, text, False), 1) for text in HOSTILE.values()]
    with visit(chromium, render_page(make_profile([(stack, 100 * MS, 0)])), tmp_path) as seen:
        assert HOSTILE["svg"] in hover_everywhere(seen.page)
        assert not pwned(seen.page)
    assert seen.complaints == []


def test_the_policy_holds_where_escaping_would_not(chromium: Browser, tmp_path: Path) -> None:
    """A script that got into the page in spite of everything does not run."""
    page = render_page(make_profile()).replace("</main>", f"{HOSTILE['script']}{HOSTILE['svg']}</main>")
    with visit(chromium, page, tmp_path) as seen:
        assert not pwned(seen.page)
    assert any("Content Security Policy" in complaint for complaint in seen.complaints)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_readers_colours(chromium: Browser, tmp_path: Path, scheme: str) -> None:
    """In a light and in a dark setting the text is dark on light, or light on dark."""
    with visit(chromium, render_page(make_profile()), tmp_path, color_scheme=scheme) as seen:
        ink, paper = seen.page.evaluate(
            "['color', 'backgroundColor'].map(name => getComputedStyle(document.body)[name].match(/\\d+/)[0])"
        )
    assert (int(ink) > 200) == (scheme == "dark")
    assert (int(paper) > 200) == (scheme == "light")


def test_the_page_fits_a_telephone(chromium: Browser, tmp_path: Path) -> None:
    """On a narrow screen nothing but the tables and the tree has to be moved sideways."""
    query = (("db.query.text", "SELECT " + "name_of_a_column, " * 20),)
    profile = make_profile(
        span=make_span(route="/" + "long" * 40, path="/" + "word" * 100), spans=make_spans(attributes=query)
    )
    with visit(chromium, render_page(profile), tmp_path, viewport={"width": 360, "height": 740}) as seen:
        assert seen.page.evaluate("document.scrollingElement.scrollWidth") <= 360


def test_the_page_can_be_printed(chromium: Browser, tmp_path: Path) -> None:
    """On paper the tree is whole and the controls are gone."""
    with visit(chromium, render_page(make_profile()), tmp_path) as seen:
        seen.page.emulate_media(media="print")
        assert not seen.page.get_by_text("View options").is_visible()
        assert seen.page.get_by_text("[computed, not seen]").last.is_visible()
        assert seen.page.pdf().startswith(b"%PDF")


def test_without_scripts_the_facts_are_there(chromium: Browser, tmp_path: Path) -> None:
    """A reader whose browser runs no scripts sees everything but the tree, and is told why."""
    with visit(chromium, render_page(make_profile()), tmp_path, java_script_enabled=False) as seen:
        text = seen.page.inner_text("body")
    assert "pricing.py:41" in text
    assert "needs JavaScript" in text


def test_in_a_sandbox_the_facts_are_there(chromium: Browser, tmp_path: Path) -> None:
    """Where the page may not use storage, which pyinstrument's view needs, it says that the view failed."""
    outer = f'<iframe sandbox="allow-scripts" srcdoc="{escape(render_page(make_profile()))}"></iframe>'
    with visit(chromium, outer, tmp_path) as seen:
        inner = seen.page.frames[1]
        inner.wait_for_selector("#call-tree-error", state="visible")
        assert "pricing.py:41" in inner.inner_text("body")


def test_a_recursion_of_a_thousand_frames_is_shown(chromium: Browser, tmp_path: Path) -> None:
    """The deepest stack that a profile can have does not break the view."""
    profile = make_profile([(tuple((VIEW._replace(name=f"f{depth}"), 1) for depth in range(1000)), 100 * MS, 0)])
    page = ChildRenderer().render_html(compress_profile(profile)).decode()
    with visit(chromium, page, tmp_path) as seen:
        assert "f999" in seen.page.locator(".call-stack-view").inner_text()
    assert seen.complaints == []
