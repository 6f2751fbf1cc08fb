"""Make, rename and destroy objects on a token, as a program beside kmsd would: `python -m tests.objects < JOB`.

JOB is JSON: the path of the PKCS#11 module, the label of the token, its PIN or nothing, and the steps.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import pkcs11
from pkcs11 import Attribute, KeyType, ObjectClass

_TYPES = {"aes": KeyType.AES, "des3": KeyType.DES3}


def main() -> None:
    """Take every step, or fail at the first that cannot be taken."""
    job = json.load(sys.stdin)
    token = next(iter(pkcs11.lib(job["module"]).get_tokens(token_label=job["token"])))
    session = token.open(rw=True, user_pin=job["pin"]) if job["pin"] else token.open(rw=True)
    for step in job["steps"]:
        if step["do"] == "import":
            session.create_object(_template(step))
            continue
        found = list(session.get_objects({Attribute.LABEL: step["label"]}))
        assert found, step
        for key in found:
            if step["do"] == "relabel":
                key[Attribute.LABEL] = step["to"]
            elif step["do"] == "destroy":
                key.destroy()


def _ec(step: dict[str, str]) -> dict[Attribute, Any]:
    """Half of a key pair on P-256. value: of a public key its point, uncompressed; of a private one its number."""
    value = bytes.fromhex(step["value"])
    both = {
        Attribute.KEY_TYPE: KeyType.EC,
        Attribute.TOKEN: True,
        Attribute.LABEL: step["label"],
        Attribute.ID: bytes.fromhex(step["id"]),
        Attribute.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107"),
    }
    if step["type"] == "ec-public":
        point = bytes([4, len(value)]) + value
        public = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.PRIVATE: False, Attribute.VERIFY: True}
        return {**both, **public, Attribute.EC_POINT: point}
    kept = {Attribute.PRIVATE: True, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.SIGN: True}
    return {**both, **kept, Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.VALUE: value}


def _template(step: dict[str, str]) -> dict[Attribute, Any]:
    if step["type"] in ("ec", "ec-public"):
        return _ec(step)
    aes = step["type"] == "aes"
    template = {
        Attribute.CLASS: ObjectClass.SECRET_KEY,
        Attribute.KEY_TYPE: _TYPES.get(step["type"], KeyType.GENERIC_SECRET),
        Attribute.TOKEN: True,
        Attribute.PRIVATE: "public" not in step,
        Attribute.SENSITIVE: "readable" not in step,
        Attribute.EXTRACTABLE: "readable" in step,
        Attribute.LABEL: step["label"],
        Attribute.VALUE: bytes.fromhex(step["value"]),
        Attribute.ENCRYPT: aes and "encrypt" not in step,
        Attribute.DECRYPT: aes,
        Attribute.SIGN: not aes and "sign" not in step,
        Attribute.VERIFY: not aes,
    }
    if step["id"]:
        template[Attribute.ID] = bytes.fromhex(step["id"])
    return template


if __name__ == "__main__":
    main()
