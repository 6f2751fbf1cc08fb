"""The identity of a key and its spellings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmsd import keyid


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
