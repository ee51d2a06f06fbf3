"""The spans inside a request: which are kept, for how long, and what becomes of them in its profile."""

from __future__ import annotations

import gc
import json
import os
import random
import threading
import time
from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.trace import SpanContext, SpanKind, StatusCode

from profiles import MS, SECOND, STEM, TOTAL, make_profile, make_spans, make_tables
from slowspan.judge import _freeze
from slowspan.recording import child_spans
from slowspan.recording.carriers import this_thread
from slowspan.recording.profile import ChildSpan, Profile, ProfileFormatError, Sample, read_profile
from slowspan.recording.span_groups import explained_ns
from slowspan.recording.span_tree import carry_spans
from support import eventually
from watched import SLOW, Watched, in_thread, wait_here, watched

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def site(stood_in_for: None) -> Iterator[Watched]:
    with watched() as one:
        yield one


@pytest.fixture
def apart_site() -> Iterator[Watched]:
    """Watch a provider on which each request is known by itself."""
    with watched() as one:
        yield one


@pytest.fixture
def young_site() -> Iterator[Watched]:
    """Watch a provider on which no request becomes late by itself."""
    with watched(threshold=600, start_after=60) as one:
        yield one


def inside(parent: Span) -> Context:
    return trace.set_span_in_context(parent, Context())


def child(site: Watched, parent: Span, name: str = "SELECT", **options: object) -> Span:
    """Start a span inside another one."""
    span = site.provider.get_tracer("test").start_span(name, inside(parent), **options)  # type: ignore[arg-type]
    assert isinstance(span, Span)
    return span


def kept(site: Watched) -> int:
    """Return the number of traces of which ended spans would be kept."""
    children = site.processor._watcher.children
    return len({span.context.trace_id for span, *_ in children.young.values()} | children.running.keys())


def names(profile: Profile) -> dict[str, str]:
    """Return the name of each span's parent, "" for the request's."""
    return {span.name: profile.spans[span.parent].name if span.parent >= 0 else "" for span in profile.spans}


def test_the_spans_inside_are_in_the_profile_as_a_tree(site: Watched) -> None:
    """Names, kinds, times, status and parents are those of the spans; a parent comes before its children."""
    request = site.start()
    template = child(site, request, "render")
    query = child(site, template, "SELECT", kind=SpanKind.CLIENT, attributes={"db.system": "sqlite"})
    wait_here()
    query.set_status(StatusCode.ERROR, "the password is wrong")
    query.end()
    template.end()
    request.end()
    profile = site.profile()
    assert names(profile) == {"render": "", "SELECT": "render"}
    select = profile.spans[1]
    assert (select.kind, select.status, select.attributes) == ("CLIENT", "ERROR", (("db.system.name", "sqlite"),))
    assert request.start_time is not None
    assert select.start_ns == (query.start_time or 0) - request.start_time
    assert select.duration_ns == (query.end_time or 0) - (query.start_time or 0)
    assert "password" not in "".join(profile.json_slices())


def test_names_keep_no_secret(site: Watched) -> None:
    """A URL in the name of any span, the request's own too, is redacted in the profile and in the report's name."""
    request = site.start("GET http://shop.example/x?token=s3cret")
    child(site, request, "GET http://api.example/x?token=s3cret").end()
    child(site, request, "SELECT 's3cret' WHERE a = ?", attributes={"db.statement": "SELECT 's3cret'"}).end()
    wait_here()
    request.end()
    profile = site.profile()
    assert names(profile) == {"GET http://api.example/x?token=[redacted]": "", "SELECT ? WHERE a = ?": ""}
    assert "s3cret" not in "".join(profile.json_slices())


def test_samples_carry_the_innermost_span_that_was_open(site: Watched) -> None:
    """What was sampled while a query ran belongs to the query, what came before to its parent."""

    def before_the_query() -> None:
        wait_here()

    def in_the_query() -> None:
        wait_here()

    request = site.start()
    outer = child(site, request, "outer")
    before_the_query()
    query = child(site, outer, "query")
    in_the_query()
    query.end()
    outer.end()
    request.end()
    profile = site.profile()
    seen = {"before_the_query": set(), "in_the_query": set()}
    for sample in profile.samples:
        functions = {frame.name for frame, _ in profile.stack_frames(sample.stack)}
        for function in functions & seen.keys():
            seen[function].add(profile.spans[sample.span].name if sample.span >= 0 else "")
    assert seen["before_the_query"] == {"outer"}
    assert "query" in seen["in_the_query"]


