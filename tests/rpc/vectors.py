"""What k8s-kms-plugin itself wrote, and the keys it wrote with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tests.rpc.known import KnownKey

_FILE = json.loads((Path(__file__).parent.parent / "vectors" / "k8s-kms-plugin.json").read_text())


@dataclass(frozen=True)
class Vector:
    key_label: str
    plaintext: bytes
    ciphertext: bytes


K8S_KMS_PLUGIN_KEYS = tuple(
    KnownKey(key["label"], key["cka_id"], bytes.fromhex(key["value"]), "aes" if key["type"] == "AES" else "hmac")
    for key in _FILE["keys"]
)


def _vectors(algorithm: str) -> tuple[Vector, ...]:
    return tuple(
        Vector(v["key_label"], bytes.fromhex(v["plaintext"]), v["ciphertext"].encode())
        for v in _FILE["vectors"]
        if v["alg"] == algorithm
    )


GCM = _vectors("aes-gcm")
CBC = _vectors("aes-cbc")
