"""`kmsctl encrypt` and `decrypt`: bytes in, the same bytes out, and nothing lost or shown on the way."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import grpc
import pytest

from kmsd.api.kms.v2 import api_pb2 as v2
from tests.ctl.answers import WRITE_ID
from tests.ctl.canned import Canned, Failure, seal
from tests.ctl.conftest import Run

BINARY = bytes(range(256)) + b"\r\n\x00"


@pytest.mark.parametrize("api", ["v2", "v1beta1"])
def test_any_bytes_come_back_through_pipes(spawn: Run, canned: Canned, api: str) -> None:
    sealed = spawn("encrypt", "--api", api, stdin=BINARY)
    assert (sealed.code, sealed.err) == (0, "")
    assert sealed.out == seal(BINARY)  # raw: not a byte more
    opened = spawn("decrypt", "--api", api, "-", stdin=sealed.out)
    assert (opened.code, opened.err, opened.out) == (0, "", BINARY)


def test_the_key_id_is_read_from_the_ciphertext_unless_named(run: Run, canned: Canned) -> None:
    run("decrypt", stdin=seal(b"x", "key-7"))
    run("decrypt", "--key-id", "mine", stdin=seal(b"x", "key-7"))
    document = run("encrypt", "-o", "json", stdin=b"x").out
    run("decrypt", "--key-id", "mine", stdin=document)
    first, second, _, third = canned.requests
    assert isinstance(first, v2.DecryptRequest)
    assert isinstance(second, v2.DecryptRequest)
    assert isinstance(third, v2.DecryptRequest)
    assert (first.key_id, second.key_id, third.key_id) == ("key-7", "mine", "mine")
    assert first.uid != second.uid


@pytest.mark.parametrize(
    "ciphertext",
    [b"", b"garbage", b"!!!.a.b.c.d", b"e30.a.b.c.d", b"W10.a.b.c.d", b"\xff.\xff", b"eyJraWQiOjF9.."],
)
def test_a_ciphertext_that_names_no_key_is_2_in_v2_and_kmsds_to_judge_in_v1beta1(
    run: Run, canned: Canned, ciphertext: bytes
) -> None:
    result = run("decrypt", stdin=ciphertext)
    assert (result.code, result.out) == (2, b"")
    assert "--key-id" in result.err
    assert canned.requests == []
    run("decrypt", "--api", "v1beta1", stdin=ciphertext)
    assert len(canned.requests) == 1


@pytest.mark.parametrize("form", ["json"])
def test_what_encrypt_writes_as_json_decrypt_reads(run: Run, canned: Canned, form: str) -> None:
    document = run("encrypt", "-o", form, stdin=BINARY).out
    assert json.loads(document) == {
        "ciphertext": base64.b64encode(seal(BINARY)).decode(),
        "key_id": WRITE_ID,
        "annotations": {"kmsd.example.com": "AP8="},
    }
    assert run("decrypt", stdin=document).out == BINARY
    request = canned.requests[-1]
    assert isinstance(request, v2.DecryptRequest)
    assert request.key_id == WRITE_ID
    assert dict(request.annotations) == {"kmsd.example.com": b"\x00\xff"}


def test_v1beta1_json_has_no_key_id_and_still_decrypts(run: Run, canned: Canned) -> None:
    document = run("encrypt", "--api", "v1beta1", "-o", "json", stdin=b"ping").out
    assert json.loads(document)["key_id"] is None
    assert run("decrypt", "--api", "v1beta1", stdin=document).out == b"ping"


@pytest.mark.parametrize(
    "document",
    [
        b"{",
        b"{}",
        b'{"ciphertext": 1}',
        b'{"ciphertext": "?"}',
        b'{"ciphertext": "", "annotations": 3}',
        b'{"ciphertext": "", "annotations": {"a": "?"}}',
        b"{" * 100_000,
        b'{"ciphertext":' + b"[" * 100_000,
        b'{"\xff": 1}',
    ],
)
def test_other_json_is_2(run: Run, canned: Canned, document: bytes) -> None:
    result = run("decrypt", stdin=document)
    assert (result.code, result.out) == (2, b"")
    assert "hint: give an object with ciphertext" in result.err


def test_a_line_end_around_a_jwe_does_no_harm(run: Run, canned: Canned) -> None:
    assert run("decrypt", stdin=b" " + seal(b"hello") + b"\n").out == b"hello"


def test_out_makes_a_file_that_only_its_owner_reads(run: Run, canned: Canned, tmp_path: Path) -> None:
    source, sealed, opened = (tmp_path / name for name in ("seed", "seed.jwe", "seed.out"))
    source.write_bytes(BINARY)
    opened.write_text("older and open to all")
    opened.chmod(0o644)
    assert run("encrypt", str(source), "--out", str(sealed)).out == b""
    result = run("decrypt", str(sealed), "--out", str(opened))
    assert (result.code, result.out, result.err) == (0, b"", "")
    assert opened.read_bytes() == BINARY
    for path in (sealed, opened):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(each.name for each in tmp_path.iterdir()) == ["seed", "seed.jwe", "seed.out"]


def test_a_failed_call_leaves_the_old_file(run: Run, canned: Canned, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("kept")
    canned.failures = {"Decrypt": Failure(grpc.StatusCode.NOT_FOUND, "no key has the key id x")}
    assert run("decrypt", "--out", str(kept), stdin=seal(b"new")).code == 5
    assert kept.read_text() == "kept"


@pytest.mark.parametrize("target", ["/dev/null", "/nonexistent/file", "/"])
def test_out_that_cannot_be_written_is_2(run: Run, canned: Canned, target: str) -> None:
    result = run("encrypt", "--out", target, stdin=b"x")
    assert result.code == 2
    assert result.err.count("\n") == 2


def test_input_is_bounded_before_anything_is_sent(run: Run, canned: Canned, tmp_path: Path) -> None:
    assert run("encrypt", stdin=bytes(1 << 20)).code == 0
    canned.requests.clear()
    assert run("encrypt", stdin=bytes((1 << 20) + 1)).code == 2
    assert run("encrypt", "/dev/zero").code == 2
    assert canned.requests == []


def test_errors_hold_neither_plaintext_nor_ciphertext(run: Run, canned: Canned) -> None:
    canned.failures = {
        method: Failure(grpc.StatusCode.INTERNAL, "the token failed") for method in ("Encrypt", "Decrypt")
    }
    sealed = seal(b"a very secret text")
    for argv, data in ((["encrypt"], b"a very secret text"), (["decrypt"], sealed)):
        result = run("--debug", *argv, stdin=data)
        assert result.code == 1
        assert data.decode() not in result.err
        assert base64.b64encode(data).decode().rstrip("=") not in result.err
