"""What the tests of rotation share: calls of the admin API, and what must be true of a token afterwards."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.chaos import ChaosToken, build
from tests.daemons import Kmsd, wait_for
from tests.tokens import SoftToken


def rotate(kmsd: Kmsd, **fields: Any) -> admin.RotateKeyResponse:
    answer: admin.RotateKeyResponse = kmsd.admin("RotateKey", admin.RotateKeyRequest(**fields), timeout=30.0)
    return answer


SEALING = (admin.KEY_TYPE_AES, admin.KEY_TYPE_RSA)


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
    return [key for key in found if key.label == label and key.type in SEALING]


def assert_at_rest(kmsd: Kmsd, label: str = "k8s-kek") -> admin.Key:
    """Exactly one write key, nothing pending, no two keys labelled alike. Returns the write key."""
    found = keys(kmsd)
    writers = labelled(found, label)
    assert len(writers) == 1, [key.label for key in found]
    assert not labelled(found, f"{label}.pending")
    assert writers[0].state == admin.KEY_STATE_WRITE
    return writers[0]


def rests(kmsd: Kmsd) -> bool:
    """Whether one key writes, none is pending and HMAC keys are named as their AES keys, as a fresh look shows it."""
    found = keys(kmsd)
    macs = {key.key_id: key.label for key in found if key.type == admin.KEY_TYPE_HMAC}
    return (
        len(labelled(found)) == 1
        and not labelled(found, "k8s-kek.pending")
        and all(macs.get(key.key_id, f"{key.label}.hmac") == f"{key.label}.hmac" for key in ciphers(found))
    )


def ciphers(found: list[admin.Key]) -> list[admin.Key]:
    return [key for key in found if key.type == admin.KEY_TYPE_AES]


@pytest.fixture
def chaos(token: SoftToken) -> Iterator[ChaosToken]:
    """The token, behind a module that misbehaves when told to."""
    chaos = ChaosToken(token, str(build()))
    yield chaos
    chaos.tell()


@pytest.fixture
def start_behind(start_kmsd: Callable[..., Kmsd], chaos: ChaosToken) -> Callable[..., Kmsd]:
    """Starts a kmsd whose module may be told to misbehave."""

    def start(name: str = "d", refresh: float = 0.5, algorithm: str = "auto") -> Kmsd:
        kmsd = start_kmsd(
            *chaos.flags,
            name=name,
            wait=False,
            default_flags=False,
            environment={**chaos.environment, **keys_environment(refresh, algorithm)},
            logging=("--log-level=info", "--log-format=json"),
        )
        wait_for(lambda: listens(kmsd.socket) and listens(kmsd.admin_socket))
        return kmsd

    return start


def keys_environment(refresh: float, algorithm: str = "auto") -> dict[str, str]:
    return {"KMSD_KEYS__REFRESH": str(refresh), "KMSD_KEYS__ALGORITHM": algorithm}


def listens(path: Path) -> bool:
    """Whether the socket is more than what a killed kmsd left. gRPC would pause for a second after each refusal."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0
