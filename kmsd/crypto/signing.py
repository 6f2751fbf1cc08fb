"""Signatures by a key pair of the token, each checked with the public key before anybody gets it.

A wrong signature would be a certificate that nobody takes, or, worse, one that tells something of the private key: so
a token that makes one is told apart from one that is away. Knows keys by CKA_ID.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from kmsd.deadline import after, left
from kmsd.errors import Misconfigured, WrongResult
from kmsd.hsm.host import signing
from kmsd.hsm.host.keys import CURVES
from kmsd.hsm.host.signing import PublicHalf, SigningKind

if TYPE_CHECKING:
    from kmsd.hsm.connection import Hsm

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
Hash = hashes.SHA256 | hashes.SHA384 | hashes.SHA512
_CURVES: Final[dict[bytes, ec.EllipticCurve]] = {
    CURVES[256]: ec.SECP256R1(),
    CURVES[384]: ec.SECP384R1(),
    CURVES[521]: ec.SECP521R1(),
}
_DIGEST_INFO: Final[dict[str, bytes]] = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}
"""Bytes that stand before a hash in RSASSA-PKCS1-v1_5 (RFC 8017, 9.2, note 1)."""
_OCTET_STRING: Final = 0x04
_UNCOMPRESSED: Final = 0x04


@dataclass(frozen=True)
class TokenKeyPair:
    """A key pair on a token, by its CKA_ID, and its public key."""

    hsm: Hsm
    cka_id: bytes
    public: PublicKey

    @property
    def kind(self) -> SigningKind:
        """The kind, as the token knows it."""
        return "ec" if isinstance(self.public, ec.EllipticCurvePublicKey) else "rsa"

    async def sign_jose(self, digest: bytes, hash_: Hash, timeout: float) -> bytes:
        """Sign a hash as JSON Web Signatures have it: ECDSA as r and s, each as long as the curve's order (RFC 7518,
        3.4), or as `sign` does. Raises as `sign` does."""
        signature = await self.sign(digest, hash_, timeout)
        if not isinstance(self.public, ec.EllipticCurvePublicKey):
            return signature
        size = (self.public.key_size + 7) // 8
        return b"".join(number.to_bytes(size, "big") for number in utils.decode_dss_signature(signature))

    async def sign(self, digest: bytes, hash_: Hash, timeout: float) -> bytes:
        """Sign a hash: ECDSA as DER (RFC 3279, 2.2.3), or RSASSA-PKCS1-v1_5 (RFC 8017, 8.2). timeout: seconds.

        Raises WrongResult if the signature does not fit the public key, and what the token says.
        """
        data = digest if self.kind == "ec" else _DIGEST_INFO[hash_.name] + digest
        raw = await self.hsm.run(signing.sign, self.cka_id, self.kind, data, timeout=timeout)
        signature = der(raw) if self.kind == "ec" else raw
        if not fits(self.public, signature, digest, hash_):
            raise WrongResult(
                f"{self.hsm.name} made a signature that does not fit the public key of {self.cka_id.decode()!r}, and "
                "that was thrown away",
                "check the token (kmsctl doctor); another private key may have this one's id",
            )
        return signature


async def key_pair(
    hsm: Hsm, cka_id: bytes, kind: SigningKind, timeout: float, known: Iterable[object] = ()
) -> TokenKeyPair:
    """Return the key pair with this CKA_ID, with the public key that fits what its private half signs. timeout:
    seconds. known: keys, of which the public half may be one; then no public object needs to be there. Raises
    Misconfigured if none fits."""
    until = after(timeout)
    # What nobody could know when a public object was made: a key that fits a signature of it is the right one.
    digest = secrets.token_bytes(32)
    data = digest if kind == "ec" else _DIGEST_INFO["sha256"] + digest
    raw = await hsm.run(signing.sign, cka_id, kind, data, timeout=left(until))
    signature = der(raw) if kind == "ec" else raw
    kinds = ec.EllipticCurvePublicKey if kind == "ec" else rsa.RSAPublicKey
    for candidate in known:
        if isinstance(candidate, kinds) and fits(candidate, signature, digest, hashes.SHA256()):
            return TokenKeyPair(hsm, cka_id, candidate)
    halves = await hsm.run(signing.public_halves, cka_id, kind, timeout=left(until))
    for half in halves:
        public = public_key(half)
        if isinstance(public, kinds) and fits(public, signature, digest, hashes.SHA256()):
            return TokenKeyPair(hsm, cka_id, public)
    raise Misconfigured(
        f"none of the {len(halves)} public objects on {hsm.name} with the id {cka_id.decode()!r} is the public half of "
        "the private key with this id",
        "restore it from the key's certificate, with the token's own tool, or make another key",
    )


def public_key(half: PublicHalf) -> PublicKey | None:
    """Return the public key that a token tells; None for what is none."""
    try:
        if half.modulus:
            numbers = rsa.RSAPublicNumbers(int.from_bytes(half.exponent, "big"), int.from_bytes(half.modulus, "big"))
            return numbers.public_key()
        curve = _CURVES.get(half.params)
        return None if curve is None else ec.EllipticCurvePublicKey.from_encoded_point(curve, _point(half.point, curve))
    except (ValueError, UnsupportedAlgorithm):
        return None


def _point(told: bytes, curve: ec.EllipticCurve) -> bytes:
    """Return an uncompressed point (SEC 1, 2.3.3), out of the OCTET STRING in which PKCS#11 has it; some tokens leave
    that out."""
    size = 1 + 2 * ((curve.key_size + 7) // 8)
    if len(told) > size and told[0] == _OCTET_STRING:
        return told[-size:]
    return told


def der(raw: bytes) -> bytes:
    """Return r and s, which come one after the other, as DER; empty for what cannot be a signature."""
    half = len(raw) // 2
    if not half or len(raw) % 2:
        return b""
    return utils.encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))


def fits(public: PublicKey, signature: bytes, digest: bytes, hash_: Hash) -> bool:
    """Return whether a signature of a hash is one of this key. signature: as `TokenKeyPair.sign` returns it."""
    how = utils.Prehashed(hash_)
    try:
        if isinstance(public, ec.EllipticCurvePublicKey):
            public.verify(signature, digest, ec.ECDSA(how))
        else:
            public.verify(signature, digest, padding.PKCS1v15(), how)
    except (InvalidSignature, ValueError):
        return False
    return True
