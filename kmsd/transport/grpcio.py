"""A listener on grpcio's asyncio server: serves a method table on one Unix socket.

The only module that knows grpc's server side. What it hands to a handler is bytes and a timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Final
from urllib.parse import quote

import grpc
import grpc.aio
from grpc_health.v1 import health as grpc_health
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kmsd.errors import KmsdError
from kmsd.transport.call import Call, Method, Observer, StreamMethod, Table, run, run_stream, stopping
from kmsd.transport.relay import Relay
from kmsd.transport.sockets import SocketPlace, SocketWatch

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
_CUT_SECONDS: Final = 1.0
"""Seconds for calls that are told that kmsd stops to say so to their callers."""
_MOST_SERVERS: Final = 8
"""Of one socket that was made again and again, each for those who had connected before."""
_LEAVE_SECONDS: Final = 60.0
"""Seconds for the calls of the oldest of them, when it is one too many; its clients connect anew."""

_CODES: Final = {code.name: code for code in grpc.StatusCode}


class _Calls:
    """What is under way, by the task that answers it."""

    def __init__(self) -> None:
        self._calls: dict[asyncio.Task[Any] | None, Call | None] = {}

    def begin(self, call: Call | None = None) -> asyncio.Task[Any] | None:
        """Note that the current task answers a call, until `end`. call: None for what ends by itself when kmsd does."""
        task = asyncio.current_task()
        self._calls[task] = call
        return task

    def end(self, task: asyncio.Task[Any] | None) -> None:
        """The call of this task has ended."""
        self._calls.pop(task, None)

    async def idle(self, seconds: float) -> None:
        """Wait until what is under way has ended, so many seconds at the most."""
        tasks = [task for task in self._calls if task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)

    def cut(self) -> None:
        """Let every call end now; its caller is told that kmsd stops."""
        for task, call in tuple(self._calls.items()):
            if task is not None and call is not None and not call.stopping:
                call.stopping = True
                task.cancel()


class Listener:
    """One socket. apis: short names for people; services: full names for grpc.health.v1.

    remade: told, in words, what had become of the socket when it was made again. relay: proves to the handlers who
    calls; without one nobody is told.
    """

    def __init__(
        self,
        place: SocketPlace,
        tables: Iterable[Table],
        *,
        apis: Sequence[str],
        services: Sequence[str],
        timeout: float,
        observe: Observer,
        remade: Callable[[Path, str], None],
        relay: Relay | None = None,
    ) -> None:
        self.place = place
        self._relay = relay
        self.apis = tuple(apis)
        self.watch = SocketWatch(place, self._serve, lambda what: remade(place.path, what))
        self._services = ("", *services)
        self._ending = asyncio.Event()
        methods = {path: method for table in tables for path, method in table.items()}
        self._calls = _Calls()
        self._health = _Health(self._ending, self._calls)
        self._handlers = _Handlers(methods, timeout, observe, self._ending, self._calls, relay)
        self._servers: list[grpc.aio.Server] = []
        self._leaving: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Bind and serve. The place has been claimed."""
        await self.set_serving(False)
        await self._serve()
        self._watching = asyncio.create_task(self.watch.run(), name="socket-watch")

    async def _serve(self) -> None:
        if self._relay is not None and self._servers:
            # The server is reached through the relay, which takes callers on whichever socket there is.
            self.place.bind(self._relay.listen)
            return
        # A server of grpcio's listens on nothing that it is given after its start: a socket that is made again gets one
        # of its own. The others stay, for whoever is connected to them.
        options = _OPTIONS if self._relay is None else _PROVEN_OPTIONS
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=_MAX_CALLS)
        server.add_generic_rpc_handlers((self._handlers,))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)

        def listen(path: str) -> None:
            server.add_insecure_port(f"unix:{quote(path)}")

        if self._relay is None:
            self.place.bind(listen)
        else:
            self._relay.hide(self.place.path.parent, listen)
            self.place.bind(self._relay.listen)
        await server.start()
        self._servers.append(server)
        if len(self._servers) > _MOST_SERVERS:
            leaving = asyncio.create_task(self._servers.pop(0).stop(_LEAVE_SECONDS), name="server-leaves")
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    async def set_serving(self, serving: bool) -> None:
        """What grpc.health.v1 answers from now on, for every service of this socket."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in self._services:
            await self._health.set(service, status)

    async def stop(self, grace: float) -> None:
        """End the streams, refuse new calls, give those that have begun `grace` seconds and then an error that says
        why, and remove the socket.

        Whoever stays connected is told that kmsd stops until the process ends: a server of grpcio's that is stopped
        answers CANCELLED to what arrives at that moment, and a process that ends leaves UNAVAILABLE.
        """
        if self._watching is not None:
            self._watching.cancel()
        self._ending.set()
        if self._relay is not None:
            self._relay.deafen()
        await self._health.enter_graceful_shutdown()
        await self._calls.idle(grace)
        self._calls.cut()
        await self._calls.idle(_CUT_SECONDS)
        if self._relay is not None:
            await self._relay.close()
        self.place.release()


class _Health(grpc_health.aio.HealthServicer):
    """grpc.health.v1, whose streams end when kmsd does, as all others."""

    def __init__(self, ending: asyncio.Event, calls: _Calls) -> None:
        super().__init__()
        self._ending = ending
        self._calls = calls

    async def Watch(  # noqa: N802 - the name of the method on the wire
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse],
    ) -> None:
        task = self._calls.begin()
        try:
            await self._watch(request, context)
        finally:
            self._calls.end(task)

    async def _watch(
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
        await _abort(context, "health", stopping())


class _Handlers(grpc.GenericRpcHandler):
    def __init__(
        self,
        methods: Table,
        timeout: float,
        observe: Observer,
        ending: asyncio.Event,
        calls: _Calls,
        relay: Relay | None,
    ) -> None:
        self._handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            path: grpc.unary_unary_rpc_method_handler(_bridge(method, timeout, observe, ending, calls, relay))
            if isinstance(method, Method)
            else grpc.unary_stream_rpc_method_handler(_stream_bridge(method, ending, calls, relay))
            for path, method in methods.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        return self._handlers.get(handler_call_details.method)


def _bridge(  # type: ignore[no-untyped-def]  # grpc.aio's own types are private
    method: Method,
    most: float,
    observe: Observer,
    ending: asyncio.Event,
    calls: _Calls,
    relay: Relay | None,
):
    async def behaviour(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        left = context.time_remaining()
        now = monotonic()
        deadline = now + (most if left is None else left)
        call = Call(method.api, method.name, min(deadline, now + most), deadline)
        if ending.is_set():
            await _abort(context, method.api, stopping())
        task = calls.begin(call)
        try:
            _identify(call, context, relay)
            return await run(method, call, request, observe)
        except KmsdError as error:
            call.stopping = True  # and so not cut
            await _abort(context, method.api, error)
            raise AssertionError("abort raises") from error
        finally:
            calls.end(task)

    return behaviour


def _stream_bridge(method: StreamMethod, ending: asyncio.Event, calls: _Calls, relay: Relay | None):  # type: ignore[no-untyped-def]  # as above
    async def behaviour(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
        call = Call(method.api, method.name)
        task = calls.begin()
        try:
            _identify(call, context, relay)
            async with contextlib.aclosing(_until(ending, run_stream(method, call, request))) as responses:
                async for response in responses:
                    yield response
        except KmsdError as error:
            await _abort(context, method.api, error)
        finally:
            calls.end(task)

    return behaviour


async def _until(ending: asyncio.Event, responses: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Yield the responses up to the end of kmsd: nobody who watches keeps it from ending. Raises Unavailable then."""
    end = asyncio.ensure_future(ending.wait())
    try:
        while True:
            following = asyncio.ensure_future(anext(responses, None))
            try:
                await asyncio.wait({following, end}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                # A generator that still runs cannot be closed.
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
            if following.cancelled():
                raise stopping()
            response = following.result()
            if response is None:
                return
            yield response
    finally:
        end.cancel()
        await responses.aclose()


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
