"""Clients that ask for more than their share, each kind in its own way, written without any library of HTTP/2.

usage: python -m tests.security.floods KIND SOCKET SECONDS
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector

from tests.rpc.refusals import ENCRYPT_V1
from tests.rpc.wire import field

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, CONTINUATION = 0, 1, 3, 4, 9
END_STREAM, END_HEADERS = 1, 4
CANCEL = struct.pack(">I", 8)
NO_WINDOW = struct.pack(">HI", 4, 0)
"""SETTINGS_INITIAL_WINDOW_SIZE of nothing: no answer has room."""

Writer = Iterator[bytes]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _text(value: bytes) -> bytes:
    return bytes((len(value),)) + value


def request_headers(path: str) -> bytes:
    """A header block of a gRPC request (RFC 7541): nothing of it is indexed."""
    return (
        b"\x83\x86\x04" + _text(path.encode()) + b"\x01" + _text(b"localhost")
        + b"\x0f\x10" + _text(b"application/grpc") + b"\x00" + _text(b"te") + _text(b"trailers")
    )  # fmt: skip


def _streams() -> Iterator[int]:
    return iter(range(1, 1 << 31, 2))


BLOCK = request_headers(ENCRYPT_V1)
BRIEF = field(1, "v1beta1") + field(2, bytes(32))
MESSAGE = field(1, "v1beta1") + field(2, bytes(8000))
SHORT = b"\0" + struct.pack(">I", len(BRIEF)) + BRIEF
WHOLE = b"\0" + struct.pack(">I", len(MESSAGE)) + MESSAGE


def half_open() -> Writer:
    """A thousand requests that never end."""
    for stream, _ in zip(_streams(), range(1000), strict=False):
        yield frame(HEADERS, END_HEADERS, stream, BLOCK)


def unfinished() -> Writer:
    """Messages of which the last byte is missing, as many as the first window of a connection takes."""
    for stream, _ in zip(_streams(), range(8), strict=False):
        yield frame(HEADERS, END_HEADERS, stream, BLOCK) + frame(DATA, 0, stream, WHOLE[:-1])


def slow_writer() -> Writer:
    """Messages that come byte by byte."""
    for stream, _ in zip(_streams(), range(100), strict=False):
        yield frame(HEADERS, END_HEADERS, stream, BLOCK)
    for byte in WHOLE:
        for stream, _ in zip(_streams(), range(100), strict=False):
            yield frame(DATA, 0, stream, bytes((byte,)))
        yield b""


def slow_reader() -> Writer:
    """Whole requests, and no room for their answers."""
    yield frame(SETTINGS, 0, 0, NO_WINDOW)
    for stream, _ in zip(_streams(), range(7), strict=False):
        yield frame(HEADERS, END_HEADERS, stream, BLOCK) + frame(DATA, END_STREAM, stream, WHOLE)


def rapid_reset() -> Writer:
    """Requests that are taken back at once."""
    for stream in _streams():
        yield frame(HEADERS, END_HEADERS, stream, BLOCK) + frame(RST_STREAM, 0, stream, CANCEL)


def headers() -> Writer:
    """Headers without end."""
    yield frame(HEADERS, 0, 1, BLOCK)
    while True:
        yield frame(CONTINUATION, 0, 1, b"\x00" + _text(b"x") + _text(bytes(100)))


def no_end_of_headers() -> Writer:
    """Requests without a message, whose headers never end."""
    yield frame(HEADERS, END_STREAM, 1, BLOCK)


def many_frames() -> Writer:
    """Frames that ask for answers, which nobody reads."""
    while True:
        yield frame(6, 0, 0, bytes(8)) * 100


def whole() -> Writer:
    """Whole requests, as fast as they are taken."""
    for stream in _streams():
        yield frame(HEADERS, END_HEADERS, stream, BLOCK) + frame(DATA, END_STREAM, stream, SHORT)


def churn() -> Writer:
    """One request, after which the connection is made anew."""
    yield frame(HEADERS, END_HEADERS, 1, BLOCK) + frame(DATA, END_STREAM, 1, SHORT)


def connections() -> Writer:
    """Nothing at all."""
    yield from ()


KINDS: dict[str, tuple[Callable[[], Writer], int, bool]] = {
    "half-open streams": (half_open, 20, True),
    "unfinished messages": (unfinished, 60, True),
    "slow writers": (slow_writer, 60, True),
    "slow readers": (slow_reader, 60, True),
    "rapid reset": (rapid_reset, 8, True),
    "headers without end": (headers, 8, True),
    "pings that are not read": (many_frames, 8, False),
    "whole requests": (whole, 30, True),
    "connections that come and go": (churn, 100, True),
    "idle connections": (connections, 1500, False),
}
"""What each connection writes, how many there are, and whether they read."""


class _Peer:
    """One connection, made again when it is ended."""

    def __init__(self, path: str, write: Callable[[], Writer]) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.setblocking(False)
        self.socket.connect(path)
        self._write = write()
        self._left = PREFACE + frame(SETTINGS, 0, 0) if write is not connections else b""

    def turn(self) -> bool:
        """Write some. Returns whether there is more."""
        while len(self._left) < 16384:
            following = next(self._write, None)
            if following is None:
                break
            self._left += following
            if not following:
                break
        sent = self.socket.send(self._left) if self._left else 0
        self._left = self._left[sent:]
        return sent > 0


def flood(kind: str, path: str, seconds: float) -> int:
    """Return how many connections were made."""
    write, count, reads = KINDS[kind]
    selector, until, made, peers = DefaultSelector(), time.monotonic() + seconds, 0, 0
    while time.monotonic() < until:
        while peers < count:
            try:
                peer = _Peer(path, write)
            except OSError:
                break
            selector.register(peer.socket, EVENT_READ | (EVENT_WRITE if write is not connections else 0), peer)
            made, peers = made + 1, peers + 1
        for key, events in selector.select(0.05):
            peer = key.data
            try:
                listens = reads or write is connections
                if events & EVENT_READ and listens and (not peer.socket.recv(65536) or write is churn):
                    raise ConnectionError
                if events & EVENT_WRITE and not peer.turn():
                    selector.modify(peer.socket, EVENT_READ, peer)
            except BlockingIOError:
                pass
            except OSError:
                selector.unregister(peer.socket)
                peer.socket.close()
                peers -= 1
    return made


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.stdout.write(str(flood(sys.argv[1], sys.argv[2], float(sys.argv[3]))))
