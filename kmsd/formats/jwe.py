"""JWE compact serialisation (RFC 7516, 7.1) for direct encryption (RFC 7518, 4.5) and for a content key that is
encrypted with RSA-OAEP (RFC 7518, 4.3): bytes in, bytes out.

Pure: no keys, no token, nothing of ours. Strict where the RFC leaves a choice: base64url must be canonical
(one octet string has one text), members must be unique, and nothing is decompressed.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

DIRECT: Final = "dir"
WRAPPED: Final = "RSA-OAEP-256"
GCM: Final = frozenset({"A128GCM", "A192GCM", "A256GCM"})
CBC_TAGS: Final = {"A128CBC-HS256": 16, "A256CBC-HS512": 32, "A256CBC-HS256": 32}
"""The encs of encrypt-then-MAC (RFC 7518, 5.2), each with the octets of its tag. A256CBC-HS256 is a name of our own,
for tokens without SHA-512."""
CBC: Final = frozenset(CBC_TAGS)
MAX_HEADER: Final = 4096
"""The most octets of the encoded header."""
MAX_COMPACT: Final = 1024 * 1024
"""The most octets of a whole JWE."""
NOT_OURS: Final = (
    "kmsd did not write it, or it was damaged since: find out who did, or restore it from a backup of etcd"
)
"""The hint for a value that kmsd cannot have written."""
_SHOWN: Final = 40
"""The most characters of a member of the header that a sentence shows."""


class JweError(ValueError):
    """Raised for what is no JWE that we read. The text says why and holds nothing of the payload."""


class ForeignJwe(JweError):
    """Raised for one of the aes-cbc formats of k8s-kms-plugin, which `kmsd.formats.k8s_kms_plugin` reads."""


@dataclass(frozen=True)
class Jwe:
    """The parts of one compact JWE, all but the header decoded.

    header: first segment as received, which is also the additional authenticated data (RFC 7516, 5.1 step 14).
    alg: DIRECT, or WRAPPED with an encrypted_key; enc is A256GCM then.
    hkid: key id of the MAC key; empty if it is kid. Only with an enc in CBC.
    """

    header: bytes
    kid: str
    enc: str
    iv: bytes
    ciphertext: bytes
    tag: bytes
    alg: str = DIRECT
    encrypted_key: bytes = b""
    hkid: str = ""


class Members(NamedTuple):
    """The members of a header."""

    alg: str
    kid: str
    enc: str
    hkid: str


def encode(data: bytes) -> bytes:
    """Encode as base64url without padding (RFC 7515, 2)."""
    return urlsafe_b64encode(data).rstrip(b"=")


def decode(text: bytes, what: str) -> bytes:
    """Undo `encode`. Raises JweError for anything else."""
    try:
        data = urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except ValueError:
        data = None
    # The library skips foreign characters and ignores unused bits; encoding again shows both.
    if data is None or encode(data) != text:
        raise JweError(f"the {what} must be base64url without padding (RFC 7515, 2), and is not")
    return data


def header(kid: str, enc: str, *, alg: str = DIRECT, hkid: str = "") -> bytes:
    """Return the first segment of the native format: {"alg":...,"kid":...,"enc":...} in that order, no spaces.

    hkid: key id of the MAC key, named after enc if it is not kid.
    """
    members = {"alg": alg, "kid": kid, "enc": enc}
    if hkid and hkid != kid:
        members["hkid"] = hkid
    return encode(json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode())


def assemble(header: bytes, iv: bytes, sealed: bytes, tag_size: int = 16, encrypted_key: bytes = b"") -> bytes:
    """Put a JWE together. header: first segment, encoded. sealed: ciphertext followed by the tag, as PKCS#11 gives
    it."""
    cut = len(sealed) - tag_size
    key = encode(encrypted_key) if encrypted_key else b""
    return b"%b.%b.%b.%b.%b" % (header, key, encode(iv), encode(sealed[:cut]), encode(sealed[cut:]))


def parse(compact: bytes) -> Jwe:
    """Take a compact JWE apart. Raises JweError with a sentence for whoever sent it."""
    head, encrypted_key, iv, ciphertext, tag = split(compact)
    alg, kid, enc, hkid = _read_header(head)
    if alg == DIRECT:
        if encrypted_key:
            raise JweError(f"the encrypted key must be empty under alg {DIRECT}, got {len(encrypted_key)} bytes")
    elif not encrypted_key:
        raise JweError(f"the encrypted key is empty, and alg {alg} needs one")
    return Jwe(
        header=head,
        kid=kid,
        enc=enc,
        iv=decode(iv, "initialization vector"),
        ciphertext=decode(ciphertext, "ciphertext"),
        tag=decode(tag, "authentication tag"),
        alg=alg,
        encrypted_key=decode(encrypted_key, "encrypted key") if encrypted_key else b"",
        hkid=hkid,
    )


def split(compact: bytes) -> list[bytes]:
    """Return the five segments as they are; the first has an allowed size. Raises JweError."""
    if len(compact) > MAX_COMPACT:
        raise JweError(f"a JWE may have {MAX_COMPACT} bytes at most, got {len(compact)}")
    segments = compact.split(b".", 5)
    if len(segments) != 5:
        raise JweError(f"a compact JWE has 5 segments, got {'more' if len(segments) > 5 else len(segments)}")
    if not segments[0] or len(segments[0]) > MAX_HEADER:
        raise JweError(f"the header of a JWE has 1 to {MAX_HEADER} bytes, got {len(segments[0])}")
    return segments


@lru_cache(maxsize=64)
def _read_header(head: bytes) -> Members:
    """Read a header, and remember it: all JWEs of one key have the same header, which saves most of the work."""
    return _check_members(header_members(head))


def header_members(head: bytes) -> dict[str, Any]:
    """Return the members of an encoded header, each there once. Raises JweError."""
    raw = decode(head, "header")
    try:
        members, twice = read_json(raw)
    except ValueError as error:
        raise JweError("the header is not JSON in UTF-8") from error
    if twice is not None:
        raise JweError(f"each member of the header may be there once, got {_shown(twice)} twice")
    if not isinstance(members, dict):
        raise JweError(f"the header must be a JSON object, got another JSON value ({type(members).__name__})")
    return members


def read_json(raw: bytes) -> tuple[Any, str | None]:
    """Read JSON; return it, and the name of a member that is there twice, if there is one. Raises ValueError."""
    repeated: list[str] = []

    def note_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated.extend(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return dict(pairs)

    try:
        value = json.loads(raw.decode(), object_pairs_hook=note_repeats)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    return value, repeated[0] if repeated else None


def _check_members(members: dict[str, Any]) -> Members:
    for refused, why in (
        ("crit", "asks for extensions (crit), and kmsd has none"),
        ("zip", "asks for compression (zip), and kmsd compresses nothing"),
    ):
        if refused in members:
            raise JweError(f"the header {why}")
    if "_thales_aad" in members:
        raise ForeignJwe(
            "this is the aes-cbc format of k8s-kms-plugin, whose tag authenticates nothing; it is not read"
        )
    alg = members.get("alg")
    if alg not in (DIRECT, WRAPPED):
        raise JweError(f"the header's alg must be {DIRECT} or {WRAPPED}, got {_shown(alg)}")
    enc = members.get("enc")
    allowed = GCM | CBC if alg == DIRECT else {"A256GCM"}
    if not isinstance(enc, str) or enc not in allowed:
        raise JweError(f"the header's enc must be one of {', '.join(sorted(allowed))}, got {_shown(enc)}")
    kid = members.get("kid")
    if not isinstance(kid, str) or not kid:
        raise JweError(f"the header's kid must be the id of a key, got {_shown(kid)}")
    return Members(alg, kid, enc, _check_hkid(members, kid, enc))


def _check_hkid(members: dict[str, Any], kid: str, enc: str) -> str:
    if "hkid" not in members:
        return ""
    hkid = members["hkid"]
    if enc not in CBC:
        raise JweError(f"the header names a MAC key (hkid), and {enc} uses none")
    # One meaning has one spelling: a MAC key with the same key id is not named.
    if not isinstance(hkid, str) or not hkid or hkid == kid:
        raise JweError(f"the header's hkid must be the id of another key than kid, got {_shown(hkid)}")
    return hkid


def _shown(value: object) -> str:
    """Return what stands in a header, for a sentence: bounded, and nothing for a value that is not there."""
    if value is None:
        return "nothing"
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
