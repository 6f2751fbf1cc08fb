"""What a request is made of, for those who make wrong ones. SECRET is what must never be shown."""

from __future__ import annotations

import base64

from tests.daemons import Kmsd
from tests.rpc.known import WRITE
from tests.rpc.refusals import ENCRYPT_V2
from tests.rpc.wire import field, fields

SECRET = b"this plaintext must not be shown"
V1 = field(1, "v1beta1")


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def unb64(text: bytes) -> bytes:
    return base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))


def good(kmsd: Kmsd) -> bytes:
    return fields(kmsd.raw(ENCRYPT_V2, field(1, SECRET)))[1]


def v2_decrypt(ciphertext: bytes, key_id: str = WRITE.key_id) -> bytes:
    return field(1, ciphertext) + field(3, key_id)


def v1_decrypt(ciphertext: bytes) -> bytes:
    return V1 + field(2, ciphertext)
