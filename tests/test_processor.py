"""The processor as a user of the SDK sees it: what is kept, what is written on spans, and that it never harms."""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind

import slowspan
from slowspan.recording import stack_sampler
from support import eventually
from watched import (
    ID,
    SLOW,
    URL,
    Watched,
    compute_here,
    functions,
    in_thread,
    wait_here,
    wait_until_linked,
    watched,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GET = {"http.method": "GET", "http.scheme": "http", "http.host": "shop", "http.target": "/orders/7"}


def test_slow_request_leaves_its_profile(shop: Watched) -> None:
    """A slow request yields one profile, which names the function where its time went."""
    shop.request(wait_here, attributes={**GET, "http.route": "/orders/<id>"})
    profile = shop.profile()
    assert functions(profile)["wait_here"] > 0.2
    assert profile.span.endpoint == "GET /orders/<id>"
    assert profile.duration_ns >= SLOW * 1e9
    assert profile.threshold_ns == 50_000_000
    assert not profile.running


def test_times_add_up_to_the_requests_own(shop: Watched) -> None:
    """The samples' times add up exactly to the span's duration, the time before the first sample included."""
    shop.request(compute_here)
    profile = shop.profile()
    (span,) = shop.exported()
    assert span.end_time - span.start_time == profile.duration_ns
    assert sum(sample.wall_ns for sample in profile.samples) == profile.duration_ns
    before = profile.stack_frames(profile.samples[0].stack)
    assert [frame.name for frame, _ in before] == ["[before the first sample]"]
    assert profile.samples[0].wall_ns > 0


def test_cpu_time_is_the_threads_own(shop: Watched) -> None:
    """The CPU time is what the request's thread computed since its first sample, and nothing of other threads."""
    measured: dict[str, int] = {}

    def measure(name: str, work: Callable[[], None]) -> None:
        before = time.thread_time_ns()
        work()
        measured[name] = time.thread_time_ns() - before

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(compute_here, 0.3)
        shop.request(lambda: measure("waiting", wait_here), name="waiting")
        other.result()
    in_thread(lambda: shop.request(lambda: measure("computing", compute_here), name="computing"))
    profiles = {profile.span.name: profile for profile in shop.profiles()}
    for name, cpu_ns in measured.items():
        assert profiles[name].cpu_time_ns is not None, (name, profiles[name].sample_count, profiles[name].notes)
        unknown_ns = profiles[name].samples[0].wall_ns
        assert cpu_ns - unknown_ns <= profiles[name].cpu_time_ns <= cpu_ns + 30_000_000
        assert sum(sample.cpu_ns for sample in profiles[name].samples) <= profiles[name].cpu_time_ns + 1_000_000
    assert measured["waiting"] < measured["computing"]


def test_fast_request_leaves_nothing() -> None:
    """A request below its threshold has no report and no attribute of ours."""
    with watched(threshold=60) as shop:
        shop.request(lambda: None, attributes=GET)
        assert shop.profiles() == []
        assert shop.attributes() == GET


def test_threshold_of_nothing_reports_everything() -> None:
    """With a threshold of 0 even the shortest request has a report."""
    with watched(threshold=0) as shop:
        shop.request(lambda: None)
        profile = shop.profile()
        assert profile.threshold_ns == 0
        assert sum(sample.wall_ns for sample in profile.samples) == profile.duration_ns
        assert shop.attributes()[ID] == profile.id


def test_attributes_on_the_span(shop: Watched) -> None:
    """The exported span of a slow request has the attributes that the documentation promises."""
    shop.request(wait_here)
    attributes, profile = shop.attributes(), shop.profile()
    assert attributes[ID] == profile.id
    assert attributes["slowspan.threshold"] == pytest.approx(0.05)
    assert attributes["slowspan.samples"] == profile.sample_count > 0
    assert attributes["slowspan.cpu_time"] == pytest.approx(profile.cpu_time_ns / 1e9)
    times = [attributes[f"slowspan.{name}_time"] for name in ("cpu", "waiting", "ready", "unknown")]
    assert sum(times) == pytest.approx(profile.duration_ns / 1e9)
    assert attributes["slowspan.unknown_time"] == pytest.approx(profile.samples[0].wall_ns / 1e9)
    assert 1 <= len(attributes["slowspan.hot_frames"]) <= 5
    assert "watched.py:" in attributes["slowspan.hot_frames"][0]
    assert attributes["slowspan.hot_frames"][0].endswith(" wait_here")
    assert set(attributes) == {
        "slowspan.profile.id",
        "slowspan.threshold",
        "slowspan.samples",
        "slowspan.cpu_time",
        "slowspan.ready_time",
        "slowspan.waiting_time",
        "slowspan.unknown_time",
        "slowspan.hot_frames",
    }


def test_url_on_the_span() -> None:
    """The span of a slow request says where its report can be read, in the form that was set."""
    with watched(report_url="https://reports.example/{id}") as shop:
        shop.request(wait_here)
        assert shop.attributes()[URL] == f"https://reports.example/{shop.profile().id}"


def test_report_file_is_where_the_span_says(tmp_path: Path) -> None:
    """With the file notifier the span's URL is that of the page, and the profile lies beside it."""
    provider = TracerProvider(shutdown_on_exit=False)
    processor = slowspan.SlowSpanProcessor(threshold=0.05, report_dir=tmp_path / "reports", notifiers="file")
    provider.add_span_processor(processor)
    span = provider.get_tracer("test").start_span("GET /", kind=SpanKind.SERVER)
    wait_here()
    span.end()
    url = span.attributes[URL]
    provider.shutdown()
    (page,) = (tmp_path / "reports").glob("*.html")
    assert url == page.as_uri()
    profile = slowspan.load_profile(page.with_suffix(".json.gz"))
    assert profile.id == span.attributes[ID]
    assert functions(profile)["wait_here"] > 0.2


def test_link_is_on_the_span_while_it_runs() -> None:
    """The id and the URL are on the span as soon as it crosses its threshold, and stay the same to the end."""
    with watched(report_url="https://reports.example/{name}") as shop:
        span = shop.start()
        wait_until_linked(span)
        identity, url = span.attributes[ID], span.attributes[URL]
        span.end()
        assert shop.attributes()[ID] == identity == shop.profile().id
        assert shop.attributes()[URL] == url == f"https://reports.example/{shop.profile().name}"


def test_limit_on_reports_per_endpoint_and_hour() -> None:
    """In an outage an endpoint leaves so many reports an hour; the other spans say that they have none, and why."""
    with watched(reports_per_hour=2) as shop:
        for route in ("/orders/<id>", "/orders/<id>", "/orders/<id>", "/basket"):
            shop.request(wait_here, attributes={**GET, "http.route": route})
        assert [profile.span.route for profile in shop.profiles()] == ["/orders/<id>", "/orders/<id>", "/basket"]
        told = [dict(span.attributes or {}).get("slowspan.profile.dropped") for span in shop.exported()]
        assert told == [None, None, "report_limit", None]
        assert shop.processor.status().drops == {"report_limit": 1}
        assert shop.processor.status().slow == 4


def test_facts_of_the_request(shop: Watched) -> None:
    """The profile says which request of which service it was, in which process and thread."""
    provider = TracerProvider(
        resource=Resource({"service.name": "shop", "service.version": "1.4"}), shutdown_on_exit=False
    )
    with watched(provider) as shop:
        shop.request(wait_here, attributes={**GET, "http.target": "/orders/7?page=2&token=abc"})
        profile = shop.profile()
        (span,) = shop.exported()
    assert profile.span.trace_id == format(span.context.trace_id, "032x")
    assert profile.span.span_id == format(span.context.span_id, "016x")
    assert (profile.span.service_name, profile.span.service_version) == ("shop", "1.4")
    assert dict(profile.span.parameters)["page"] == "2"
    assert "abc" not in dict(profile.span.parameters)["token"]
    assert profile.process.thread_name == "MainThread"


@pytest.mark.parametrize(
    "attributes",
    [
        {"http.method": "GET", "http.target": "/a?b=1", "http.status_code": 200, "http.route": "/<x>"},
        {
            "http.request.method": "GET",
            "url.path": "/a",
            "url.query": "b=1",
            "http.response.status_code": 200,
            "http.route": "/<x>",
        },
        {
            "http.method": "GET",
            "http.target": "/a?b=1",
            "http.status_code": 200,
            "http.request.method": "GET",
            "url.path": "/a",
            "url.query": "b=1",
            "http.response.status_code": 200,
            "http.route": "/<x>",
        },
    ],
    ids=["old", "new", "both"],
)
def test_http_conventions(shop: Watched, attributes: dict[str, str]) -> None:
    """Old, new and duplicated HTTP conventions say the same of a request."""
    shop.request(wait_here, attributes=attributes)
    facts = shop.profile().span
    assert (facts.method, facts.route, facts.path, facts.status_code) == ("GET", "/<x>", "/a", 200)
    assert facts.parameters == (("b", "1"),)


def test_only_server_spans_by_default(shop: Watched) -> None:
    """Slow spans of other kinds are left alone, and do not even begin to be watched."""
    for kind in set(SpanKind) - {SpanKind.SERVER}:
        shop.request(lambda: wait_here(0.06), kind=kind)
    assert shop.profiles() == []
    assert shop.processor.status().seen == 0


def test_other_kinds_can_be_selected() -> None:
    """With the setting, spans of other kinds have profiles, and server spans have not."""
    with watched(span_kinds="CONSUMER, INTERNAL") as shop:
        for kind in (SpanKind.CONSUMER, SpanKind.INTERNAL, SpanKind.SERVER):
            shop.request(wait_here, name=kind.name, kind=kind)
        assert [profile.span.kind for profile in shop.profiles()] == ["CONSUMER", "INTERNAL"]


def test_excluded_url_leaves_nothing() -> None:
    """A slow request to an excluded URL has no report and no attribute."""
    with watched(excluded_urls="/health, /orders/.*$") as shop:
        shop.request(wait_here, attributes=GET)
        assert shop.profiles() == []
        assert shop.attributes() == GET
        assert shop.processor.status().recorded == 0


def test_included_urls_only() -> None:
    """With included URLs no other request has a report."""
    with watched(included_urls="/orders/") as shop:
        shop.request(wait_here, attributes=GET)
        shop.request(wait_here, attributes={**GET, "http.target": "/front"})
        assert shop.profile().span.path == "/orders/7"


def test_attribute_known_at_the_end_only() -> None:
    """A filter on the status code holds, although that attribute arrives when the request has long been late."""
    with watched(excluded_attributes="http.status_code=404") as shop:
        for status in (404, 200):
            span = shop.start(attributes=GET)
            wait_here()
            span.set_attribute("http.status_code", status)
            span.end()
        assert shop.profile().span.status_code == 200


def test_an_included_attribute_may_come_late() -> None:
    """What is to be there need not be there when the request becomes late: it is asked for again until the end."""
    with watched(included_attributes="tenant=^acme$, http.status_code=^5") as shop:
        for name, value in (
            ("tenant", "globex"),
            ("tenant", "acme"),
            ("http.status_code", 200),
            ("http.status_code", 503),
        ):
            span = shop.start(attributes=GET)
            wait_here()
            assert ID not in span.attributes
            span.set_attribute(name, value)
            span.end()
        assert [profile.span.status_code for profile in shop.profiles()] == [None, 503]
        linked = [ID in (span.attributes or {}) for span in shop.exported()]
        assert linked == [False, True, False, True]


def test_the_url_may_come_late() -> None:
    """A request whose URL is not known when it becomes late is sampled, and included or left out once it is."""
    with watched(included_urls="/orders/") as shop:
        for route in ("orders/<int:number>", "front", None):
            span = shop.start()
            wait_here()
            if route is not None:
                span.set_attribute("http.route", route)
            span.end()
        assert functions(shop.profile())["wait_here"] > 0.2
        assert shop.profile().span.path == "/orders/<int:number>"
        assert [ID in (span.attributes or {}) for span in shop.exported()] == [True, False, False]


def test_an_address_that_leads_nowhere_is_marked() -> None:
    """A request that only its end leaves out has been linked already: its span says that there is no report."""
    with watched(excluded_attributes="http.status_code=404") as shop:
        span = shop.start(attributes=GET)
        wait_until_linked(span)
        span.set_attribute("http.status_code", 404)
        span.end()
        assert shop.profiles() == []
        assert shop.attributes()["slowspan.profile.dropped"] == "not_selected"


def test_websocket_is_left_out(shop: Watched) -> None:
    """A websocket's one long span is not a slow request, by its scheme or by its status."""
    shop.request(wait_here, attributes={**GET, "http.scheme": "ws"})
    shop.request(wait_here, attributes={"url.scheme": "wss", "url.path": "/chat"})
    span = shop.start(attributes=GET)
    wait_here()
    span.set_attribute("http.status_code", 101)
    span.end()
    assert shop.profiles() == []


@pytest.mark.parametrize("settings", [{}, {"thresholds": "17=0.05, .*=20"}], ids=["one threshold", "by name"])
def test_a_name_that_is_no_text(settings: dict[str, Any]) -> None:
    """The SDK takes any object as a name, such as a lazy text: it stands for what it reads."""
    with watched(**settings) as shop:
        shop.request(wait_here, name=17)  # type: ignore[arg-type]
        assert shop.profile().span.endpoint == "17"
        assert shop.attributes()[ID] == shop.profile().id
        assert shop.processor.status().drops == {}


def test_threshold_per_route() -> None:
    """The route decides about the threshold; the first pattern that matches wins."""
    with watched(threshold=5, thresholds="/reports/.*=10, /orders/.*=0.05, .*=20") as shop:
        shop.request(wait_here, attributes={"http.route": "/orders/<id>"})
        shop.request(wait_here, attributes={"http.route": "/reports/<id>"})
        assert shop.profile().span.route == "/orders/<id>"
        assert shop.profile().threshold_ns == 50_000_000


def test_route_known_at_the_end_only() -> None:
    """The threshold of a route holds also where the framework tells the route at the end of the request."""
    with watched(threshold=5, thresholds="/orders/.*=0.05") as shop:
        span = shop.start(attributes={"http.method": "GET"})
        wait_here()
        span.set_attribute("http.route", "/orders/<id>")
        span.end()
        assert shop.profile().threshold_ns == 50_000_000


def test_the_spans_own_timestamps_decide(shop: Watched) -> None:
    """A span with given times is slow or fast by those, however long it really took."""
    now = time.time_ns()
    slow = shop.start("slow by its timestamps", start_time=now - 2_000_000_000)
    slow.end(end_time=now)
    fast = shop.start("fast by its timestamps")
    wait_here()
    fast.end(end_time=fast.start_time + 1_000_000)
    profile = shop.profile()
    assert profile.span.name == "slow by its timestamps"
    assert profile.duration_ns == 2_000_000_000


def test_ours_does_not_lengthen_the_span(shop: Watched) -> None:
    """The span's end is the moment at which ``end`` was called, not the moment at which our work was done."""

    class Slow(dict):
        def get(self, *args: object) -> object:
            time.sleep(0.05)
            return super().get(*args)

    span = shop.start()
    wait_here()
    span._attributes = Slow(span._attributes)
    before = time.time_ns()
    span.end()
    assert before <= span.end_time < before + 40_000_000


def test_unsampled_span_is_left_alone() -> None:
    """A span that head sampling drops makes no work and no error."""
    with watched(TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)) as shop:
        shop.request(wait_here)
        assert shop.profiles() == []
        assert shop.processor.status().seen == 0


