"""Private keys that `cryptography` takes, and that are on a token: a signature is a call to it.

For certificates, lists of revocations and requests, which `cryptography` builds. The calls wait, so they are for a
thread of their own: never for that of the event loop, which has to do the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Final, NoReturn

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from kmsd.crypto.signing import Hash, TokenKeyPair
from kmsd.errors import Internal, Unavailable

_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
Sign = Callable[[bytes, Hash], bytes]
"""A function that signs a hash and waits for that."""


def token_key(pair: TokenKeyPair, loop: asyncio.AbstractEventLoop, timeout: float) -> TokenEcKey | TokenRsaKey:
    """Return the private key of a pair on a token. loop: that of the token. timeout: seconds for each signature."""

    def sign(digest: bytes, hash_: Hash) -> bytes:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise Internal("a signature was asked for on the thread of an event loop")
        try:
            return asyncio.run_coroutine_threadsafe(pair.sign(digest, hash_, timeout), loop).result()
        except CancelledError:
            raise Unavailable("kmsd is ending", "try again when it is back") from None

    if isinstance(pair.public, ec.EllipticCurvePublicKey):
        return TokenEcKey(pair.public, sign)
    return TokenRsaKey(pair.public, sign)


class TokenEcKey(ec.EllipticCurvePrivateKey):
    """An EC private key on a token. It signs, and does nothing else."""

    def __init__(self, public: ec.EllipticCurvePublicKey, sign: Sign) -> None:
        self._public = public
        self._sign = sign

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public.curve

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Return the public key."""
        return self._public

    def sign(
        self, data: bytes | bytearray | memoryview, signature_algorithm: ec.EllipticCurveSignatureAlgorithm
    ) -> bytes:
        """Sign by ECDSA; return the signature as DER. Raises KmsdError."""
        if not isinstance(signature_algorithm, ec.ECDSA):
            raise Internal("an EC key on a token signs by ECDSA alone")
        return self._sign(*_hashed(bytes(data), signature_algorithm.algorithm))

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:
        """Refuse, for it signs alone."""
        return _stays()

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        """Refuse, for it is on the token."""
        return _stays()

    def private_bytes(
        self,
        encoding: serialization.Encoding,
        format: serialization.PrivateFormat,  # noqa: A002 - the library's name
        encryption_algorithm: serialization.KeySerializationEncryption,
    ) -> bytes:
        """Refuse, for it is on the token."""
        return _stays()

    def __copy__(self) -> TokenEcKey:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> TokenEcKey:
        return self


class TokenRsaKey(rsa.RSAPrivateKey):
    """An RSA private key on a token. It signs by RSASSA-PKCS1-v1_5, and does nothing else."""

    def __init__(self, public: rsa.RSAPublicKey, sign: Sign) -> None:
        self._public = public
        self._sign = sign

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def public_key(self) -> rsa.RSAPublicKey:
        """Return the public key."""
        return self._public

    def sign(
        self,
        data: bytes | bytearray | memoryview,
        padding: padding.AsymmetricPadding,
        algorithm: utils.Prehashed | hashes.HashAlgorithm | utils.NoDigestInfo,
    ) -> bytes:
        """Sign by RSASSA-PKCS1-v1_5. Raises KmsdError."""
        if padding.name != "EMSA-PKCS1-v1_5" or isinstance(algorithm, utils.NoDigestInfo):
            raise Internal("an RSA key on a token signs by RSASSA-PKCS1-v1_5 alone")
        return self._sign(*_hashed(bytes(data), algorithm))

    def decrypt(self, ciphertext: bytes, padding: padding.AsymmetricPadding) -> bytes:
        """Refuse, for it signs alone."""
        return _stays()

    def private_numbers(self) -> rsa.RSAPrivateNumbers:
        """Refuse, for it is on the token."""
        return _stays()

    def private_bytes(
        self,
        encoding: serialization.Encoding,
        format: serialization.PrivateFormat,  # noqa: A002 - the library's name
        encryption_algorithm: serialization.KeySerializationEncryption,
    ) -> bytes:
        """Refuse, for it is on the token."""
        return _stays()

    def __copy__(self) -> TokenRsaKey:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> TokenRsaKey:
        return self


def _hashed(data: bytes, algorithm: utils.Prehashed | hashes.HashAlgorithm) -> tuple[bytes, Hash]:
    """Return a hash and how it was made."""
    if isinstance(algorithm, utils.Prehashed):
        inner = algorithm._algorithm
        if isinstance(inner, _HASHES):
            return data, inner
    elif isinstance(algorithm, _HASHES):
        digest = hashes.Hash(algorithm)
        digest.update(data)
        return digest.finalize(), algorithm
    raise Internal("a key on a token signs SHA-256, SHA-384 and SHA-512 alone")


def _stays() -> NoReturn:
    raise Internal("a private key on a token signs, and never leaves it")