def test_a_fast_request_leaves_nothing() -> None:
    """Whether it had spans inside or not: at its end all is forgotten."""
    with watched(threshold=60) as site:
        site.request(lambda: None)
        request = site.start()
        child(site, request).end()
        assert kept(site) == 1
        request.end()
        assert kept(site) == 0
        assert site.profiles() == []


def test_spans_of_no_watched_request_are_not_kept(site: Watched) -> None:
    """A background job's spans cost one look and no memory."""
    job = site.start("job", kind=SpanKind.INTERNAL)
    child(site, job).end()
    job.end()
    assert kept(site) == 0


def test_spans_that_end_on_other_threads_are_kept(site: Watched) -> None:
    """The request's own thread need not end them."""
    request = site.start()
    in_thread(lambda: child(site, request, "elsewhere").end())
    wait_here()
    request.end()
    assert names(site.profile()) == {"elsewhere": ""}


def test_what_ends_after_the_request_is_ignored(site: Watched) -> None:
    """A span that outlives its request is neither in the profile nor kept; those inside it are the request's."""
    request = site.start()
    late = child(site, request, "late")
    child(site, late, "inside").end()
    wait_here()
    request.end()
    late.end()
    assert names(site.profile()) == {"inside": ""}
    assert kept(site) == 0


def test_nested_watched_spans_get_their_own_descendants(site: Watched) -> None:
    """The outer request has everything, the inner one what is inside it."""
    outer = site.start("outer")
    child(site, outer, "first").end()
    inner = site.start("inner", context=inside(outer))
    query = child(site, inner, "query")
    wait_here()
    query.end()
    inner.end()
    assert kept(site) == 1
    outer.end()
    profiles = {profile.span.name: names(profile) for profile in site.profiles()}
    assert profiles["inner"] == {"query": ""}
    assert profiles["outer"] == {"first": "", "inner": "", "query": "inner"}
    assert kept(site) == 0


def test_requests_of_one_trace_do_not_mix(site: Watched) -> None:
    """Two requests of the same page view run at once, in one process: each has its own spans."""
    caller = trace.SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=trace.TraceFlags(1))
    context = trace.set_span_in_context(trace.NonRecordingSpan(caller), Context())
    one, other = site.start("one", context=context), site.start("other", context=context)
    child(site, one, "in one").end()
    child(site, other, "in other").end()
    unended = child(site, other, "unended")
    child(site, unended, "lost").end()
    wait_here()
    one.end()
    other.end()
    profiles = {profile.span.name: names(profile) for profile in site.profiles()}
    assert profiles == {"one": {"in one": ""}, "other": {"in other": ""}}
    assert kept(site) == 0


