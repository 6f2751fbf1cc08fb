"""The deprecated KMS v1beta1 API: protobuf to domain and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kmsd import __version__
from kmsd.api.kms.v1beta1 import api_pb2 as pb
from kmsd.errors import InvalidRequest, KmsdError
from kmsd.service.api import KmsService
from kmsd.share import Share
from kmsd.transport.call import Call, Method, Table, parse

API: Final = "v1beta1"
SERVICE: Final = "v1beta1.KeyManagementService"


def table(service_of: Callable[[Call], KmsService], max_plaintext: int) -> Table:
    """Return the methods of this API, by path. service_of: who answers a call; raises KmsdError. max_plaintext: bytes
    that Encrypt takes; Decrypt takes what those become."""
    max_cipher = max_plaintext * 4 // 3 + 5000

    async def version(call: Call, body: bytes) -> bytes:
        _check_version(parse(pb.VersionRequest, body).version)
        return pb.VersionResponse(version=API, runtime_name="kmsd", runtime_version=__version__).SerializeToString()

    async def encrypt(call: Call, body: bytes) -> bytes:
        request = parse(pb.EncryptRequest, body)
        _check_version(request.version)
        _check_size("plaintext", len(request.plain), max_plaintext)
        try:
            done = await service_of(call).encrypt(request.plain, call.until)
        except KmsdError as error:
            call.key_id_sha256 = error.key_id_sha256
            raise
        call.key_id_sha256 = done.key_id_sha256
        return pb.EncryptResponse(cipher=done.ciphertext).SerializeToString()

    async def decrypt(call: Call, body: bytes) -> bytes:
        request = parse(pb.DecryptRequest, body)
        _check_version(request.version)
        _check_size("ciphertext", len(request.cipher), max_cipher)
        done = await service_of(call).decrypt(request.cipher, None, call.until)
        call.key_id_sha256 = done.key_id_sha256
        return pb.DecryptResponse(plain=done.plaintext).SerializeToString()

    return {
        f"/{SERVICE}/Version": Method(API, "Version", version, largest=0),
        f"/{SERVICE}/Encrypt": Method(API, "Encrypt", encrypt, Share.V1BETA1, max_plaintext),
        f"/{SERVICE}/Decrypt": Method(API, "Decrypt", decrypt, Share.V1BETA1, max_cipher),
    }


def _check_version(version: str) -> None:
    if version != API:
        shown = version if len(version) <= 20 else version[:17] + "..."
        raise InvalidRequest(f"the request's version must be {API!r}, got {shown!r}", "the caller speaks another API")


def _check_size(what: str, size: int, most: int) -> None:
    if not 0 < size <= most:
        raise InvalidRequest(f"the {what} has {size} bytes", f"this kmsd takes 1 to {most} (kms.max_plaintext)")
