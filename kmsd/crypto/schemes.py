"""Choose how one key encrypts: with AES-GCM alone, with AES-CBC and an HMAC key beside it, or as an RSA key. Chosen by
what the key is and what its token can do.

The choice is pure; what runs on the token is in `gcm`, `cbc_hmac` and `oaep`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from kmsd.crypto import cbc_hmac, gcm, oaep
from kmsd.errors import Misconfigured
from kmsd.formats import jwe, keyid
from kmsd.formats.jwe import Jwe
from kmsd.hsm.connection import Hsm

Algorithm = Literal["auto", "aes-gcm", "aes-cbc", "rsa-oaep"]
"""The setting of how keys encrypt. With rsa-oaep AES keys serve as with auto, and RSA keys serve, too."""


@dataclass(frozen=True)
class Ability:
    """The mechanisms of a token and what is known of them. mechanisms: as it lists them, "CKM_AES_GCM". mac_limit: most
    bytes that it makes an HMAC over; 0: no bound is known. gcm_refused: how AES-GCM failed when it was tried, where it
    is listed all the same. gcm_unauthenticated: it takes ciphertexts that were changed."""

    mechanisms: frozenset[str]
    mac_limit: int = 0
    gcm_refused: str = ""
    gcm_unauthenticated: bool = False

    @property
    def gcm(self) -> bool:
        return "CKM_AES_GCM" in self.mechanisms

    @property
    def cbc(self) -> bool:
        return "CKM_AES_CBC" in self.mechanisms

    @property
    def no_gcm(self) -> str:
        """The reason, in words, why there is no AES-GCM."""
        refused = self.gcm_refused
        return f"its token lists AES-GCM, which does not work ({refused})" if refused else "its token cannot do AES-GCM"


ANY: Final = Ability(frozenset({"CKM_AES_GCM", "CKM_AES_CBC", "CKM_SHA256_HMAC", "CKM_SHA512_HMAC"}))
"""The ability of a token that has not said what it can do."""


class Scheme(Protocol):
    """A way in which one key writes.

    enc: of the JWE. text: what a person calls it. mac: CKA_ID of the HMAC key; None if there is none. candidates: the
    encs that the token may do with this key or pair, the strongest first; a trial shows which works;
    empty where trying is not needed.
    """

    @property
    def enc(self) -> str: ...

    @property
    def text(self) -> str: ...

    @property
    def mac(self) -> bytes | None: ...

    @property
    def candidates(self) -> tuple[str, ...]: ...

    def header(self, key_id: str) -> bytes:
        """Return the encoded first segment of what it writes with the key of this id."""
        ...

    def encrypt(
        self, hsm: Hsm, cka_id: bytes, header: bytes, plaintext: bytes, timeout: float
    ) -> asyncio.Future[bytes]:
        """Have a compact JWE made. The future ends as those of `Hsm.submit`. Raises as `Hsm.submit`."""
        ...

    async def probe(self, hsm: Hsm, cka_id: bytes, timeout: float) -> tuple[float, float]:
        """Encrypt and decrypt random bytes; return the seconds taken. Raises KmsdError if it fails, among them
        WrongResult if the token does not open what it has just encrypted."""
        ...

    async def pick(self, hsm: Hsm, cka_id: bytes, timeout: float) -> str:
        """Return the first of the candidates that works. Raises Misconfigured if none does, and KmsdError if the token
        fails."""
        ...


@dataclass(frozen=True, slots=True)
class Gcm:
    """The scheme of AES-GCM alone (RFC 7518, 5.3). plugin: in the form of k8s-kms-plugin, with its header and IV."""

    enc: str
    plugin: bool = False
    mac: None = None
    candidates: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return self.enc

    def header(self, key_id: str) -> bytes:
        """Return the encoded header of what a key with this id writes."""
        return jwe.header(key_id, self.enc)

    def encrypt(
        self, hsm: Hsm, cka_id: bytes, header: bytes, plaintext: bytes, timeout: float
    ) -> asyncio.Future[bytes]:
        """Submit an encryption under this header."""
        make = gcm.encrypt_legacy if self.plugin else gcm.encrypt_native
        return hsm.submit(make, cka_id, header, plaintext, timeout=timeout)

    async def probe(self, hsm: Hsm, cka_id: bytes, timeout: float) -> tuple[float, float]:
        """Make a round trip; return the seconds that encrypting and decrypting took."""
        return await gcm.round_trip(hsm, cka_id, timeout)

    async def pick(self, hsm: Hsm, cka_id: bytes, timeout: float) -> str:
        """Return the enc, which needs no trying."""
        return self.enc


@dataclass(frozen=True, slots=True)
class Pair:
    """The scheme of AES-CBC and an HMAC key beside it (RFC 7518, 5.2). mac_limit: most bytes that the token makes an
    HMAC over; 0: no bound is known."""

    enc: str
    mac: bytes
    mac_limit: int = 0
    candidates: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return self.enc

    def header(self, key_id: str) -> bytes:
        """Return the encoded header of what a pair with this id writes."""
        return jwe.header(key_id, self.enc, hkid=keyid.text(self.mac))

    def encrypt(
        self, hsm: Hsm, cka_id: bytes, header: bytes, plaintext: bytes, timeout: float
    ) -> asyncio.Future[bytes]:
        """Submit an encryption under this header."""
        return hsm.submit(
            cbc_hmac.encrypt, cka_id, self.mac, self.enc, header, plaintext, self.mac_limit, timeout=timeout
        )

    async def decrypt(self, hsm: Hsm, cka_id: bytes, sealed: Jwe, timeout: float) -> bytes:
        """Return the plaintext. Raises TagMismatch, KmsdError."""
        return await cbc_hmac.decrypt(hsm, cka_id, self.mac, sealed, timeout, mac_limit=self.mac_limit)

    async def probe(self, hsm: Hsm, cka_id: bytes, timeout: float) -> tuple[float, float]:
        """Make a round trip; return the seconds that encrypting and decrypting took."""
        return await cbc_hmac.round_trip(hsm, cka_id, self.mac, self.enc, timeout)

    async def pick(self, hsm: Hsm, cka_id: bytes, timeout: float) -> str:
        """Return the strongest enc that works with this pair. Raises Misconfigured if none does."""
        return await hsm.run(cbc_hmac.pick, cka_id, self.mac, self.candidates, timeout=timeout)


@dataclass(frozen=True, slots=True)
class Oaep:
    """A content key encrypted with an RSA key (RFC 7518, 4.3), and AES-256-GCM under it."""

    enc: str = oaep.ENC
    mac: None = None
    candidates: tuple[str, ...] = (oaep.ENC,)

    @property
    def text(self) -> str:
        return f"{jwe.WRAPPED} with {self.enc}"

    def header(self, key_id: str) -> bytes:
        """Return the encoded header of what an RSA key with this id writes."""
        return jwe.header(key_id, self.enc, alg=jwe.WRAPPED)

    def encrypt(
        self, hsm: Hsm, cka_id: bytes, header: bytes, plaintext: bytes, timeout: float
    ) -> asyncio.Future[bytes]:
        """Submit an encryption under this header."""
        return hsm.submit(oaep.encrypt, cka_id, header, plaintext, timeout=timeout)

    async def decrypt(self, hsm: Hsm, cka_id: bytes, sealed: Jwe, timeout: float) -> bytes:
        """Return the plaintext. Raises TagMismatch, KmsdError."""
        return await oaep.decrypt(hsm, cka_id, sealed, timeout)

    async def probe(self, hsm: Hsm, cka_id: bytes, timeout: float) -> tuple[float, float]:
        """Make a round trip; return the seconds that encrypting and decrypting took."""
        return await oaep.round_trip(hsm, cka_id, timeout)

    async def pick(self, hsm: Hsm, cka_id: bytes, timeout: float) -> str:
        """Return the enc, once the token has shown that it works with this key. Raises Misconfigured if not."""
        await hsm.run(oaep.probe, cka_id, timeout=timeout)
        return self.enc


RSA: Final = Oaep()
"""The scheme of an RSA key, if its token decrypts that."""


def aes_scheme(algorithm: Algorithm, ability: Ability, bits: int, mac: tuple[bytes, int] | None) -> Gcm | Pair:
    """Return how an AES key of this size writes. mac: CKA_ID and bits of the HMAC key that belongs to it.

    Raises Misconfigured with why it cannot.
    """
    if algorithm == "aes-gcm" or (algorithm != "aes-cbc" and ability.gcm):
        if not ability.gcm:
            raise Misconfigured(
                ability.no_gcm,
                "let kmsd choose (--algorithm auto), and make a pair: kmsctl keygen LABEL --type pair",
            )
        return Gcm(gcm.enc_for(bits))
    if mac is None:
        why = f"{ability.no_gcm}, and " if ability.gcm_refused and algorithm != "aes-cbc" else ""
        raise Misconfigured(
            f"{why}AES-CBC needs an HMAC key beside it, and there is none with its CKA_ID, nor one named by "
            "--p11-hmac-label",
            "make a pair under a free label: kmsctl keygen LABEL --type pair",
        )
    encs = cbc_hmac.suitable(ability.mechanisms, bits, mac[1])
    return Pair(encs[0], mac=mac[0], mac_limit=ability.mac_limit, candidates=encs)


def as_plugin(how: Scheme) -> Gcm:
    """Return the scheme that writes the form of k8s-kms-plugin with the same key. Raises Misconfigured where there is
    none."""
    if isinstance(how, Gcm):
        return Gcm(how.enc, plugin=True)
    what = "an RSA key" if isinstance(how, Oaep) else "a pair for AES-CBC"
    raise Misconfigured(
        f"keys.write_format k8s-kms-plugin needs an AES-GCM write key, and the write key is {what}",
        "the format with AES-CBC authenticates nothing and is never written: set write_format native",
    )
