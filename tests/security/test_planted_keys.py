"""Somebody who reaches the token without a PIN makes objects on it: none of them is ever a key of kmsd's."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v2 import api_pb2 as v2
from kmsd.keys.labels import new_key_id
from tests.daemons import Kmsd, wait_for
from tests.rpc.refusals import refusal
from tests.security.forging import sealed
from tests.tokens import MODULE, PIN, SoftToken

KNOWN = bytes(range(32))
L = "k8s-kek"


def planted(label: str, cka_id: bytes, kind: str = "aes") -> dict[str, str]:
    return {"do": "import", "type": kind, "label": label, "value": KNOWN.hex(), "id": cka_id.hex()}


def forged(key_id: str) -> bytes:
    """What opens under the planted key, in kmsd's own format."""
    return sealed(KNOWN, key_id, b"chosen by the attacker")


def look(kmsd: Kmsd) -> list[admin.Key]:
    """The keys, after a fresh look at the token."""
    return list(kmsd.admin("ListKeys", admin.ListKeysRequest()).keys)


def audit(kmsd: Kmsd) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (kmsd.folder / "state" / "audit.jsonl").read_text().splitlines()]


def soon() -> str:
    """A key id that claims to be newer than every other."""
    return new_key_id(time.time_ns() // 1_000_000 + 5_000)


def test_a_planted_newer_key_with_the_write_label_writes_nothing(kmsd: Kmsd, token: SoftToken) -> None:
    before = kmsd.v2("Status").key_id
    claimed = soon()
    token.plant(planted(L, claimed.encode()))
    keys = look(kmsd)
    answer = kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"seed", uid="1"))
    assert answer.key_id == kmsd.v2("Status").key_id == before
    assert [key.state for key in keys if key.key_id == claimed] == [admin.KEY_STATE_PLANTED]
    assert kmsd.v2("Status").healthz == "ok"


def test_a_planted_key_is_told_of_in_status_doctor_and_audit(kmsd: Kmsd, token: SoftToken) -> None:
    claimed = soon()
    token.plant(planted(L, claimed.encode()))
    look(kmsd)
    (problem,) = [
        each for each in kmsd.admin("GetStatus", admin.GetStatusRequest()).problems if "public" in each.message
    ]
    assert repr(L) in problem.message
    assert not problem.fatal
    assert "pkcs11-tool --delete-object" in problem.hint
    checks = {each.name: each for each in kmsd.admin("Diagnose", admin.DiagnoseRequest(), 60.0).checks}
    assert checks["public_objects"].outcome == "warning"
    told = wait_for(lambda: [each for each in audit(kmsd) if each["action"] == "planted object"])
    assert [each["outcome"] for each in told] == ["UNAUTHENTICATED"]
    assert claimed in told[0]["detail"]


@pytest.mark.parametrize("label", [L, "somebody-elses"])
def test_nothing_that_a_planted_key_wrote_opens(kmsd: Kmsd, token: SoftToken, label: str) -> None:
    claimed = soon()
    token.plant(planted(label, claimed.encode()))
    look(kmsd)
    refused = refusal(kmsd.v2, "Decrypt", v2.DecryptRequest(ciphertext=forged(claimed), key_id=claimed, uid="1"))
    assert refused.code == "FAILED_PRECONDITION"
    assert "public" in refused.details


def test_a_planted_twin_of_the_write_key_stops_nothing(
    kmsd: Kmsd, start_kmsd: Callable[..., Kmsd], token: SoftToken
) -> None:
    write = kmsd.v2("Status").key_id
    stored = kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"seed", uid="1"))
    token.plant(planted("twin", write.encode()), planted("twin", write.encode(), "hmac"))
    keys = look(kmsd)
    assert {key.state for key in keys if key.label == "twin"} == {admin.KEY_STATE_PLANTED}
    # With sessions that never saw the key without its twin, too.
    for node in (kmsd, start_kmsd(name="late").wait_ok()):
        assert node.v2("Encrypt", v2.EncryptRequest(plaintext=b"seed", uid="1")).key_id == write
        request = v2.DecryptRequest(ciphertext=stored.ciphertext, key_id=stored.key_id, uid="1")
        assert node.v2("Decrypt", request).plaintext == b"seed"


