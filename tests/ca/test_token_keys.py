"""Key pairs that sign, on real tokens: made, found by their ids, and used for nothing but signatures that are right."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kmsd.ca.authority import Authority, Signer
from kmsd.ca.ledger import MemoryLedger
from kmsd.ca.making import authority_request, subject_of
from kmsd.crypto.signing import key_pair
from kmsd.crypto.token_key import token_key
from kmsd.errors import Conflict, Internal, KmsdError, Misconfigured
from kmsd.hsm.connection import Hsm
from kmsd.hsm.host import calls, keys, signing
from kmsd.hsm.host import cryptoki as c
from kmsd.hsm.host.keys import CURVES, TokenKey
from kmsd.hsm.host.session import TokenSession
from kmsd.hsm.host.signing import SigningKind
from tests import opencryptoki, p11kit, tokens, tpm
from tests.ca.software import PROFILE, csr, ec_key, openssl_verify, root
from tests.hsm.inside import Inside, create

DER = serialization.Encoding.DER
EC, EC384, RSA = (b"ca.019abcde-0000-7000-8000-00000000000%d" % number for number in (1, 2, 3))
KINDS: dict[bytes, tuple[SigningKind, int]] = {EC: ("ec", 256), EC384: ("ec", 384), RSA: ("rsa", 2048)}


async def make(hsm: Hsm, cka_id: bytes, kind: SigningKind, bits: int) -> TokenKey:
    return await hsm.run(signing.generate, inf, "ca", cka_id, kind, bits, timeout=60)


async def listed(hsm: Hsm, rsa: bool = False) -> tuple[TokenKey, ...]:
    return (await hsm.run(keys.list_keys, rsa, True)).keys


async def destroy(hsm: Hsm, key: TokenKey) -> None:
    await hsm.run(keys.destroy, inf, key.kind, key.cka_id, key.label)


async def authority(hsm: Hsm, cka_id: bytes, kind: SigningKind, wanted: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """A CA with this key: its own certificate, a list of revocations, and what was issued for these requests."""
    key = token_key(await key_pair(hsm, cka_id, kind, 30), asyncio.get_running_loop(), 30)

    def work() -> tuple[bytes, ...]:
        own = root(key)
        ca = Authority([Signer(own, key)], PROFILE, MemoryLedger())
        leafs = [
            ca.issue(x509.load_der_x509_csr(each), f"node-{number}", "cluster-a").public_bytes(DER)
            for number, each in enumerate(wanted)
        ]
        assert authority_request(key, subject_of("CN=x")).is_signature_valid
        return own.public_bytes(DER), ca.crl(), *leafs

    return await asyncio.to_thread(work)


async def on_the_loop(hsm: Hsm, cka_id: bytes) -> None:
    key = token_key(await key_pair(hsm, cka_id, "ec", 30), asyncio.get_running_loop(), 30)
    key.sign(b"x", ec.ECDSA(hashes.SHA256()))  # type: ignore[call-arg, arg-type]


async def pair_of(hsm: Hsm, cka_id: bytes, kind: SigningKind) -> bytes:
    found = await key_pair(hsm, cka_id, kind, 30)
    return found.public.public_bytes(DER, serialization.PublicFormat.SubjectPublicKeyInfo)


async def signed(hsm: Hsm, cka_id: bytes, kind: SigningKind, data: bytes) -> bytes:
    return await hsm.run(signing.sign, cka_id, kind, data)


@dataclass(frozen=True)
class Card:
    """A token with key pairs that sign, by CKA_ID. alone: whether they can do nothing else."""

    inside: Inside
    keys: tuple[bytes, ...]
    alone: bool


@contextlib.contextmanager
def _with_keys(
    token: tokens.Token, module: str, enter: tuple[str, ...] = (), ids: tuple[bytes, ...] = tuple(KINDS)
) -> Iterator[Card]:
    with Inside(token, module, enter) as inside:
        for cka_id in ids:
            inside.served(make, cka_id, *KINDS[cka_id])
        yield Card(inside, ids, alone=True)


@contextlib.contextmanager
def softhsm_card(folder: Path) -> Iterator[Card]:
    with _with_keys(tokens.make_token(folder), tokens.MODULE) as card:
        yield card


@contextlib.contextmanager
def p11kit_card(folder: Path) -> Iterator[Card]:
    token = p11kit.make_p11kit(folder)
    try:
        with _with_keys(token, token.module) as card:
            yield card
    finally:
        token.stop()


@contextlib.contextmanager
def opencryptoki_card(folder: Path) -> Iterator[Card]:
    token = opencryptoki.make_opencryptoki(folder)
    try:
        # The software token of openCryptoki 3.8 has no EC keys.
        with _with_keys(token, token.module, token.enter, (RSA,)) as card:
            yield card
    finally:
        token.stop()


@contextlib.contextmanager
def tpm_card(folder: Path) -> Iterator[Card]:
    token = tpm.make_tpm(folder)
    try:
        token.add_key("ca", "ecc256", EC.decode())
        token.add_key("ca", "rsa2048", RSA.decode())
        with Inside(token, token.module) as inside:
            yield Card(inside, (EC, RSA), alone=False)
    finally:
        token.stop()


CARDS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Card]]] = {
    "softhsm": softhsm_card,
    "p11-kit": p11kit_card,
    "opencryptoki": opencryptoki_card,
    "tpm": tpm_card,
}


@pytest.fixture(scope="module", params=CARDS)
def card(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Card]:
    with CARDS[request.param](tmp_path_factory.mktemp("k") / "hsm") as made:
        yield made


@pytest.fixture
def token(tmp_path: Path) -> tokens.SoftToken:
    return tokens.make_token(tmp_path / "hsm")


@pytest.fixture
def soft(token: tokens.SoftToken) -> Iterator[Card]:
    with _with_keys(token, tokens.MODULE) as card:
        yield card


@pytest.fixture
def beside(token: tokens.SoftToken) -> Iterator[Inside]:
    """Another program that uses the token."""
    with Inside(token, tokens.MODULE) as inside:
        yield inside


def test_openssl_takes_what_a_key_on_the_token_signed(card: Card, tmp_path: Path) -> None:
    for cka_id in card.keys:
        own, crl, *leafs = card.inside.served(
            authority, cka_id, KINDS[cka_id][0], (csr().public_bytes(DER), csr().public_bytes(DER))
        )
        ca = x509.load_der_x509_certificate(own)
        for leaf in map(x509.load_der_x509_certificate, leafs):
            assert openssl_verify(tmp_path, leaf, [ca], crls=[crl]) == (True, "leaf.pem: OK\n")


def test_the_token_tells_what_a_key_signs_and_keeps_it_to_that(card: Card) -> None:
    found = {key.cka_id: key for key in card.inside.served(listed)}
    assert set(found) == set(card.keys)
    for cka_id, key in found.items():
        assert (key.kind, key.bits, key.purpose, key.label) == (*KINDS[cka_id], "ca", "ca")
        assert key.sign
        assert key.private
        assert not key.exposed
        assert not key.seals
        if card.alone:
            assert not key.decrypt


def test_where_rsa_keys_encrypt_those_that_sign_are_listed_once(card: Card) -> None:
    found = [key.cka_id for key in card.inside.served(listed, True)]
    assert sorted(found) == sorted(card.keys)


def test_no_key_signs_whose_id_does_not_say_so(soft: Card, beside: Inside) -> None:
    beside.run(rename, EC, b"another")
    with pytest.raises(Conflict, match="only keys that kmsd made for signing sign"):
        soft.inside.served(signed, b"another", "ec", bytes(32))
    assert {key.cka_id for key in soft.inside.served(listed)} == {EC384, RSA}


def test_nothing_but_a_hash_is_signed(soft: Card) -> None:
    with pytest.raises(Internal, match="are no hash"):
        soft.inside.served(signed, RSA, "rsa", bytes(129))


def test_a_signature_on_the_thread_of_the_loop_is_refused(soft: Card) -> None:
    with pytest.raises(Internal, match="on the thread of an event loop"):
        soft.inside.served(on_the_loop, EC)


def plant_public(session: TokenSession, cka_id: bytes, point: bytes) -> None:
    create(
        session,
        {
            c.CKA_CLASS: c.CKO_PUBLIC_KEY,
            c.CKA_KEY_TYPE: c.CKK_EC,
            c.CKA_TOKEN: True,
            c.CKA_PRIVATE: False,
            c.CKA_ID: cka_id,
            c.CKA_LABEL: b"ca",
            c.CKA_EC_PARAMS: CURVES[256],
            c.CKA_EC_POINT: point,
        },
    )


def plant_private(session: TokenSession, cka_id: bytes, key: int) -> None:
    """A private key as an object that is not private: no PIN is needed to make one."""
    import_ec(session, cka_id, key, private=False)


def import_ec(session: TokenSession, cka_id: bytes, key: int, private: bool = True) -> None:
    create(
        session,
        {
            c.CKA_CLASS: c.CKO_PRIVATE_KEY,
            c.CKA_KEY_TYPE: c.CKK_EC,
            c.CKA_TOKEN: True,
            c.CKA_PRIVATE: private,
            c.CKA_SENSITIVE: False,
            c.CKA_EXTRACTABLE: True,
            c.CKA_SIGN: True,
            c.CKA_ID: cka_id,
            c.CKA_LABEL: b"ca",
            c.CKA_EC_PARAMS: CURVES[256],
            0x11: key.to_bytes(32, "big"),
        },
    )


def rename(session: TokenSession, cka_id: bytes, to: bytes) -> None:
    for handle in session.cryptoki.find(session.handle, {c.CKA_ID: cka_id}):
        calls.set_attributes(session.cryptoki.table, session.handle, handle, {c.CKA_ID: to})


def point_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A public key as PKCS#11 has it: an uncompressed point in an OCTET STRING."""
    point = key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    return bytes((4, len(point))) + point


