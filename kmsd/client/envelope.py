"""Reads the key id in a ciphertext's header, which a v2 Decrypt must name. Pure; verifies nothing."""

from __future__ import annotations

import base64
import binascii
import json


def key_id_of(ciphertext: bytes) -> str | None:
    """Return the `kid` of a JWE in compact form (RFC 7516 3.1); None if it is no JWE or names no key."""
    head, dot, _ = ciphertext.partition(b".")
    if not dot:
        return None
    try:
        header = json.loads(base64.urlsafe_b64decode(head + b"=" * (-len(head) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    kid = header.get("kid") if isinstance(header, dict) else None
    return kid if isinstance(kid, str) and kid else None
