"""Service account tokens without a token: which claims are signed, how keys are named, when the time of a set moves."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, RSAKey

from kmsd.errors import InvalidRequest
from kmsd.jwt import kept as keeping
from kmsd.jwt.api import PublicKey
from kmsd.jwt.claims import LEEWAY, Rules, check
from kmsd.jwt.fetchers import Fetchers
from kmsd.jwt.kept import Kept, Proven, Trusted
from kmsd.jwt.public_key import from_der, from_pem, verifying
from kmsd.jwt.published import NEVER, Stamp, in_order

NOW = 1_800_000_000
RULES = Rules(("https://a.test",), 3600)
WHOLE = {
    "iss": "https://a.test",
    "sub": "system:serviceaccount:kube-system:a.b-c",
    "aud": ["x", "y"],
    "iat": NOW,
    "exp": NOW + 3600,
}
CURVES = (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())
RSA = rsa.generate_private_key(65537, 2048)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def text(**changed: Any) -> str:
    whole = {**WHOLE, **changed}
    return b64(json.dumps({name: value for name, value in whole.items() if value is not None}).encode())


def test_the_claims_of_a_service_account_are_signed_and_told_as_hashes() -> None:
    claims = check(text(), RULES, NOW)
    assert (claims.issuer, claims.expires, claims.audiences) == ("https://a.test", NOW + 3600, ("x", "y"))
    assert "kube-system" not in claims.told
    assert check(text(iss="any", aud="one"), Rules((), 3600), NOW).audiences == ("one",)


@pytest.mark.parametrize(
    ("given_text", "words"),
    [
        (text(iss=None), "no issuer"),
        (text(iss=["https://a.test"]), "no issuer"),
        (text(iss="https://a.test/"), "'https://a.test/' is none"),
        (text(sub=None), "no service account"),
        (text(sub="system:serviceaccount:a"), "no service account"),
        (text(sub="system:serviceaccount:a:b:c"), "no service account"),
        (text(sub="system:serviceaccount:A:b"), "no service account"),
        (text(sub="system:serviceaccount:a:b\n"), "no service account"),
        (text(aud=None), "no audience"),
        (text(aud=[]), "no audience"),
        (text(aud=["x", 1]), "no audience"),
        (text(exp=None), "whole seconds"),
        (text(exp=NOW + 0.5), "whole seconds"),
        (text(exp=True), "whole seconds"),
        (text(exp="1"), "whole seconds"),
        (text(exp=NOW), "in force for 0 s"),
        (text(exp=NOW + 3601), "1 to 3600 s"),
        (text(exp=10**30), "1 to 3600 s"),
        (text(iat=NOW + LEEWAY + 1, exp=NOW + LEEWAY + 2), "301 s from now"),
        (text(iat=NOW - LEEWAY - 1, exp=NOW + 9), "301 s ago"),
        (b64(b'{"iss":"a","iss":"b"}'), "stands twice"),
        (b64(b'{"a":{"b":1,"b":2}}'), "stands twice"),
        (b64(b'{"a":NaN}'), "no JSON"),
        (b64(b'{"a":1}{'), "no JSON"),
        (b64(b"\xff{}"), "no JSON"),
        (b64(b"[" * 9000), "no JSON"),
        (b64(b"null"), "no JSON object"),
        (text() + "=", "no base64url"),
        ("e31", "no base64url"),
        ("e", "no base64url"),
        ("e30 ", "no base64url"),
        ("\u0665\u0665\u0665\u0665", "no base64url"),
        ("", "0 characters"),
        ("e" * 16385, "16384 are allowed"),
    ],
)
def test_what_is_not_signed_is_refused_and_no_claim_is_quoted_but_the_issuer(given_text: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check(given_text, RULES, NOW)
    assert words in caught.value.message
    assert "serviceaccount:a" not in caught.value.sentence()


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_refusal(data: bytes) -> None:
    for given_text in (b64(data), data.decode("latin-1")):
        with pytest.raises(InvalidRequest):
            check(given_text, RULES, NOW)


@pytest.mark.parametrize("curve", CURVES)
def test_an_ec_key_is_named_as_a_json_web_key_that_others_read(curve: ec.EllipticCurve) -> None:
    key = verifying(ec.generate_private_key(curve).public_key())
    assert (
        ECKey.import_key(key.pem).as_dict(private=False).items()
        >= {name: value for name, value in key.jwk.items() if name in ("kty", "crv", "x", "y")}.items()
    )
    assert from_der(key.der).kid == key.kid
    assert json.loads(base64.urlsafe_b64decode(key.header + "=" * (-len(key.header) % 4))) == {
        "alg": key.alg,
        "kid": key.kid,
        "typ": "JWT",
    }


def test_a_key_file_is_read_as_kube_apiserver_reads_it() -> None:
    public = RSA.public_key()
    spki = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    pkcs1 = public.public_bytes(Encoding.PEM, PublicFormat.PKCS1)
    other = ec.generate_private_key(CURVES[0]).public_key()
    more = other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    found = from_pem(b"# a comment\n" + spki + pkcs1 + more)
    assert [key.alg for key in found] == ["RS256", "ES256"]
    assert RSAKey.import_key(found[0].pem).as_dict(private=False)["n"] == found[0].jwk["n"]
    private = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for data, words in (
        (private, "private key"),
        (b"", "found 0"),
        (b"-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n", "no public key"),
        (spki * 65, "found 65"),
        (b"x" * 65537, "65536 bytes"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            from_pem(data)
    for refused in (ec.generate_private_key(ec.SECP256K1()).public_key(), object()):
        with pytest.raises(InvalidRequest, match="P-256, P-384 or P-521"):
            verifying(refused)


KEYS = [PublicKey(f"kid-{number}", bytes([number])) for number in range(3)]


def test_the_time_of_a_set_moves_with_the_set_alone_and_never_backwards() -> None:
    first = NEVER.of(KEYS, 5000)
    assert first.ms == 5000
    assert first.of(reversed(KEYS), 9000) == first, "the order is no change"
    more = first.of([*KEYS, PublicKey("kid-9", b"9")], 4000)
    assert more.ms == 6000, "the clock was set back"
    hidden = more.of([*KEYS[:2], PublicKey("kid-2", b"\2", True)], 20_000)
    assert hidden.ms == 20_000
    assert in_order([KEYS[2], PublicKey("kid-2", b"\2", True), KEYS[0]]) == (KEYS[0], KEYS[2])


def test_what_is_kept_comes_back_and_what_is_damaged_is_nothing(tmp_path: Path) -> None:
    key = verifying(RSA.public_key())
    other = verifying(ec.generate_private_key(CURVES[0]).public_key())
    kept = Kept(Stamp("d", 7)).with_proven(Proven(key, "jwt.x", "prod", 1.5, 3600))
    kept = kept.with_trusted(Trusted(other, 2.5, excluded=True, note="n"))
    directory = tmp_path / "state"
    keeping.save(directory, kept)
    assert (directory / keeping.FILE).stat().st_mode & 0o777 == 0o600
    back = keeping.load(directory)
    assert back.stamp == kept.stamp
    assert back.proven[key.kid].longest == 3600
    assert (back.trusted[other.kid].excluded, back.trusted[other.kid].note) == (True, "n")
    assert (back.without_proven(key.kid).proven, back.without_trusted(other.kid).trusted) == ({}, {})
    whole = (directory / keeping.FILE).read_bytes()
    for damaged in (whole[:-9], b"[]", b'{"proven": 1}', whole.replace(b'"key"', b'"kay"'), b"\xff"):
        (directory / keeping.FILE).write_bytes(damaged)
        assert keeping.load(directory) == Kept()
    (directory / keeping.FILE).write_bytes(whole)
    (directory / keeping.FILE).chmod(0o622)
    assert keeping.load(directory) == Kept(), "what others may have written is not believed"


def test_who_fetches_keys_is_remembered_within_a_bound() -> None:
    fetchers = Fetchers(60)
    for number in range(300):
        fetchers.fetched(f"caller {number}", 1)
    fetchers.fetched("caller 100", 2)
    lately = fetchers.lately()
    assert len(lately) == 256
    assert (lately[0].who, lately[0].ms) == ("caller 100", 2)
