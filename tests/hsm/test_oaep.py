"""Content keys under an RSA key of the token: JOSE's own on the wire, and refused when anything of it is altered."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from joserfc import jwe as jose
from joserfc.jwk import RSAKey

from kmsd.crypto import gcm, oaep
from kmsd.crypto.gcm import TagMismatch
from kmsd.errors import InvalidRequest, Misconfigured, Unavailable
from kmsd.formats import jwe
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.connection import Hsm
from kmsd.hsm.host.session import TokenSession
from tests import opencryptoki, tokens, tpm
from tests.hsm.inside import Inside, import_rsa

SEED = b"0123456789abcdef0123456789abcdef"
REGISTRY = jose.JWERegistry(algorithms=["RSA-OAEP-256", "A256GCM"])


def header(cka_id: bytes) -> bytes:
    return jwe.header(cka_id.decode(), oaep.ENC, alg=jwe.WRAPPED)


@dataclass(frozen=True)
class Card:
    """A token with RSA keys of known values, by CKA_ID."""

    inside: Inside
    keys: dict[bytes, rsa.RSAPrivateKey]

    def write(self, cka_id: bytes, plaintext: bytes) -> bytes:
        return self.inside.run(oaep.encrypt, cka_id, header(cka_id), plaintext)

    def read(self, cka_id: bytes, sealed: jwe.Jwe) -> bytes:
        oaep.check_shape(sealed)
        return self.inside.run(oaep.decrypt_here, cka_id, sealed)


def numbers(key: rsa.RSAPrivateKey) -> tuple[int, ...]:
    n = key.private_numbers()
    return n.public_numbers.n, n.public_numbers.e, n.d, n.p, n.q, n.dmp1, n.dmq1, n.iqmp


def jose_key(key: rsa.RSAPrivateKey) -> RSAKey:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return RSAKey.import_key(pem)


def jose_read(key: rsa.RSAPrivateKey, compact: bytes) -> bytes | None:
    return jose.decrypt_compact(compact, jose_key(key), registry=REGISTRY).plaintext


def jose_write(key: rsa.RSAPrivateKey, kid: bytes, plaintext: bytes) -> bytes:
    header = {"alg": "RSA-OAEP-256", "kid": kid.decode(), "enc": "A256GCM"}
    return jose.encrypt_compact(header, plaintext, jose_key(key), registry=REGISTRY).encode()


@contextlib.contextmanager
def opencryptoki_card(folder: Path) -> Iterator[Card]:
    token = opencryptoki.make_opencryptoki(folder)
    try:
        with Inside(token, token.module, token.enter) as inside:
            keys = {b"rsa-%d" % bits: rsa.generate_private_key(65537, bits) for bits in (2048, 3072, 4096)}
            for cka_id, key in keys.items():
                inside.run(import_rsa, cka_id, numbers(key), True, True)
        with Inside(token, token.module, token.enter) as inside:
            yield Card(inside, keys)
    finally:
        token.stop()


@contextlib.contextmanager
def tpm_card(folder: Path) -> Iterator[Card]:
    token = tpm.make_tpm(folder)
    try:
        key = rsa.generate_private_key(65537, 2048)
        path = folder / "rsa.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
            )
        )
        token.tool(
            *("tpm2_ptool", "import", "--algorithm=rsa", f"--label={token.label}", f"--userpin={tokens.PIN}"),
            *("--key-label=rsa", "--id=rsa-2048", f"--privkey={path}"),
        )
        token.flush()
        with Inside(token, token.module) as inside:
            yield Card(inside, {b"rsa-2048": key})
    finally:
        token.stop()


CARDS = {"opencryptoki": opencryptoki_card, "tpm": tpm_card}


@pytest.fixture(scope="module", params=CARDS)
def card(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Card]:
    with CARDS[request.param](tmp_path_factory.mktemp("k") / "hsm") as made:
        yield made


@pytest.fixture
def opencryptoki_alone(tmp_path: Path) -> Iterator[Card]:
    with opencryptoki_card(tmp_path / "hsm") as made:
        yield made


def test_joserfc_reads_what_was_written_and_so_does_the_token(card: Card) -> None:
    for cka_id, key in card.keys.items():
        for plaintext in (b"p", SEED, bytes(range(256))):
            compact = card.write(cka_id, plaintext)
            assert jose_read(key, compact) == plaintext
            assert card.read(cka_id, jwe.parse(compact)) == plaintext


def test_the_token_reads_what_joserfc_wrote(card: Card) -> None:
    for cka_id, key in card.keys.items():
        for plaintext in (b"p", SEED, bytes(range(256))):
            assert card.read(cka_id, jwe.parse(jose_write(key, cka_id, plaintext))) == plaintext


def test_a_seed_fits_what_kube_apiserver_takes(card: Card) -> None:
    for cka_id in card.keys:
        assert len(card.write(cka_id, SEED)) < 1024 - 60  # a UUID is longer than the ids here


def test_no_content_key_and_no_iv_comes_twice(card: Card) -> None:
    cka_id, key = next(iter(card.keys.items()))
    parsed = [jwe.parse(card.write(cka_id, SEED)) for _ in range(20)]
    oaep_sha256 = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    content_keys = {key.decrypt(each.encrypted_key, oaep_sha256) for each in parsed}
    assert len({each.iv for each in parsed}) == len(content_keys) == 20
    assert {len(content_key) for content_key in content_keys} == {32}


def test_a_flipped_bit_anywhere_is_refused(card: Card) -> None:
    cka_id = next(iter(card.keys))
    compact = card.write(cka_id, SEED)
    refused = 0
    for place in range(len(compact)):
        altered = compact[:place] + bytes([compact[place] ^ 1]) + compact[place + 1 :]
        with pytest.raises((jwe.JweError, InvalidRequest, CkrError)):
            card.read(cka_id, jwe.parse(altered))
        refused += 1
    assert refused == len(compact) > 500
    assert card.read(cka_id, jwe.parse(compact)) == SEED


@pytest.mark.parametrize(
    "change",
    [
        {"tag": b""},
        {"tag": bytes(15)},
        {"tag": bytes(17)},
        {"iv": b""},
        {"iv": bytes(16)},
        {"encrypted_key": b"x"},
        {"encrypted_key": bytes(255)},
        {"encrypted_key": bytes(513)},
        {"alg": "dir"},
        {"enc": "A128GCM"},
    ],
    ids=str,
)
def test_what_cannot_be_right_is_refused_without_a_call(card: Card, change: dict[str, Any]) -> None:
    cka_id = next(iter(card.keys))
    parsed = jwe.parse(card.write(cka_id, SEED))
    card.inside.counted()
    with pytest.raises(InvalidRequest):
        card.read(cka_id, replace(parsed, **change))
    assert not card.inside.counted()


def test_a_content_key_of_another_size_is_refused_as_any_other_forgery(card: Card) -> None:
    """Anybody with the public key can make the token decrypt what they like."""
    cka_id, key = next(iter(card.keys.items()))
    parsed = jwe.parse(card.write(cka_id, SEED))
    for size in (0, 16, 31, 33, 64):
        wrapped = card.inside.run(_wrapped, cka_id, bytes(size))
        with pytest.raises(TagMismatch):
            card.read(cka_id, replace(parsed, encrypted_key=wrapped))
    assert jose_read(key, card.write(cka_id, SEED)) == SEED


def _wrapped(session: TokenSession, cka_id: bytes, content_key: bytes) -> bytes:
    return oaep._wrap(session.rsa_numbers(cka_id), content_key)


def test_a_token_that_does_it_passes_the_probe(card: Card) -> None:
    for cka_id in card.keys:
        card.inside.run(oaep.probe, cka_id)


def test_no_public_key_object_is_needed(opencryptoki_alone: Card) -> None:
    key = rsa.generate_private_key(65537, 2048)
    opencryptoki_alone.inside.run(import_rsa, b"private-only", numbers(key), True, False)
    opencryptoki_alone.inside.run(oaep.probe, b"private-only")
    compact = opencryptoki_alone.write(b"private-only", SEED)
    assert opencryptoki_alone.read(b"private-only", jwe.parse(compact)) == jose_read(key, compact) == SEED


def test_somebody_elses_public_key_under_our_id_is_not_used(opencryptoki_alone: Card) -> None:
    """Public objects can be made without a PIN: what the private key says is the public key."""
    ours, theirs = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    inside = opencryptoki_alone.inside
    inside.run(import_rsa, b"both", numbers(theirs), False, True)
    inside.run(import_rsa, b"both", (numbers(ours)[0], 3), False, True)
    inside.run(import_rsa, b"both", numbers(ours), True, False)
    inside.run(oaep.probe, b"both")
    assert jose_read(ours, opencryptoki_alone.write(b"both", SEED)) == SEED


@pytest.mark.parametrize(("bits", "exponent"), [(1024, 65537), (2048, 3)])
def test_weak_keys_are_not_used(opencryptoki_alone: Card, bits: int, exponent: int) -> None:
    key = rsa.generate_private_key(exponent, bits)
    opencryptoki_alone.inside.run(import_rsa, b"weak", numbers(key), True, True)
    with pytest.raises(Misconfigured, match=f"an RSA key of {bits} bits with the exponent {exponent} is not used"):
        opencryptoki_alone.write(b"weak", SEED)


@pytest.fixture(scope="module")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    token = tokens.make_token(tmp_path_factory.mktemp("k") / "hsm")
    token.import_aes("aes", bytes(32), b"aes")
    key = rsa.generate_private_key(65537, 2048)
    with Inside(token, tokens.MODULE) as inside:
        inside.run(import_rsa, b"rsa", numbers(key), True, True)
    with Inside(token, tokens.MODULE) as inside:
        yield inside


def test_softhsm_has_oaep_with_sha_1_only_and_that_is_said(softhsm: Inside) -> None:
    """If this fails, SoftHSM has learned it: then it can serve with RSA keys, too."""
    with pytest.raises(Misconfigured, match=r"with SHA-256 with this key \(C_DecryptInit: CKR_ARGUMENTS_BAD\)"):
        softhsm.run(oaep.probe, b"rsa")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    """A token with an AES key only, with the workers and the event loop of a kmsd."""
    token = tokens.make_token(tmp_path_factory.mktemp("k") / "hsm")
    token.import_aes("aes", bytes(32), b"aes")
    with Inside(token, tokens.MODULE) as inside:
        yield inside


def test_a_wrapped_key_is_not_taken_for_direct_encryption(other: Inside) -> None:
    """The same enc and IV, but not the same algorithm: the AES key is never asked."""
    sealed = jwe.Jwe(header(b"aes"), "aes", "A256GCM", bytes(12), bytes(32), bytes(16), jwe.WRAPPED, bytes(256))
    with pytest.raises(InvalidRequest, match="not in that mode"):
        other.served(gcm.attempt, b"aes", sealed, 10.0)
    assert not other.counted()


def test_a_missing_private_key_is_said(other: Inside) -> None:
    sealed = jwe.Jwe(header(b"x"), "x", "A256GCM", bytes(12), bytes(32), bytes(16), jwe.WRAPPED, bytes(256))
    with pytest.raises(Unavailable, match="not to be found"):
        other.served(oaep.decrypt, b"x", sealed, 10.0)


@pytest.fixture(scope="module", params=CARDS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Card]:
    """With the workers and the event loop of a kmsd."""
    with CARDS[request.param](tmp_path_factory.mktemp("k") / "hsm") as made:
        yield made


async def written(hsm: Hsm, cka_id: bytes) -> jwe.Jwe:
    return jwe.parse(await hsm.run(oaep.encrypt, cka_id, header(cka_id), SEED))


def test_the_workers_read_what_was_written(served: Card) -> None:
    for cka_id in served.keys:
        sealed = served.inside.served(written, cka_id)
        assert served.inside.served(oaep.decrypt, cka_id, sealed, 10.0) == SEED


def test_a_key_that_does_not_unwrap_looks_like_a_tag_that_does_not_fit(served: Card) -> None:
    """RFC 7516, 11.5. Either is said only after the token has shown that it works."""
    for cka_id in served.keys:
        sealed = served.inside.served(written, cka_id)
        served.inside.counted()
        said = set()
        for segment in ("encrypted_key", "iv", "ciphertext", "tag", "header"):
            whole: bytes = getattr(sealed, segment)
            change: dict[str, Any] = {segment: whole[:-1] + bytes([whole[-1] ^ 1])}
            altered = replace(sealed, **change)
            with pytest.raises(TagMismatch) as refused:
                served.inside.served(oaep.decrypt, cka_id, altered, 10.0)
            said.add(refused.value.sentence())
        assert len(said) == 1
        assert served.inside.counted()["C_Decrypt"] >= 10
        assert served.inside.served(oaep.decrypt, cka_id, sealed, 10.0) == SEED
