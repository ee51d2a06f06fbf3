"""Serves two calls at once with gRPC's own tasks, of which one computes; prints what their profiles tell."""

from __future__ import annotations

import asyncio
import json
import time

import grpc
from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorServer
from opentelemetry.sdk.trace import TracerProvider

import slowspan
from slowspan.report.summary import time_shares
from slowspan.testing import InMemoryNotifier
from watched import compute_here, functions

WAIT = COMPUTE = 0.3


measured = {}


async def serve(name: bytes, _context: object) -> bytes:
    start = time.perf_counter()
    await asyncio.sleep(WAIT)
    cpu = time.thread_time()
    if name == b"computes":
        compute_here(COMPUTE)
    measured[f"/{name.decode()}/serve"] = (time.thread_time() - cpu) / (time.perf_counter() - start)
    return name


async def call_all() -> None:
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(serve)
    for service in ("waits", "computes"):
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"serve": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        calls = (channel.unary_unary(f"/{name}/serve")(name.encode()) for name in ("waits", "computes"))
        await asyncio.gather(*calls)
    await server.stop(None)


if __name__ == "__main__":
    notifier = InMemoryNotifier()
    provider = TracerProvider()
    provider.add_span_processor(slowspan.SlowSpanProcessor(threshold=0.1, notifiers=[notifier]))
    GrpcAioInstrumentorServer().instrument(tracer_provider=provider)
    asyncio.run(call_all())
    provider.shutdown()
    facts = {}
    for report in notifier.reports:
        shares = {share.name: share.share for share in time_shares(report.profile)}
        name = report.profile.span.name
        facts[name] = {"functions": functions(report.profile), "shares": shares, "computing": measured[name]}
    print(json.dumps(facts))
