"""The formats of k8s-kms-plugin: what sets them apart from the native one, and how the one that is written is made.

aes-gcm: the same JWE members in the same order, but `kid` is the CKA_LABEL the key had when it wrote, `enc` is always
A256GCM, whatever the key's size, and the IV has 16 bytes.

aes-cbc: `alg` and `enc` are A256CBC, the length of the plaintext is in the header, zeros pad it. The plugin's own tag
is an HMAC over nothing. Its successor, Eclipse KeySealer, names the key and makes the tag over header, IV, ciphertext
and the length of the header (in octets, where RFC 7518 has bits). kmsd only reads both.

Pure.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass
from typing import Any, Final

from kmsd.formats.jwe import JweError, decode, encode, header_members, split

IV_BYTES: Final = 16
_BLOCK: Final = 16
_TAG: Final = 32
_CBC_MEMBERS: Final = {"alg": "A256CBC", "typ": "JWT", "cty": "JWT", "enc": "A256CBC"}


def header(label: str) -> bytes:
    """Return the first segment as Go's encoding/json writes it: with <, >, & and the two line separators escaped."""
    text = json.dumps({"alg": "dir", "kid": label, "enc": "A256GCM"}, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return encode(text.encode())


@dataclass(frozen=True)
class LegacyCbc:
    """A JWE in an aes-cbc format.

    header: first segment as received. cka_id: of the AES key; empty in the plugin's own format, whose tag
    authenticates nothing. size: bytes of the plaintext. ciphertext: decoded, with all that the tag is over.
    """

    header: bytes
    cka_id: bytes
    size: int
    iv: bytes
    ciphertext: bytes
    tag: bytes

    @property
    def authenticated(self) -> bool:
        """Whether the tag can tell that it was altered."""
        return bool(self.cka_id)

    @property
    def blocks(self) -> bytes:
        """The part of the ciphertext that was encrypted: a block of zeros behind whole blocks was not."""
        return self.ciphertext[: -(-self.size // _BLOCK) * _BLOCK]

    @property
    def mac_input(self) -> bytes:
        """The bytes that the tag is an HMAC-SHA-256 over."""
        if not self.authenticated:
            return b""
        return b"%b%b%b%b" % (self.header, self.iv, self.ciphertext, len(self.header).to_bytes(8, "big"))

    def plaintext(self, padded: bytes) -> bytes | None:
        """Return the plaintext of the decrypted blocks; None if they do not end in zeros, as they were written."""
        rest = padded[self.size :]
        return padded[: self.size] if hmac.compare_digest(rest, bytes(len(rest))) else None


def parse_cbc(compact: bytes) -> LegacyCbc:
    """Take a JWE in an aes-cbc format apart, refusing all that those two programs never wrote. Raises JweError."""
    head, encrypted_key, iv, ciphertext, tag = split(compact)
    members = header_members(head)
    size, cka_id = _check_members(members)
    if not cka_id and head != _k8s_kms_plugin_header(members["_thales_aad"]):
        raise JweError("the header is not spelled as k8s-kms-plugin spells it")
    if encrypted_key:
        raise JweError("there is an encrypted key where direct encryption has none")
    parsed = LegacyCbc(
        header=head,
        cka_id=cka_id,
        size=size,
        iv=decode(iv, "initialization vector"),
        ciphertext=decode(ciphertext, "ciphertext"),
        tag=decode(tag, "authentication tag"),
    )
    if len(parsed.iv) != IV_BYTES or len(parsed.tag) != _TAG:
        raise JweError(f"the IV and the tag have not {IV_BYTES} and {_TAG} bytes")
    if len(parsed.ciphertext) != (size // _BLOCK + 1) * _BLOCK:
        raise JweError("the length in the header does not fit the ciphertext")
    if any(parsed.ciphertext[len(parsed.blocks) :]):
        raise JweError("the block behind the ciphertext is not zero")
    return parsed


def _k8s_kms_plugin_header(size: str) -> bytes:
    members = {"alg": "A256CBC", "typ": "JWT", "cty": "JWT", "_thales_aad": size, "enc": "A256CBC"}
    return encode(json.dumps(members, separators=(",", ":")).encode())


def _check_members(members: dict[str, Any]) -> tuple[int, bytes]:
    """Return the length of the plaintext, and the CKA_ID of the key if one is named."""
    if members.keys() - {"kid"} != _CBC_MEMBERS.keys() | {"_thales_aad"}:
        raise JweError("the header has not the members of k8s-kms-plugin's aes-cbc format")
    for name, value in _CBC_MEMBERS.items():
        if members[name] != value:
            raise JweError(f"the header's {name} is not {value}")
    return _plaintext_size(members["_thales_aad"]), _named_key(members)


def _plaintext_size(value: object) -> int:
    text = value.encode() if isinstance(value, str) and value.isascii() else b""
    raw = decode(text, "length in the header")
    size = int.from_bytes(raw, "big")
    if len(raw) != 8 or not size:
        raise JweError("the length in the header is not one of 8 bytes")
    return size


def _named_key(members: dict[str, Any]) -> bytes:
    if "kid" not in members:
        return b""
    kid = members["kid"]
    try:
        cka_id = bytes.fromhex(kid) if isinstance(kid, str) else b""
    except ValueError:
        cka_id = b""
    if not cka_id or cka_id.hex() != kid:
        raise JweError("the header's kid is not the CKA_ID of a key in hex")
    return cka_id
