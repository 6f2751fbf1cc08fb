"""A small KMS plugin with a key in memory, to show what the simulated kube-apiserver accepts and refuses.

It can break one rule at a time, which kmsd cannot be made to do. Not used where kmsd itself is under test.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kmsd.api.kms.v1beta1 import api_pb2 as v1
from kmsd.api.kms.v2 import api_pb2 as v2


@dataclass
class Plugin:
    """Serves v2 and v1beta1 on `socket`; every field may be changed while it runs."""

    socket: Path
    version: str = "v2"
    v1_version: str = "v1beta1"
    healthz: str = "ok"
    key_id: str = "first"
    encrypt_key_id: str | None = None
    """What Encrypt answers, if not `key_id`."""
    annotations: dict[str, bytes] = field(default_factory=dict)
    padding: int = 0
    """Bytes that make a ciphertext longer than it need be."""
    down: bool = False
    authorities: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._aes = AESGCM(AESGCM.generate_key(256))
        self._server = grpc.server(ThreadPoolExecutor(max_workers=4))
        for service, methods in (
            ("v2.KeyManagementService", {"Status": v2, "Encrypt": v2, "Decrypt": v2}),
            ("v1beta1.KeyManagementService", {"Version": v1, "Encrypt": v1, "Decrypt": v1}),
        ):
            api = service.partition(".")[0]
            handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
                method: grpc.unary_unary_rpc_method_handler(
                    self._handler(f"{api}.{method}"),
                    request_deserializer=getattr(module, f"{method}Request").FromString,
                    response_serializer=lambda answer: answer.SerializeToString(),
                )
                for method, module in methods.items()
            }
            self._server.add_registered_method_handlers(service, handlers)
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self._server.add_insecure_port(f"unix:{self.socket}")
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()

    def _handler(self, name: str) -> Callable[[Any, grpc.ServicerContext], Any]:
        answer = getattr(self, f"_{name.replace('.', '_').lower()}")

        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            self.calls.append(name)
            if self.down:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the token is away")
            return answer(request)

        return handle

    def _seal(self, plain: bytes) -> bytes:
        nonce = os.urandom(12)
        return bytes(self.padding) + nonce + self._aes.encrypt(nonce, plain, b"")

    def _open(self, sealed: bytes) -> bytes:
        sealed = sealed[self.padding :]
        return self._aes.decrypt(sealed[:12], sealed[12:], b"")

    def _v2_status(self, _: Any) -> v2.StatusResponse:
        return v2.StatusResponse(version=self.version, healthz=self.healthz, key_id=self.key_id)

    def _v2_encrypt(self, request: v2.EncryptRequest) -> v2.EncryptResponse:
        return v2.EncryptResponse(
            ciphertext=self._seal(request.plaintext),
            key_id=self.key_id if self.encrypt_key_id is None else self.encrypt_key_id,
            annotations=self.annotations,
        )

    def _v2_decrypt(self, request: v2.DecryptRequest) -> v2.DecryptResponse:
        return v2.DecryptResponse(plaintext=self._open(request.ciphertext))

    def _v1beta1_version(self, _: Any) -> v1.VersionResponse:
        return v1.VersionResponse(version=self.v1_version, runtime_name="plugin", runtime_version="1.0.0")

    def _v1beta1_encrypt(self, request: v1.EncryptRequest) -> v1.EncryptResponse:
        return v1.EncryptResponse(cipher=self._seal(request.plain))

    def _v1beta1_decrypt(self, request: v1.DecryptRequest) -> v1.DecryptResponse:
        return v1.DecryptResponse(plain=self._open(request.cipher))
