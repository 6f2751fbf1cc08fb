"""A server on grpcio's asyncio API: serves methods on one Unix socket. Alone in knowing grpc's server side."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import quote

import grpc
import grpc.aio

from kmsd.errors import KmsdError
from kmsd.metadata import CALLER, MAX_MESSAGE
from kmsd.transport.burden import STREAMS
from kmsd.transport.call import Method, StreamMethod
from kmsd.transport.dispatch import Dispatch, refusal

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_metadata_size", 16 * 1024),
    # Core answers what is over the limit with RST_STREAM, which looks like an outage.
    ("grpc.max_concurrent_streams", STREAMS),
    # kube-apiserver asks for Status once a minute; whoever has not called for this long may dial again.
    ("grpc.max_connection_idle_ms", 30 * 60 * 1000),
    # A connection that says nothing is one less for those who would.
    ("grpc.server_handshake_timeout_ms", 5000),
    # identity alone: a message of a few bytes could become one of any size.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # Core answers CANCELLED to some of those that wait to be taken up, whoever they are of, if there are more.
    ("grpc.server.max_pending_requests", 4096),
    ("grpc.server.max_pending_requests_hard_limit", 8192),
    ("grpc.so_reuseport", 0),
)

_MAX_CALLS: Final = 4096
"""Calls of all connections together; one more gets RESOURCE_EXHAUSTED. The door before the server lets in fewer."""

_CODES: Final = {code.name: code for code in grpc.StatusCode}


class GrpcioServer:
    """A server (`kmsd.transport.listener.Server`) on grpcio. told: False, for it tells handlers by itself to which name
    the other end of a connection is bound."""

    told = False

    def __init__(self, dispatch: Dispatch) -> None:
        self._server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=_MAX_CALLS)
        self._server.add_generic_rpc_handlers((_Handlers(dispatch),))

    def takes(self, authority: str) -> bool:
        """Return True: grpcio answers requests to any `:authority`."""
        return True

    def bind(self, path: str) -> None:
        """Make the socket at this path. Raises RuntimeError."""
        self._server.add_insecure_port(f"unix:{quote(path)}")

    async def start(self) -> None:
        """Serve on the socket."""
        await self._server.start()

    async def stop(self) -> None:
        """Do nothing: whoever calls at the end of the process gets UNAVAILABLE.

        A server of grpcio's that is stopped answers CANCELLED to what arrives at that moment.
        """


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, dispatch: Dispatch) -> None:
        self._handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            path: grpc.unary_unary_rpc_method_handler(_bridge(method, dispatch))
            if isinstance(method, Method)
            else grpc.unary_stream_rpc_method_handler(_stream_bridge(method, dispatch))
            for path, method in dispatch.methods.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        return self._handlers.get(handler_call_details.method)


def _bridge(method: Method, dispatch: Dispatch):  # type: ignore[no-untyped-def]  # grpc.aio's own types are private
    async def behaviour(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        try:
            return await dispatch.unary(method, request, context.time_remaining(), context.peer(), _claim(context))
        except KmsdError as error:
            await _abort(context, method, error)
            raise AssertionError("abort raises") from error

    return behaviour


def _stream_bridge(method: StreamMethod, dispatch: Dispatch):  # type: ignore[no-untyped-def]  # as above
    async def behaviour(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
        try:
            async for response in dispatch.stream(method, request, context.peer(), _claim(context)):
                yield response
        except KmsdError as error:
            await _abort(context, method, error)

    return behaviour


async def _abort(context: grpc.aio.ServicerContext[Any, Any], method: Method | StreamMethod, error: KmsdError) -> None:
    told = refusal(method, error)
    await context.abort(_CODES[told.code], told.message, told.trailers)


def _claim(context: grpc.aio.ServicerContext[bytes, bytes]) -> str:
    claim: str | bytes = dict(context.invocation_metadata() or ()).get(CALLER, b"")
    return claim.decode("utf-8", "replace") if isinstance(claim, bytes) else claim
