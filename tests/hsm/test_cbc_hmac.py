"""Encrypt-then-MAC on real tokens: exactly as the standard has it, and nothing that was altered is ever decrypted."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jwe as jose
from joserfc.jwk import OctKey

from kmsd.crypto import cbc_hmac
from kmsd.crypto.gcm import TagMismatch
from kmsd.errors import InvalidRequest, Misconfigured, Unavailable
from kmsd.formats import jwe
from kmsd.hsm.ckr import CkrError
from kmsd.hsm.connection import Hsm
from kmsd.hsm.host.session import KeyAmbiguousError, KeyMissingError, TokenSession
from tests.hsm.cbc_tokens import AES128, AES256, KINDS, KNOWN, MAC, Kind, Pair
from tests.hsm.inside import import_secret

SEED = b"0123456789abcdef0123456789abcdef"
SIZES = (1, 4, 15, 16, 17, 32, 33, 255)
STANDARD = ("A256CBC-HS512", "A128CBC-HS256")
everywhere = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kind]:
    with KINDS[request.param](tmp_path_factory.mktemp("k") / "hsm") as made:
        yield made


@pytest.fixture(scope="module", params=["softhsm", "opencryptoki"])
def known(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kind]:
    """A token whose keys' values are known."""
    with KINDS[request.param](tmp_path_factory.mktemp("k") / "hsm") as made:
        yield made


@pytest.fixture(scope="module", params=KINDS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kind]:
    """With the workers and the event loop of a kmsd."""
    with KINDS[request.param](tmp_path_factory.mktemp("k") / "hsm") as made:
        yield made


@pytest.fixture(scope="module")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kind]:
    with KINDS["softhsm"](tmp_path_factory.mktemp("k") / "hsm") as made:
        yield made


def write(kind: Kind, pair: Pair, plaintext: bytes, kid: str = "") -> bytes:
    header = jwe.header(kid or pair.kid, pair.enc, hkid=pair.hkid)
    return kind.inside.run(cbc_hmac.encrypt, *pair.ids, pair.enc, header, plaintext)


def read(kind: Kind, pair: Pair, sealed: jwe.Jwe) -> bytes:
    cbc_hmac.check_shape(sealed)
    return kind.inside.run(cbc_hmac.decrypt_here, *pair.ids, sealed)


