"""Thousands of forged requests: none is accepted, none meets a bug, and honest callers notice nothing.

What an attacker has here: every value of an honest cluster, those of other keys on the same token, planted objects
whose values they know, and the formats' documentation.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2
from tests import keysealer
from tests.daemons import Kmsd
from tests.rpc.forged import b64, unb64
from tests.rpc.known import AES128, AES192, WRITE
from tests.rpc.refusals import DECRYPT_V1, DECRYPT_V2, Refusal, answers
from tests.rpc.vectors import CBC, GCM, K8S_KMS_PLUGIN_KEYS
from tests.security.forging import compact, header, sealed
from tests.tokens import SoftToken, make_token

LEAST = 5000
PLANTED = bytes(range(200, 232))
SEED = b"a seed of thirty-two bytes......"
ALLOWED = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"}
Forgery = tuple[str, bytes, str]
"""What it is, the ciphertext, and the key_id of a request."""


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> SoftToken:
    """With keys of every kind that is read, and objects that somebody without a PIN has put there."""
    made = make_token(tmp_path_factory.mktemp("t") / "hsm")
    steps = [key.step for key in (WRITE, AES192, AES128, *K8S_KMS_PLUGIN_KEYS)]
    for key in keysealer.KEYS.values():
        what = {"type": key.type, "label": key.label, "value": key.value.hex(), "id": key.cka_id.hex()}
        steps.append({"do": "import", **what})
    made.objects(*steps)
    for label, cka_id in (("k8s-kek", b"planted-1"), ("twin", WRITE.key_id.encode()), ("k8s-dek", b"planted-2")):
        made.plant({"do": "import", "type": "aes", "label": label, "value": PLANTED.hex(), "id": cka_id.hex()})
    return made


@pytest.fixture(scope="module")
def served(token: SoftToken, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kmsd]:
    with Kmsd(tmp_path_factory.mktemp("d"), token, ("--p11-hmac-label=keysealer-hmac",)).start() as kmsd:
        yield kmsd.wait_ok()


def genuine(kmsd: Kmsd) -> list[tuple[bytes, str]]:
    """What honest programs wrote, with the key_id that they answered."""
    native = [kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=SEED, uid="1")) for _ in range(6)]
    values = [(each.ciphertext, each.key_id) for each in native]
    ids = {key.label: key.key_id for key in K8S_KMS_PLUGIN_KEYS}
    values += [(vector.ciphertext, ids[vector.key_label]) for vector in GCM]
    values += [(vector.ciphertext, vector.key.cka_id.hex()) for vector in keysealer.VECTORS]
    return values


def forgeries(values: list[tuple[bytes, str]], dice: random.Random) -> Iterator[Forgery]:
    for ciphertext, key_id in values:
        yield from _altered(ciphertext, key_id, dice)
        yield from _under_other_ids(ciphertext, key_id)
    for one, key_id in values:
        for other, _ in values:
            if one is not other:
                yield from _mixed(one, other, key_id)
    yield from _planted(dice)
    yield from _dressed(values, dice)
    yield from _nonsense(dice)


def _altered(ciphertext: bytes, key_id: str, dice: random.Random) -> Iterator[Forgery]:
    parts = ciphertext.split(b".")
    for number, part in enumerate(parts):
        data = bytearray(unb64(part))
        for _ in range(16 if data else 0):
            changed = bytearray(data)
            changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
            yield "a bit", b".".join([*parts[:number], b64(bytes(changed)), *parts[number + 1 :]]), key_id
        for cut in (data[:-1], data[1:], data + b"\0", b"", data * 2):
            if cut != data:
                yield "a length", b".".join([*parts[:number], b64(bytes(cut)), *parts[number + 1 :]]), key_id
    yield "too few parts", b".".join(parts[:4]), key_id
    yield "too many parts", ciphertext + b".", key_id
    yield "white space", ciphertext + b"\n", key_id
    yield "padding", ciphertext + b"=", key_id


def _under_other_ids(ciphertext: bytes, key_id: str) -> Iterator[Forgery]:
    for other in (WRITE.key_id, AES128.key_id, "planted-1", "nobody", key_id + "0", "0x" + key_id + "00"):
        if other != key_id:
            yield "another key id", ciphertext, other


def _mixed(one: bytes, other: bytes, key_id: str) -> Iterator[Forgery]:
    """The parts of two values, swapped."""
    mine, theirs = one.split(b"."), other.split(b".")
    for number in (0, 2, 3, 4):
        if mine[number] != theirs[number]:
            yield "mixed parts", b".".join([*mine[:number], theirs[number], *mine[number + 1 :]]), key_id


def _planted(dice: random.Random) -> Iterator[Forgery]:
    """What opens under a key that the attacker knows, under every name that might lead to it."""
    names = ("planted-1", "planted-2", WRITE.key_id, "k8s-kek", "k8s-dek", "twin", b"planted-1".hex())
    for name in names:
        for iv in (12, 16):
            for key_id in (*names, WRITE.key_id.encode().hex()):
                yield "planted", sealed(PLANTED, name, b"chosen", iv=dice.randbytes(iv)), key_id


def _dressed(values: list[tuple[bytes, str]], dice: random.Random) -> Iterator[Forgery]:
    """The right parts under the header of another format, another size, another way."""
    names = (WRITE.key_id, "k8s-kek", "k8s-dek", AES128.key_id, "keysealer-cbc", "06")
    encs = ("A128GCM", "A192GCM", "A256GCM", "A256CBC-HS512", "A256CBC-HS256", "A128CBC-HS256", "A256CBC", "none")
    for ciphertext, key_id in values[:12]:
        _, _, iv, data, tag = map(unb64, ciphertext.split(b"."))
        for enc in encs:
            for alg in ("dir", "RSA-OAEP-256", "A256KW", "none"):
                members = {"alg": alg, "kid": dice.choice(names), "enc": enc}
                yield "another header", compact(members, iv, data, tag), key_id
        size = b64(dice.randrange(1, 64).to_bytes(8, "big")).decode()
        bare = {"alg": "A256CBC", "typ": "JWT", "cty": "JWT", "_thales_aad": size, "enc": "A256CBC"}
        for members in (bare, {**bare, "kid": "06"}, {**bare, "kid": WRITE.key_id.encode().hex()}):
            yield "k8s-kms-plugin's header", compact(members, dice.randbytes(16), data, dice.randbytes(32)), key_id
    for vector in CBC:
        yield "nothing protects it", vector.ciphertext, WRITE.key_id


def _nonsense(dice: random.Random) -> Iterator[Forgery]:
    odd = ("", " ", "k8s-kek\0", "\u202ekek", "0x", "0x" + "0" * 500, "../../pin", "%s%n", "k8s-kek@", "a" * 600)
    for kid in odd:
        for enc in ("A256GCM", "A256CBC-HS512"):
            members: dict[str, object] = {"alg": "dir", "kid": kid, "enc": enc}
            for more in ({}, {"hkid": "k8s-hmac"}, {"crit": ["x"]}, {"zip": "DEF"}, {"kid": [kid]}, {"enc": None}):
                yield "odd names", compact({**members, **more}, bytes(12), bytes(32), bytes(16)), kid or "x"
    for _ in range(300):
        yield "noise", dice.randbytes(dice.randrange(1, 900)), "x"
        yield "noise in parts", b".".join(b64(dice.randbytes(dice.randrange(40))) for _ in range(5)), WRITE.key_id
    for depth in (10, 100, 250):
        yield "nested", b".".join([b64(b"[" * depth), b"", b"", b"", b""]), "x"
    yield "twice", b".".join([b64(b'{"alg":"dir","kid":"a","kid":"b","enc":"A256GCM"}'), b"", b"", b"", b""]), "a"
    yield "header alone", header({"alg": "dir"}), "x"


def test_none_of_thousands_of_forged_requests_is_accepted(served: Kmsd) -> None:
    values = genuine(served)
    honest = {ciphertext for ciphertext, _ in values}
    made = list(forgeries(values, random.Random(20261126)))  # noqa: S311 - the same forgeries each time
    calls: list[tuple[str, bytes]] = []
    kinds: list[str] = []
    for kind, ciphertext, key_id in made:
        if ciphertext in honest and kind != "another key id":
            continue  # chance has put it together again
        request = v2.DecryptRequest(ciphertext=ciphertext, key_id=key_id, uid="1")
        calls.append((DECRYPT_V2, request.SerializeToString()))
        kinds.append(f"v2: {kind}")
        # The older API has no key_id: the value alone decides, so an honest one is none to be refused.
        if ciphertext not in honest:
            old = v1beta1.DecryptRequest(version="v1beta1", cipher=ciphertext)
            calls.append((DECRYPT_V1, old.SerializeToString()))
            kinds.append(f"v1beta1: {kind}")
    assert len(calls) >= LEAST
    seen: Counter[str] = Counter()
    wrong: list[tuple[str, object]] = []
    for kind, answer in zip(kinds, answers(served, calls, 60.0), strict=True):
        code = answer.code if isinstance(answer, Refusal) else "OK"
        seen[code] += 1
        if code not in ALLOWED:
            wrong.append((kind, answer))
    assert not wrong, (seen, wrong[:5])
    # And whoever is honest is served as before.
    for ciphertext, key_id in values:
        assert served.v2("Decrypt", v2.DecryptRequest(ciphertext=ciphertext, key_id=key_id, uid="1")).plaintext
    assert served.v2("Status").healthz == "ok"
    assert not any(line["event"] in ("internal error", "token is down") for line in served.log_lines())
    planted = served.admin("ListKeys", admin.ListKeysRequest()).keys
    assert sum(key.state == admin.KEY_STATE_PLANTED for key in planted) == 3
