"""A listener on grpcio's asyncio server: serves a method table on one Unix socket.

The only module that knows grpc's server side. What it hands to a handler is bytes and a timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from time import monotonic
from typing import Any, Final
from urllib.parse import quote

import grpc
import grpc.aio
from grpc_health.v1 import health as grpc_health
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kmsd.errors import KmsdError, Unavailable
from kmsd.rpc.call import Call, Method, Observer, StreamMethod, Table, run, run_stream
from kmsd.rpc.relay import Relay
from kmsd.rpc.sockets import SocketPlace

MAX_MESSAGE: Final = 1280 * 1024
"""Bytes. More than any call needs, so that a message that is too large for its method gets a sentence of ours."""

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_metadata_size", 16 * 1024),
    # kube-apiserver decrypts everything it caches at once when it starts, over one connection; core answers what is
    # over the limit with RST_STREAM, which looks like an outage.
    ("grpc.max_concurrent_streams", 1000),
    # kube-apiserver asks for Status once a minute; whoever has not called for this long may dial again.
    ("grpc.max_connection_idle_ms", 30 * 60 * 1000),
    ("grpc.so_reuseport", 0),
)

_PROVEN_OPTIONS: Final = (
    *_OPTIONS,
    # A connection that says nothing is one less for those who would.
    ("grpc.server_handshake_timeout_ms", 5000),
)

_MAX_CALLS: Final = 4096
"""Calls of all connections together; one more is RESOURCE_EXHAUSTED."""

_LAST_WORDS: Final = 0.1
"""Seconds for what a stream of grpc.health.v1 has to tell when kmsd stops."""

_CODES: Final = {code.name: code for code in grpc.StatusCode}


class Listener:
    """One socket. apis: short names for people; services: full names for grpc.health.v1. relay: proves to the handlers
    who calls; without one nobody is told."""

    def __init__(
        self,
        place: SocketPlace,
        tables: Iterable[Table],
        *,
        apis: Sequence[str],
        services: Sequence[str],
        timeout: float,
        observe: Observer,
        relay: Relay | None = None,
    ) -> None:
        self.place = place
        self._relay = relay
        self.apis = tuple(apis)
        self._services = ("", *services)
        self._ending = asyncio.Event()
        self._health = _Health(self._ending)
        options = _OPTIONS if relay is None else _PROVEN_OPTIONS
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=_MAX_CALLS)
        methods = {path: method for table in tables for path, method in table.items()}
        self._server.add_generic_rpc_handlers((_Handlers(methods, timeout, observe, self._ending, relay),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self) -> None:
        """Bind and serve. The place has been claimed."""

        def listen(path: str) -> None:
            self._server.add_insecure_port(f"unix:{quote(path)}")

        if self._relay is None:
            self.place.bind(listen)
        else:
            self._relay.hide(self.place.path.parent, listen)
            self.place.bind(self._relay.listen)
        await self.set_serving(False)
        await self._server.start()

    async def set_serving(self, serving: bool) -> None:
        """What grpc.health.v1 answers from now on, for every service of this socket."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in self._services:
            await self._health.set(service, status)

    async def stop(self, grace: float) -> None:
        """Take no new calls, end the streams, give the other calls `grace` seconds, then remove the socket."""
        self._ending.set()
        if self._relay is not None:
            self._relay.deafen()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace)
        if self._relay is not None:
            await self._relay.close()
        self.place.release()


class _Health(grpc_health.aio.HealthServicer):
    """grpc.health.v1, whose streams end when kmsd does, as all others."""

    def __init__(self, ending: asyncio.Event) -> None:
        super().__init__()
        self._ending = ending

    async def Watch(  # noqa: N802 - the name of the method on the wire
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse],
    ) -> None:
        watch = asyncio.ensure_future(super().Watch(request, context))
        end = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait({watch, end}, return_when=asyncio.FIRST_COMPLETED)
            # Time to tell that nothing is served any more.
            await asyncio.wait({watch}, timeout=_LAST_WORDS)
        finally:
            end.cancel()
            watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch
        await _abort(context, "health", _stopping())


class _Handlers(grpc.GenericRpcHandler):
    def __init__(
        self, methods: Table, timeout: float, observe: Observer, ending: asyncio.Event, relay: Relay | None
    ) -> None:
        self._handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            path: grpc.unary_unary_rpc_method_handler(_bridge(method, timeout, observe, relay))
            if isinstance(method, Method)
            else grpc.unary_stream_rpc_method_handler(_stream_bridge(method, ending, relay))
            for path, method in methods.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        return self._handlers.get(handler_call_details.method)


def _bridge(method: Method, most: float, observe: Observer, relay: Relay | None):  # type: ignore[no-untyped-def]  # grpc.aio's own types are private
    async def behaviour(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        left = context.time_remaining()
        now = monotonic()
        deadline = now + (most if left is None else left)
        call = Call(method.api, method.name, min(deadline, now + most), deadline)
        try:
            _identify(call, context, relay)
            return await run(method, call, request, observe)
        except KmsdError as error:
            await _abort(context, method.api, error)
            raise AssertionError("abort raises") from error

    return behaviour


def _stream_bridge(method: StreamMethod, ending: asyncio.Event, relay: Relay | None):  # type: ignore[no-untyped-def]  # as above
    async def behaviour(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
        call = Call(method.api, method.name)
        try:
            _identify(call, context, relay)
            async for response in _until(ending, run_stream(method, call, request)):
                yield response
        except KmsdError as error:
            await _abort(context, method.api, error)

    return behaviour


async def _until(ending: asyncio.Event, responses: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    """The responses, up to the end of kmsd: nobody who watches keeps it from ending. Raises Unavailable then."""
    end = asyncio.ensure_future(ending.wait())
    try:
        while True:
            following = asyncio.ensure_future(anext(responses, None))
            try:
                await asyncio.wait({following, end}, return_when=asyncio.FIRST_COMPLETED)
            except BaseException:
                following.cancel()
                raise
            if not following.done():
                following.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await following
                raise _stopping()
            response = following.result()
            if response is None:
                return
            yield response
    finally:
        end.cancel()
        await responses.aclose()


def _stopping() -> Unavailable:
    return Unavailable("kmsd is stopping", "try again when it is back")


async def _abort(context: grpc.aio.ServicerContext[Any, Any], api: str, error: KmsdError) -> None:
    await context.abort(
        _CODES[error.code],
        # kube-apiserver logs nothing but this text; our own tools read the hint from its own place.
        error.message if api == "admin" else error.sentence(),
        (("kmsd-hint-bin", error.hint.encode()), ("kmsd-retryable", str(error.retryable).lower())),
    )


def _identify(call: Call, context: grpc.aio.ServicerContext[bytes, bytes], relay: Relay | None) -> None:
    """Write down who calls, as far as that is proven. Raises Denied if it should be and is not."""
    if relay is None:
        return
    caller = relay.caller(context.peer())
    claim: str | bytes = dict(context.invocation_metadata() or ()).get("kmsd-caller-bin", b"")
    call.caller = caller.told(claim.decode("utf-8", "replace") if isinstance(claim, bytes) else claim)
    call.caller_pid = caller.pid