def test_the_number_of_spans_is_bounded(site: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more spans than are kept the newest stay, so that parents are there, and the others are counted."""
    monkeypatch.setattr(child_spans, "MAX_SPANS", 3)
    request = site.start()
    parent = child(site, request, "parent")
    for number in range(6):
        child(site, parent, f"query {number}").end()
    parent.end()
    wait_here()
    request.end()
    profile = site.profile()
    assert names(profile) == {"parent": "", "query 4": "parent", "query 5": "parent"}
    assert profile.spans_left_out == 4


def test_the_spans_of_all_requests_are_bounded(apart_site: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where requests with many spans pile up, memory does not; what they held is free again at their end."""
    site = apart_site
    monkeypatch.setattr(child_spans, "MAX_SPANS_IN_ALL", 4)
    one, other = site.start("one"), site.start("other")
    for _ in range(4):
        child(site, one, "in one").end()
    child(site, other, "in other").end()
    children = site.processor._watcher.children
    found = children.ended(other)
    assert found is None
    one.end()
    child(site, other, "in other").end()
    found = children.ended(other)
    assert found is not None
    assert (len(found.spans), found.left_out) == (1, 1)
    other.end()
    assert children._count == 0


def test_the_bound_holds_for_requests_that_become_late(young_site: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has ended inside them while they were young is counted then; the newest stay."""
    monkeypatch.setattr(child_spans, "MAX_SPANS_IN_ALL", 4)
    watcher = young_site.processor._watcher
    requests = [young_site.start(name) for name in ("one", "other", "last")]
    for request in requests:
        for number in range(3):
            child(young_site, request, str(number)).end()
    for key, young in list(watcher.young.items()):
        watcher._spans.move_on(key, young)
    found = [watcher.children.ended(request) for request in requests]
    assert [[span.name for span in one.spans] if one else [] for one in found] == [["0", "1", "2"], ["2"], []]
    assert found[1].left_out == 2
    assert watcher.children._count == 4
    for request in requests:
        request.end()
    assert watcher.children._count == 0


def test_a_request_that_is_thrown_away_leaves_nothing(site: Watched) -> None:
    """A span that nobody ends, and nobody has any more, takes what was kept with it."""
    request = site.start()
    child(site, request).end()
    eventually(lambda: not site.processor._watcher.young)
    del request

    def is_forgotten() -> bool:
        gc.collect()
        return kept(site) == 0

    eventually(is_forgotten)


@pytest.mark.parametrize("method", ["disable", "shutdown"])
def test_switching_off_forgets_all(site: Watched, method: str) -> None:
    """After disable and shutdown nothing is kept of the requests that run, nor when they end."""
    request = site.start()
    child(site, request).end()
    getattr(site.processor, method)()
    assert kept(site) == 0
    child(site, request).end()
    request.end()
    assert kept(site) == 0


def test_a_forked_child_keeps_nothing(site: Watched) -> None:
    """The requests that run go on in the parent; the child begins with nothing."""
    request = site.start()
    child(site, request).end()
    pid = os.fork()
    if pid == 0:
        os._exit(kept(site))
    assert os.waitpid(pid, 0)[1] == 0
    assert kept(site) == 1
    request.end()


def test_an_excluded_request_keeps_nothing_once_it_is_late() -> None:
    """A page that is not watched may run for hours without collecting spans."""
    with watched(excluded_urls="health") as site:
        request = site.start(attributes={"http.target": "/health", "http.scheme": "http"})
        child(site, request).end()
        eventually(lambda: kept(site) == 0)
        child(site, request).end()
        assert kept(site) == 0
        request.end()


def test_a_processor_that_was_added_twice_keeps_each_span_once(site: Watched) -> None:
    """The profile does not say that each query ran twice."""
    site.provider.add_span_processor(site.processor)
    request = site.start()
    child(site, request).end()
    wait_here()
    request.end()
    assert len(site.profile().spans) == 1


def test_an_error_here_does_not_reach_the_application(site: Watched) -> None:
    """A span that cannot be read is counted, and its end returns."""
    site.processor.on_end(object())  # type: ignore[arg-type]
    assert site.processor.status().drops == {"internal_error": 1}


def test_threads_may_end_spans_all_at_once(site: Watched) -> None:
    """Nothing is lost or counted twice when eight threads end spans of one request."""
    request = site.start()

    def end_some() -> None:
        for _ in range(100):
            child(site, request).end()

    threads = [threading.Thread(target=end_some) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = site.processor._watcher.children.ended(request)
    assert found is not None
    assert len(found.spans) + found.left_out == 800
    request.end()
    assert site.processor._watcher.children._count == 0


def test_a_nested_request_does_not_delay_the_outer_one() -> None:
    """The oldest stays first among the young, where the sampler begins to look."""
    with watched(start_after=60, threshold=60) as site:
        outer, other = site.start("outer"), site.start("other")
        nested = site.start("nested", context=inside(outer))
        young = [span.name for span, *_ in site.processor._watcher.young.values()]
        assert young == ["outer", "other", "nested"]
        for span in (nested, other, outer):
            span.end()
        assert kept(site) == 0


def test_the_end_of_an_excluded_request_leaves_those_of_its_trace_alone() -> None:
    """It went by the trace's id once; what goes by it now keeps its profile, and its spans."""
    with watched(excluded_urls="/long", start_after=0) as site:
        outer = site.start("outer", attributes={"http.target": "/long", "http.scheme": "http", "http.host": "shop"})
        eventually(lambda: kept(site) == 0)
        nested = site.start("nested", context=inside(outer))
        outer.end()
        child(site, nested).end()
        wait_here()
        nested.end()
        assert names(site.profile()) == {"SELECT": ""}
        assert kept(site) == 0


def test_an_error_at_the_end_does_not_reach_the_application(
    apart_site: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The span ends, whatever happens here."""
    site = apart_site
    with monkeypatch.context() as patch:
        patch.setattr(site.processor._watcher.children, "close", lambda _context: 1 / 0)
        request = site.start()
        child(site, request).end()
        request.end()
    # From here on it is as ever: a recording, if the request has become late, goes with its span.
    assert request.end_time is not None
    assert site.processor.status().drops == {"internal_error": 1}


def test_a_watched_span_that_begins_while_another_one_closes(young_site: Watched) -> None:
    """It keeps the trace, although the other one has not looked for what it leaves yet."""
    site = young_site
    children = site.processor._watcher.children
    first, second = site.start("first"), site.start("elsewhere", kind=SpanKind.INTERNAL)
    child(site, first).end()
    young = children.young.pop(first.context.trace_id)  # Its end has come so far ...
    context = SpanContext(first.context.trace_id, second.context.span_id, is_remote=False)
    children.running.setdefault(first.context.trace_id, context)  # ... when the other one begins ...
    children.close(young[0].context)  # ... and only now it goes on.
    assert children.running == {first.context.trace_id: context}
    children.close(context)
    assert children.running == children.traces == {}
    first.end()
    second.end()


def test_a_request_that_becomes_late_while_another_one_begins(young_site: Watched) -> None:
    """Both keep what ends in their trace."""
    site = young_site
    children = site.processor._watcher.children
    first, second = site.start("first"), site.start("elsewhere", kind=SpanKind.INTERNAL)
    context = SpanContext(first.context.trace_id, second.context.span_id, is_remote=False)
    children.running.setdefault(first.context.trace_id, context)
    children.open(first.context)
    child(site, first).end()
    found = children.ended(first)
    assert found is not None
    assert len(found.spans) == 1
    first.end()
    assert children.running == {first.context.trace_id: context}
    children.close(context)
    assert children.running == children.traces == {}
    second.end()


def test_requests_of_one_trace_come_and_go_on_many_threads() -> None:
    """Whoever is first in the trace, late, fast or at its end: nothing is left behind, and nobody is missed."""
    with watched(threshold=SLOW, start_after=0.002) as site:
        root = site.start("root", kind=SpanKind.INTERNAL)

        def come_and_go(number: int) -> None:
            chance = random.Random(number)
            for round_ in range(40):
                request = site.start(f"{number}/{round_}", context=inside(root))
                end = request.end
                child(site, request).end()
                time.sleep(chance.choice((0, 0, 0.001, 0.002, 0.003)))
                child(site, request).end()
                end()
                if round_ == 20:
                    late = site.start("slow", context=inside(root))
                    child(site, late, f"of {number}").end()
                    time.sleep(SLOW)
                    late.end()

        threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        root.end()
        told = [profile for profile in site.profiles() if profile.span.name == "slow"]
        assert sorted(span.name for profile in told for span in profile.spans) == [
            f"of {number}" for number in range(4)
        ]
        children = site.processor._watcher.children

        def nothing_is_left() -> bool:
            gc.collect()
            return not (
                children.young or children.running or children.traces or site.processor._watcher._spans.recordings
            )

        eventually(nothing_is_left)
        assert children._count == 0


def test_a_request_without_spans_inside_costs_next_to_nothing(young_site: Watched) -> None:
    """Nothing is made for it: the entry that every request has will do, and its end removes that."""
    request = young_site.start()
    children = young_site.processor._watcher.children
    assert children.young.keys() == {request.context.trace_id}
    assert children.running == children.traces == {}
    request.end()
    assert children.young == {}


def test_a_partial_profile_has_the_spans_so_far() -> None:
    """What has ended while the request still runs is told before its end."""
    with watched(hung_after=SLOW) as site:
        request = site.start()
        child(site, request, "first").end()
        profiles = eventually(lambda: site.profiles())
        assert profiles[0].running
        assert names(profiles[0]) == {"first": ""}
        child(site, request, "second").end()
        request.end()
        assert names(site.profiles()[-1]) == {"first": "", "second": ""}


def test_unsampled_requests_have_no_spans_inside() -> None:
    """A trace that is not sampled has no children; the profile is made all the same."""
    from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult

    class RecordOnly(Sampler):
        def should_sample(self, *args: object, **options: object) -> SamplingResult:
            kind = options.get("kind", args[3] if len(args) > 3 else None)
            return SamplingResult(Decision.RECORD_ONLY if kind is SpanKind.SERVER else Decision.DROP)

        def get_description(self) -> str:
            return "RecordOnly"

    with watched(TracerProvider(shutdown_on_exit=False, sampler=RecordOnly())) as site:
        request = site.start()
        site.provider.get_tracer("test").start_span("dropped", inside(request)).end()
        wait_here()
        request.end()
        assert site.profile().spans == ()


# -- What the tree says.


def spans(*times: tuple[int, int, int]) -> tuple[ChildSpan, ...]:
    """Return spans of parent, start and duration in milliseconds."""
    return tuple(ChildSpan(parent, "x", "CLIENT", at * MS, ms * MS, "UNSET", ()) for parent, at, ms in times)


@pytest.mark.parametrize(
    ("tree", "explained"),
    [
        ((), 0),
        (((-1, 100, 50),), 50),
        (((-1, 100, 50), (-1, 120, 50)), 70),
        (((-1, 100, 100), (-1, 120, 20), (-1, 190, 30)), 120),
        (((-1, 100, 50), (0, 110, 20)), 50),
        (((-1, 100, 50), (0, 120, 300)), 320),
        (((-1, -50, 100), (-1, 900, 200)), 150),
    ],
)
def test_the_share_that_no_span_explains(tree: tuple[tuple[int, int, int], ...], explained: int) -> None:
    """Overlaps count once, and only as far as they are inside the request; a child may outlive its parent."""
    profile = make_profile([(((TOTAL, 1),), SECOND, 0)], spans=spans(*tree))
    assert explained_ns(profile) == explained * MS


def test_of_concurrent_spans_the_one_around_them_carries() -> None:
    """Of two queries at once nothing tells whose stack a sample shows: it is given to neither, but to their parent."""
    tables = make_tables([((*STEM, (TOTAL, 1)), 100 * MS, 0)] * 6)
    samples: tuple[Sample, ...] = tables.pop("samples")
    tree = spans((-1, 150, 400), (-1, 250, 100), (-1, 350, 1))
    carrying = carry_spans(samples, tree, **tables)
    assert [sample.span for sample in carrying] == [-1, 0, -1, 0, 0, -1]
    tree = spans((-1, 50, 600), (0, 150, 400), (0, 250, 100), (2, 260, 50))
    carrying = carry_spans(samples, tree, **tables)
    assert [sample.span for sample in carrying] == [0, 1, 0, 1, 1, 0]
    assert carry_spans(samples, (), **tables) == samples


def test_time_that_no_sample_saw_is_in_no_span() -> None:
    """Synthetic entries are not carried: their place in time is not known."""
    profile = make_profile()
    tree = spans((-1, 0, 5000))
    carrying = carry_spans(profile.samples, tree, profile.frames, profile.locations, profile.stacks)
    assert carrying[0].span == carrying[-1].span == -1
    assert carrying[1].span == 0


def test_the_tree_survives_being_stored() -> None:
    """Spans and samples that carry them are read as they were written."""
    profile = make_profile(spans=make_spans(), spans_left_out=7)
    assert read_profile("".join(profile.json_slices(rows=3)).encode()) == profile


@pytest.mark.parametrize("parent", [0, 1, -2])
def test_a_tree_that_is_none_is_refused(parent: int) -> None:
    """A span that is its own parent, or has one that is not there, would be followed for ever."""
    document = json.loads("".join(make_profile(spans=make_spans()[:1]).json_slices()))
    document["spans"][0][0] = parent
    with pytest.raises(ProfileFormatError, match="parent"):
        Profile.from_dict(document)


def test_a_sample_in_a_span_that_is_not_there_is_refused() -> None:
    """The index of a sample's span is checked when a profile is read."""
    profile = make_profile(spans=make_spans())
    document = json.loads("".join(profile.json_slices()))
    document["samples"][0][-1] = len(profile.spans)
    with pytest.raises(ProfileFormatError, match="without a span"):
        Profile.from_dict(document)


def test_reading_many_spans_lets_other_threads_run(site: Watched) -> None:
    """The delivery thread can pause after each span, however many there are."""
    from slowspan.recording.span_tree import read_tree
    from slowspan.redaction import secret_names

    request = site.start()
    for number in range(100):
        child(site, request, attributes={"db.statement": f"SELECT {number}"}).end()
    time.sleep(0.06)
    watcher = site.processor._watcher
    recording = watcher._spans.record(request, this_thread())
    finished = _freeze(recording, request, SECOND, None, site.processor._watcher.children.ended(request))
    pauses: list[None] = []
    tree = read_tree(finished, secret_names(()), pause=lambda: pauses.append(None))
    assert len(tree.spans) == 100
    assert len(pauses) == 100
    request.end()
