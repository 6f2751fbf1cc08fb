"""What encrypt-then-MAC is made of besides the token: padding, the MAC's input, which enc for which pair."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmsd.crypto import cbc_hmac
from kmsd.errors import InvalidRequest, Misconfigured
from kmsd.formats import jwe

ALL = ("CKM_AES_CBC", "CKM_SHA256_HMAC", "CKM_SHA512_HMAC")


@given(st.binary(max_size=100))
def test_padding_comes_off_again(plaintext: bytes) -> None:
    padded = cbc_hmac.pad(plaintext)
    assert len(padded) == cbc_hmac.padded_size(len(plaintext))
    assert len(padded) % 16 == 0
    assert padded[: len(plaintext)] == plaintext
    assert cbc_hmac.unpad(padded) == plaintext


@given(st.binary(max_size=48))
def test_only_what_padding_makes_is_unpadded(padded: bytes) -> None:
    plaintext = cbc_hmac.unpad(padded)
    assert plaintext is None or cbc_hmac.pad(plaintext) == padded


@pytest.mark.parametrize(
    "padded", [b"", bytes(16), b"\x11" * 32, bytes(14) + b"\1\2", bytes(15) + b"\xff", b"\1", b"\2\2" + bytes(13)]
)
def test_other_endings_are_refused(padded: bytes) -> None:
    assert cbc_hmac.unpad(padded) is None


def test_the_length_in_the_mac_is_in_bits() -> None:
    """RFC 7518, B.1: AL of 42 octets is 0x0150."""
    aad = b"The second principle of Auguste Kerckhoffs"
    assert cbc_hmac.mac_input(aad, b"IV", b"E") == aad + b"IV" + b"E" + bytes.fromhex("0000000000000150")


@pytest.mark.parametrize(
    ("mechanisms", "aes", "mac", "encs"),
    [
        (ALL, 256, 256, ("A256CBC-HS512", "A256CBC-HS256")),
        (ALL, 256, 512, ("A256CBC-HS512", "A256CBC-HS256")),
        (ALL, 256, 0, ("A256CBC-HS512", "A256CBC-HS256")),
        (("CKM_AES_CBC", "CKM_SHA256_HMAC"), 256, 256, ("A256CBC-HS256",)),
        (("CKM_AES_CBC", "CKM_SHA512_HMAC"), 256, 256, ("A256CBC-HS512",)),
        (ALL, 128, 128, ("A128CBC-HS256",)),
        (ALL, 128, 256, ("A128CBC-HS256",)),
    ],
)
def test_the_strongest_enc_comes_first(mechanisms: tuple[str, ...], aes: int, mac: int, encs: tuple[str, ...]) -> None:
    assert cbc_hmac.suitable(mechanisms, aes, mac) == encs


@pytest.mark.parametrize(
    ("mechanisms", "aes", "mac", "says"),
    [
        ((), 256, 256, "can do neither AES-GCM nor AES-CBC"),
        (("CKM_AES_CBC_PAD", "CKM_SHA256_HMAC"), 256, 256, "can do neither AES-GCM nor AES-CBC"),
        (("CKM_AES_CBC",), 256, 256, "does not list CKM_SHA256_HMAC or CKM_SHA512_HMAC"),
        (("CKM_AES_CBC", "CKM_SHA512_HMAC"), 128, 128, "does not list CKM_SHA256_HMAC"),
        (ALL, 192, 256, "no JWE encryption with AES-192"),
        (ALL, 0, 256, "does not tell the size of the AES key"),
        (ALL, 256, 160, "the HMAC key has 160 bits, AES-256 needs at least 256"),
        (ALL, 128, 64, "the HMAC key has 64 bits, AES-128 needs at least 128"),
    ],
)
def test_why_there_is_none_is_said(mechanisms: tuple[str, ...], aes: int, mac: int, says: str) -> None:
    with pytest.raises(Misconfigured, match=says) as why:
        cbc_hmac.suitable(mechanisms, aes, mac)
    assert why.value.hint


@pytest.mark.parametrize("enc", ["A256GCM", "A128GCM"])
def test_what_was_not_written_by_a_pair_is_not_taken_for_it(enc: str) -> None:
    with pytest.raises(InvalidRequest, match="not in that mode"):
        cbc_hmac.check_shape(jwe.Jwe(b"h", "k", enc, bytes(16), bytes(16), bytes(32)))
    wrapped = jwe.Jwe(b"h", "k", "A256CBC-HS512", bytes(16), bytes(16), bytes(32), jwe.WRAPPED, b"k")
    with pytest.raises(InvalidRequest, match="not in that mode"):
        cbc_hmac.check_shape(wrapped)
