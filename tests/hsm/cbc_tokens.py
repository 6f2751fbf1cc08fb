"""Real tokens with pairs of keys on them, for the tests of encrypt-then-MAC."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import opencryptoki, tokens, tpm
from tests.hsm.inside import Inside, import_secret

AES256 = bytes(range(32))
AES128 = bytes(range(64, 80))
MAC = bytes(range(128, 160))
MAC128 = MAC[:16]


@dataclass(frozen=True)
class Pair:
    """An AES key and an HMAC key on the token. aes, mac: their values, None where nobody knows them.

    enc: what `pick` should find the strongest. SoftHSM takes no HMAC keys that are shorter than the hash, so such a key
    is on it with zeros behind, which changes no HMAC (RFC 2104, 2).
    """

    enc: str
    cka_id: bytes
    aes: bytes | None
    mac: bytes | None
    mac_cka_id: bytes = b""

    @property
    def ids(self) -> tuple[bytes, bytes]:
        return self.cka_id, self.mac_cka_id or self.cka_id

    @property
    def kid(self) -> str:
        return self.cka_id.decode()

    @property
    def hkid(self) -> str:
        return self.mac_cka_id.decode()


@dataclass(frozen=True)
class Kind:
    """One kind of token, and a process with its module in it."""

    name: str
    inside: Inside
    pairs: tuple[Pair, ...]

    def pair(self, enc: str) -> Pair:
        return next(pair for pair in self.pairs if pair.enc == enc)


KNOWN = (
    Pair("A256CBC-HS512", b"pair-512", AES256, MAC),
    Pair("A128CBC-HS256", b"pair-128", AES128, MAC128),
    Pair("A256CBC-HS256", b"pair-256", AES256, MAC),
    Pair("A256CBC-HS512", b"enc-key", AES256, MAC, b"mac-key"),
)
UNKNOWN = (Pair("A256CBC-HS256", b"pair-tpm", None, None),)


@contextlib.contextmanager
def softhsm(folder: Path) -> Iterator[Kind]:
    token = tokens.make_token(folder)
    shortest = {"A256CBC-HS512": 64}
    with Inside(token, tokens.MODULE) as inside:
        _import(inside, {pair: shortest.get(pair.enc, 32) for pair in KNOWN})
    with Inside(token, tokens.MODULE) as inside:
        yield Kind("softhsm", inside, KNOWN)


@contextlib.contextmanager
def opencryptoki_token(folder: Path) -> Iterator[Kind]:
    token = opencryptoki.make_opencryptoki(folder)
    try:
        with Inside(token, token.module, token.enter) as inside:
            _import(inside, dict.fromkeys(KNOWN, 0))
        with Inside(token, token.module, token.enter) as inside:
            yield Kind("opencryptoki", inside, KNOWN)
    finally:
        token.stop()


@contextlib.contextmanager
def tpm_token(folder: Path) -> Iterator[Kind]:
    token = tpm.make_tpm(folder)
    try:
        (pair,) = UNKNOWN
        token.add_pair("cbc0", "hmac0", pair.kid)
        with Inside(token, token.module) as inside:
            yield Kind("tpm", inside, UNKNOWN)
    finally:
        token.stop()


def _import(inside: Inside, pairs: dict[Pair, int]) -> None:
    for pair, size in pairs.items():
        assert pair.aes is not None
        assert pair.mac is not None
        inside.run(import_secret, pair.ids[0], pair.aes, "aes")
        inside.run(import_secret, pair.ids[1], pair.mac.ljust(size, b"\0"), "hmac")


KINDS = {"softhsm": softhsm, "opencryptoki": opencryptoki_token, "tpm": tpm_token}
