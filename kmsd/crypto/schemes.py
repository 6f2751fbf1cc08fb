"""How one key encrypts: with AES-GCM alone, with AES-CBC and an HMAC key beside it, or as an RSA key. Chosen by what
the key is and what its token can do.

The choice is pure; what runs on the token is in `gcm`, `cbc_hmac` and `oaep`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from kmsd.crypto import cbc_hmac, gcm, oaep
from kmsd.errors import Misconfigured
from kmsd.formats import jwe
from kmsd.formats.jwe import CBC
from kmsd.hsm.connection import Hsm

Algorithm = Literal["auto", "aes-gcm", "aes-cbc", "rsa-oaep"]
"""rsa-oaep: as auto for AES keys, and RSA keys serve, too."""


@dataclass(frozen=True)
class Ability:
    """What a token can do. mechanisms: as it lists them, "CKM_AES_GCM". mac_limit: most bytes that it makes an HMAC
    over; 0: no bound is known. gcm_refused: how AES-GCM failed when it was tried, where it is listed all the same.
    gcm_unauthenticated: it takes ciphertexts that were changed."""

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
        """Why there is no AES-GCM, in words."""
        refused = self.gcm_refused
        return f"its token lists AES-GCM, which does not work ({refused})" if refused else "its token cannot do AES-GCM"


ANY: Final = Ability(frozenset({"CKM_AES_GCM", "CKM_AES_CBC", "CKM_SHA256_HMAC", "CKM_SHA512_HMAC"}))
"""Of a token that has not said what it can do."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """enc: of the JWE. alg: of the JWE, "dir" or "RSA-OAEP-256". mac: CKA_ID of the HMAC key; None if there is none.
    candidates: the encs that the token may do with this key or pair, the strongest first, while it has not been tried
    which works; empty where trying is not needed."""

    enc: str
    alg: str = jwe.DIRECT
    mac: bytes | None = None
    mac_limit: int = 0
    candidates: tuple[str, ...] = ()

    @property
    def cbc(self) -> bool:
        return self.enc in CBC

    @property
    def rsa(self) -> bool:
        return self.alg == jwe.WRAPPED

    @property
    def text(self) -> str:
        """What a person calls it."""
        return f"{self.alg} with {self.enc}" if self.rsa else self.enc


RSA: Final = Scheme(oaep.ENC, alg=jwe.WRAPPED, candidates=(oaep.ENC,))
"""How an RSA key writes, if its token decrypts that."""


def scheme(algorithm: Algorithm, ability: Ability, bits: int, mac: tuple[bytes, int] | None) -> Scheme:
    """How an AES key of this size writes. mac: CKA_ID and bits of the HMAC key that belongs to it.

    Raises Misconfigured with why it cannot.
    """
    if algorithm == "aes-gcm" or (algorithm != "aes-cbc" and ability.gcm):
        if not ability.gcm:
            raise Misconfigured(
                ability.no_gcm,
                "let kmsd choose (--algorithm auto), and make a pair: kmsctl keygen LABEL --type pair",
            )
        return Scheme(gcm.enc_for(bits))
    if mac is None:
        why = f"{ability.no_gcm}, and " if ability.gcm_refused and algorithm != "aes-cbc" else ""
        raise Misconfigured(
            f"{why}AES-CBC needs an HMAC key beside it, and there is none with its CKA_ID, nor one named by "
            "--p11-hmac-label",
            "make a pair under a free label: kmsctl keygen LABEL --type pair",
        )
    encs = cbc_hmac.suitable(ability.mechanisms, bits, mac[1])
    return Scheme(encs[0], mac=mac[0], mac_limit=ability.mac_limit, candidates=encs)


async def pick(hsm: Hsm, cka_id: bytes, how: Scheme, timeout: float) -> str:
    """The first of the candidates that works. Raises Misconfigured if none does, and KmsdError if the token fails."""
    if how.mac is not None:
        return await hsm.run(cbc_hmac.pick, cka_id, how.mac, how.candidates, timeout=timeout)
    if how.rsa:
        await hsm.run(oaep.probe, cka_id, timeout=timeout)
    return how.enc


async def round_trip(hsm: Hsm, cka_id: bytes, how: Scheme, timeout: float) -> tuple[float, float]:
    """Encrypt and decrypt random bytes; the seconds that each took. Raises KmsdError if it fails."""
    if how.rsa:
        return await oaep.round_trip(hsm, cka_id, timeout)
    if how.mac is None:
        return await gcm.round_trip(hsm, cka_id, timeout)
    return await cbc_hmac.round_trip(hsm, cka_id, how.mac, how.enc, timeout)
