"""A gRPC server for tests, without code generated from a protocol: ``python grpc_parts.py PORT``."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
from known_parts import Parts, block_part, blocks, lead_in, marked

if TYPE_CHECKING:
    from collections.abc import Iterator


def pack(request: bytes, context: grpc.ServicerContext) -> bytes:
    """Answer one request."""
    return json.dumps(blocks(request.decode())).encode()


def follow(message: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    """Answer with a stream."""
    number = message.decode()

    def request() -> dict[str, object]:
        parts = Parts()
        parts.call(lead_in, number)
        parts.call(block_part)
        return parts.facts()

    for _ in range(2):
        yield json.dumps(marked(request, number)()).encode()


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(8))
    methods = {
        "Pack": grpc.unary_unary_rpc_method_handler(pack),
        "Follow": grpc.unary_stream_rpc_method_handler(follow),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("shop.Orders", methods)])
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
