"""The demonstration: real requests to a real shop, and what slowspan found out about the slow ones.

Starts the carrier's slow service, a receiver of OpenTelemetry's spans, and the shop: gunicorn with two
workers of four threads, under ``opentelemetry-instrument``. Then it sends requests and prints what arrived.
With ``--mattermost`` it also starts the server that the tests take for Mattermost, and prints what was posted there.
"""

from __future__ import annotations

import argparse
import contextlib
import secrets
import signal
import statistics
import sys
import tempfile
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import database
import servers
from chat import Chat, chat
from otlp_receiver import OtlpReceiver, ReceivedSpan
from slowspan import load_profile

THRESHOLD = 0.5
"""Seconds. Below slowspan's own default, so that the slow pages are slow on a fast machine too."""
CLIENTS = 2
SECONDS_TO_ARRIVE = 60
REQUIRED_ATTRIBUTES = {"slowspan.profile.id", "slowspan.threshold", "slowspan.hot_frames", "slowspan.samples"}


@dataclass(frozen=True)
class Endpoint:
    """A page of the shop and how often the demonstration asks for it."""

    name: str
    path: str
    requests: int
    slow: bool


ENDPOINTS = (
    Endpoint("GET /", "/", 30, slow=False),
    Endpoint("GET /orders", "/orders", 3, slow=True),
    Endpoint("GET /reports/sales", "/reports/sales", 3, slow=True),
    Endpoint("GET /delivery/<int:order>", "/delivery/17", 5, slow=True),
)


@dataclass(frozen=True)
class Request:
    """One request that was answered, and the server's span of it."""

    endpoint: Endpoint
    span: ReceivedSpan

    @property
    def slow(self) -> bool:
        return self.span.duration >= THRESHOLD

    def report(self, report_dir: Path) -> Path | None:
        """Return the report's page when it and the stored profile beside it are there."""
        pages = report_dir.glob(f"*{self.span.attributes['slowspan.profile.id']}.html")
        return next((page for page in pages if page.with_suffix(".json.gz").exists()), None)


class DemoError(Exception):
    """A request failed, or something did not arrive."""


