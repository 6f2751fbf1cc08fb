"""What the tests of rotation share: calls of the admin API, and what must be true of a token afterwards."""

from __future__ import annotations

from collections.abc import Sequence

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.daemons import Kmsd


def rotate(kmsd: Kmsd, **fields: object) -> admin.RotateKeyResponse:
    answer: admin.RotateKeyResponse = kmsd.admin("RotateKey", admin.RotateKeyRequest(**fields), timeout=30.0)
    return answer


def keys(kmsd: Kmsd) -> list[admin.Key]:
    found: list[admin.Key] = []
    token = ""
    while True:
        answer = kmsd.admin("ListKeys", admin.ListKeysRequest(page_token=token), timeout=30.0)
        found.extend(answer.keys)
        token = answer.next_page_token
        if not token:
            return found


def encrypt(kmsd: Kmsd, plaintext: bytes) -> v2.EncryptResponse:
    answer: v2.EncryptResponse = kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=plaintext, uid="u"))
    return answer


def decrypt(kmsd: Kmsd, sealed: v2.EncryptResponse) -> bytes:
    request = v2.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id, uid="u")
    plaintext: bytes = kmsd.v2("Decrypt", request).plaintext
    return plaintext


def labelled(found: Sequence[admin.Key], label: str = "k8s-kek") -> list[admin.Key]:
    return [key for key in found if key.label == label and key.type == admin.KEY_TYPE_AES]


def assert_at_rest(kmsd: Kmsd, label: str = "k8s-kek") -> admin.Key:
    """Exactly one write key, nothing pending, no two keys labelled alike. Returns the write key."""
    found = keys(kmsd)
    writers = labelled(found, label)
    assert len(writers) == 1, [key.label for key in found]
    assert not labelled(found, f"{label}.pending")
    assert writers[0].state == admin.KEY_STATE_WRITE
    return writers[0]
