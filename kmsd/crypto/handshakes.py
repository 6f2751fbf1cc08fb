"""Signatures of TLS handshakes by a key pair of a token, each checked with the certificate's public key before anybody
gets it."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from kmsd.crypto.signing import PublicKey, der, public_key
from kmsd.errors import Misconfigured
from kmsd.hsm.host import tls_keys
from kmsd.hsm.host.tls_signing import TlsHash, TlsKind, sign_tls

if TYPE_CHECKING:
    from kmsd.hsm.connection import Hsm

_HASHES: Final[dict[TlsHash, hashes.SHA256 | hashes.SHA384 | hashes.SHA512]] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_CURVES: Final[dict[str, TlsHash]] = {"secp256r1": "sha256", "secp384r1": "sha384"}
"""The hash that TLS 1.3 signs with the key of each curve (RFC 8446, 4.2.3)."""
_RSA_LEAST: Final = 2048


class CertifiedKey(NamedTuple):
    """A public key of a certificate, of a kind that is used. usual: a hash with which its private half signs. cka_id:
    of that, where kmsd made it; empty for the one that the address of the token names."""

    public: PublicKey
    usual: TlsHash
    cka_id: bytes = b""

    @property
    def kind(self) -> TlsKind:
        """The kind, as the token knows it."""
        return "ec" if isinstance(self.public, ec.EllipticCurvePublicKey) else "rsa"


def certified(public: object) -> CertifiedKey:
    """Return the public key of a certificate. Raises Misconfigured for a kind of key that is not used."""
    if isinstance(public, ec.EllipticCurvePublicKey) and (hash_ := _CURVES.get(public.curve.name)) is not None:
        return CertifiedKey(public, hash_)
    if isinstance(public, rsa.RSAPublicKey) and public.key_size >= _RSA_LEAST:
        return CertifiedKey(public, "sha256")
    raise Misconfigured(
        "the certificate is for a kind of key that kmsd does not use on a token",
        f"make an EC key, P-256 or P-384, or an RSA key of {_RSA_LEAST} bits or more",
    )


async def made_keys(hsm: Hsm, timeout: float) -> list[CertifiedKey]:
    """Return the keys that kmsd has made on a token for certificates of the label that its address names. timeout:
    seconds. Raises what the token says."""
    listed = await hsm.run(tls_keys.list_keys, timeout=timeout)
    halves = ((each.cka_id, public_key(half)) for each in listed for half in each.halves)
    found = ((cka_id, public) for cka_id, public in halves if isinstance(public, ec.EllipticCurvePublicKey))
    return [
        CertifiedKey(public, _CURVES[public.curve.name], cka_id)
        for cka_id, public in found
        if public.curve.name in _CURVES
    ]


async def sign(hsm: Hsm, key: CertifiedKey, hash_: TlsHash, message: bytes, timeout: float) -> bytes:
    """Sign the bytes of a handshake with the key that the address of the token names: ECDSA as DER, or RSASSA-PSS.

    key: of the certificate. timeout: seconds. Raises Misconfigured if the signature does not fit the certificate,
    and what the token says.
    """
    hashed = hashes.Hash(_HASHES[hash_])
    hashed.update(message)
    return await sign_hash(hsm, key, hash_, hashed.finalize(), timeout)


async def sign_hash(hsm: Hsm, key: CertifiedKey, hash_: TlsHash, digest: bytes, timeout: float) -> bytes:
    """Sign what was hashed already, as `sign`. Raises as it."""
    raw = await hsm.run(sign_tls, key.kind, hash_, digest, hsm.name, key.cka_id, timeout=timeout)
    signature = der(raw) if key.kind == "ec" else raw
    if not _fits(key.public, signature, digest, hash_):
        raise Misconfigured(
            f"the key {hsm.address.tls_key} on {hsm.name} is not the key of the certificate",
            "name the key of the certificate in --tls-key (proxy.tls_key), or have a certificate issued for this one",
        )
    return signature


async def prove(hsm: Hsm, key: CertifiedKey, timeout: float) -> None:
    """Have the token sign something that nobody could know, to see whether its key is that of a certificate. Raises as
    `sign`."""
    await sign(hsm, key, key.usual, secrets.token_bytes(64), timeout)


def _fits(public: PublicKey, signature: bytes, digest: bytes, hash_: TlsHash) -> bool:
    hashed = utils.Prehashed(_HASHES[hash_])
    try:
        if isinstance(public, ec.EllipticCurvePublicKey):
            public.verify(signature, digest, ec.ECDSA(hashed))
        else:
            salted = padding.PSS(padding.MGF1(_HASHES[hash_]), len(digest))
            public.verify(signature, digest, salted, hashed)
    except (InvalidSignature, ValueError):
        return False
    return True
