"""The forms of EST: whatever a stranger sends is read, or refused in words."""

from __future__ import annotations

import base64
import contextlib
import hashlib

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from kmsd.errors import InvalidRequest
from kmsd.est import csrattrs, tokens, wire
from kmsd.est.failures import MOST, SECONDS, Failures
from tests.ca import software

DER = st.binary(min_size=1, max_size=300)
KEY_TYPES = ("ec-p256", "ec-p384", "ec-p521", "rsa-2048", "rsa-3072", "rsa-4096")


@given(DER, st.integers(1, 100), st.sampled_from(["\n", "\r\n", " ", "\t\n"]))
def test_base64_is_read_however_it_is_wrapped(der: bytes, width: int, between: str) -> None:
    text = base64.b64encode(der).decode()
    wrapped = between.join(text[at : at + width] for at in range(0, len(text), width))
    assert wire.decode(wrapped.encode()) == der
    assert wire.decode(f"-----BEGIN SOMETHING-----\n{wrapped}\n-----END SOMETHING-----\n".encode()) == der


@given(DER)
def test_base64_is_written_in_one_line(der: bytes) -> None:
    assert wire.decode(wire.encode(der)) == der
    assert not set(wire.encode(der)) & set(b" \r\n")
    assert wire.decode(wire.encode_request(der)) == der
    assert all(len(line) <= 76 for line in wire.encode_request(der).splitlines())


def test_a_request_of_another_version_or_with_a_subject_that_is_no_text_is_refused_in_words() -> None:
    der = software.csr(cn="node-1").public_bytes(Encoding.DER)
    for right, wrong in ((b"\x02\x01\x00", b"\x02\x01\x05"), (b"\x0c\x06node-1", b"\x03\x06node-1")):
        assert der.count(right) == 1
        with pytest.raises(InvalidRequest, match="is no request"):
            wire.request_in(der.replace(right, wrong))


@given(st.binary(max_size=2000) | st.text(max_size=500).map(str.encode))
def test_arbitrary_bodies_are_refused_in_words_or_read(body: bytes) -> None:
    for read in (wire.decode, wire.request_in, wire.certificates_in):
        with contextlib.suppress(InvalidRequest):
            read(body)


def test_a_body_has_a_bound_and_so_has_what_it_holds() -> None:
    with pytest.raises(InvalidRequest, match="more than 65536 bytes"):
        wire.decode(b"A" * (wire.MOST + 1))
    root = software.root(software.ec_key())
    assert wire.certificates_in(wire.certs_only([root])) == [root]
    many = [software.root(software.ec_key(), f"CN={number}") for number in range(65)]
    with pytest.raises(InvalidRequest, match="has 65 certificates, and 1 to 64 are taken"):
        wire.certificates_in(wire.certs_only(many))


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_csrattrs_say_which_key_is_wanted(key_type: str) -> None:
    assert csrattrs.key_type(csrattrs.wanted(key_type)) == key_type


@given(st.binary(max_size=200) | st.sampled_from(KEY_TYPES).map(csrattrs.wanted), st.data())
def test_arbitrary_csrattrs_are_refused_in_words_or_read(der: bytes, data: st.DataObject) -> None:
    if der:
        at = data.draw(st.integers(0, len(der) - 1))
        der = der[:at] + data.draw(st.binary(max_size=2)) + der[at + data.draw(st.integers(0, 2)) :]
    with contextlib.suppress(InvalidRequest):
        assert csrattrs.key_type(der) in (None, *KEY_TYPES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # RFC 7030, 4.5.2: challengePassword, secp384r1, macAddress, ecdsaWithSHA384.
        ("MEEGCSqGSIb3DQEJBzASBgcqhkjOPQIBMQcGBSuBBAAiMBYGCSqGSIb3DQEJDjEJBgcrBgEBAQEWBggqhkjOPQQDAw==", "ec-p384"),
        ("MAA=", None),
        ("MAkGByqGSM49AgE=", None),
    ],
)
def test_csrattrs_of_others_are_understood(text: str, expected: str | None) -> None:
    assert csrattrs.key_type(base64.b64decode(text)) == expected


def test_an_enrolment_token_is_known_by_its_parts_and_its_secret_by_a_slow_hash_alone() -> None:
    text, token_id, salt, digest = tokens.make()
    found = tokens.parts(text)
    assert found is not None
    assert found[0] == token_id
    assert digest != hashlib.sha256(found[1].encode()).digest()
    assert tokens.is_secret(found[1], salt, digest)
    assert not tokens.is_secret("0" * 64, salt, digest)
    assert not tokens.is_secret(found[1], None, None)
    for other in ("", text[:-1], text + "0", text.upper(), f" {text}", "kmsd-enrol--"):
        assert tokens.parts(other) is None
    assert tokens.make()[0] != text


def test_failures_are_counted_for_each_caller_and_forgotten_after_a_while() -> None:
    clock = [0.0]
    seen = Failures(lambda: clock[0])
    for _ in range(MOST):
        assert seen.wait("a", "t") == 0
        seen.add("a", "t")
    assert seen.wait("b", "a") == seen.wait("t") == SECONDS
    assert seen.wait("b") == 0
    clock[0] = SECONDS
    assert seen.wait("a") == 0
    seen.add("a")
    assert seen.wait("a") == 0


def test_callers_that_failed_are_remembered_in_a_bounded_number() -> None:
    seen = Failures()
    for number in range(20_000):
        seen.add(str(number))
    assert len(seen._seen) == 10_000
