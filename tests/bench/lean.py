"""A client of gRPC over TLS that costs little: it writes frames made beforehand, and counts the streams that end.

What a client costs on the machine of the server would else be most of what is measured.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Callable
from time import perf_counter
from typing import Final, cast

from kmsd.transport import frames

_WINDOW: Final = 0x7FFFFFFF - 65535
_ACK: Final = struct.pack(">BHBBI", 0, 0, frames.SETTINGS, frames.ACK, 0)
_PING: Final = 6
_GOAWAY: Final = 7


class Request:
    """A request to a method, as it is sent: everything but the numbers of its stream. body: the message, framed."""

    def __init__(self, path: str, body: bytes, deadline: str = "3S") -> None:
        fields = {
            ":method": "POST",
            ":scheme": "https",
            ":path": path,
            ":authority": "manager.test",
            "content-type": "application/grpc",
            "te": "trailers",
            "grpc-timeout": deadline,
        }
        # Literals without indexing (RFC 7541 6.2.2).
        block = b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())
        self._headers, self._data = _head(len(block), frames.HEADERS, frames.END_HEADERS), block
        self._body = _head(len(body), frames.DATA, frames.END_STREAM), body

    def on(self, stream: int) -> bytes:
        """Return the frames for this stream."""
        number = struct.pack(">I", stream)
        return b"".join((self._headers, number, self._data, self._body[0], number, self._body[1]))


def _head(length: int, kind: int, flags: int) -> bytes:
    return struct.pack(">BHBB", length >> 16, length & 0xFFFF, kind, flags)


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


class Lean(asyncio.Protocol):
    """A connection. ended: called with the milliseconds of each call that ends, and whether it had an answer."""

    def __init__(self, ended: Callable[[float, bool], None]) -> None:
        self.open: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost = False
        self._ended = ended
        self._stream = -1
        self._began: dict[int, tuple[float, asyncio.Future[bool]]] = {}
        self._answered: set[int] = set()
        self._rest = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no such class, and do the same.
        self._transport = cast("asyncio.Transport", transport)
        grant = _head(4, frames.WINDOW_UPDATE, 0) + struct.pack(">II", 0, _WINDOW)
        self._transport.write(frames.PREFACE + _head(0, frames.SETTINGS, 0) + bytes(4) + grant)

    def ask(self, request: Request) -> asyncio.Future[bool]:
        """Send one request. Returns what is done when it has ended: whether it had an answer."""
        self._stream += 2
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._began[self._stream] = perf_counter(), done
        if self.lost:
            self._end(self._stream)
        else:
            self._transport.write(request.on(self._stream))
        return done

    def close(self) -> None:
        """End the connection."""
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self.open.done():
            self.open.set_exception(exc or ConnectionResetError())
        for stream in tuple(self._began):
            self._end(stream)

    def data_received(self, data: bytes) -> None:
        data, place = self._rest + data, 0
        while len(data) - place >= frames.HEADER:
            length, kind, flags, stream = frames.frame_at(data, place)
            if len(data) - place < frames.HEADER + length:
                break
            payload = data[place + frames.HEADER : place + frames.HEADER + length]
            place += frames.HEADER + length
            if kind == frames.SETTINGS and not flags & frames.ACK:
                self._transport.write(_ACK)
                if not self.open.done():
                    self.open.set_result(None)
            elif kind == _PING and not flags & frames.ACK:
                self._transport.write(_head(8, _PING, frames.ACK) + bytes(4) + payload)
            elif kind == _GOAWAY:
                self._transport.close()
            elif kind == frames.DATA and length > 5:  # an answer that is no error
                self._answered.add(stream)
            if kind == frames.RST_STREAM or (kind in (frames.DATA, frames.HEADERS) and flags & frames.END_STREAM):
                self._end(stream)
        self._rest = data[place:]

    def _end(self, stream: int) -> None:
        if (call := self._began.pop(stream, None)) is None:
            return
        began, done = call
        answered = stream in self._answered
        self._answered.discard(stream)
        self._ended((perf_counter() - began) * 1000, answered)
        if not done.done():
            done.set_result(answered)


async def connect(
    port: int, context: ssl.SSLContext, ended: Callable[[float, bool], None], host: str = "127.0.0.1"
) -> Lean:
    """Connect, and wait until the server has taken the certificate and said so. Raises OSError."""
    loop = asyncio.get_running_loop()
    _, lean = await loop.create_connection(lambda: Lean(ended), host, port, ssl=context, server_hostname="manager.test")
    try:
        await asyncio.wait_for(lean.open, 20)
    except TimeoutError:
        lean.close()
        raise OSError("the server said nothing") from None
    return lean


def client_context(ca: str, certificate: str, key: str) -> ssl.SSLContext:
    """Return what a proxy's side of TLS is: 1.3, with a certificate."""
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(certificate, key)
    return context
