"""`kmsctl inspect`: the ciphertext is found in whatever people have it in, and sent as it is."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmsctl import sealed
from kmsctl.diagnostics import UsageError
from tests.ctl.canned import Canned, seal
from tests.ctl.conftest import Run

JWE = seal(b"seed")


def field(number: int, data: bytes) -> bytes:
    assert len(data) < 128
    return bytes([number << 3 | 2, len(data)]) + data


V2 = b"k8s:enc:kms:v2:kmsd:" + field(1, b"data") + field(2, b"key-id") + field(3, JWE[:100]) + b"\x28\x01"
V1 = b"k8s:enc:kms:v1:kmsd:" + len(JWE).to_bytes(2, "big") + JWE + b"data\n"
JSON = json.dumps({"ciphertext": base64.b64encode(JWE).decode(), "key_id": "x", "annotations": {}}).encode()

FORMS = {
    "a JWE": (JWE, JWE, ""),
    "a JWE from an editor": (b"  " + JWE + b"\n\n", JWE, ""),
    "kmsctl's JSON": (JSON, JWE, "what `kmsctl encrypt -o json` writes"),
    "a v2 value": (V2, V2, ""),
    "a v2 value as etcdctl prints it": (V2 + b"\n", V2, ""),
    "a v1 value, which may end in anything": (V1, V1, ""),
    "base64 of a v2 value": (base64.b64encode(V2), V2, "base64"),
    "base64 in lines": (base64.encodebytes(V2), V2, "base64"),
    "base64 for addresses, without its end": (base64.urlsafe_b64encode(V2).rstrip(b"="), V2, "base64"),
    "base64 of what etcdctl printed": (base64.b64encode(V2 + b"\n"), V2, "base64"),
    "another plugin's": (b"vault:v1:\x00\xff", b"vault:v1:\x00\xff", ""),
    "a few letters": (b"abc", b"abc", ""),
    "nothing": (b"", b"", ""),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_ciphertext_is_found(form: str) -> None:
    given_, data, how = FORMS[form]
    assert sealed.unwrap(given_) == (data, how)


def test_a_v2_value_that_really_ends_in_a_line_end_keeps_it() -> None:
    value = b"k8s:enc:kms:v2:kmsd:" + field(1, b"data\n")
    assert sealed.unwrap(value) == (value, "")
    assert sealed.unwrap(value + b"\n") == (value, "")


@given(st.binary(max_size=300))
def test_anything_is_taken(data: bytes) -> None:
    try:
        found, _ = sealed.unwrap(data)
    except UsageError:
        assert data.strip().startswith(b"{")
    else:
        assert isinstance(found, bytes)


@given(st.binary(max_size=100))
def test_any_end_of_a_v2_value_is_taken(data: bytes) -> None:
    value = b"k8s:enc:kms:v2:kmsd:" + data
    assert sealed.unwrap(value)[0] in (value, value[:-1])


def test_what_is_sent_is_what_was_found(run: Run, canned: Canned) -> None:
    for given_, data, _ in FORMS.values():
        canned.requests.clear()
        assert run("inspect", "-o", "name", stdin=given_).text == "native\n"
        assert [each.data for each in canned.requests] == [data]  # type: ignore[attr-defined]


def test_json_that_is_nothing_of_ours_is_2(run: Run, canned: Canned) -> None:
    result = run("inspect", stdin=b'{"kind": "Secret"}')
    assert (result.code, result.out) == (2, b"")
    assert canned.requests == []


def test_a_file_that_is_too_long_is_2(run: Run, canned: Canned) -> None:
    result = run("inspect", "-", stdin=bytes((1 << 20) + 1))
    assert (result.code, result.out) == (2, b"")
    assert "more than 1048576 bytes" in result.err
