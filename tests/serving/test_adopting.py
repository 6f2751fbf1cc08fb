"""A key that another program made without CKA_ID: it gets one unasked where it is plain which key is meant, and only
there. Whether kmsd may, and what it says where it may not."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.formats import jwe
from tests.daemons import Kmsd, wait_for
from tests.rotation.conftest import decrypt, encrypt
from tests.rpc.refusals import refusal
from tests.tokens import MODULE, PIN, SoftToken

AES, MAC = bytes(range(32)), bytes(range(100, 132))
L = "k8s-kek"
QUICK = {"KMSD_KEYS__REFRESH": "0.2", "KMSD_HEALTH__INTERVAL": "0.5"}
TAKES_PUBLIC = {**QUICK, "KMSD_KEYS__ADOPT": "public"}
CBC = ("--algorithm=aes-cbc", "--p11-hmac-label=mac")
Start = Callable[..., Kmsd]


def pkcs11_tool(token: SoftToken, *argv: str, login: bool = True) -> str:
    command = ["pkcs11-tool", "--module", MODULE, "--token-label", token.label]
    done = subprocess.run(
        [*command, *(("--pin", PIN) if login else ()), *argv],
        env=token.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def keygen(token: SoftToken, *argv: str) -> None:
    pkcs11_tool(token, "--keygen", "--key-type", "aes:32", "--label", L, *argv)


def keys(kmsd: Kmsd, label: str) -> list[admin.Key]:
    return [key for key in kmsd.admin("ListKeys").keys if key.label == label]


def adopted(kmsd: Kmsd) -> list[dict[str, str]]:
    """What the audit has of adoptions."""
    lines = (kmsd.folder / "state" / "audit.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["action"] == "key adopted"]


def stays_down(kmsd: Kmsd, why: str, label: str = L) -> str:
    """Two more looks at the token change nothing, and `kmsctl status` says why; the hint."""
    found = wait_for(lambda: [each for each in kmsd.status().problems if why in each.message])
    time.sleep(0.5)
    assert not any(key.key_id for key in keys(kmsd, label))
    assert kmsd.v2("Status").healthz != "ok"
    assert not adopted(kmsd)
    hint: str = found[0].hint
    return hint


def test_it_gets_an_id_that_claims_no_time_and_log_and_audit_tell(start_kmsd: Start, token: SoftToken) -> None:
    token.import_aes(L, AES, None)
    kmsd = start_kmsd(name="a").wait_ok()
    (key,) = keys(kmsd, L)
    assert (uuid.UUID(key.key_id).version, key.created_unix_ms, key.state) == (4, 0, admin.KEY_STATE_WRITE)
    sealed = encrypt(kmsd, b"seed")
    assert sealed.key_id == key.key_id
    (told,) = wait_for(lambda: adopted(kmsd))
    assert (told["kind"], told["key_id_sha256"]) == ("event", key.key_id_sha256)
    assert told["detail"] == f"{L} on {token.label}: {key.key_id}"
    (line,) = [line for line in kmsd.log_lines() if line["event"] == "a key without CKA_ID got one"]
    assert (line["level"], line["key_id"], line["label"]) == ("warning", key.key_id, L)
    kmsd.stop()
    again = start_kmsd(name="a").wait_ok()
    assert decrypt(again, sealed) == b"seed"
    assert len(adopted(again)) == 1


def test_it_gets_one_when_it_comes_while_nothing_writes(start_kmsd: Start, token: SoftToken) -> None:
    kmsd = start_kmsd(environment=QUICK)
    wait_for(lambda: "there is no key labelled" in kmsd.v2("Status").healthz)
    keygen(token, "--private")
    kmsd.wait_ok()
    assert encrypt(kmsd, b"seed").key_id == keys(kmsd, L)[0].key_id


def test_several_kmsd_give_one_key_the_same_id(start_kmsd: Start, token: SoftToken, short_tmp: Path) -> None:
    keygen(token, "--private")
    copy = SoftToken(short_tmp / "copy", token.label)
    shutil.copytree(token.folder, copy.folder)
    copy.conf.write_text(copy.conf.read_text().replace(str(token.folder), str(copy.folder)))
    first = start_kmsd(name="a", wait=False)
    second = start_kmsd(name="b")
    (short_tmp / "c").mkdir()
    with Kmsd(short_tmp / "c", copy).start() as apart:
        ids = {kmsd.wait_ok().v2("Status").key_id for kmsd in (first, second, apart)}
    assert len(ids) == 1
    assert decrypt(second, encrypt(first, b"seed")) == b"seed"


def test_never_leaves_it_to_the_operator(start_kmsd: Start, token: SoftToken) -> None:
    token.import_aes(L, AES, None)
    kmsd = start_kmsd(environment={**QUICK, "KMSD_KEYS__ADOPT": "never"})
    assert stays_down(kmsd, "it has no CKA_ID") == f"give it one: kmsctl keys adopt {L}"
    assert len(kmsd.status().problems) == 1


def test_of_two_none_is_taken(start_kmsd: Start, token: SoftToken) -> None:
    token.import_aes(L, AES, None)
    token.import_aes(L, MAC, None)
    kmsd = start_kmsd(environment=QUICK)
    assert "relabel all but one" in stays_down(kmsd, f"2 keys labelled {L!r} on token")


@pytest.mark.parametrize("label", [L, f"{L}@20260131T235959Z", f"{L}.retired@20260131T235959Z"])
def test_a_key_with_an_id_that_has_or_had_the_label_comes_first(
    start_kmsd: Start, token: SoftToken, label: str
) -> None:
    token.import_aes(label, MAC, b"its-id")
    token.import_aes(L, AES, None)
    kmsd = start_kmsd(environment=QUICK)
    if label == L:
        assert kmsd.wait_ok().v2("Status").key_id == "its-id"
        assert len(adopted(kmsd)) == 0
    else:
        stays_down(kmsd, "it has no CKA_ID")
    assert "" in {key.key_id for key in keys(kmsd, L)}


def test_a_key_that_wrote_here_before_and_is_missed_has_no_successor(start_kmsd: Start, token: SoftToken) -> None:
    token.import_aes(L, MAC, b"its-id")
    start_kmsd(name="a").wait_ok().stop()
    token.destroy(L)
    token.import_aes(L, AES, None)
    kmsd = start_kmsd(name="a", environment=QUICK)
    assert "bring the right token or key back" in stays_down(kmsd, "key its-id wrote here before")


def test_a_public_key_is_named_and_not_taken(start_kmsd: Start, token: SoftToken) -> None:
    keygen(token)
    kmsd = start_kmsd(environment=QUICK)
    hint = stays_down(kmsd, f"there is no key labelled {L!r} on token '{token.label}', but a public object")
    assert f"kmsctl keys adopt {L} --public" in hint


def test_a_public_key_does_not_stand_in_the_way_of_a_private_one(start_kmsd: Start, token: SoftToken) -> None:
    keygen(token)
    token.import_aes(L, AES, None)
    kmsd = start_kmsd(environment=QUICK).wait_ok()
    assert [key.private for key in keys(kmsd, L) if key.key_id] == [True]


@pytest.mark.parametrize("by", ["setting", "command"])
def test_a_public_key_is_made_private_on_demand(start_kmsd: Start, token: SoftToken, tmp_path: Path, by: str) -> None:
    keygen(token)
    before = _enciphered(token, tmp_path, "a", "--label", L)
    if by == "setting":
        kmsd = start_kmsd(environment=TAKES_PUBLIC).wait_ok()
    else:
        kmsd = start_kmsd(environment=QUICK)
        said = refusal(kmsd.admin, "AdoptKey", admin.AdoptKeyRequest(label=L))
        assert (said.code, f"kmsctl keys adopt {L} --public" in said.hint) == ("NOT_FOUND", True)
        kmsd.admin("AdoptKey", admin.AdoptKeyRequest(label=L, public=True))
        kmsd.wait_ok()
    (key,) = keys(kmsd, L)
    assert (key.private, key.sensitive, key.created_unix_ms) == (True, True, 0)
    assert _enciphered(token, tmp_path, "b", "--id", key.key_id.encode().hex()) == before, "it is the same key"
    assert "Secret Key" not in pkcs11_tool(token, "--list-objects", login=False)
    assert decrypt(kmsd, encrypt(kmsd, b"seed")) == b"seed"
    assert not kmsd.status().problems


def _enciphered(token: SoftToken, folder: Path, name: str, *key: str) -> bytes:
    (folder / "block").write_bytes(bytes(16))
    files = ("--input-file", str(folder / "block"), "--output-file", str(folder / name))
    pkcs11_tool(token, "--encrypt", "--mechanism", "AES-ECB", *key, *files)
    return (folder / name).read_bytes()


def test_a_public_key_whose_value_somebody_may_know_is_not_taken_unasked(
    start_kmsd: Start, token: SoftToken, tmp_path: Path
) -> None:
    (tmp_path / "value").write_bytes(AES)
    made = ("--write-object", str(tmp_path / "value"), "--type", "secrkey", "--key-type", "AES:32", "--label", L)
    pkcs11_tool(token, *made)
    kmsd = start_kmsd(environment=TAKES_PUBLIC)
    stays_down(kmsd, f"the public key {L!r} was not made on the token, or could leave it: its value may be known")
    assert not any(key.key_id for key in keys(kmsd, L))


@pytest.mark.parametrize("hmac_id", [None, b"hmac-id"], ids=["none", "its own"])
@pytest.mark.parametrize("aes_id", [None, b"aes-id"], ids=["none", "its own"])
def test_of_a_pair_each_key_that_lacks_an_id_gets_one(
    start_kmsd: Start, token: SoftToken, aes_id: bytes | None, hmac_id: bytes | None
) -> None:
    token.import_aes(L, AES, aes_id)
    token.import_hmac("mac", MAC, hmac_id)
    kmsd = start_kmsd(*CBC, environment=QUICK).wait_ok()
    sealed = encrypt(kmsd, b"seed")
    parsed = jwe.parse(sealed.ciphertext)
    for found, own in ((parsed.kid, aes_id), (parsed.hkid, hmac_id)):
        assert found == own.decode() if own else uuid.UUID(found).version == 4
    assert parsed.kid != parsed.hkid
    assert decrypt(kmsd, sealed) == b"seed"
    assert not kmsd.status().problems


def test_an_hmac_key_that_nothing_needs_is_left_as_it_is(start_kmsd: Start, token: SoftToken) -> None:
    token.import_aes(L, AES, None)
    token.import_hmac("mac", MAC, None)
    kmsd = start_kmsd("--p11-hmac-label=mac", environment=QUICK).wait_ok()
    assert [key.key_id for key in keys(kmsd, "mac")] == [""]


def test_of_two_hmac_keys_none_is_taken(start_kmsd: Start, token: SoftToken) -> None:
    token.import_aes(L, AES, b"aes-id")
    token.import_hmac("mac", MAC, None)
    token.import_hmac("mac", AES, None)
    kmsd = start_kmsd(*CBC, environment=QUICK)
    stays_down(kmsd, "2 keys labelled 'mac'", "mac")
