"""The aes-gcm format of k8s-kms-plugin: what sets it apart from the native one, and how it is written.

Same JWE members in the same order, but `kid` is the CKA_LABEL the key had when it wrote, `enc` is always
A256GCM, whatever the key's size, and the IV has 16 bytes. Pure.
"""

from __future__ import annotations

import json
from typing import Final

from kmsd.crypto.jwe import Jwe, encode

IV_BYTES: Final = 16


def is_legacy(jwe: Jwe) -> bool:
    return jwe.enc == "A256GCM" and len(jwe.iv) == IV_BYTES


def header(label: str) -> bytes:
    """First segment as Go's encoding/json writes it: with <, >, & and the two line separators escaped."""
    text = json.dumps({"alg": "dir", "kid": label, "enc": "A256GCM"}, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return encode(text.encode())
