"""Values as etcd holds them, of every kind, made without the project's readers."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

from tests.e2e.encrypted_object import EncryptedObject
from tests.rpc.vectors import CBC, GCM

NEW_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
OLD_ID = "0x00ff10"
SEALED = b"S" * 44
"""Stands for the object that kube-apiserver encrypted: nonce, ciphertext, tag."""


def b64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def jwe(header: Mapping[str, object], iv: int = 12, ciphertext: int = 32, tag: int = 16) -> bytes:
    """A compact JWE with these members and segments of so many bytes."""
    head = json.dumps(header, separators=(",", ":")).encode()
    return b".".join(b64url(part) for part in (head, b"", b"i" * iv, b"c" * ciphertext, b"t" * tag))


def native(key_id: str = NEW_ID) -> bytes:
    return jwe({"alg": "dir", "kid": key_id, "enc": "A256GCM"})


def k8s_kms_plugin_gcm(label: str = "k8s-dek") -> bytes:
    return jwe({"alg": "dir", "kid": label, "enc": "A256GCM"}, iv=16)


K8S_KMS_PLUGIN_GCM = tuple(vector.ciphertext for vector in GCM)
K8S_KMS_PLUGIN_CBC = tuple(vector.ciphertext for vector in CBC)


def keysealer(cka_id: bytes) -> bytes:
    header = {
        "alg": "A256CBC",
        "kid": cka_id.hex(),
        "typ": "JWT",
        "cty": "JWT",
        "_thales_aad": "AAAAAAAAAAQ",
        "enc": "A256CBC",
    }
    return jwe(header, iv=16, ciphertext=16, tag=32)


def v1(encrypted_dek: bytes, provider: bytes = b"kmsd", sealed: bytes = SEALED) -> bytes:
    return b"k8s:enc:kms:v1:" + provider + b":" + len(encrypted_dek).to_bytes(2, "big") + encrypted_dek + sealed


def v2(key_id: str, encrypted_dek: bytes | None = None, provider: bytes = b"kmsd", sealed: bytes = SEALED) -> bytes:
    found = EncryptedObject(sealed, key_id, native(key_id) if encrypted_dek is None else encrypted_dek)
    return b"k8s:enc:kms:v2:" + provider + b":" + found.to_bytes()
