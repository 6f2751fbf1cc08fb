"""GetKey: every way to name a key, and every way to fail to."""

from __future__ import annotations

import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from tests.admin.calls import ask, encrypt, fresh, key, make, refused
from tests.admin.conftest import AMBIGUOUS, BARE, BINARY_ID, READ_ONLY
from tests.daemons import Kmsd

pytestmark = pytest.mark.usefixtures("unchanged")


def test_a_key_is_found_by_id_by_label_and_by_hash(served: Kmsd) -> None:
    write = served.status().write_key
    assert write.label == "k8s-kek"
    for which in (write.key_id, write.label, f"sha256:{write.key_id_sha256[:8]}", f"sha256:{write.key_id_sha256}"):
        assert key(served, which).key_id == write.key_id


def test_a_key_tells_what_it_is(served: Kmsd) -> None:
    found = key(served, "k8s-kek")
    assert found.state == admin.KEY_STATE_WRITE
    assert (found.type, found.bits, found.enc) == (admin.KEY_TYPE_AES, 256, "A256GCM")
    assert (found.can_encrypt, found.can_decrypt, found.can_sign, found.can_verify) == (True, True, False, False)
    assert (found.sensitive, found.extractable, found.private) == (True, False, True)
    assert served.token is not None
    assert found.token == found.token_label == served.token.label
    assert abs(found.created_unix_ms - served.status().started_unix_ms) < 120_000


def test_uses_are_counted_on_the_key(served: Kmsd) -> None:
    before = key(served, "k8s-kek")
    sealed = encrypt(served)
    after = key(served, "k8s-kek")
    assert after.encrypts == before.encrypts + 1
    assert after.last_used_unix_ms >= before.last_used_unix_ms
    assert after.last_used_unix_ms > 0
    assert sealed.key_id == after.key_id


def test_an_id_that_is_no_text_is_named_in_hex(served: Kmsd) -> None:
    assert key(served, f"0x{BINARY_ID.hex()}").label == "binary"


def test_an_unusable_key_says_why_and_what_to_do(served: Kmsd) -> None:
    found = key(served, BARE)
    assert found.state == admin.KEY_STATE_UNUSABLE
    assert (found.key_id, found.key_id_sha256) == ("", "")
    assert "no CKA_ID" in found.unusable_reason
    assert "adopt" in found.unusable_hint
    assert not found.enc


def test_a_key_that_only_decrypts_writes_nothing(served: Kmsd) -> None:
    found = key(served, READ_ONLY)
    assert found.state == admin.KEY_STATE_READABLE
    assert (found.can_encrypt, found.can_decrypt, found.enc) == (False, True, "")


@pytest.mark.parametrize(
    ("which", "code", "words"),
    [
        ("nothing-has-this", "NOT_FOUND", "no key 'nothing-has-this'"),
        ("01900000-0000-7000-8000-00000000ffff", "NOT_FOUND", "no key '01900000-0000-7000-8000-00000000ffff'"),
        ("", "INVALID_ARGUMENT", "no key is named"),
        ("k8s-kek\n", "NOT_FOUND", r"no key 'k8s-kek\n'"),
        ("x" * 300, "NOT_FOUND", "xxx..."),
        ("x" * 100_000, "NOT_FOUND", "xxx..."),
        (AMBIGUOUS, "INVALID_ARGUMENT", "2 keys are called 'twice': 01900000-0000-7000-8000-00000000000"),
        ("sha256:", "INVALID_ARGUMENT", "no hash of a key id"),
        ("sha256:1234567", "INVALID_ARGUMENT", "no hash of a key id"),
        ("sha256:ABCDEF01", "INVALID_ARGUMENT", "no hash of a key id"),
        ("sha256:xxxxxxxx", "INVALID_ARGUMENT", "no hash of a key id"),
        ("sha256:00000000", "NOT_FOUND", "no key 'sha256:00000000'"),
        ("sha256:" + "0" * 100_000, "NOT_FOUND", "no key 'sha256:0000"),
    ],
)
@pytest.mark.parametrize("method", ["GetKey", "DestroyKey", "TestKey", "RetireKey", "RelabelKey"])
def test_what_names_no_key_is_refused_alike_everywhere(
    served: Kmsd, method: str, which: str, code: str, words: str
) -> None:
    refused(served, method, code, words, key=which, **({"label": "never given"} if method == "RelabelKey" else {}))


def test_the_two_keys_of_a_pair_name_each_other(served: Kmsd) -> None:
    label = fresh("pair")
    made = make(served, label, admin.KEY_TYPE_PAIR)
    try:
        found = ask(served, "GetKey", key=label)
        assert found.companion.label == f"{label}.hmac"
        assert found.companion.state == admin.KEY_STATE_COMPANION
        assert found.companion.key_id == found.key.key_id
        assert ask(served, "GetKey", key=made.key_id).key.label == label, "the AES key is meant"
        other = ask(served, "GetKey", key=f"{label}.hmac")
        assert (other.key.label, other.companion.label) == (f"{label}.hmac", label)
    finally:
        ask(served, "DestroyKey", key=made.key_id, confirm_label=label)
