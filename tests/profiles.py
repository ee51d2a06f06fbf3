"""Sample profiles for the tests: small, realistic, and the same on every machine."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from slowspan.recording.profile import ChildSpan, Frame, Location, ProcessFacts, Profile, Sample, SpanFacts, Stack
from slowspan.recording.stacks import ROOT
from slowspan.recording.synthetic import BEFORE_FIRST_SAMPLE, COMPUTED_NOT_SEEN

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Record = tuple[Sequence[tuple[Frame, int]], int, int]
    """A stack as pairs of frame and line (root first), wall and CPU time in nanoseconds."""

MS = 1_000_000
SECOND = 1_000_000_000
APPLICATION = "/srv/shop"
LIBRARIES = "/srv/venv/lib/python3.11/site-packages"

BOOTSTRAP = Frame("_bootstrap", "/usr/lib/python3.11/threading.py", 979, "Thread", False)
WORKER = Frame("handle_request", f"{LIBRARIES}/gunicorn/workers/gthread.py", 310, "ThreadWorker", False)
MIDDLEWARE = Frame("_wrapped_app", f"{LIBRARIES}/opentelemetry/instrumentation/flask/__init__.py", 340, None, False)
WSGI_APP = Frame("wsgi_app", f"{LIBRARIES}/flask/app.py", 1479, "Flask", False)
DISPATCH = Frame("dispatch_request", f"{LIBRARIES}/flask/app.py", 860, "Flask", False)
VIEW = Frame("show_order", f"{APPLICATION}/app.py", 31, None, False)
TOTAL = Frame("total_for", f"{APPLICATION}/pricing.py", 36, "Pricing", False)
DISCOUNT = Frame("discount", f"{APPLICATION}/pricing.py", 52, None, False)
LOAD = Frame("load_items", f"{APPLICATION}/orders.py", 12, "Orders", False)
EXECUTE = Frame("execute", f"{LIBRARIES}/records/database.py", 88, "Database", False)
HIDDEN = Frame("guarded", f"{APPLICATION}/guards.py", 7, None, True)
BEFORE = Frame(BEFORE_FIRST_SAMPLE, "", 0, None, False)
NOT_SEEN = Frame(COMPUTED_NOT_SEEN, "", 0, None, False)

STEM = ((BOOTSTRAP, 1002), (WORKER, 334), (MIDDLEWARE, 361), (WSGI_APP, 1511), (DISPATCH, 880))


def default_records() -> list[Record]:
    """Return 1.42 s: 71 % computing in ``total_for``, a query, a hidden guard and two synthetic entries."""
    view = (*STEM, (VIEW, 40))
    before: Record = (((BEFORE, 0),), 50 * MS, 30 * MS)
    computing: list[Record] = [((*view, (TOTAL, 41)), 84 * MS, 84 * MS) for _ in range(12)]
    discount: list[Record] = [((*view, (TOTAL, 43), (DISCOUNT, 55)), 34 * MS, 30 * MS) for _ in range(2)]
    query: list[Record] = [((*STEM, (VIEW, 38), (LOAD, 19), (EXECUTE, 97)), 44 * MS, 1 * MS) for _ in range(4)]
    hidden: Record = ((*STEM, (VIEW, 39), (HIDDEN, 9), (LOAD, 14)), 18 * MS, 18 * MS)
    not_seen: Record = ((*view, (NOT_SEEN, 0)), 100 * MS, 100 * MS)
    return [before, *query, hidden, *computing, *discount, not_seen]


def make_tables(records: Iterable[Record]) -> dict[str, Any]:
    """Return the tables of a profile with these records: frames, locations, stacks, samples."""
    frames: dict[Frame, int] = {}
    locations: dict[Location, int] = {}
    stacks: dict[Stack, int] = {}
    samples: list[Sample] = []
    at_ns = 0
    for path, wall_ns, cpu_ns in records:
        stack = ROOT
        for frame, line in path:
            location = Location(frames.setdefault(frame, len(frames)), line)
            node = Stack(stack, locations.setdefault(location, len(locations)))
            stack = stacks.setdefault(node, len(stacks))
        at_ns += wall_ns
        samples.append(Sample(stack, at_ns, wall_ns, cpu_ns))
    return {
        "frames": tuple(frames),
        "locations": tuple(locations),
        "stacks": tuple(stacks),
        "samples": tuple(samples),
    }


def make_span(**changes: Any) -> SpanFacts:
    """Return the facts of a slow ``GET /orders/<id>``, with any field changed."""
    facts = SpanFacts(
        name="GET /orders/<id>",
        kind="SERVER",
        trace_id="0af7651916cd43dd8448eb211c80319c",
        span_id="b7ad6b7169203331",
        method="GET",
        route="/orders/<id>",
        path="/orders/42",
        parameters=(("page", "2"), ("token", "[redacted]")),
        status_code=200,
        service_name="shop",
        service_version="1.4.0",
    )
    return replace(facts, **changes)


def make_spans(**changes: Any) -> tuple[ChildSpan, ...]:
    """Return the spans inside that request: an HTTP call that failed, and a template that asks a query six times."""
    query = (("db.system.name", "sqlite"), ("db.query.text", "SELECT name FROM items WHERE order_id = ?"))
    call = (
        ("http.request.method", "GET"),
        ("url.full", "http://carrier.example/parcels/*"),
        ("http.response.status_code", "503"),
    )
    template = (("jinja2.template_name", "orders.html"),)
    spans = [
        ChildSpan(-1, "GET", "CLIENT", 60 * MS, 200 * MS, "ERROR", call),
        ChildSpan(-1, "jinja2.render", "INTERNAL", 300 * MS, 700 * MS, "UNSET", template),
        *(ChildSpan(1, "SELECT", "CLIENT", (310 + 90 * turn) * MS, 80 * MS, "UNSET", query) for turn in range(6)),
    ]
    return tuple(span._replace(**changes) for span in spans)


def make_process(**changes: Any) -> ProcessFacts:
    """Return the facts of a gunicorn worker, with any field changed."""
    facts = ProcessFacts(
        host="web-1",
        pid=4711,
        thread_name="ThreadPoolExecutor-0_1",
        thread_id=4713,
        python="3.11.7",
        sys_path=(APPLICATION, "/usr/lib/python3.11", LIBRARIES),
        sys_prefixes=("/srv/venv", "/usr"),
    )
    return replace(facts, **changes)


def make_profile(records: Iterable[Record] | None = None, **changes: Any) -> Profile:
    """Return a finished profile whose times add up to its duration.

    Args:
        records: The samples; ``default_records()`` without them.
        changes: Fields of ``Profile`` to change, for example ``span=make_span(path="/x")``.
    """
    tables = make_tables(default_records() if records is None else records)
    samples: tuple[Sample, ...] = tables["samples"]
    values: dict[str, Any] = {
        "id": "5f3a9c0d1e2b4a68",
        "name": "20261121T194410.123Z_GET_orders_id_5f3a9c0d1e2b4a68",
        "running": False,
        "engine": "thread",
        "start_time_ns": 1_795_290_250_123_456_789,
        "duration_ns": sum(sample.wall_ns for sample in samples),
        "threshold_ns": SECOND,
        "cpu_time_ns": sum(sample.cpu_ns for sample in samples),
        "interval_ns": 10 * MS,
        "sample_count": len(samples),
        "span": make_span(),
        "process": make_process(),
        "notes": ("100 ms of computing were measured by the CPU clock but seen by no sample.",),
        **tables,
        **changes,
    }
    return Profile(**values)
