"""Finds a stored value in what people have it in: as it is, in base64 or hexadecimal digits, as a dump, or as etcdctl,
kine's database or `kmsctl encrypt -o json` printed it. Pure; decrypts nothing."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from kmsd.client import ciphertext_input
from kmsd.client.ciphertext_input import ENVELOPE
from kmsd.client.errors import InvalidRequest
from kmsd.formats.ciphertext import HEADER_BEGINS

TRIED: Final = (
    "as it is, base64, hexadecimal digits, hexdump -C, xxd, od -t x1, and etcdctl's text, --hex, -w json, -w fields "
    "and -w protobuf"
)
_OD: Final = 7
_LAYERS: Final = 3
"""Forms that may lie in one another, as a hexdump of what etcdctl printed."""
_WRAPPED: Final = 80
"""Characters of a line, at most, that a program broke."""

_JWE = re.compile(rb"[!-\-/-~]*(?:\.[!-\-/-~]*){4}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}={0,2}")
_BASE64_RUN = re.compile(rb"azhzOmVuYzpr?[A-Za-z0-9+/_-]*={0,2}")
"""base64 that begins with the envelope."""
_HEX_RUN = re.compile(rb"6b38733a656e633a[0-9a-f]*", re.IGNORECASE)
_HEX_PREFIXES = re.compile(rb"\\+x|\b0x", re.IGNORECASE)
_HEX = re.compile(rb"(?:x')?((?:[0-9a-f]{2}){8,})[0-9a-f]?'?", re.IGNORECASE)
_DUMP = re.compile(
    rb"(?P<at>[0-9a-f]{6,16})(?::[ ]|[ ]{1,2})(?P<bytes>(?:[0-9a-f]{2}[ ]{0,2}){1,16})(?:[ |>].*)?", re.IGNORECASE
)
"""A line of hexdump -C, xxd or od -A x -t x1: where it is, up to 16 bytes, and the same in letters."""
_END = re.compile(rb"[0-9a-f]{6,16}", re.IGNORECASE)
_FIELD = re.compile(rb'^"Value" : "((?:[^"\\\n]|\\.)*)"', re.MULTILINE)
_ESCAPE = re.compile(rb"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|(.))", re.DOTALL)
_LETTERS: Final = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


@dataclass(frozen=True)
class PrintedValue:
    """A value that was found in some input. data: the value. form: in words, what it was taken out of; empty if it was
    as it is. others: how many more values the input holds. recognised: False if nothing was found, and then data is the
    input."""

    data: bytes
    form: str = ""
    others: int = 0
    recognised: bool = True

    @property
    def note(self) -> str:
        """The words on the input beside the form; empty if there is nothing to say."""
        if not self.recognised:
            return f"not recognised; tried: {TRIED}"
        if self.others:
            return f"the input holds {self.others} more, which {'is' if self.others == 1 else 'are'} left out"
        return ""


def find(data: bytes) -> PrintedValue:
    """Return the first value in the input. Raises InvalidRequest for JSON that is nearly what `kmsctl encrypt`
    writes, and for a dump from which lines are missing."""
    return _find(data, _LAYERS) or PrintedValue(data, recognised=False)


def _find(data: bytes, layers: int) -> PrintedValue | None:
    known = _as_it_is(data)
    if known is not None or not layers:
        return known
    for form, reading in _READINGS:
        values = reading(data)
        if not values or (inner := _find(values[0], layers - 1)) is None:
            continue
        words = form if not inner.form else f"{form} of {inner.form}"
        return replace(inner, form=words, others=inner.others + len(values) - 1)
    return None


def _as_it_is(data: bytes) -> PrintedValue | None:
    text = data.strip()
    if data.startswith(ENVELOPE):
        first, *others = data.split(b"\n" + ENVELOPE)
        return PrintedValue(first if others else ciphertext_input.without_line_end(data), others=len(others))
    if text.startswith(b"{"):
        return _json(data)
    if data.startswith(b"k8s\0"):
        return PrintedValue(data)
    if _JWE.fullmatch(text) or (text.startswith(b"eyJ") and not _is_json_in_base64(text)):
        return PrintedValue(text)
    return None


def _is_json_in_base64(text: bytes) -> bool:
    """Return whether the text is some JSON in base64, and not the header of a JWE that was cut short."""
    decoded = _decoded(b"".join(text.split()))
    return decoded is not None and not HEADER_BEGINS.match(decoded)


def _json(data: bytes) -> PrintedValue:
    try:
        document: Any = json.loads(data)
    except (ValueError, RecursionError):
        return PrintedValue(data)
    if isinstance(document, dict) and "ciphertext" in document:
        return PrintedValue(ciphertext_input.parse(data).ciphertext, "what `kmsctl encrypt -o json` writes")
    match document:
        case {"kvs": [{"value": str(first)}, *others]} if (value := _decoded(first.encode())) is not None:
            return PrintedValue(value, "etcdctl's JSON", len(others))
    return PrintedValue(data)


def _fields(data: bytes) -> list[bytes]:
    """Find values in etcdctl's -w fields, which quotes as Go's %q does."""
    return [_ESCAPE.sub(_unescaped, each) for each in _FIELD.findall(data)]


def _unescaped(found: re.Match[bytes]) -> bytes:
    byte, short, long, letter = found.groups()
    if byte is not None:
        return bytes([int(byte, 16)])
    if letter is not None:
        return _LETTERS.get(letter, bytes(letter))
    return chr(min(int(short or long, 16), 0x10FFFF)).encode(errors="replace")


def _text(data: bytes) -> list[bytes]:
    """Find values among keys and values by turns, a line end behind each, or in an answer of etcd in protobuf."""
    starts = [found.start() for found in re.finditer(re.escape(ENVELOPE), data)]
    values = []
    for at, following in zip(starts, [*starts, 0][1:], strict=True):
        length = _length_before(data, at)
        if length:
            values.append(data[at : at + length])
        elif not following:
            values.append(data[at:])
        else:
            # The line before the next value is its key.
            values.append(data[at : max(at, data.rfind(b"\n", at, max(at, following - 1)))])
    return values


def _length_before(data: bytes, at: int) -> int:
    """Return the length that protobuf gives a value (KeyValue.value, field 5); 0 if none stands before it."""
    for octets in range(1, 5):
        field = data[max(0, at - octets - 1) : at]
        if len(field) != octets + 1 or field[0] != 0x2A:
            continue
        length = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(field[1:]))
        ended = field[-1] < 0x80 and all(byte >= 0x80 for byte in field[1:-1])
        if ended and len(ENVELOPE) < length <= len(data) - at:
            return length
    return 0


def _dump(data: bytes) -> list[bytes]:
    """Find the value in a dump in lines that begin with where they are; `*` stands for lines like the one before."""
    out, last, repeated = bytearray(), b"", False
    for line in filter(None, map(bytes.strip, data.splitlines())):
        if line == b"*":
            repeated = True
            continue
        found = _DUMP.fullmatch(line)
        if found is None and not (out and _END.fullmatch(line)):
            return []
        where = found["at"] if found else line
        # od counts in octal digits, seven of them, unless it is told otherwise.
        at = int(where, 8 if len(where) == _OD and b"8" not in where and b"9" not in where else 16)
        if repeated and last and at - len(out) <= len(data) * len(last):
            out += last * max(0, (at - len(out)) // len(last))
        repeated = False
        if found is not None:
            last = _unhexed(b"".join(found["bytes"].split()))
            out += last
    return [bytes(out)] if out else []


def _hexadecimal(data: bytes) -> list[bytes]:
    """Find values in digits behind one another, with `\\x` or spaces between them or not, in lines or not, and beside
    other words."""
    text = _HEX_PREFIXES.sub(b"", data)
    if re.search(rb"[0-9a-fA-F\s]\*", text) and _HEX_RUN.search(b"".join(text.split())):
        raise InvalidRequest(
            "the dump leaves out lines that repeat (*), and does not say how many",
            "make it anew with -v, as `od -v`, or give the value itself: etcdctl get --print-value-only KEY",
        )
    runs = list(_HEX_RUN.finditer(text))
    if runs and len(runs[0][0]) > _WRAPPED:
        return [_unhexed(each[0]) for each in runs]
    joined = b"".join(text.split())
    if found := _HEX_RUN.search(joined):
        return [_unhexed(found[0])]
    whole = _HEX.fullmatch(joined)
    return [_unhexed(whole[1])] if whole else []


def _unhexed(digits: bytes) -> bytes:
    return binascii.unhexlify(digits[: len(digits) // 2 * 2])


def _base64(data: bytes) -> list[bytes]:
    joined = b"".join(data.split())
    texts = [joined] if _BASE64.fullmatch(joined) else _BASE64_RUN.findall(data)
    return [each for each in map(_decoded, texts) if each is not None]


def _decoded(text: bytes) -> bytes | None:
    unpadded = text.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    if len(unpadded) % 4 == 1:
        unpadded = unpadded[:-1]  # cut short
    try:
        return base64.b64decode(unpadded + b"=" * (-len(unpadded) % 4), validate=True)
    except binascii.Error:
        return None


_READINGS: Final[tuple[tuple[str, Callable[[bytes], list[bytes]]], ...]] = (
    ("etcdctl's fields", _fields),
    ("a hexadecimal dump", _dump),
    ("etcdctl's output", _text),
    ("hexadecimal digits", _hexadecimal),
    ("base64", _base64),
)