def test_exception_of_the_request_passes_unchanged(shop: Watched) -> None:
    """An exception of the application reaches its caller as it was, and the slow request still has its profile."""
    tracer = shop.provider.get_tracer("test")

    def fail() -> None:
        with tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
            wait_here()
            raise KeyError("the application's own")

    with pytest.raises(KeyError, match="the application's own"):
        fail()
    assert shop.profile().span.error
    assert shop.exported()[0].status.status_code is trace.StatusCode.ERROR


def test_response_of_a_flask_application_is_untouched(shop: Watched) -> None:
    """A slow Flask response has the same bytes and headers with slowspan as without."""
    flask = pytest.importorskip("flask")
    instrumentation = pytest.importorskip("opentelemetry.instrumentation.flask")

    def answer(provider: TracerProvider) -> tuple[bytes, list[tuple[str, str]], int]:
        app = flask.Flask("shop")

        @app.get("/orders/<int:number>")
        def order(number: int) -> tuple[str, int, dict[str, str]]:
            wait_here()
            return f"order {number}", 201, {"X-Order": str(number)}

        instrumentation.FlaskInstrumentor().instrument_app(app, tracer_provider=provider)
        response = app.test_client().get("/orders/7?secret=abc")
        instrumentation.FlaskInstrumentor().uninstrument_app(app)
        return response.data, list(response.headers), response.status_code

    assert answer(shop.provider) == answer(TracerProvider(shutdown_on_exit=False))
    profile = shop.profile()
    assert profile.span.route == "/orders/<int:number>"
    assert profile.span.status_code == 201
    assert functions(profile)["order"] > 0.2