def main() -> int:
    """Run the demonstration and return the exit code."""
    parser = argparse.ArgumentParser(description="See what slowspan tells of a shop's slow pages.")
    parser.add_argument("--short", action="store_true", help="ask for each page only twice")
    parser.add_argument("--mattermost", action="store_true", help="show what a Mattermost channel is told as well")
    arguments = parser.parse_args()
    endpoints = ENDPOINTS
    if arguments.short:
        endpoints = tuple(replace(endpoint, requests=2) for endpoint in ENDPOINTS)
    # A polite kill ends the servers too, in the same way as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    home = Path(tempfile.mkdtemp(prefix="slowspan-demo-"))
    try:
        demonstrate(endpoints, home, chat() if arguments.mattermost else contextlib.nullcontext())
    except (DemoError, servers.ServerError) as error:
        print(f"\nThe demonstration failed: {error}\nThe shop's log: {home}/shop.log", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; the servers have ended.", file=sys.stderr)
        return 130
    print(f"\nAll reports are in {home}/reports (nothing removes them)")
    return 0


def demonstrate(endpoints: Sequence[Endpoint], home: Path, chat: AbstractContextManager[Chat | None]) -> None:
    """Serve the shop, send the requests and print what arrived."""
    print("Starting the carrier's service, an OTLP receiver and the shop ...", flush=True)
    with OtlpReceiver() as receiver, chat as mattermost, shop(receiver, home, mattermost) as url:
        traces = send(url, endpoints)
        print("Waiting for spans and reports ...", flush=True)
        requests = with_spans(traces, receiver)
        check(requests, endpoints)
        wait_for_reports(requests, home / "reports")
        if mattermost is not None:
            wait_for_posts(mattermost, requests)
    for endpoint in endpoints:
        print_endpoint([one for one in requests if one.endpoint is endpoint], home / "reports")
    for text in mattermost.posts() if mattermost is not None else ():
        print(f"\nPosted in the channel {mattermost.channel}:\n")
        print(textwrap.indent(text, "  "))


@contextlib.contextmanager
def shop(receiver: OtlpReceiver, home: Path, chat: Chat | None) -> Iterator[str]:
    """Run the carrier's service and the shop until the end of the block, which gets the shop's URL."""
    carrier_port, shop_port = servers.free_port(), servers.free_port()
    carrier_url, shop_url = f"http://127.0.0.1:{carrier_port}", f"http://127.0.0.1:{shop_port}"
    database.create(home / "shop.db")
    carrier = [sys.executable, str(servers.SHOP / "carrier_service.py"), str(carrier_port)]
    gunicorn = servers.gunicorn("app:create_app()", shop_port, options=[f"--chdir={servers.SHOP}"])
    environment = {
        "SHOP_DATABASE": str(home / "shop.db"),
        "SHOP_CARRIER": carrier_url,
        **servers.exporting_to(receiver.endpoint, service="shop"),
        "OTEL_PYTHON_SLOWSPAN_THRESHOLD": str(THRESHOLD),
        "OTEL_PYTHON_SLOWSPAN_REPORT_DIR": str(home / "reports"),
        **(chat.environment if chat is not None else {}),
    }
    with (
        servers.running(carrier, url=carrier_url, log=home / "carrier.log"),
        servers.running(gunicorn, url=shop_url, log=home / "shop.log", env=environment),
    ):
        yield shop_url


def send(url: str, endpoints: Sequence[Endpoint]) -> dict[str, Endpoint]:
    """Send all requests, a few at a time, with a progress line; return the endpoint of each trace."""
    turns = range(max(endpoint.requests for endpoint in endpoints))
    plan = {secrets.token_hex(16): endpoint for turn in turns for endpoint in endpoints if turn < endpoint.requests}
    with ThreadPoolExecutor(CLIENTS) as clients:
        futures = [clients.submit(ask, url + endpoint.path, trace) for trace, endpoint in plan.items()]
        try:
            for number, future in enumerate(as_completed(futures), 1):
                future.result()
                show_progress(number, len(plan))
        finally:
            clients.shutdown(cancel_futures=True)
    return plan


def ask(url: str, trace: str) -> None:
    """Send one request as a part of this trace.

    Raises:
        DemoError: It was not answered, or not with success.
    """
    request = urllib.request.Request(url, headers={"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            response.read()
    except OSError as error:
        raise DemoError(f"{url}: {error}") from error


def show_progress(done: int, total: int) -> None:
    """Rewrite the progress line; where lines cannot be rewritten, print one at each quarter."""
    if sys.stdout.isatty():
        print(f"\r  {done} of {total} requests answered", end="\n" if done == total else "", flush=True)
    elif done * 4 // total > (done - 1) * 4 // total:
        print(f"  {done} of {total} requests answered", flush=True)


def with_spans(traces: dict[str, Endpoint], receiver: OtlpReceiver) -> list[Request]:
    """Wait for the server's span of every trace.

    Raises:
        DemoError: One did not arrive.
    """

    def arrived() -> dict[str, ReceivedSpan]:
        return {span.trace_id: span for span in receiver.spans() if span.kind == "SERVER"}

    wait_until_none(lambda: traces.keys() - arrived().keys(), "server spans")
    spans = arrived()
    return [Request(endpoint, spans[trace]) for trace, endpoint in traces.items()]


def check(requests: Sequence[Request], endpoints: Sequence[Endpoint]) -> None:
    """Check that the slow pages were slow, and that the attributes of each slow request arrived.

    Raises:
        DemoError: It names what is missing.
    """
    for one in requests:
        missing = REQUIRED_ATTRIBUTES - one.span.attributes.keys()
        if one.slow and missing:
            raise DemoError(f"a slow span of {one.endpoint.name} arrived without {', '.join(sorted(missing))}")
    for endpoint in endpoints:
        if endpoint.slow and not any(one.slow for one in requests if one.endpoint is endpoint):
            raise DemoError(f"no request of {endpoint.name} took over {THRESHOLD} s on this machine")


def wait_for_reports(requests: Sequence[Request], report_dir: Path) -> None:
    """Wait until each slow request has its report.

    Raises:
        DemoError: One did not arrive.
    """
    slow = [one for one in requests if one.slow]
    wait_until_none(lambda: [one for one in slow if one.report(report_dir) is None], "reports")


def wait_until_none(missing: Callable[[], Sequence[object] | set[str]], what: str) -> None:
    """Return when nothing is missing any more.

    Raises:
        DemoError: Something was still missing after a minute.
    """
    deadline = time.monotonic() + SECONDS_TO_ARRIVE
    while still_missing := missing():
        if time.monotonic() > deadline:
            raise DemoError(f"{len(still_missing)} {what} did not arrive within {SECONDS_TO_ARRIVE} s")
        time.sleep(0.1)


def wait_for_posts(chat: Chat, requests: Sequence[Request]) -> None:
    """Wait until each slow endpoint has been posted; the workers together post it once.

    Raises:
        DemoError: A post did not arrive.
    """
    slow = {one.endpoint.name for one in requests if one.slow}
    wait_until_none(lambda: range(len(slow) - len(chat.posts())), "posts")


def print_endpoint(requests: Sequence[Request], report_dir: Path) -> None:
    """Print how one page did, and what is known of its slowest request."""
    slow = sum(one.slow for one in requests)
    median = statistics.median(one.span.duration for one in requests)
    slowest = max(requests, key=lambda one: one.span.duration)
    print(f"\n{slowest.endpoint.name}")
    print(f"  {len(requests)} requests, {slow} slow (over {THRESHOLD} s), median {median:.3f} s")
    if not slowest.slow:
        return
    attributes = slowest.span.attributes
    percent, _, place = attributes["slowspan.hot_frames"][0].partition(" % ")
    print(f"  slowest {slowest.span.duration:.2f} s: {percent} % own time {place}")
    report = slowest.report(report_dir)
    print(f"  report {report}")
    for note in load_profile(report.with_suffix(".json.gz")).notes if report is not None else ():
        print(textwrap.fill(note, 80, initial_indent="  ", subsequent_indent="    "))
    print("  on the exported span:")
    for name in sorted(name for name in attributes if name.startswith("slowspan.")):
        values = attributes[name] if isinstance(attributes[name], list) else [attributes[name]]
        for label, value in zip([name] + [""] * len(values), values, strict=False):
            print(f"    {label:22}{value}")


if __name__ == "__main__":
    sys.exit(main())
