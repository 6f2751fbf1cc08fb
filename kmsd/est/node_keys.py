"""Keys of a node's certificates on its token: found by a certificate, made, asked to sign, destroyed.

Each new key is made beside those that are there. The methods wait, so they are for a thread of their own: never for
that of the event loop, which has to do the work.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Final, Protocol, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from kmsd.crypto import handshakes
from kmsd.crypto.handshakes import CertifiedKey
from kmsd.crypto.signing import PublicKey
from kmsd.crypto.token_key import TokenEcKey
from kmsd.deadline import after
from kmsd.errors import Conflict, InvalidRequest, KmsdError
from kmsd.hsm.connection import Hsm
from kmsd.hsm.host import tls_keys
from kmsd.hsm.host.tls_signing import TlsHash
from kmsd.hsm.purpose import tls_id
from kmsd.hsm.vendors import tpm2
from kmsd.keys.labels import new_key_id

T = TypeVar("T")

_SECONDS: Final = 3.0
"""Time limit of a look, and of a signature."""
_CHANGE_SECONDS: Final = 20.0
_BITS: Final[dict[str, int]] = {"ec-p256": 256, "ec-p384": 384}
_NAMES: Final[dict[str, TlsHash]] = {"sha256": "sha256", "sha384": "sha384", "sha512": "sha512"}


class Awaited(Protocol):
    """A function that has something done on the event loop of the token, and waits for it."""

    def __call__(self, work: Coroutine[object, object, T]) -> T:
        """Return what it returns. Raises what it raises."""


class NodeKeys:
    """The keys of one label on a token.

    label: that of the URI of the key; those that are made here have it with their time behind it. awaited: see there.
    in_words: puts an error of the token into the words of whoever uses it.
    """

    def __init__(self, hsm: Hsm, label: str, awaited: Awaited, in_words: Callable[[KmsdError], KmsdError]) -> None:
        self._hsm = hsm
        self._label = label
        self._awaited = awaited
        self._in_words = in_words

    def of(self, public: PublicKey) -> CertifiedKey:
        """Return the key with this public half: one that was made here, else the one that the URI names, which only a
        signature can tell. Raises KmsdError."""
        return self._done(key_of(self._hsm, public))

    def has(self, public: PublicKey) -> bool:
        """Return whether the key with this public half is on the token and signs. Raises KmsdError if that cannot be
        found out."""
        key = self.of(public)
        try:
            self._awaited(handshakes.prove(self._hsm, key, _SECONDS))
        except KmsdError as error:
            if error.retryable:
                raise self._in_words(error) from error
            return False
        return True

    def new_id(self) -> bytes:
        """Return the CKA_ID of a key that is to be made."""
        return tls_id(new_key_id())

    def made(self, cka_id: bytes) -> CertifiedKey | None:
        """Return the key that was made here with this CKA_ID; None if it is not there. Raises KmsdError."""
        keys = self._done(handshakes.made_keys(self._hsm, _SECONDS))
        return next((each for each in keys if each.cka_id == cka_id), None)

    def make(self, cka_id: bytes, key_type: str) -> CertifiedKey:
        """Make a key of this type ("ec-p256"). Raises InvalidRequest for one that is not made here, KmsdError."""
        if (bits := _BITS.get(key_type)) is None:
            raise InvalidRequest(
                f"the server wants a key of type {key_type}, and on a token kmsd makes {' and '.join(_BITS)} alone",
                "allow one of them on the server (ca.key_types), or keep the key in a file",
            )
        label = f"{self._label}@{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        self._done(_make(self._hsm, label, cka_id, bits))
        made = self.made(cka_id)
        if made is None:
            raise Conflict("the key was made and is gone again", "look for another program that uses this token")
        return made

    def destroy(self, cka_id: bytes) -> None:
        """Destroy a key that was made here, if it is there. Raises KmsdError."""
        run = self._hsm.run(tls_keys.destroy, after(_CHANGE_SECONDS), cka_id, timeout=_CHANGE_SECONDS, retry=False)
        self._done(run)

    def private(self, key: CertifiedKey) -> TokenEcKey:
        """Return a key that was made here as `cryptography` takes it, to sign requests with."""
        assert isinstance(key.public, ec.EllipticCurvePublicKey)  # noqa: S101 - no others are made
        return TokenEcKey(key.public, lambda digest, hash_: self.sign(key, _NAMES[hash_.name], digest))

    def sign(self, key: CertifiedKey, hash_: TlsHash, digest: bytes) -> bytes:
        """Sign what was hashed: ECDSA as DER, or RSASSA-PSS. Raises KmsdError."""
        return self._done(handshakes.sign_hash(self._hsm, key, hash_, digest, _SECONDS))

    def _done(self, work: Coroutine[object, object, T]) -> T:
        try:
            return self._awaited(work)
        except KmsdError as error:
            raise self._in_words(error) from error


async def key_of(hsm: Hsm, public: PublicKey) -> CertifiedKey:
    """Return the key with this public half, as `NodeKeys.of`. Raises what the token says."""
    usual = handshakes.certified(public)
    named = hsm.address.tls_key
    if named is None or named.cka_id or not named.label:
        return usual
    return next((each for each in await handshakes.made_keys(hsm, _SECONDS) if each.public == public), usual)


async def _make(hsm: Hsm, label: str, cka_id: bytes, bits: int) -> None:
    connected = hsm.connected
    if connected is not None and connected.quirks.generates_through == "tpm2_ptool":
        token = connected.token.label

        def add(pin: str | None) -> None:
            tpm2.add_keys(token, pin or "", [tpm2.NewKey("ec", label, cka_id)], ec_bits=bits)

        await hsm.hosting.without_module(add)
        return
    until = after(_CHANGE_SECONDS)
    await hsm.run(tls_keys.generate, until, label, cka_id, bits, timeout=_CHANGE_SECONDS, retry=False)
    if connected is not None and connected.quirks.misses_objects:
        await hsm.hosting.replace("a key was made")