def test_forged_values_of_a_twin_do_not_open(kmsd: Kmsd, token: SoftToken) -> None:
    write = kmsd.v2("Status").key_id
    token.plant(planted("twin", write.encode()))
    look(kmsd)
    refused = refusal(kmsd.v2, "Decrypt", v2.DecryptRequest(ciphertext=forged(write), key_id=write, uid="1"))
    assert refused.code == "INVALID_ARGUMENT"


def test_planted_objects_make_no_difference_to_changes_of_keys(kmsd: Kmsd, token: SoftToken) -> None:
    far = new_key_id((1 << 48) - 2)
    token.plant(planted(L, far.encode()), planted(f"{L}.pending", soon().encode()), planted("spare", soon().encode()))
    old = kmsd.v2("Status").key_id
    rotated = kmsd.admin("RotateKey", admin.RotateKeyRequest(), 30.0)
    assert rotated.rotated
    assert rotated.old_key.key_id == old
    assert rotated.new_key.key_id == kmsd.v2("Status").key_id
    # No label is taken by what is planted, and what is planted has none that a change could touch.
    assert kmsd.admin("GenerateKey", admin.GenerateKeyRequest(label="spare", type=admin.KEY_TYPE_AES), 30.0).created
    refused = refusal(kmsd.admin, "DestroyKey", admin.DestroyKeyRequest(key=far, confirm_label=L))
    assert refused.code == "FAILED_PRECONDITION"
    assert "public object" in refused.details


def test_a_planted_hmac_key_authenticates_nothing(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    kmsd = start_kmsd("--auto-create", "--algorithm=aes-cbc").wait_ok()
    write = kmsd.v2("Status").key_id
    stored = kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"seed", uid="1"))
    token.plant(planted(f"{L}.hmac", write.encode(), "hmac"))
    keys = look(kmsd)
    assert [key.state for key in keys if key.type == admin.KEY_TYPE_HMAC] == [
        admin.KEY_STATE_COMPANION,
        admin.KEY_STATE_PLANTED,
    ]
    request = v2.DecryptRequest(ciphertext=stored.ciphertext, key_id=stored.key_id, uid="1")
    assert kmsd.v2("Decrypt", request).plaintext == b"seed"
    assert kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"seed", uid="1")).key_id == write


def test_more_public_objects_than_are_told_of_change_nothing(kmsd: Kmsd, token: SoftToken) -> None:
    token.plant(*(planted(f"decoy-{number}", b"%d" % number) for number in range(300)))
    keys = look(kmsd)
    assert sum(key.state == admin.KEY_STATE_UNUSABLE for key in keys) == 256
    messages = [each.message for each in kmsd.admin("GetStatus", admin.GetStatusRequest()).problems]
    assert any("holds 300 public objects" in each for each in messages)
    assert kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"seed", uid="1")).ciphertext


def test_a_public_key_serves_only_if_the_configuration_names_it(
    start_kmsd: Callable[..., Kmsd], token: SoftToken
) -> None:
    token.plant(planted(L, b"public-1"), planted("other", b"public-2"))
    kmsd = start_kmsd(environment={"KMSD_KEYS__TRUST_PUBLIC_OBJECTS": "public-1"}).wait_ok()
    assert kmsd.v2("Status").key_id == "public-1"
    stored = kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"seed", uid="1"))
    request = v2.DecryptRequest(ciphertext=stored.ciphertext, key_id="public-1", uid="1")
    assert kmsd.v2("Decrypt", request).plaintext == b"seed"
    messages = [each.message for each in kmsd.admin("GetStatus", admin.GetStatusRequest()).problems]
    assert any(each.startswith("keys.trust_public_objects names 'public-1'") for each in messages)
    refused = refusal(kmsd.v2, "Decrypt", v2.DecryptRequest(ciphertext=forged("public-2"), key_id="public-2", uid="1"))
    assert refused.code == "FAILED_PRECONDITION"


