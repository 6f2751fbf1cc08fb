"""Read the keys by which a kube-apiserver without a signing endpoint verifies service account tokens.

Files of keys are read as kube-apiserver reads them (client-go/util/keyutil: ParsePublicKeysPEM): public keys, those of
certificates and of private keys, RSA and EC alone; all other PEM blocks are passed over. Nothing of them is shown but
the ids by which tokens name them.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from kmsctl.diagnostics import UsageError

MOST: Final = 64 * 1024
"""Bytes of a file of keys."""
_BEGIN: Final = b"-----BEGIN "
_LOADS: Final[tuple[Callable[[bytes], object], ...]] = (
    lambda pem: load_pem_private_key(pem, None).public_key(),
    load_pem_public_key,
    lambda pem: x509.load_pem_x509_certificate(pem).public_key(),
)


def kids(path: str) -> dict[str, bool]:
    """Return the ids of the keys in a file, and whether it has the private one of each. Raises UsageError if it cannot
    be read, or has no key."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MOST + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "run this as root, on the node") from error
    if len(data) > MOST:
        raise UsageError(f"{path} holds more than {MOST} bytes", "split it")
    found: dict[str, bool] = {}
    for block in data.split(_BEGIN)[1:]:
        if kid := _kid(_BEGIN + block):
            found[kid] = found.get(kid, False) or b"PRIVATE KEY-----" in block.partition(b"\n")[0]
    if not found:
        raise UsageError(f"{path} holds no RSA or EC key that can be read", "name a file of keys in PEM, unencrypted")
    return found


def _kid(pem: bytes) -> str:
    """Return the id that kube-apiserver derives of a key (pkg/serviceaccount/jwt.go: keyIDFromPublicKey); empty for
    what is none."""
    for load in _LOADS:
        try:
            public = load(pem)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            continue
        if isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
            der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            return base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode("ascii")
    return ""
