"""The identity of a key and its spellings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmsd.formats import keyid


@pytest.mark.parametrize(
    ("spelling", "cka_id"),
    [
        ("kek1", b"kek1"),
        ("6b656b31", b"kek1"),
        ("0x6b656b31", b"kek1"),
        ("0X6B656B31", b"kek1"),
        ("D73F87D0", b"\xd7\x3f\x87\xd0"),
        ("6b656b31", b"6b656b31"),
        ("schl\u00fcssel", "schl\u00fcssel".encode()),
    ],
)
def test_every_spelling_names_the_same_identity(spelling: str, cka_id: bytes) -> None:
    assert cka_id in keyid.named(spelling)


@pytest.mark.parametrize("spelling", ["", "0x", "0xabc", "kek", "0x6b656b31 "])
def test_what_is_no_hexadecimal_names_nothing_but_its_own_bytes(spelling: str) -> None:
    assert keyid.named(spelling) <= {spelling.encode()}


@given(st.binary(min_size=1, max_size=64))
def test_the_answered_spelling_names_its_key(cka_id: bytes) -> None:
    assert cka_id in keyid.named(keyid.text(cka_id))
    assert cka_id in keyid.named(cka_id.hex()) & keyid.named("0x" + cka_id.hex().upper())


@given(st.binary(min_size=1, max_size=64))
def test_all_spellings_of_one_identity_are_one_key(cka_id: bytes) -> None:
    key_id = keyid.text(cka_id)
    for spelling in (key_id, cka_id.hex(), cka_id.hex().upper(), f"0x{cka_id.hex()}", f"0X{cka_id.hex().upper()}"):
        assert keyid.means(spelling, key_id)
        assert keyid.alike(spelling, key_id)
    other = keyid.text(cka_id + b"x")
    assert not keyid.means(key_id, other)
    assert not keyid.means("", key_id)
    assert not keyid.means(key_id, "")


@pytest.mark.parametrize(
    ("spelling", "answered"), [("kek1", True), ("0x0102", True), ("6b656b31", False), ("06", False)]
)
def test_what_kmsd_would_not_write_is_told_apart(spelling: str, answered: bool) -> None:
    assert keyid.is_answered(spelling) == answered


def test_names_hold_ids_in_any_spelling_and_labels_as_they_are() -> None:
    names = keyid.Names.of([("kek1", ("kek-ascii", "")), ("", ("bare",)), ("0xd73f", ("kek-256",))])
    for each in ("kek1", "6B656B31", "0xD73F", "d73f", "bare", "kek-256"):
        assert names.include("neither", each)
    for each in ("", "kek-256 ", "KEK1", "d73f00"):
        assert not names.include(each)
    assert not keyid.Names.of([]).include("kek1", "")