def test_a_key_that_can_be_read_serves_with_a_warning_that_names_the_attribute(
    start_kmsd: Callable[..., Kmsd], token: SoftToken
) -> None:
    token.objects({**planted(L, b"made-elsewhere"), "readable": "yes"})
    kmsd = start_kmsd().wait_ok()
    (warning,) = kmsd.admin("GetStatus", admin.GetStatusRequest()).problems
    assert "'k8s-kek' is EXTRACTABLE and not SENSITIVE" in warning.message
    assert not warning.fatal
    (key,) = look(kmsd)
    assert (key.local, key.always_sensitive, key.never_extractable) == (False, False, False)
    checks = {each.name: each for each in kmsd.admin("Diagnose", admin.DiagnoseRequest(), 60.0).checks}
    assert checks["key_attributes"].outcome == "warning"


def test_a_key_of_kmsds_own_shows_where_it_was_made(kmsd: Kmsd) -> None:
    (key,) = look(kmsd)
    assert (key.local, key.always_sensitive, key.never_extractable) == (True, True, True)
    assert not kmsd.admin("GetStatus", admin.GetStatusRequest()).problems


def test_an_operator_who_made_a_public_key_adopts_a_private_copy_of_it(
    start_kmsd: Callable[..., Kmsd], token: SoftToken
) -> None:
    make = ["--keygen", "--key-type", "aes:32", "--label"]
    login = ["pkcs11-tool", "--module", MODULE, "--token-label", token.label, "--login", "--pin", PIN]
    # As people make them: without --private, and without --id.
    subprocess.run([*login, *make, L], env=token.environment, check=True, capture_output=True, timeout=30)
    subprocess.run(
        [*login, *make, "reader", "--id", b"reader-id".hex()],
        env=token.environment,
        check=True,
        capture_output=True,
        timeout=30,
    )
    kmsd = start_kmsd()
    (problem, *_) = kmsd.admin("GetStatus", admin.GetStatusRequest()).problems
    assert "a public object" in problem.message
    assert f"kmsctl keys adopt {L} --public" in problem.hint
    refused = refusal(kmsd.admin, "AdoptKey", admin.AdoptKeyRequest(label=L))
    assert refused.code == "NOT_FOUND"
    adopted = kmsd.admin("AdoptKey", admin.AdoptKeyRequest(label=L, public=True)).key
    assert (adopted.private, adopted.sensitive, adopted.extractable) == (True, True, False)
    kmsd.wait_ok()
    assert kmsd.v2("Status").key_id == adopted.key_id
    assert kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"seed", uid="1")).key_id == adopted.key_id
    # One that has an id keeps it: what was written names it.
    assert kmsd.admin("AdoptKey", admin.AdoptKeyRequest(label="reader", public=True)).key.key_id == "reader-id"
    again = refusal(kmsd.admin, "AdoptKey", admin.AdoptKeyRequest(label=L, public=True))
    assert again.code == "NOT_FOUND"  # the public one is gone


def test_what_was_written_under_a_public_key_opens_under_its_private_copy(
    start_kmsd: Callable[..., Kmsd], token: SoftToken
) -> None:
    token.plant(planted("mine", b"mine-1"))
    kmsd = start_kmsd("--auto-create").wait_ok()
    kmsd.admin("AdoptKey", admin.AdoptKeyRequest(label="mine", public=True))
    request = v2.DecryptRequest(ciphertext=forged("mine-1"), key_id="mine-1", uid="1")
    assert kmsd.v2("Decrypt", request).plaintext == b"chosen by the attacker"
