"""The KMS v2 API (KEP-3299): protobuf to domain and back, and kube-apiserver's size rules."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from kmsd.api.kms.v2 import api_pb2 as pb
from kmsd.errors import InvalidRequest, KmsdError
from kmsd.request import uid
from kmsd.service.api import KmsService
from kmsd.share import Share
from kmsd.transport.call import MAX_UID, Call, Method, Table, parse

API: Final = "v2"
SERVICE: Final = "v2.KeyManagementService"
LIMIT: Final = 1024
"""kube-apiserver refuses a ciphertext, and a key_id, of this many bytes or more."""
_LARGEST: Final = 36 * 1024
"""Bytes of a request: ciphertext, key_id and uid, and the annotations, which kube-apiserver bounds to 32 KiB."""


def table(service_of: Callable[[Call], KmsService]) -> Table:
    """Return the methods of this API. service_of: who answers a call; raises KmsdError."""

    async def status(call: Call, request: bytes) -> bytes:
        parse(pb.StatusRequest, request)
        answer = await service_of(call).status()
        return pb.StatusResponse(version=API, healthz=answer.healthz, key_id=answer.key_id).SerializeToString()

    async def encrypt(call: Call, body: bytes) -> bytes:
        request = parse(pb.EncryptRequest, body)
        call.uid = request.uid[:MAX_UID]
        uid.set(call.uid)
        plaintext = request.plaintext
        if not 0 < len(plaintext) < LIMIT:
            raise _size("plaintext", len(plaintext))
        try:
            done = await service_of(call).encrypt(plaintext, call.until)
        except KmsdError as error:
            call.key_id_sha256 = error.key_id_sha256
            raise
        call.key_id_sha256 = done.key_id_sha256
        if len(done.ciphertext) >= LIMIT:
            raise InvalidRequest(
                f"the ciphertext of {len(plaintext)} bytes would have {len(done.ciphertext)}",
                f"kube-apiserver takes under {LIMIT}; KMS v2 encrypts 32-byte seeds",
            )
        return pb.EncryptResponse(ciphertext=done.ciphertext, key_id=done.key_id).SerializeToString()

    async def decrypt(call: Call, body: bytes) -> bytes:
        request = parse(pb.DecryptRequest, body)
        call.uid = request.uid[:MAX_UID]
        uid.set(call.uid)
        if not 0 < len(request.ciphertext) < LIMIT:
            raise _size("ciphertext", len(request.ciphertext))
        if not request.key_id:
            raise InvalidRequest("the request has no key_id", "send the key_id that Encrypt answered")
        try:
            done = await service_of(call).decrypt(request.ciphertext, request.key_id, call.until)
        except KmsdError:
            # The key that was asked for, so that failures for want of a key can be found by it.
            call.key_id_sha256 = hashlib.sha256(request.key_id.encode()).hexdigest()
            raise
        call.key_id_sha256 = done.key_id_sha256
        return pb.DecryptResponse(plaintext=done.plaintext).SerializeToString()

    return {
        f"/{SERVICE}/Status": Method(API, "Status", status, largest=0),
        f"/{SERVICE}/Encrypt": Method(API, "Encrypt", encrypt, Share.V2, _LARGEST),
        f"/{SERVICE}/Decrypt": Method(API, "Decrypt", decrypt, Share.V2, _LARGEST),
    }


def _size(what: str, size: int) -> InvalidRequest:
    return InvalidRequest(f"the {what} has {size} bytes", f"KMS v2 takes 1 to {LIMIT - 1}")
