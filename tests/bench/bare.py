"""A bare grpc.aio server that does nothing: the ceiling of what a Python server can do on this machine.

usage: python -m tests.bench.bare SOCKET asyncio|uvloop
"""

from __future__ import annotations

import asyncio
import sys

import grpc
import grpc.aio
import uvloop

_ANSWER = b"\x0a\xb4\x01" + b"x" * 180 + b"\x12\x24" + b"k" * 36


class _Nothing(grpc.GenericRpcHandler):
    def __init__(self) -> None:
        async def nothing(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            return _ANSWER

        self._handler = grpc.unary_unary_rpc_method_handler(nothing)  # type: ignore[arg-type]

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        return self._handler


async def serve(path: str) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Nothing(),))
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    (uvloop.run if sys.argv[2] == "uvloop" else asyncio.run)(serve(sys.argv[1]))