def by_hand(pair: Pair, plaintext: bytes, iv: bytes = bytes(range(16)), padding: bytes | None = None) -> bytes:
    """RFC 7518, 5.2.2.1 without a line of kmsd's, but for the private name's hash and tag."""
    assert pair.aes is not None
    assert pair.mac is not None
    digest, tag_size = (hashlib.sha512, 32) if pair.enc == "A256CBC-HS512" else (hashlib.sha256, len(pair.aes))
    missing = 16 - len(plaintext) % 16
    encryptor = Cipher(algorithms.AES(pair.aes), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(plaintext + (bytes([missing]) * missing if padding is None else padding))
    header = jwe.header(pair.kid, pair.enc, hkid=pair.hkid)
    signed = header + iv + ciphertext + (8 * len(header)).to_bytes(8, "big")
    tag = hmac.new(pair.mac, signed, digest).digest()[:tag_size]
    return b".".join([header, b"", jwe.encode(iv), jwe.encode(ciphertext), jwe.encode(tag)])


def jose_key(pair: Pair) -> OctKey:
    """What a JOSE library takes: the MAC key, then the AES key."""
    assert pair.aes is not None
    assert pair.mac is not None
    return OctKey.import_key(pair.mac + pair.aes)


def registry(enc: str) -> jose.JWERegistry:
    return jose.JWERegistry(algorithms=["dir", enc], strict_check_header=False)


@pytest.mark.parametrize("size", SIZES)
def test_every_pair_reads_what_it_wrote(kind: Kind, size: int) -> None:
    plaintext = bytes(range(size % 256)) or b"x"
    for pair in kind.pairs:
        compact = write(kind, pair, plaintext)
        parsed = jwe.parse(compact)
        assert (parsed.kid, parsed.enc, parsed.hkid, len(parsed.iv)) == (pair.kid, pair.enc, pair.hkid, 16)
        assert len(parsed.ciphertext) == len(plaintext) // 16 * 16 + 16
        assert len(parsed.tag) == (16 if pair.enc == "A128CBC-HS256" else 32)
        assert read(kind, pair, parsed) == plaintext


def test_no_iv_comes_twice(kind: Kind) -> None:
    ivs = {jwe.parse(write(kind, kind.pairs[0], b"x")).iv for _ in range(200)}
    assert len(ivs) == 200


@pytest.mark.parametrize("enc", STANDARD)
@pytest.mark.parametrize("size", SIZES)
def test_joserfc_reads_what_the_token_wrote(known: Kind, enc: str, size: int) -> None:
    pair = known.pair(enc)
    plaintext = bytes(range(size))
    compact = write(known, pair, plaintext)
    assert jose.decrypt_compact(compact, jose_key(pair), registry=registry(enc)).plaintext == plaintext


@pytest.mark.parametrize("enc", STANDARD)
@pytest.mark.parametrize("size", SIZES)
def test_the_token_reads_what_joserfc_wrote(known: Kind, enc: str, size: int) -> None:
    pair = known.pair(enc)
    plaintext = bytes(range(size))
    header = {"alg": "dir", "kid": pair.kid, "enc": enc}
    compact = jose.encrypt_compact(header, plaintext, jose_key(pair), registry=registry(enc)).encode()
    assert read(known, pair, jwe.parse(compact)) == plaintext


def test_joserfc_reads_a_pair_with_two_ids(known: Kind) -> None:
    pair = KNOWN[3]
    compact = write(known, pair, SEED)
    assert jwe.parse(compact).hkid == "mac-key"
    assert jose.decrypt_compact(compact, jose_key(pair), registry=registry(pair.enc)).plaintext == SEED


@pytest.mark.parametrize("pair", KNOWN, ids=lambda pair: pair.kid)
def test_what_is_made_by_hand_is_read(known: Kind, pair: Pair) -> None:
    assert read(known, pair, jwe.parse(by_hand(pair, SEED))) == SEED


@everywhere
@given(plaintext=st.binary(min_size=1, max_size=700), kid=st.text(min_size=1, max_size=40), number=st.integers(0, 3))
def test_whatever_is_written_is_read_here_and_elsewhere(known: Kind, plaintext: bytes, kid: str, number: int) -> None:
    kid = kid.encode("utf-8", "replace").decode()
    pair = replace(KNOWN[number], cka_id=KNOWN[number].cka_id)
    if kid == pair.hkid:
        return
    compact = write(known, pair, plaintext, kid)
    assert read(known, pair, jwe.parse(compact)) == plaintext
    if pair.enc in STANDARD:
        assert jose.decrypt_compact(compact, jose_key(pair), registry=registry(pair.enc)).plaintext == plaintext


# RFC 7518, Appendix B: P and A are the same in all; B.1 and B.3 are the two encs that have a name here.
P = (
    b"A cipher system must not be required to be secret, and it must be able to fall into the hands of the enemy "
    b"without inconvenience"
)
A = b"The second principle of Auguste Kerckhoffs"
IV = bytes.fromhex("1af38c2dc2b96ffdd86694092341bc04")
VECTORS = {
    "A128CBC-HS256": (
        bytes(range(16)),
        bytes(range(16, 32)),
        "c80edfa32ddf39d5ef00c0b468834279a2e46a1b8049f792f76bfe54b903a9c9"
        "a94ac9b47ad2655c5f10f9aef71427e2fc6f9b3f399a221489f16362c7032336"
        "09d45ac69864e3321cf82935ac4096c86e133314c54019e8ca7980dfa4b9cf1b"
        "384c486f3a54c51078158ee5d79de59fbd34d848b3d69550a67646344427ade5"
        "4b8851ffb598f7f80074b9473c82e2db",
        "652c3fa36b0a7c5b3219fab3a30bc1c4",
    ),
    "A256CBC-HS512": (
        bytes(range(32)),
        bytes(range(32, 64)),
        "4affaaadb78c31c5da4b1b590d10ffbd3dd8d5d302423526912da037ecbcc7bd"
        "822c301dd67c373bccb584ad3e9279c2e6d12a1374b77f077553df829410446b"
        "36ebd97066296ae6427ea75c2e0846a11a09ccf5370dc80bfecbad28c73f09b3"
        "a3b75e662a2594410ae496b2e2e6609e31e6e02cc837f053d21f37ff4f51950b"
        "be2638d09dd7a4930930806d0703b1f6",
        "4dd3b4c088a7f45c216839645b2012bf2e6269a8c56a816dbc1b267761955bc5",
    ),
}


@pytest.fixture(scope="module")
def standard(known: Kind) -> Kind:
    """With the keys of the appendix on the token."""
    for enc, (mac, aes, _, _) in VECTORS.items():
        size = 0 if known.name == "opencryptoki" else 64 if enc == "A256CBC-HS512" else 32
        known.inside.run(import_secret, enc.encode(), aes, "aes")
        known.inside.run(import_secret, enc.encode(), mac.ljust(size, b"\0"), "hmac")
    return known


@pytest.mark.parametrize("enc", VECTORS)
def test_the_standards_own_vectors(standard: Kind, enc: str) -> None:
    cka_id, suite = enc.encode(), cbc_hmac.SUITES[enc]
    _, _, ciphertext, tag = VECTORS[enc]
    made = standard.inside.run(TokenSession.encrypt_cbc, cka_id, IV, cbc_hmac.pad(P))
    assert made.hex() == ciphertext
    mac = standard.inside.run(TokenSession.hmac, cka_id, suite.hash, cbc_hmac.mac_input(A, IV, made))
    assert mac[: suite.tag].hex() == tag
    sealed = jwe.Jwe(A, enc, enc, IV, made, bytes.fromhex(tag))
    assert standard.inside.run(cbc_hmac.decrypt_here, cka_id, cka_id, sealed) == P


def test_a_flipped_bit_anywhere_is_refused_before_anything_is_decrypted(kind: Kind) -> None:
    """In the text as it is stored: every bit of every character, in every segment."""
    pair = kind.pairs[0]
    compact = write(kind, pair, SEED)
    kind.inside.counted()
    refused = reached = 0
    # A TPM takes 4 ms for each that gets as far as the token: one bit per character there.
    bits = [1] if kind.name == "tpm" else [1 << place for place in range(8)]
    for place in range(len(compact)):
        for bit in bits:
            altered = compact[:place] + bytes([compact[place] ^ bit]) + compact[place + 1 :]
            try:
                parsed = jwe.parse(altered)
                reached += 1
                read(kind, pair, parsed)
            except (jwe.JweError, InvalidRequest):
                refused += 1
    assert refused == len(compact) * len(bits)
    assert reached > len(compact) / 4
    counted = kind.inside.counted()
    assert counted["C_Sign"] > 0
    assert counted["C_DecryptInit"] == counted["C_Decrypt"] == 0
    # And the token is as well as before.
    assert read(kind, pair, jwe.parse(compact)) == SEED
    assert kind.inside.counted()["C_Decrypt"] == 1


def test_a_flipped_byte_of_what_is_decoded_is_a_tag_that_does_not_fit(kind: Kind) -> None:
    """Past the parser: whatever spelling got it there."""
    pair = kind.pairs[0]
    parsed = jwe.parse(write(kind, pair, SEED))
    kind.inside.counted()
    tried = 0
    for segment in ("header", "iv", "ciphertext", "tag"):
        whole: bytes = getattr(parsed, segment)
        for place in range(len(whole)):
            change: dict[str, Any] = {segment: whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :]}
            with pytest.raises(TagMismatch, match="does not authenticate"):
                read(kind, pair, replace(parsed, **change))
            tried += 1
    counted = kind.inside.counted()
    assert (counted["C_Sign"], counted["C_DecryptInit"]) == (tried, 0)


