"""What KMS v2 keeps in etcd behind its prefix: the protobuf message `EncryptedObject`, written by hand.

Its own code on purpose, so that a fault in a reader of the project cannot hide itself here.
Source: `kmsv2/v2/api.proto` of k8s.io/apiserver; https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

AES_GCM_KEY = 0
HKDF_SHA256_XNONCE_AES_GCM_SEED = 1

VARINT = 0
BYTES = 2


@dataclass(frozen=True)
class EncryptedObject:
    data: bytes
    key_id: str
    dek_source: bytes
    """The data key, or its seed, as the KMS encrypted it."""
    annotations: Mapping[str, bytes] = field(default_factory=dict)
    dek_source_type: int = HKDF_SHA256_XNONCE_AES_GCM_SEED

    def to_bytes(self) -> bytes:
        out = _bytes(1, self.data) + _bytes(2, self.key_id.encode()) + _bytes(3, self.dek_source)
        for name, value in sorted(self.annotations.items()):
            out += _bytes(4, _bytes(1, name.encode()) + _bytes(2, value))
        if self.dek_source_type:
            out += _varint(5 << 3 | VARINT) + _varint(self.dek_source_type)
        return out

    @classmethod
    def from_bytes(cls, raw: bytes) -> EncryptedObject:
        """Raises ValueError for anything that is no EncryptedObject."""
        parts: dict[int, bytes] = {}
        annotations: dict[str, bytes] = {}
        source_type = AES_GCM_KEY
        for number, value in _fields(raw):
            match number, value:
                case 1 | 2 | 3, bytes():
                    parts[number] = value
                case 4, bytes():
                    entry = {key: part for key, part in _fields(value) if isinstance(part, bytes)}
                    annotations[entry.get(1, b"").decode()] = entry.get(2, b"")
                case 5, int():
                    source_type = value
                case _:
                    raise ValueError(f"field {number} is unknown or of the wrong type")
        return cls(parts.get(1, b""), parts.get(2, b"").decode(), parts.get(3, b""), annotations, source_type)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _bytes(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | BYTES) + _varint(len(value)) + value if value else b""


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(raw):
        tag, at = _read_varint(raw, at)
        value, at = _read_varint(raw, at)
        match tag & 7:
            case 0:
                yield tag >> 3, value
            case 2:
                if at + value > len(raw):
                    raise ValueError("cut short")
                yield tag >> 3, raw[at : at + value]
                at += value
            case other:
                raise ValueError(f"wire type {other} is not used here")


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(raw):
        byte = raw[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return number, at
        shift += 7
    raise ValueError("cut short")
