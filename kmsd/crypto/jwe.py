"""JWE compact serialisation (RFC 7516, 7.1) for direct encryption (RFC 7518, 4.5): bytes in, bytes out.

Pure: no keys, no token, nothing of ours. Strict where the RFC leaves a choice: base64url must be canonical
(one octet string has one text), members must be unique, and nothing is decompressed.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Any, Final

GCM: Final = frozenset({"A128GCM", "A192GCM", "A256GCM"})
MAX_HEADER: Final = 4096
"""Octets of the encoded header."""
MAX_COMPACT: Final = 1024 * 1024
"""Octets of the whole."""


class JweError(ValueError):
    """This is no JWE that we read. The text says why and holds nothing of the payload."""


@dataclass(frozen=True)
class Jwe:
    """The parts of one compact JWE.

    header: first segment as received, which is also the additional authenticated data (RFC 7516, 5.1 step 14).
    ciphertext and tag are decoded.
    """

    header: bytes
    kid: str
    enc: str
    iv: bytes
    ciphertext: bytes
    tag: bytes


def encode(data: bytes) -> bytes:
    """base64url without padding (RFC 7515, 2)."""
    return urlsafe_b64encode(data).rstrip(b"=")


def decode(text: bytes, what: str) -> bytes:
    """Inverse of `encode`, and of nothing else. Raises JweError."""
    try:
        data = urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except ValueError:
        data = None
    # The library skips foreign characters and ignores unused bits; encoding again shows both.
    if data is None or encode(data) != text:
        raise JweError(f"the {what} is not base64url")
    return data


def header(kid: str, enc: str) -> bytes:
    """First segment of the native format: {"alg":"dir","kid":...,"enc":...} in that order, no spaces."""
    members = {"alg": "dir", "kid": kid, "enc": enc}
    return encode(json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode())


def assemble(header: bytes, iv: bytes, sealed: bytes, tag_size: int = 16) -> bytes:
    """header: first segment, encoded. sealed: ciphertext followed by the tag, as PKCS#11 gives it."""
    cut = len(sealed) - tag_size
    return b"%b..%b.%b.%b" % (header, encode(iv), encode(sealed[:cut]), encode(sealed[cut:]))


def parse(compact: bytes) -> Jwe:
    """Take a compact JWE apart. Raises JweError with a sentence for whoever sent it."""
    if len(compact) > MAX_COMPACT:
        raise JweError(f"{len(compact)} bytes are more than a JWE may have here ({MAX_COMPACT})")
    segments = compact.split(b".", 5)
    if len(segments) != 5:
        raise JweError(f"a compact JWE has 5 segments, this has {'more' if len(segments) > 5 else len(segments)}")
    head, encrypted_key, iv, ciphertext, tag = segments
    if not head or len(head) > MAX_HEADER:
        raise JweError(f"the header has {len(head)} bytes, 1 to {MAX_HEADER} are allowed")
    members = _header_members(decode(head, "header"))
    kid, enc = _check_members(members)
    if encrypted_key:
        raise JweError("there is an encrypted key where direct encryption has none")
    return Jwe(
        header=head,
        kid=kid,
        enc=enc,
        iv=decode(iv, "initialization vector"),
        ciphertext=decode(ciphertext, "ciphertext"),
        tag=decode(tag, "authentication tag"),
    )


def _header_members(raw: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise JweError("a member of the header occurs twice")
        return members

    try:
        members = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except JweError:
        raise
    except (ValueError, RecursionError) as error:
        raise JweError("the header is not JSON in UTF-8") from error
    if not isinstance(members, dict):
        raise JweError("the header is not a JSON object")
    return members


def _check_members(members: dict[str, Any]) -> tuple[str, str]:
    for refused, why in (
        ("crit", "demands extensions (crit) that are not supported"),
        ("zip", "asks for compression (zip), which is not supported"),
    ):
        if refused in members:
            raise JweError(f"the header {why}")
    if "_thales_aad" in members:
        raise JweError("this is the aes-cbc format of k8s-kms-plugin, whose tag authenticates nothing; it is not read")
    if members.get("alg") != "dir":
        raise JweError('the header\'s alg is not "dir"')
    enc = members.get("enc")
    if not isinstance(enc, str) or enc not in GCM:
        raise JweError(f"the header's enc is none of {', '.join(sorted(GCM))}")
    kid = members.get("kid")
    if not isinstance(kid, str) or not kid:
        raise JweError("the header has no kid")
    return kid, enc
