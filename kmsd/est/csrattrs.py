"""The wishes of a server for requests (csrattrs): the form of RFC 7030 4.5.2, and the template of RFC 9908 3.4. Pure.

Only what a node needs is told and read: the type of the key. A client that knows no template goes by the old form.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from kmsd.errors import InvalidRequest

_SEQUENCE: Final = 0x30
_SET: Final = 0x31
_OID: Final = 0x06
_INTEGER: Final = 0x02
_EC: Final = "1.2.840.10045.2.1"
_RSA: Final = "1.2.840.113549.1.1.1"
_CURVES: Final = {"1.2.840.10045.3.1.7": "ec-p256", "1.3.132.0.34": "ec-p384", "1.3.132.0.35": "ec-p521"}
_SIGNATURES: Final = {
    "ec-p256": "1.2.840.10045.4.3.2", "ec-p384": "1.2.840.10045.4.3.3", "ec-p521": "1.2.840.10045.4.3.4",
}  # fmt: skip
_SHA256_RSA: Final = "1.2.840.113549.1.1.11"
_TEMPLATE: Final = "1.2.840.113549.1.9.16.2.61"
"""id-aa-certificationRequestInfoTemplate (RFC 9908)."""
_COMMON_NAME: Final = "2.5.4.3"
_RSA_SIZES: Final = (2048, 3072, 4096)


def wanted(key_type: str) -> bytes:
    """Return the DER that asks for a key of this type ("ec-p256", "rsa-3072"), and a common name."""
    if key_type.startswith("rsa-"):
        algorithm = [_tlv(_OID, _oid(_RSA)), b"\x05\x00"]
        size = _tlv(_INTEGER, int(key_type[4:]).to_bytes(2, "big"))
        old = [_attribute(_RSA, size), _tlv(_OID, _oid(_SHA256_RSA))]
    else:
        curve = next(oid for oid, name in _CURVES.items() if name == key_type)
        algorithm = [_tlv(_OID, _oid(_EC)), _tlv(_OID, _oid(curve))]
        old = [_attribute(_EC, _tlv(_OID, _oid(curve))), _tlv(_OID, _oid(_SIGNATURES[key_type]))]
    name = _tlv(_SEQUENCE, _tlv(_SET, _tlv(_SEQUENCE, _tlv(_OID, _oid(_COMMON_NAME)))))
    public_key = _tlv(0xA0, _tlv(_SEQUENCE, *algorithm))
    template = _tlv(_SEQUENCE, _tlv(_INTEGER, b"\0"), name, public_key, b"\xa1\x00")
    return _tlv(_SEQUENCE, *old, _attribute(_TEMPLATE, template))


def key_type(der: bytes) -> str | None:
    """Return the type of key that is asked for; None if none is that is known. Raises InvalidRequest for what is no
    csrattrs."""
    try:
        return _key_type(der)
    except ValueError as error:
        raise InvalidRequest("these are no csrattrs") from error


def _key_type(der: bytes) -> str | None:
    ((outer, elements),) = _read(der)
    if outer != _SEQUENCE:
        raise ValueError("no sequence")
    found: str | None = None
    for tag, content in _read(elements):
        if tag != _SEQUENCE:
            continue
        (kind, oid), *values = _read(content)
        if kind == _OID and len(values) == 1 and values[0][0] == _SET:
            name, inner = _dotted(oid), list(_read(values[0][1]))
            if name == _TEMPLATE and inner and (asked := _of_template(inner[0][1])):
                return asked  # it takes the place of all else (RFC 9908 3.4)
            found = found or _of_attribute(name, inner)
    return found


def _of_attribute(oid: str, values: Sequence[tuple[int, bytes]]) -> str | None:
    for tag, value in values:
        if oid == _EC and tag == _OID and _dotted(value) in _CURVES:
            return _CURVES[_dotted(value)]
        if oid == _RSA and tag == _INTEGER and len(value) <= 4 and int.from_bytes(value, "big") in _RSA_SIZES:
            return f"rsa-{int.from_bytes(value, 'big')}"
    return None


def _of_template(template: bytes) -> str | None:
    """Return the type of key in the subjectPKInfo of a template; of RSA the size is in the old form alone."""
    for tag, content in _read(template):
        if tag == 0xA0:
            algorithm = next(_read(content), (0, b""))
            parts = list(_read(algorithm[1])) if algorithm[0] == _SEQUENCE else []
            if len(parts) == 2 and [tag for tag, _ in parts] == [_OID, _OID] and _dotted(parts[0][1]) == _EC:
                return _CURVES.get(_dotted(parts[1][1]))
    return None


def _attribute(oid: str, value: bytes) -> bytes:
    return _tlv(_SEQUENCE, _tlv(_OID, _oid(oid)), _tlv(_SET, value))


def _tlv(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    length = len(content)
    if length < 128:
        return bytes((tag, length)) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(size))) + size + content


def _read(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of what stands one behind the other. Raises ValueError if that is no DER."""
    at = 0
    while at < len(data):
        tag, length = data[at], data[at + 1] if at + 1 < len(data) else 0x80
        at += 2
        if length & 0x80:
            count = length & 0x7F
            if not 1 <= count <= 3 or at + count > len(data):
                raise ValueError("no length of DER")
            length = int.from_bytes(data[at : at + count], "big")
            at += count
        if at + length > len(data):
            raise ValueError("cut off")
        yield tag, data[at : at + length]
        at += length


def _oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    encoded = bytearray()
    for part in (first * 40 + second, *rest):
        septets = [part & 0x7F]
        while part := part >> 7:
            septets.append(0x80 | (part & 0x7F))
        encoded += bytes(reversed(septets))
    return bytes(encoded)


def _dotted(encoded: bytes) -> str:
    parts, value = [], 0
    if not encoded or encoded[-1] & 0x80 or len(encoded) > 64:
        raise ValueError("no object identifier")
    for octet in encoded:
        value = value << 7 | octet & 0x7F
        if not octet & 0x80:
            parts.append(value)
            value = 0
    first = min(parts[0] // 40, 2)
    return ".".join(map(str, (first, parts[0] - 40 * first, *parts[1:])))
