"""Enrolment tokens as a node shows them: a text with a public part, by which it is found, and a secret one.

Only a slow hash of the secret part is kept. A token is never in a log, an error or the audit; its public part is.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import Final

_TEXT: Final = re.compile(r"kmsd-enrol-([0-9a-f]{16})-([0-9a-f]{64})")
_SCRYPT_N: Final = 2**14
_SCRYPT_R: Final = 8
_NOBODY: Final = b"\0" * 16
"""The salt for the hash of a secret whose token is not known."""


def make() -> tuple[str, str, bytes, bytes]:
    """Return a new token: its text, its public part, and salt and hash of its secret part."""
    token_id, secret, salt = secrets.token_hex(8), secrets.token_hex(32), secrets.token_bytes(16)
    return f"kmsd-enrol-{token_id}-{secret}", token_id, salt, slow_hash(secret, salt)


def parts(text: str) -> tuple[str, str] | None:
    """Return the public and the secret part of a token; None if the text is none."""
    found = _TEXT.fullmatch(text)
    return (found[1], found[2]) if found is not None else None


def slow_hash(secret: str, salt: bytes) -> bytes:
    """Return the hash of a secret part (scrypt, RFC 7914), which takes 16 MiB and some 50 ms."""
    return hashlib.scrypt(secret.encode(), salt=salt, n=_SCRYPT_N, r=_SCRYPT_R, p=1, maxmem=2**26, dklen=32)


def is_secret(secret: str, salt: bytes | None, expected: bytes | None) -> bool:
    """Return whether the hash is that of the secret, in the same time whether or not there is one to compare it with.

    salt, expected: None for a token that is not known.
    """
    found = slow_hash(secret, salt or _NOBODY)
    return hmac.compare_digest(found, expected or _NOBODY) and expected is not None