def test_moved_boundaries_are_refused(kind: Kind) -> None:
    """The MAC's input is the parts in one string: its last part says where the first one ends."""
    pair = kind.pairs[0]
    parsed = jwe.parse(write(kind, pair, SEED))
    longer = replace(parsed, header=parsed.header + parsed.iv, iv=parsed.ciphertext[:16])
    moved = replace(longer, ciphertext=parsed.ciphertext[16:])
    kind.inside.counted()
    with pytest.raises(TagMismatch):
        read(kind, pair, moved)
    assert kind.inside.counted()["C_DecryptInit"] == 0


def test_tags_of_another_length_are_refused_without_a_call(kind: Kind) -> None:
    for pair in kind.pairs:
        parsed = jwe.parse(write(kind, pair, SEED))
        whole = len(parsed.tag)
        kind.inside.counted()
        for size in (0, 1, whole // 2, whole - 1, whole + 1, 2 * whole, 1000):
            changed = replace(parsed, tag=(parsed.tag * 70)[:size])
            with pytest.raises(InvalidRequest, match=f"the authentication tag has {size} bytes where {whole} are"):
                read(kind, pair, changed)
        assert not kind.inside.counted()


def test_a_tag_cut_for_another_enc_is_refused(known: Kind) -> None:
    """The same keys and the same bytes, named A128CBC-HS256 with half of the tag, or the other way round."""
    pair = known.pair("A256CBC-HS256")
    parsed = jwe.parse(write(known, pair, SEED))
    header = jwe.header(pair.kid, "A128CBC-HS256")
    forged = replace(parsed, header=header, enc="A128CBC-HS256", tag=parsed.tag[:16])
    known.inside.counted()
    with pytest.raises(TagMismatch):
        read(known, pair, forged)
    assert known.inside.counted()["C_DecryptInit"] == 0


@pytest.mark.parametrize("change", [{"iv": b""}, {"iv": bytes(15)}, {"iv": bytes(17)}, {"iv": bytes(12)}], ids=str)
def test_ivs_of_another_length_are_refused_without_a_call(kind: Kind, change: dict[str, Any]) -> None:
    parsed = jwe.parse(write(kind, kind.pairs[0], SEED))
    kind.inside.counted()
    with pytest.raises(InvalidRequest, match="the IV has"):
        read(kind, kind.pairs[0], replace(parsed, **change))
    assert not kind.inside.counted()


@pytest.mark.parametrize("size", [0, 1, 15, 17, 31])
def test_parts_of_blocks_are_refused_without_a_call(kind: Kind, size: int) -> None:
    parsed = jwe.parse(write(kind, kind.pairs[0], SEED))
    kind.inside.counted()
    with pytest.raises(InvalidRequest, match="not a number of whole blocks"):
        read(kind, kind.pairs[0], replace(parsed, ciphertext=bytes(size)))
    assert not kind.inside.counted()


def test_wrong_padding_behind_a_good_tag_says_no_more_than_a_bad_tag(known: Kind) -> None:
    pair = KNOWN[0]
    parsed = jwe.parse(by_hand(pair, SEED))
    with pytest.raises(TagMismatch) as bad_tag:
        read(known, pair, replace(parsed, tag=bytes(32)))
    known.inside.counted()
    for padding in (b"\0" * 16, b"\x11" * 16, bytes(14) + b"\3\3", bytes(15) + b"\2", b"\x10" * 15 + b"\x0f"):
        with pytest.raises(TagMismatch) as bad_padding:
            read(known, pair, jwe.parse(by_hand(pair, SEED, padding=padding)))
        assert bad_padding.value.sentence() == bad_tag.value.sentence()
    assert known.inside.counted()["C_Decrypt"] == 5


def test_the_strongest_that_works_is_picked(kind: Kind) -> None:
    every = tuple(cbc_hmac.SUITES)
    for pair in kind.pairs:
        encs = tuple(enc for enc in every if cbc_hmac.SUITES[enc].aes_bits == 8 * len(pair.aes or bytes(32)))
        # openCryptoki takes HMAC keys of any length.
        best = encs[0] if kind.name == "opencryptoki" else pair.enc
        assert kind.inside.run(cbc_hmac.pick, *pair.ids, encs) == best


def test_a_pair_that_fits_nothing_is_named(softhsm: Kind) -> None:
    pair = softhsm.pair("A256CBC-HS256")
    with pytest.raises(Misconfigured, match=r"refuses this pair .*A256CBC-HS512 \(C_SignInit: CKR_KEY_SIZE_RANGE\)"):
        softhsm.inside.run(cbc_hmac.pick, *pair.ids, ("A256CBC-HS512",))


def test_more_than_the_token_can_authenticate_is_refused_in_plain_words(kind: Kind) -> None:
    pair = kind.pairs[0]
    header = jwe.header(pair.kid, pair.enc)
    over = 4096 - len(header) - 16 - 8 - 15
    # One byte less fits: 16 bytes of IV, 8 of AL, and the padding of the block that it ends in.
    fits = over - (over + len(header) + 24) % 16 - 1
    write_limited = (*pair.ids, pair.enc, header)
    kind.inside.counted()
    with pytest.raises(InvalidRequest, match="more than this token takes at once"):
        kind.inside.run(cbc_hmac.encrypt, *write_limited, bytes(4096), 4096)
    assert not kind.inside.counted()
    compact = kind.inside.run(cbc_hmac.encrypt, *write_limited, bytes(fits), 4096)
    assert read(kind, pair, jwe.parse(compact)) == bytes(fits)
    parsed = replace(jwe.parse(compact), ciphertext=bytes(8192))
    with pytest.raises(InvalidRequest, match="more than this token takes at once"):
        cbc_hmac.check_shape(parsed, 4096)


def test_a_tpm_says_itself_when_it_is_too_much(tmp_path_factory: pytest.TempPathFactory) -> None:
    with KINDS["tpm"](tmp_path_factory.mktemp("k") / "hsm") as made:
        pair = made.pairs[0]
        with pytest.raises(InvalidRequest, match=r"^5\d\d\d bytes .* more than this token takes at once$"):
            made.inside.run(cbc_hmac.encrypt, *pair.ids, pair.enc, jwe.header(pair.kid, pair.enc), bytes(5000))


def test_a_missing_half_is_told_from_a_missing_pair(softhsm: Kind) -> None:
    softhsm.inside.run(import_secret, b"only-aes", AES256, "aes")
    softhsm.inside.run(import_secret, b"only-mac", MAC, "hmac")
    header = jwe.header("x", "A256CBC-HS256")
    for ids in ((b"only-aes", b"only-aes"), (b"only-mac", b"only-mac"), (b"only-aes", b"nobody")):
        with pytest.raises(KeyMissingError):
            softhsm.inside.run(cbc_hmac.encrypt, *ids, "A256CBC-HS256", header, SEED)
    # Two that were found by two labels.
    compact = softhsm.inside.run(cbc_hmac.encrypt, b"only-aes", b"only-mac", "A256CBC-HS256", header, SEED)
    assert softhsm.inside.run(cbc_hmac.decrypt_here, b"only-aes", b"only-mac", jwe.parse(compact)) == SEED


def test_two_hmac_keys_with_one_id_are_refused(softhsm: Kind) -> None:
    softhsm.inside.run(import_secret, b"twin", AES128, "aes")
    for value in (MAC, MAC[::-1]):
        softhsm.inside.run(import_secret, b"twin", value, "hmac")
    with pytest.raises(KeyAmbiguousError):
        softhsm.inside.run(TokenSession.hmac, b"twin", "SHA256", b"")
    # That there are three objects with this id is no matter for the AES key.
    assert len(softhsm.inside.run(TokenSession.encrypt_cbc, b"twin", bytes(16), bytes(32))) == 32


async def written(hsm: Hsm, pair: Pair, plaintext: bytes) -> jwe.Jwe:
    header = jwe.header(pair.kid, pair.enc, hkid=pair.hkid)
    return jwe.parse(await hsm.run(cbc_hmac.encrypt, *pair.ids, pair.enc, header, plaintext))


def test_the_workers_read_what_belongs_to_the_pair_and_nothing_else(served: Kind) -> None:
    inside = served.inside
    for pair in served.pairs:
        parsed = inside.served(written, pair, SEED)
        assert inside.served(cbc_hmac.decrypt, *pair.ids, parsed, 10.0) == SEED
        inside.counted()
        for segment in ("iv", "ciphertext", "tag"):
            whole: bytes = getattr(parsed, segment)
            change: dict[str, Any] = {segment: whole[:-1] + bytes([whole[-1] ^ 1])}
            altered = replace(parsed, **change)
            with pytest.raises(TagMismatch, match="does not authenticate"):
                inside.served(cbc_hmac.decrypt, *pair.ids, altered, 10.0)
        with pytest.raises(InvalidRequest, match="the authentication tag has 0 bytes"):
            inside.served(cbc_hmac.decrypt, *pair.ids, replace(parsed, tag=b""), 10.0)
        # Once per request: that a tag does not fit is no fault of the token.
        assert inside.counted() == {"C_SignInit": 3, "C_Sign": 3}


def test_the_workers_say_which_keys_are_missing(served: Kind) -> None:
    pair = served.pairs[0]
    parsed = served.inside.served(written, pair, SEED)
    for ids in ((b"nobody", pair.ids[1]), (pair.ids[0], b"nobody")):
        with pytest.raises(Unavailable, match="not to be found on token"):
            served.inside.served(cbc_hmac.decrypt, *ids, parsed, 10.0)


def test_a_round_trip_through_the_workers_is_timed(served: Kind) -> None:
    for pair in served.pairs:
        assert all(seconds > 0 for seconds in served.inside.served(cbc_hmac.round_trip, *pair.ids, pair.enc, 10.0))


def test_an_aes_key_is_no_hmac_key(softhsm: Kind) -> None:
    with pytest.raises(CkrError) as refused:
        softhsm.inside.run(_sign_with_aes, KNOWN[0].cka_id)
    assert refused.value.function == "C_SignInit"


def _sign_with_aes(session: TokenSession, cka_id: bytes) -> bytes:
    session._keys[(cka_id, "hmac")] = session.key(cka_id, "aes")
    try:
        return session.hmac(cka_id, "SHA512", b"")
    finally:
        session.forget(frozenset({cka_id}))
