"""A server on h2corn: serves methods on one Unix socket. Alone in knowing h2corn, and what gRPC is on HTTP/2.

gRPC on HTTP/2 is described in https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md. h2corn speaks HTTP/2 and
hands requests over by ASGI. Its own class of server writes a banner to stderr and tells systemd that it is ready, so
the parts of which that class is made are used instead.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

import grpc
from h2corn import Config, RequestPolicy
from h2corn._lib import prepare_tls, serve_fds
from h2corn._lifespan import PreparedApplication

from kmsd.errors import DeadlineExceeded, KmsdError, short
from kmsd.metadata import CALLER, MAX_MESSAGE
from kmsd.transport.burden import STREAMS
from kmsd.transport.call import Method, StreamMethod, check_size
from kmsd.transport.dispatch import Dispatch, refusal

_BACKLOG: Final = 1024
_PREFIX: Final = struct.Struct(">BI")
"""The head of each message: whether it is compressed, and how many bytes it has."""
_STALL_SECONDS: Final = 10.0
"""Seconds in which a caller must make room for an answer, or send the next bytes of a request."""
_LATE_SECONDS: Final = 0.2
"""Seconds by which a handler may be late: its error says more about what took so long."""
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_MOST_DIGITS: Final = 8
_GRPC: Final = re.compile(rb"application/grpc([+;].*)?")
_HOST: Final = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?")
"""Authorities that h2corn takes for certain. It resets requests whose authority is a path, as some versions of grpc-go
send them."""
_CLAIM: Final = CALLER.encode()
_HEADERS: Final = [(b"content-type", b"application/grpc")]
_CODES: Final = {code.name: str(code.value[0]).encode() for code in grpc.StatusCode}
_PLAIN: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
"""Characters that stand for themselves in grpc-message."""

Trailers = Sequence[tuple[str, str | bytes]]

_READ: Final[Trailers] = (("grpc-accept-encoding", "identity"),)
"""The compressions that are read: none."""
_MESSAGE_HINT: Final = "send one whole message: a byte for its compression, four for its length, and so many bytes"
_TIME_HINT: Final = "kmsctl requests shows what took so long; kube-apiserver waits as long as its `timeout` says"


def _config(handle: int, *, told: bool) -> Config:
    """Return the settings for h2corn, whose own values are those of a web server.

    handle: descriptor of the socket. told: whether a PROXY header names each connection.
    """
    return Config(
        bind=(f"fd://{handle}",),
        grpc=True,
        http1=False,
        lifespan="off",
        access_log=False,
        date_header=False,
        proxy_protocol="v2" if told else "off",
        max_concurrent_streams=STREAMS,
        limit_request_fields=100,
        h2_max_header_list_size=16 * 1024,
        h2_max_header_block_size=16 * 1024,
        h2_max_inbound_frame_size=16 * 1024,
        h2_initial_stream_window_size=64 * 1024,
        h2_initial_connection_window_size=MAX_MESSAGE,
        request_policies=(
            RequestPolicy(
                path="/*",
                max_request_body_size=MAX_MESSAGE + _PREFIX.size,
                timeout_request_body_idle=_STALL_SECONDS,
                h2_timeout_response_stall=_STALL_SECONDS,
            ),
        ),
        timeout_handshake=5.0,
        timeout_request_header=_STALL_SECONDS,
        # kube-apiserver asks for Status once a minute; whoever has not called for this long may dial again.
        timeout_keep_alive=1800.0,
        h2_timeout_write=60.0,
        timeout_graceful_shutdown=0.2,
    )


class H2cornServer:
    """A server (`kmsd.transport.listener.Server`) on h2corn.

    told: whether handlers are told who calls: a PROXY header names each connection then (`kmsd.transport.proxied`).
    """

    def __init__(self, dispatch: Dispatch, *, told: bool = False) -> None:
        self.told = told
        self._app = _App(dispatch)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._stopped: asyncio.Future[str] | None = None
        self._serving: asyncio.Task[None] | None = None

    def takes(self, authority: str) -> bool:
        """Return whether h2corn takes requests to this `:authority` for certain."""
        return _HOST.fullmatch(authority) is not None

    def bind(self, path: str) -> None:
        """Make the socket at this path. Raises OSError."""
        self._socket.bind(path)
        self._socket.setblocking(False)
        self._socket.listen(_BACKLOG)

    async def start(self) -> None:
        """Serve on the socket."""
        loop = asyncio.get_running_loop()
        config = _config(self._socket.fileno(), told=self.told)
        application = PreparedApplication(self._app, factory=False, mode="off")
        await application.startup(required=False)
        self._stopped = loop.create_future()
        started: asyncio.Future[None] = loop.create_future()

        def ready(error: BaseException | None) -> None:
            loop.call_soon_threadsafe(_settle, started, error)

        serving = serve_fds(
            application,
            [self._socket.fileno()],
            config,
            self._stopped,
            ready_trigger=ready,
            prepared_tls=prepare_tls(config),
        )

        async def served() -> None:
            await serving

        self._serving = asyncio.create_task(served(), name="h2corn")
        self._socket.close()
        await started

    async def stop(self) -> None:
        """Serve no more; wait a second at the most for h2corn to end."""
        if self._stopped is not None and self._serving is not None:
            _settle(self._stopped, None, "stop")
            await asyncio.wait((self._serving,), timeout=1.0)


def _claim(value: bytes) -> str:
    """Return what a program calls itself; metadata whose name ends in -bin is base64, often without its padding."""
    try:
        return b64decode(value + b"==").decode("utf-8", "replace")
    except ValueError:
        return ""


def _settle(future: asyncio.Future[Any], error: BaseException | None, value: object = None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


class _App:
    """The methods as an ASGI application (https://asgi.readthedocs.io/en/stable/specs/www.html)."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        exchange = _Exchange(dict(scope["headers"]), receive, send)
        try:
            await self._route(scope, exchange)
        except _Gone:
            # h2corn cancels whoever answers a caller that has gone, and writes to stderr of one that ends before.
            await asyncio.sleep(_STALL_SECONDS)

    async def _route(self, scope: Any, exchange: _Exchange) -> None:
        if scope["method"] != "POST":
            await exchange.end_http(405)
        elif not _GRPC.fullmatch(exchange.headers.get(b"content-type", b"")):
            await exchange.end_http(415)
        elif (method := self._dispatch.methods.get(scope["path"])) is None:
            await exchange.end("UNIMPLEMENTED", "there is no such method here")
        else:
            name, _ = scope.get("client") or ("", 0)
            await self._answer(method, exchange, name)

    async def _answer(self, method: Method | StreamMethod, exchange: _Exchange, name: str) -> None:
        claim = _claim(exchange.headers.get(_CLAIM, b""))
        left = _seconds(exchange.headers.get(b"grpc-timeout", b""))
        try:
            async with asyncio.timeout(None if left is None else left + _LATE_SECONDS):
                request = await exchange.message(method)
                if isinstance(method, Method):
                    answer = await self._dispatch.unary(method, request, left, name, claim)
                    await exchange.answer(answer, last=True)
                else:
                    async for response in self._dispatch.stream(method, request, name, claim):
                        await exchange.answer(response)
        except TimeoutError:
            await exchange.refuse(method, DeadlineExceeded("the time that the caller gave is over", _TIME_HINT))
        except _Compressed as error:
            await exchange.refuse(method, error, _READ)
        except KmsdError as error:
            await exchange.refuse(method, error)
        else:
            await exchange.end("OK")


class _NoMessage(KmsdError):
    """Raised if what was sent is not the one message that a method takes. INTERNAL is what gRPC's libraries answer to
    that."""

    code = "INTERNAL"


class _Compressed(KmsdError):
    """Raised if a message is compressed."""

    code = "UNIMPLEMENTED"


class _Gone(Exception):
    """Raised in place of whatever h2corn raises: nobody takes the answer any more.

    h2corn has no type of its own for that, and it writes to stderr whatever an application raises.
    """


class _Exchange:
    """A request and its answer. headers: those of the request; of two with one name, the last."""

    def __init__(self, headers: dict[bytes, bytes], receive: Any, send: Any) -> None:
        self.headers = headers
        self._receive = receive
        self._send = send
        self._started = False
        self._whole = False

    async def message(self, method: Method | StreamMethod) -> bytes:
        """Return the message of the request.

        Raises _NoMessage, _Gone, and TooLarge as soon as the message is known to be too large.
        """
        body = b""
        more = True
        while more:
            try:
                event = await self._receive()
            except Exception as error:
                raise _Gone from error
            if event["type"] == "http.disconnect":
                raise _Gone
            body += event.get("body", b"")
            more = event.get("more_body", False)
            if len(body) >= _PREFIX.size:
                self._check(method, body)
        if len(body) < _PREFIX.size or len(body) - _PREFIX.size < _PREFIX.unpack_from(body)[1]:
            raise _NoMessage("the request ends before its message does", _MESSAGE_HINT)
        return body[_PREFIX.size :]

    def _check(self, method: Method | StreamMethod, body: bytes) -> None:
        compressed, size = _PREFIX.unpack_from(body)
        check_size(method, size)
        if len(body) - _PREFIX.size > size:
            raise _NoMessage("the request is more than one message", _MESSAGE_HINT)
        if compressed:
            encoding = self.headers.get(b"grpc-encoding", b"identity").decode("latin-1")
            if encoding == "identity":
                raise _NoMessage("the message is marked as compressed, and no compression is named", _MESSAGE_HINT)
            raise _Compressed(f"messages compressed with {short(encoding)} are not read", "send them uncompressed")

    async def answer(self, message: bytes, *, last: bool = False) -> None:
        """Send one message. last: whether no other follows."""
        await self._start(_HEADERS)
        body = _PREFIX.pack(0, len(message)) + message
        self._whole = last
        await self._put({"type": "http.response.body", "body": body, "more_body": not last})

    async def end(self, code: str, message: str = "", trailers: Trailers = ()) -> None:
        """Send the status, with which an answer ends; without any message before it, it is the whole answer."""
        status = [(b"grpc-status", _CODES[code])]
        if message:
            status.append((b"grpc-message", quote(message, safe=_PLAIN).encode()))
        for name, value in trailers:
            text = b64encode(value).rstrip(b"=") if isinstance(value, bytes) else value.encode()
            status.append((name.encode(), text))
        if not self._started:
            await self._start([*_HEADERS, *status], trailers=False)
            await self._put({"type": "http.response.body"})
            return
        if not self._whole:
            await self._put({"type": "http.response.body"})
        await self._put({"type": "http.response.trailers", "headers": status})

    async def refuse(self, method: Method | StreamMethod, error: KmsdError, more: Trailers = ()) -> None:
        """Tell an error. more: trailers beside those of every error."""
        told = refusal(method, error)
        await self.end(told.code, told.message, (*told.trailers, *more))

    async def end_http(self, status: int) -> None:
        """Answer a request that is no gRPC with a status of HTTP."""
        await self._put({"type": "http.response.start", "status": status, "headers": []})
        await self._put({"type": "http.response.body"})

    async def _put(self, event: dict[str, Any]) -> None:
        try:
            await self._send(event)
        except Exception as error:
            raise _Gone from error

    async def _start(self, headers: list[tuple[bytes, bytes]], *, trailers: bool = True) -> None:
        if not self._started:
            self._started = True
            await self._put({"type": "http.response.start", "status": 200, "headers": headers, "trailers": trailers})


def _seconds(timeout: bytes) -> float | None:
    """Return the seconds that grpc-timeout gives; None if it is missing, or is no timeout."""
    number, unit = timeout[:-1], _UNITS.get(timeout[-1:])
    if unit is None or not number.isdigit() or len(number) > _MOST_DIGITS:
        return None
    return int(number) * unit
