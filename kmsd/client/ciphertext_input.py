"""Reads what `kmsctl encrypt` wrote, and finds the end of a stored value. Pure; decrypts nothing."""

from __future__ import annotations

import base64
import binascii
import json
import re

from kmsd.client.errors import InvalidRequest
from kmsd.client.model.kms import Encrypted
from kmsd.formats.ciphertext import read_header

ENVELOPE = b"k8s:enc:"
"""The beginning that kube-apiserver gives every encrypted value."""
_V2 = re.compile(rb"k8s:enc:kms:v2:[^:]*:")


def parse(data: bytes) -> Encrypted:
    """Parse what `kmsctl encrypt -o json` wrote; anything that is no JSON object is a bare ciphertext. Raises
    InvalidRequest."""
    text = data.strip()
    if not text.startswith(b"{"):
        # A compact JWE is text without spaces (RFC 7516 7.1): what is around it came from an editor or echo.
        return Encrypted(text if text.count(b".") == 4 else data)
    try:
        document = json.loads(text)
        annotations = document.get("annotations") or {}
        return Encrypted(
            base64.b64decode(document["ciphertext"], validate=True),
            str(document.get("key_id") or ""),
            {str(name): base64.b64decode(value, validate=True) for name, value in annotations.items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error, RecursionError):
        raise InvalidRequest(
            "the input is JSON, but not what `kmsctl encrypt -o json` writes",
            "give an object with ciphertext (base64), key_id and annotations",
        ) from None


def key_id_of(ciphertext: bytes) -> str | None:
    """Return the `kid` of a JWE in compact form (RFC 7516 3.1), which a v2 Decrypt must name; None if it is no JWE or
    names no key. Verifies nothing."""
    head, dot, _ = ciphertext.partition(b".")
    header = read_header(head) if dot else None
    return header.kid or None if header is not None else None


def without_line_end(data: bytes) -> bytes:
    """Cut off the line end that etcdctl prints behind a value, where the value is whole without it and not with it. v1
    ends in data of any kind, and one byte more of it harms nothing here."""
    head = _V2.match(data)
    if head is None or not data.endswith(b"\n"):
        return data
    return data[:-1] if not _is_whole(data[head.end() :]) and _is_whole(data[head.end() : -1]) else data


def _is_whole(message: bytes) -> bool:
    """Return whether these bytes are protobuf fields that end where the bytes end (only the wire types 0 and 2
    occur)."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if at < 0 or tag & 7 not in (0, 2):
            return False
        value, at = _varint(message, at)
        if at < 0:
            return False
        if tag & 7 == 2:
            at += value
    return at == len(message)


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the number there and where it ends; -1 if it does not."""
    number = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        number |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if byte < 0x80:
            return number, at
    return 0, -1