class Broken:
    """Stands for any part of ours that fails whenever it is touched."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(f"broken on purpose: {name}")


@pytest.mark.parametrize("part", ["_sampler", "_judge", "_judge._delivery", "_judge._selection", "_judge._trigger"])
def test_broken_part_never_reaches_the_request(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever part of ours fails, the request runs, its span ends and is exported, and nothing is raised."""
    with watched() as shop:
        with monkeypatch.context() as patch:
            *path, name = part.split(".")
            patch.setattr(functools.reduce(getattr, path, shop.processor._watcher), name, Broken())
            span = shop.start(attributes=GET)
            wait_here()
            span.end()
            shop.provider.force_flush()
        assert len(shop.exported()) == 1
        assert span.end_time - span.start_time < 10e9
        # The next request is well again.
        shop.request(wait_here, name="next", attributes=GET)
        assert "next" in {profile.span.name for profile in shop.profiles()}


def test_error_of_ours_is_counted(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """An error of our own is a drop with a reason, and one line in the log names it."""
    with watched() as shop:
        with monkeypatch.context() as patch:
            patch.setattr(shop.processor._watcher._judge, "_trigger", Broken())
            shop.request(wait_here)
        assert shop.processor.status().drops["internal_error"] >= 1
    assert any("broken on purpose" in record.getMessage() for record in caplog.records)


def test_interrupt_is_not_swallowed(shop: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no Exception, such as Ctrl-C, goes through our code, and the span still ends."""

    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    span = shop.start()
    wait_here()
    monkeypatch.setattr(shop.processor._watcher._judge, "finish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        span.end()
    assert span.end_time is not None


def test_broken_notifier_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    """A notifier that raises costs its report only: counted by its reason, nothing raised."""

    class Failing:
        receives = "reports"

        def notify(self, report: object) -> None:
            raise OSError("no such channel")

        def force_flush(self, timeout_millis: int = 30000) -> bool:
            return True

        def shutdown(self) -> None:
            pass

    with watched() as shop:
        good = shop.processor.notifier
        shop.processor._delivery._load = lambda: [("bad", Failing()), ("good", good)]
        shop.request(wait_here)
        assert len(shop.profiles()) == 1
        assert shop.processor.status().drops == {"notifier_failed": 1}


def test_next_processors_see_the_span(shop: Watched) -> None:
    """Processors that were added after ours get every callback, and flushing reaches them."""
    calls = []

    class Other(SpanProcessor):
        def on_start(self, span: object, parent_context: object = None) -> None:
            calls.append("start")

        def on_end(self, span: object) -> None:
            calls.append("end")

        def force_flush(self, timeout_millis: int = 30000) -> bool:
            calls.append("flush")
            return True

    shop.provider.add_span_processor(Other())
    shop.request(wait_here)
    assert shop.provider.force_flush()
    assert calls == ["start", "end", "flush"]


def test_disable_and_enable() -> None:
    """Disabled at run time nothing is recorded, and after enabling it goes on."""
    with watched() as shop:
        slowspan.disable()
        shop.request(wait_here, name="disabled")
        assert not slowspan.status().enabled
        slowspan.enable()
        assert slowspan.status().enabled
        shop.request(wait_here, name="enabled")
        assert shop.profile().span.name == "enabled"
        assert shop.processor.status().seen == 1


def test_disable_forgets_running_requests() -> None:
    """A request that runs while slowspan is disabled is forgotten, even if it is enabled again before the end."""
    with watched(hung_after=0.1) as shop:
        span = shop.start()
        wait_until_linked(span)
        slowspan.disable()
        reports = len(shop.profiles())
        eventually(lambda: stack_sampler.live_recordings() == 0)
        slowspan.enable()
        wait_here(0.3)
        span.end()
        assert len(shop.profiles()) == reports
        assert shop.processor.status().slow == 0


def test_disabled_from_the_start() -> None:
    """With ``enabled`` false nothing is watched until somebody enables it."""
    with watched(enabled=False) as shop:
        shop.request(wait_here, name="before")
        slowspan.enable()
        shop.request(wait_here, name="after")
        assert shop.profile().span.name == "after"


def test_shutdown_delivers_what_waits() -> None:
    """A report that has not been delivered at the provider's shutdown is delivered by it."""
    with watched() as shop:
        shop.request(wait_here)
        shop.provider.shutdown()
        assert len(shop.processor.notifier.reports) == 1


def test_shutdown_ends_it(shop: Watched) -> None:
    """After shutdown nothing is watched, enabling has no effect, and a running span ends as usual."""
    span = shop.start()
    wait_until_linked(span)
    shop.provider.shutdown()
    slowspan.enable()
    span.end()
    assert span.end_time is not None
    assert "end" not in vars(span)
    shop.request(wait_here)
    assert not shop.processor.status().enabled
    assert shop.profiles() == []
    assert shop.processor.status().drops == {}


def test_shutdown_is_limited_in_time() -> None:
    """A notifier that hangs holds the shutdown up for ``flush_timeout`` only, and its report is counted as lost."""
    begun, released = threading.Event(), threading.Event()

    def hang(report: object) -> None:
        begun.set()
        released.wait(60)

    with watched(flush_timeout=0.2) as shop:
        shop.processor.notifier.notify = hang
        shop.request(wait_here)
        assert begun.wait(30)
        started = time.monotonic()
        shop.provider.shutdown()
        assert time.monotonic() - started < 30
        assert shop.processor.status().drops["shutdown"] == 1
        released.set()


def test_a_new_provider_after_shutdown() -> None:
    """After one provider's shutdown the next one's requests are sampled as if there had been none."""
    for _ in range(2):
        with watched() as shop:
            shop.request(wait_here)
            assert functions(shop.profile())["wait_here"] > 0.2


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_exit_of_the_interpreter_delivers(tmp_path: Path) -> None:
    """A slow request just before the interpreter's exit still has its report, without any shutdown call."""
    result = run(
        """
        import time, slowspan
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.trace import SpanKind

        provider = TracerProvider()
        provider.add_span_processor(slowspan.SlowSpanProcessor(threshold=0.05))
        with provider.get_tracer("test").start_as_current_span("GET /", kind=SpanKind.SERVER):
            time.sleep(0.15)
        """,
        OTEL_PYTHON_SLOWSPAN_REPORT_DIR=str(tmp_path / "reports"),
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert len(list(tmp_path.glob("reports/*.json.gz"))) == 1
    assert len(list(tmp_path.glob("reports/*.html"))) == 1


def test_exit_in_the_middle_of_a_request(tmp_path: Path) -> None:
    """An interpreter that exits while requests are being sampled ends at once, quietly and with its own status."""
    result = run(
        """
        import sys, threading, time, slowspan
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.trace import SpanKind

        provider = TracerProvider()
        provider.add_span_processor(slowspan.SlowSpanProcessor(threshold=0.05))

        def request():
            with provider.get_tracer("test").start_as_current_span("GET /", kind=SpanKind.SERVER):
                time.sleep(60)

        for _ in range(3):
            threading.Thread(target=request, daemon=True).start()
        time.sleep(0.3)
        sys.exit(7)
        """,
        OTEL_PYTHON_SLOWSPAN_REPORT_DIR=str(tmp_path / "reports"),
    )
    assert result.returncode == 7
    assert result.stderr == ""


def test_wrong_setting_in_code_raises() -> None:
    """A wrong or unknown setting in code raises at set-up, with its name, value and what is allowed."""
    with pytest.raises(slowspan.ConfigError, match=r"threshold = -1 .*allowed"):
        slowspan.SlowSpanProcessor(threshold=-1)
    with pytest.raises(slowspan.ConfigError, match=r"treshold .*unknown.*threshold"):
        slowspan.SlowSpanProcessor(treshold=1)


def test_logs_nothing_about_fast_requests(shop: Watched, caplog: pytest.LogCaptureFixture) -> None:
    """Watching fast requests writes no log line at any level."""
    caplog.set_level(logging.DEBUG)
    for _ in range(50):
        shop.request(lambda: None)
    assert [record for record in caplog.records if record.name.startswith("slowspan")] == []
