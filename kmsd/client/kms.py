"""The two KMS APIs that kube-apiserver calls, as plain calls. Knows their protobufs; shows nothing."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2
from kmsd.client.model.kms import Encrypted, KmsStatus
from kmsd.client.places import UnixPlace
from kmsd.client.wire import Client, Stranger

_V2 = "/v2.KeyManagementService"
_V1BETA1 = "/v1beta1.KeyManagementService"


class KmsClient(Client):
    """A client that encrypts and decrypts as kube-apiserver would. `timeout`: seconds per call. All methods
    raise ClientError."""

    STRANGER = Stranger(
        "/kmsd.admin.v1.Admin/GetStatus",
        (f"{_V2}/Status", f"{_V1BETA1}/Version"),
        "{} is an admin socket: it has no KMS API",
        "name the KMS socket instead: with --socket or KMSCTL_SOCKET; `kmsctl status` shows it",
    )

    def __init__(self, path: Path, api: Literal["v2", "v1beta1"], timeout: float) -> None:
        super().__init__(UnixPlace(path), timeout)
        self.api = api

    def status(self, *, timeout: float | None = None) -> KmsStatus:
        """Call Status in v2, Version in v1beta1."""
        if self.api == "v2":
            two = self._wire.call(f"{_V2}/Status", v2.StatusRequest(), v2.StatusResponse, timeout)
            return KmsStatus(two.version, two.healthz, two.key_id, "", "")
        one = self._wire.call(
            f"{_V1BETA1}/Version", v1beta1.VersionRequest(version="v1beta1"), v1beta1.VersionResponse, timeout
        )
        return KmsStatus(one.version, "", "", one.runtime_name, one.runtime_version)

    def encrypt(self, plaintext: bytes, *, timeout: float | None = None) -> Encrypted:
        """Encrypt with the write key."""
        if self.api == "v2":
            request = v2.EncryptRequest(plaintext=plaintext, uid=str(uuid.uuid4()))
            answer = self._wire.call(f"{_V2}/Encrypt", request, v2.EncryptResponse, timeout)
            return Encrypted(answer.ciphertext, answer.key_id, dict(answer.annotations))
        old = v1beta1.EncryptRequest(version="v1beta1", plain=plaintext)
        return Encrypted(self._wire.call(f"{_V1BETA1}/Encrypt", old, v1beta1.EncryptResponse, timeout).cipher)

    def decrypt(
        self,
        ciphertext: bytes,
        *,
        key_id: str = "",
        annotations: Mapping[str, bytes] | None = None,
        timeout: float | None = None,
    ) -> bytes:
        """Decrypt a ciphertext. key_id and annotations: as Encrypt answered them; v1beta1 has neither."""
        if self.api == "v2":
            request = v2.DecryptRequest(
                ciphertext=ciphertext, uid=str(uuid.uuid4()), key_id=key_id, annotations=annotations or {}
            )
            return self._wire.call(f"{_V2}/Decrypt", request, v2.DecryptResponse, timeout).plaintext
        old = v1beta1.DecryptRequest(version="v1beta1", cipher=ciphertext)
        return self._wire.call(f"{_V1BETA1}/Decrypt", old, v1beta1.DecryptResponse, timeout).plain