def test_of_public_objects_the_one_that_fits_is_the_public_half(soft: Card, beside: Inside) -> None:
    right = soft.inside.served(pair_of, EC, "ec")
    for _ in range(3):
        beside.run(plant_public, EC, point_of(ec_key()))
    assert soft.inside.served(pair_of, EC, "ec") == right
    beside.run(drop_point, EC, x509_point(right))
    with pytest.raises(Misconfigured, match="none of the 3 public objects"):
        soft.inside.served(pair_of, EC, "ec")


def x509_point(spki: bytes) -> bytes:
    """The point in a SubjectPublicKeyInfo of P-256, as PKCS#11 has it."""
    return bytes((4, 65)) + spki[-65:]


def drop_point(session: TokenSession, cka_id: bytes, point: bytes) -> None:
    (handle,) = session.cryptoki.find(session.handle, {c.CKA_ID: cka_id, c.CKA_EC_POINT: point})
    calls.destroy_object(session.cryptoki.table, session.handle, handle)


def test_a_private_key_that_was_planted_without_a_pin_signs_nothing(soft: Card, beside: Inside) -> None:
    right = soft.inside.served(pair_of, EC, "ec")
    planted = ec_key()
    beside.run(plant_private, EC, planted.private_numbers().private_value)
    beside.run(plant_public, EC, point_of(planted))
    assert [key.cka_id for key in soft.inside.served(listed)].count(EC) == 1
    assert [key.cka_id for key in soft.inside.served(shown_public)] == [EC]
    assert soft.inside.served(pair_of, EC, "ec") == right
    (key,) = (key for key in soft.inside.served(listed) if key.cka_id == EC)
    soft.inside.served(destroy, key)
    with pytest.raises(KmsdError, match="not to be found"):
        soft.inside.served(signed, EC, "ec", bytes(32))
    with pytest.raises(KmsdError, match="not to be found"):
        soft.inside.served(pair_of, EC, "ec")


async def shown_public(hsm: Hsm) -> tuple[TokenKey, ...]:
    return (await hsm.run(keys.list_keys, False, True)).public


def test_two_private_keys_with_one_id_sign_nothing(soft: Card, beside: Inside) -> None:
    beside.run(import_ec, EC, ec_key().private_numbers().private_value)
    with pytest.raises(KmsdError, match="several keys"):
        soft.inside.served(signed, EC, "ec", bytes(32))
