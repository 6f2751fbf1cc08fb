"""Public keys as tokens and discovery documents have them: their ids, algorithms, headers, PEM and JSON. Pure."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from kmsd.errors import InvalidRequest

Algorithm = Literal["RS256", "ES256", "ES384", "ES512"]
Public = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
_CURVES: Final[dict[str, tuple[Algorithm, str]]] = {
    "secp256r1": ("ES256", "P-256"),
    "secp384r1": ("ES384", "P-384"),
    "secp521r1": ("ES512", "P-521"),
}
"""The algorithm, and the name in a JSON Web Key, by curve."""
HASHES: Final[dict[Algorithm, hashes.SHA256 | hashes.SHA384 | hashes.SHA512]] = {
    "RS256": hashes.SHA256(),
    "ES256": hashes.SHA256(),
    "ES384": hashes.SHA384(),
    "ES512": hashes.SHA512(),
}
RSA_LEAST, RSA_MOST = 2048, 8192
"""Bits of the modulus that are taken. More, and one verification takes a verifier milliseconds."""
PEM_MOST: Final = 64 * 1024
"""Bytes of a file of public keys."""
_BLOCKS_MOST: Final = 64


@dataclass(frozen=True)
class VerifyingKey:
    """A public key that verifies tokens. der: its SubjectPublicKeyInfo."""

    public: Public
    der: bytes
    alg: Algorithm

    @cached_property
    def kid(self) -> str:
        """The id by which tokens name it. kube-apiserver derives it so from a key file, too (its keyIDFromPublicKey):
        a key that moves into a token, or out of it, keeps it."""
        return base64url(hashlib.sha256(self.der).digest())

    @cached_property
    def header(self) -> str:
        """The first segment of the tokens that it verifies. kube-apiserver refuses one with anything else in it."""
        return base64url(json.dumps({"alg": self.alg, "kid": self.kid, "typ": "JWT"}, separators=(",", ":")).encode())

    @property
    def pem(self) -> str:
        """The key as PEM."""
        made = self.public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return made.decode("ascii")

    @property
    def jwk(self) -> dict[str, str]:
        """The key as a JSON Web Key (RFC 7517; RFC 7518, 6.2 and 6.3)."""
        use = {"use": "sig", "alg": self.alg, "kid": self.kid}
        if isinstance(self.public, rsa.RSAPublicKey):
            numbers = self.public.public_numbers()
            return {"kty": "RSA", **use, "n": _number(numbers.n), "e": _number(numbers.e)}
        point, size = self.public.public_numbers(), (self.public.key_size + 7) // 8
        curve = _CURVES[self.public.curve.name][1]
        return {"kty": "EC", **use, "crv": curve, "x": _number(point.x, size), "y": _number(point.y, size)}


def verifying(public: object) -> VerifyingKey:
    """Return a public key as one that verifies tokens. Raises InvalidRequest for one that kube-apiserver does not
    take."""
    if isinstance(public, rsa.RSAPublicKey):
        if not RSA_LEAST <= public.key_size <= RSA_MOST:
            raise InvalidRequest(
                f"an RSA key must have {RSA_LEAST} to {RSA_MOST} bits, got {public.key_size}",
                "make another: kmsctl keygen LABEL --type ec-p256 --purpose jwt",
            )
        alg: Algorithm = "RS256"
    elif isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name in _CURVES:
        alg = _CURVES[public.curve.name][0]
    else:
        raise InvalidRequest(
            "a key for service account tokens must be RSA, or EC on P-256, P-384 or P-521", "choose another key"
        )
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return VerifyingKey(public, der, alg)


def from_der(der: bytes) -> VerifyingKey:
    """Return the key with this SubjectPublicKeyInfo. Raises InvalidRequest."""
    try:
        return verifying(serialization.load_der_public_key(der))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidRequest("these bytes are no public key as DER (SubjectPublicKeyInfo)", "") from error


def from_pem(data: bytes) -> list[VerifyingKey]:
    """Return the public keys in a PEM file as kube-apiserver's --service-account-key-file takes it, each once. Raises
    InvalidRequest."""
    if len(data) > PEM_MOST:
        raise InvalidRequest(f"a file of public keys must have {PEM_MOST} bytes at most, got {len(data)}", "split it")
    blocks = [b"-----BEGIN " + each for each in data.split(b"-----BEGIN ")[1:]]
    if not 0 < len(blocks) <= _BLOCKS_MOST:
        raise InvalidRequest(
            f"a file of public keys must have 1 to {_BLOCKS_MOST} PEM blocks, found {len(blocks)}",
            "give what kube-apiserver's --service-account-key-file names, or: openssl pkey -in KEY -pubout",
        )
    found: dict[str, VerifyingKey] = {}
    for block in blocks:
        key = verifying(_public(block))
        found[key.kid] = key
    return list(found.values())


def _public(block: bytes) -> object:
    if b"PRIVATE KEY-----" in block.partition(b"\n")[0]:
        raise InvalidRequest(
            "this is a private key, and only its public half is to be trusted",
            "openssl pkey -in KEY -pubout; to have it sign on the token: kmsctl jwt import",
        )
    try:
        if block.startswith(b"-----BEGIN CERTIFICATE-----"):
            return x509.load_pem_x509_certificate(block).public_key()
        return serialization.load_pem_public_key(block)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidRequest(
            "a PEM block is no public key that can be read", "each must be PUBLIC KEY, RSA PUBLIC KEY or CERTIFICATE"
        ) from error


def base64url(data: bytes) -> str:
    """Return bytes in base64url without padding (RFC 7515, 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _number(number: int, size: int = 0) -> str:
    return base64url(number.to_bytes(size or (number.bit_length() + 7) // 8, "big"))
