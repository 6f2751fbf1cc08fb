"""Values as an attacker makes them: compact JWEs from any header and any parts."""

from __future__ import annotations

import json
from collections.abc import Mapping

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.rpc.forged import b64


def header(members: Mapping[str, object]) -> bytes:
    return b64(json.dumps(members, separators=(",", ":")).encode())


def compact(members: Mapping[str, object], iv: bytes, ciphertext: bytes, tag: bytes) -> bytes:
    return b".".join((header(members), b"", b64(iv), b64(ciphertext), b64(tag)))


def sealed(key: bytes, kid: str, plaintext: bytes, enc: str = "A256GCM", iv: bytes = bytes(12)) -> bytes:
    """A value that opens under a key with this value, in the formats with AES-GCM."""
    head = header({"alg": "dir", "kid": kid, "enc": enc})
    both = AESGCM(key).encrypt(iv, plaintext, head)
    return b".".join((head, b"", b64(iv), b64(both[:-16]), b64(both[-16:])))
