"""Tell what a key is for. Pure.

A key pair that signs says so in its CKA_ID: the purpose, a dot, and a UUID. Every token keeps CKA_ID, whoever moves a
label keeps it, and every program that looks at the token finds the same. All other keys encrypt, or go with one that
does.
"""

from __future__ import annotations

import re
from typing import Final, Literal, get_args

Purpose = Literal["kek", "hmac", "ca", "jwt"]
"""kek: encrypts; hmac: authenticates, beside a key that encrypts; ca: signs certificates; jwt: signs service account
tokens."""
SigningPurpose = Literal["ca", "jwt"]
SIGNING: Final[tuple[SigningPurpose, ...]] = get_args(SigningPurpose)
_SIGNING_ID: Final = re.compile(
    rb"(" + b"|".join(each.encode() for each in SIGNING) + rb")\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
)
_TLS_ID: Final = re.compile(rb"tls\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_tls_id(cka_id: bytes) -> bool:
    """Return whether a key pair with this CKA_ID was made by kmsd for the TLS certificate of a node."""
    return _TLS_ID.fullmatch(cka_id) is not None


def tls_id(uuid: str) -> bytes:
    """Return the CKA_ID of a key pair that is made for the TLS certificate of a node. uuid: as text."""
    return f"tls.{uuid}".encode("ascii")


def signing_purpose(cka_id: bytes) -> SigningPurpose | None:
    """Return what a key pair with this CKA_ID signs; None if it does not sign."""
    found = _SIGNING_ID.fullmatch(cka_id)
    return next((each for each in SIGNING if each.encode() == found[1]), None) if found else None


def signing_id(purpose: SigningPurpose, uuid: str) -> str:
    """Return the key id of a key pair that signs. uuid: as text."""
    return f"{purpose}.{uuid}"
