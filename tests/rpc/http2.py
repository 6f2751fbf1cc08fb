"""A client of HTTP/2 that shows what is on the wire, which gRPC's own do not."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import h2.config
import h2.connection
import h2.events

GOAWAY = 7
GRPC = (("content-type", "application/grpc"), ("te", "trailers"))


def prefixed(message: bytes, *, compressed: bool = False) -> bytes:
    return struct.pack(">BI", compressed, len(message)) + message


@dataclass
class Answer:
    """headers: the last of the stream count where two have one name, trailers among them. reset: error code of
    RST_STREAM."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> str:
        return self.headers.get("grpc-status", "")


class Client:
    """One connection to a Unix socket. goaway: error code of the server's GOAWAY."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(10)
        self._socket.connect(str(path))
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self.wire = h2.connection.H2Connection(config)
        self.wire.initiate_connection()
        self.answers: dict[int, Answer] = {}
        self.goaway: int | None = None
        self._part = b""
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def flush(self) -> None:
        self._socket.sendall(self.wire.data_to_send())

    def begin(self, path: str, headers: Iterable[tuple[str, str]] = GRPC, method: str = "POST") -> int:
        """Begin a request. Returns the number of its stream."""
        stream = self.wire.get_next_available_stream_id()
        fixed = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "localhost")]
        self.wire.send_headers(stream, [*fixed, *headers])
        self.answers[stream] = Answer()
        self.flush()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = True) -> None:
        self.wire.send_data(stream, data, end_stream=end)
        self.flush()

    def reset(self, stream: int) -> None:
        self.wire.reset_stream(stream, 8)
        self.flush()

    def ask(self, path: str, message: bytes, headers: Iterable[tuple[str, str]] = GRPC) -> Answer:
        """Send one request, and wait for its answer."""
        stream = self.begin(path, headers)
        self.send(stream, prefixed(message))
        return self.wait(stream)

    def wait(self, stream: int, seconds: float = 10.0) -> Answer:
        """Return the answer on this stream, once it has ended."""
        answer, until = self.answers[stream], time.monotonic() + seconds
        while not answer.ended:
            self.read(until)
        return answer

    def wait_goaway(self, seconds: float = 10.0) -> int:
        """Return the error code of the GOAWAY."""
        until = time.monotonic() + seconds
        while self.goaway is None:
            self.read(until)
        return self.goaway

    def read(self, until: float) -> None:
        """Take note of what the server sends next. Raises TimeoutError, and ConnectionError if it has ended."""
        self._socket.settimeout(max(0.01, until - time.monotonic()))
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError
        for event in self.wire.receive_data(self._without_goaway(data)):
            match event:
                case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                    assert event.stream_id is not None
                    assert event.headers is not None
                    self.answers[event.stream_id].headers.update(
                        (str(name), str(value)) for name, value in event.headers
                    )
                case h2.events.DataReceived():
                    assert event.stream_id is not None
                    assert event.data is not None
                    self.answers[event.stream_id].body += event.data
                    self.wire.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
                case h2.events.StreamEnded():
                    assert event.stream_id is not None
                    self.answers[event.stream_id].ended = True
                case h2.events.StreamReset():
                    assert event.stream_id is not None
                    answer = self.answers[event.stream_id]
                    answer.ended, answer.reset = True, int(event.error_code or 0)
        self.flush()

    def _without_goaway(self, data: bytes) -> bytes:
        """Return the whole frames so far but GOAWAY, after which the library takes no answers."""
        self._part += data
        whole = b""
        while len(self._part) >= 9 and len(self._part) >= (end := 9 + int.from_bytes(self._part[:3], "big")):
            frame, self._part = self._part[:end], self._part[end:]
            if frame[3] == GOAWAY:
                self.goaway = int.from_bytes(frame[13:17], "big")
            else:
                whole += frame
        return whole
