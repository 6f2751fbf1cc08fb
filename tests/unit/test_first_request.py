"""The authority of a connection's first request is found in any pieces, and nothing that is sent raises."""

from __future__ import annotations

import struct

import pytest
from hpack import Encoder
from hypothesis import given
from hypothesis import strategies as st

from kmsd.transport import frames
from kmsd.transport.first_request import FirstRequest

SETTINGS = frames.settings(1000)
WINDOW = struct.pack(">HBBBII", 0, 4, frames.WINDOW_UPDATE, 0, 0, 1 << 20)
PING = struct.pack(">HBBBI8s", 0, 8, 6, 0, 0, bytes(8))


def _headers(
    authority: str | None, *, flags: int = frames.END_HEADERS, before: bytes = b"", after: bytes = b""
) -> bytes:
    """A frame with the headers of a request. before, after: what surrounds them in the frame."""
    named = [] if authority is None else [(":authority", authority)]
    payload = before + Encoder().encode([(":method", "POST"), (":path", "/x"), *named]) + after
    return struct.pack(">HBBBI", len(payload) >> 8, len(payload) & 0xFF, frames.HEADERS, flags, 1) + payload


def _continued(frame: bytes, first: int) -> bytes:
    """The same block of headers, so many bytes of it in the first frame and the rest in others of 7 bytes each."""
    block = frame[frames.HEADER :]
    made = struct.pack(">HBBBI", 0, first, frames.HEADERS, 0, 1) + block[:first]
    pieces = [block[at : at + 7] for at in range(first, len(block), 7)]
    for number, piece in enumerate(pieces, 1):
        flags = frames.END_HEADERS if number == len(pieces) else 0
        made += struct.pack(">HBBBI", 0, len(piece), frames.CONTINUATION, flags, 1) + piece
    return made


GOOD = {
    "settings before": SETTINGS + WINDOW + _headers("localhost"),
    "no settings": _headers("localhost"),
    "padded, with a priority": SETTINGS
    + _headers("localhost", flags=frames.END_HEADERS | 0x28, before=b"\x03" + bytes(5), after=bytes(3)),
    "in several frames": SETTINGS + _continued(_headers("localhost"), 3),
    "none in the first frame": SETTINGS + _continued(_headers("localhost"), 0),
}


@pytest.mark.parametrize("what", GOOD)
def test_the_authority_is_found_however_the_bytes_come(what: str) -> None:
    data = frames.PREFACE + GOOD[what]
    for step in (1, 5, 100):
        first = FirstRequest()
        found = [first.authority(data[:end]) for end in [*range(step, len(data), step), len(data)]]
        assert found[-1] == "localhost"
        assert set(found[:-1]) <= {None}


BAD = {
    "no authority": SETTINGS + _headers(None),
    "a ping": SETTINGS + PING,
    "a frame between headers": SETTINGS + _continued(_headers("localhost"), 3)[:12] + SETTINGS,
    "headers that are none": SETTINGS
    + struct.pack(">HBBBI", 0, 4, frames.HEADERS, frames.END_HEADERS, 1)
    + b"\xff" * 4,
    "headers too large": SETTINGS + _headers("a" * 17000),
    "no request within bounds": SETTINGS * 5000,
    "more padding than there is": SETTINGS + struct.pack(">HBBBI", 0, 1, frames.HEADERS, 0xC, 1) + b"\xff",
    "padding that is missing": SETTINGS + struct.pack(">HBBBI", 0, 0, frames.HEADERS, 0xC, 1),
}


@pytest.mark.parametrize("what", BAD)
def test_what_names_no_host_names_nothing(what: str) -> None:
    assert FirstRequest().authority(frames.PREFACE + BAD[what]) == ""


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([SETTINGS, WINDOW, PING, _headers("x")]))))
def test_nothing_that_is_sent_raises(pieces: list[bytes]) -> None:
    first, data = FirstRequest(), frames.PREFACE
    for piece in pieces:
        data += piece
        if first.authority(data) is not None:
            break
