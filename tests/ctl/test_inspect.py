"""`kmsctl inspect`: the ciphertext is found in whatever people have it in, and sent as it is."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.client import InvalidRequest, printed
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
    "base64 that was cut": (base64.b64encode(V2)[:61], V2[:45], "base64"),
    "a JWE that was cut within its header": (JWE[:30], JWE[:30], ""),
    "kine's hex(value)": (V2.hex().upper().encode() + b"\n", V2, "hexadecimal digits"),
    "a BLOB of SQL": (b"X'" + V2.hex().upper().encode() + b"'", V2, "hexadecimal digits"),
    "a bytea of SQL": (b" /registry/x | \\x" + V2.hex().encode() + b"\n(1 row)\n", V2, "hexadecimal digits"),
    "hexadecimal digits of a JWE": (JWE.hex().encode(), JWE, "hexadecimal digits"),
    "an object that is not encrypted": (b'{"kind": "Secret"}', b'{"kind": "Secret"}', ""),
    "base64 of such": (base64.b64encode(b'{"kind":"Secret"}'), b'{"kind":"Secret"}', "base64"),
    "etcdctl's JSON": (
        json.dumps({"kvs": [{"key": "eA==", "value": base64.b64encode(V1).decode()}]}).encode(),
        V1,
        "etcdctl's JSON",
    ),
    "another plugin's": (b"vault:v1:\x00\xff", b"vault:v1:\x00\xff", ""),
    "a few letters": (b"abc", b"abc", ""),
    "nothing": (b"", b"", ""),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_ciphertext_is_found(form: str) -> None:
    given_, data, how = FORMS[form]
    found = printed.find(given_)
    assert (found.data, found.form, found.others) == (data, how, 0)


@pytest.mark.parametrize(
    "value", [b"vault:v1:\x00\xff", b"hello", b"6b38", b"00000000  zz", b"*\n*\n", b"a.b c.d.e.f", b"k8s:en", b""]
)
def test_what_is_none_of_it_is_sent_as_it_is_and_not_called_recognised(value: bytes) -> None:
    assert printed.find(value) == printed.PrintedValue(value, recognised=False)


def test_lines_that_a_dump_left_out_are_put_back_and_bounded() -> None:
    value = V2 + bytes(64)
    lines = [value[at : at + 16] for at in range(0, len(value), 16)]
    dump, before = [], b""
    for number, line in enumerate(lines):
        if line == before:
            dump.append("*")
            continue
        before = line
        dump.append(f"{16 * number:08x}  {line.hex(' ')}  |{'.' * len(line)}|")
    whole = "\n".join([*dump, f"{len(value):08x}"]).encode()
    assert b"*" in whole
    assert printed.find(whole).data == value
    huge = b"00000000  " + V2[:16].hex(" ").encode() + b"  |................|\n*\nffffffff00\n"
    assert len(printed.find(huge).data) < 4096


def test_a_v2_value_that_really_ends_in_a_line_end_keeps_it() -> None:
    value = b"k8s:enc:kms:v2:kmsd:" + field(1, b"data\n")
    assert printed.find(value) == printed.find(value + b"\n") == printed.PrintedValue(value)


@given(st.binary(max_size=300))
def test_anything_is_taken(data: bytes) -> None:
    try:
        found = printed.find(data).data
    except InvalidRequest:
        assert b"ciphertext" in data or b"*" in data
    else:
        assert isinstance(found, bytes)


@given(st.binary(max_size=100))
def test_any_end_of_a_v2_value_is_taken(data: bytes) -> None:
    value = b"k8s:enc:kms:v2:kmsd:" + data
    assert printed.find(value).data in (value, value[:-1])


def test_what_is_sent_is_what_was_found(run: Run, canned: Canned) -> None:
    for given_, data, _ in FORMS.values():
        canned.requests.clear()
        assert run("inspect", "-o", "name", stdin=given_).text == "native\n"
        assert [each.data for each in canned.requests] == [data]  # type: ignore[attr-defined]


def test_a_dump_that_does_not_say_how_many_lines_it_left_out_is_2(run: Run, canned: Canned) -> None:
    line = " ".join(f"{byte:02x}" for byte in V2[:16])
    result = run("inspect", stdin=f" {line}\n*\n {line}\n".encode())
    assert (result.code, result.out) == (2, b"")
    assert "`od -v`" in result.err
    assert canned.requests == []


def test_json_that_kmsctl_could_not_have_written_is_2(run: Run, canned: Canned) -> None:
    result = run("inspect", stdin=b'{"ciphertext": 5}')
    assert (result.code, result.out) == (2, b"")
    assert canned.requests == []


def test_what_was_not_recognised_is_said_with_what_was_tried(run: Run, canned: Canned) -> None:
    canned.inspection = pb.InspectCiphertextResponse(format="unknown", summary="Not recognised.")
    assert f"not recognised; tried: {printed.TRIED}" in run("inspect", stdin=b"hello").err
    assert "not recognised" not in run("inspect", stdin=JWE).err


def test_nothing_is_called_readable_before_it_was_tried(run: Run, canned: Canned) -> None:
    assert "READABLE   not tried: the key is there" in run("inspect", stdin=JWE).text
    tried = run("inspect", "--try", stdin=JWE)
    assert tried.code == 0
    assert "READABLE   yes: decrypted with k8s-kek" in tried.text
    documents = [json.loads(run("inspect", *flags, "-o", "json", stdin=JWE).text) for flags in ((), ("--try",))]
    assert [(each["tried"], each["opens"]) for each in documents] == [(False, None), (True, True)]


def test_a_file_that_is_too_long_is_2(run: Run, canned: Canned) -> None:
    result = run("inspect", "-", stdin=bytes((8 << 20) + 1))
    assert (result.code, result.out) == (2, b"")
    assert "more than 8388608 bytes" in result.err
