"""What Eclipse KeySealer's k8s-kms-plugin would have written, made by hand from its source, and the keys for it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_FILE = json.loads((Path(__file__).parent / "vectors" / "keysealer.json").read_text())


@dataclass(frozen=True)
class ForeignKey:
    label: str
    cka_id: bytes
    type: Literal["aes", "hmac"]
    value: bytes


@dataclass(frozen=True)
class ForeignVector:
    """key, hmac: the keys that wrote it."""

    key: ForeignKey
    hmac: ForeignKey
    plaintext: bytes
    ciphertext: bytes


KEYS = {
    key["label"]: ForeignKey(
        key["label"],
        bytes.fromhex(key["cka_id"]),
        "aes" if key["type"] == "AES" else "hmac",
        bytes.fromhex(key["value"]),
    )
    for key in _FILE["keys"]
}
VECTORS = tuple(
    ForeignVector(
        KEYS[vector["key_label"]],
        KEYS[vector["hmac_label"]],
        bytes.fromhex(vector["plaintext"]),
        vector["ciphertext"].encode(),
    )
    for vector in _FILE["vectors"]
)
