"""Protocol buffers by hand, so that a test of the wire format does not rest on generated code.

https://protobuf.dev/programming-guides/encoding/; only length-delimited fields, which is all the KMS APIs have.
"""

from __future__ import annotations

_LENGTH_DELIMITED = 2


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, value: bytes | str) -> bytes:
    """One field of type bytes, string or message."""
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(data)) + data


def fields(message: bytes) -> dict[int, bytes]:
    """Field number to value; fails on anything but length-delimited fields that occur once."""
    found: dict[int, bytes] = {}
    place = 0

    def take() -> int:
        nonlocal place
        number = shift = 0
        while True:
            byte = message[place]
            place += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while place < len(message):
        tag = take()
        assert tag & 7 == _LENGTH_DELIMITED, f"wire type {tag & 7}"
        size = take()
        assert tag >> 3 not in found, f"field {tag >> 3} twice"
        found[tag >> 3] = message[place : place + size]
        assert len(found[tag >> 3]) == size
        place += size
    return found
