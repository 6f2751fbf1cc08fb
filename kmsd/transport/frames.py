"""Find where the frames of an HTTP/2 connection begin, and make those that kmsd itself sends (RFC 9113 4.1).

Reads headers of frames only: what they carry is for the server. Knows no socket.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""Bytes that every client sends first (RFC 9113 3.4)."""
HEADER: Final = 9
"""Bytes of a frame's header."""
EVERY_STREAM: Final = 0x7FFFFFFF
"""The largest number of a stream, and the bits of a frame's header that hold it."""

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
_GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9
ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
_PADDED: Final = 0x8
_PRIORITY: Final = 0x20

_FIELDS: Final = struct.Struct(">HBBBI")
_SETTING: Final = struct.Struct(">HI")
_MAX_CONCURRENT_STREAMS: Final = 3


class Reason(IntEnum):
    """The error codes of RFC 9113 7 that kmsd itself gives."""

    NO_ERROR = 0x0
    ENHANCE_YOUR_CALM = 0xB


class Frame(NamedTuple):
    """The header of one frame. length: bytes of its payload."""

    length: int
    kind: int
    flags: int
    stream: int


def frame_at(data: bytes, place: int) -> Frame:
    """Return the header of the frame that begins at this place. HEADER bytes must be there."""
    high, low, kind, flags, stream = _FIELDS.unpack_from(data, place)
    return Frame(high << 8 | low, kind, flags, stream & EVERY_STREAM)


def fragment(frame: Frame, payload: bytes) -> bytes:
    """Return the part of a block of headers that a frame of HEADERS or CONTINUATION carries (RFC 9113 6.2)."""
    if frame.kind != HEADERS:
        return payload
    padding = 0
    if frame.flags & _PADDED:
        padding, payload = payload[0] if payload else 0, payload[1:]
    if frame.flags & _PRIORITY:
        payload = payload[5:]
    return payload[: max(0, len(payload) - padding)]


def settings(streams: int) -> bytes:
    """Return the first frame of a server (RFC 9113 3.4), which allows `streams` requests at once."""
    return _FIELDS.pack(0, _SETTING.size, SETTINGS, 0, 0) + _SETTING.pack(_MAX_CONCURRENT_STREAMS, streams)


def goaway(reason: Reason, words: str) -> bytes:
    """Return a frame that asks a client for no further requests on its connection; what it has sent is answered."""
    payload = struct.pack(">II", EVERY_STREAM, reason) + words.encode()
    return _FIELDS.pack(len(payload) >> 8, len(payload) & 0xFF, _GOAWAY, 0, 0) + payload


class Boundaries:
    """The boundaries between the frames in one direction of a connection, whose bytes are followed.

    whole: whether the bytes so far end with a whole frame, and not within a block of headers: only there can a frame
    be put in.
    """

    def __init__(self) -> None:
        self._skip = 0
        self._head = b""
        self._in_block = False

    @property
    def whole(self) -> bool:
        return not self._skip and not self._head and not self._in_block

    def follow(self, data: bytes, ended: set[int]) -> int:
        """Follow some more bytes. ended: a set to which the streams that this direction ends are added.

        Returns the last place in the data where a frame can be put in; -1 if there is none.
        """
        place, last = self._skip, -1
        if self._head:
            missing = HEADER - len(self._head)
            if len(data) < missing:
                self._head += data
                return -1
            place = self._see(frame_at(self._head + data[:missing], 0), ended) + missing
            self._head = b""
        size = len(data)
        while place <= size:
            if not self._in_block:
                last = place
            if size - place < HEADER:
                self._head = data[place:]
                self._skip = 0
                return last
            place += HEADER + self._see(frame_at(data, place), ended)
        self._skip = place - size
        return last

    def _see(self, frame: Frame, ended: set[int]) -> int:
        length, kind, flags, stream = frame
        if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
            ended.add(stream)
        if kind in (HEADERS, CONTINUATION):
            self._in_block = not flags & END_HEADERS
        return length
