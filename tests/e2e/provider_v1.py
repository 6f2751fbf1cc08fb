"""A KMS v1beta1 provider as kube-apiserver runs it: a new data key, and so an Encrypt, for every write.

Source: `envelope.go` and `grpc_service.go` of `envelope`, `kmsPluginProbe` of `encryptionconfig` in
k8s.io/apiserver. Knows nothing of Secrets or etcd: bytes and their storage path in, bytes out.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict

import grpc
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kmsd.api.kms.v1beta1 import api_pb2
from tests.e2e.connection import Connection, ProviderError, Timing, explain
from tests.e2e.encryption_config import Kms

SERVICE = "/v1beta1.KeyManagementService"
VERSION = "v1beta1"
DEK_BYTES = 32
NONCE_BYTES = 12


class ProviderV1:
    """Asks for the version before its first other call, and checks health only when somebody asks."""

    def __init__(self, kms: Kms, timing: Timing) -> None:
        self.name = kms.name
        self.prefix = f"k8s:enc:kms:v1:{kms.name}:".encode()
        self.encrypts = 0
        self.decrypts = 0
        self._timing = timing
        self._connection = Connection(kms.socket, str(kms.socket), kms.timeout, timing)
        self._version_checked = False
        self._keys: OrderedDict[bytes, bytes] = OrderedDict()
        self._cache_size = kms.cache_size
        self._last: tuple[float, ProviderError | None] = (0.0, None)
        self._one_check = threading.Lock()

    def start(self) -> None:
        """Nothing is asked before the first use."""

    def close(self) -> None:
        self._connection.close()

    def check(self) -> None:
        """Encrypt and decrypt `ping`. Raises `ProviderError`; repeats a young answer without asking."""
        with self._one_check:
            when, failed = self._last
            memory = self._timing.unhealthy_memory if failed else self._timing.healthy_memory
            if not when or time.monotonic() - when >= memory:
                failed = self._ping()
                self._last = (time.monotonic(), failed)
            if failed:
                raise failed

    def to_storage(self, value: bytes, path: str) -> bytes:
        key, nonce = os.urandom(DEK_BYTES), os.urandom(NONCE_BYTES)
        try:
            encrypted = self._encrypt(key)
        except grpc.RpcError as error:
            raise explain("failed to encrypt DEK", error) from error
        self._remember(encrypted, key)
        sealed = nonce + AESGCM(key).encrypt(nonce, value, path.encode())
        return len(encrypted).to_bytes(2, "big") + encrypted + sealed

    def from_storage(self, raw: bytes, path: str) -> bytes:
        length = int.from_bytes(raw[:2], "big")
        encrypted, sealed = raw[2 : 2 + length], raw[2 + length :]
        if len(encrypted) != length:
            raise ProviderError("invalid data encountered by envelope transformer")
        key = self._keys.get(encrypted)
        if key is None:
            try:
                key = self._decrypt(encrypted)
            except grpc.RpcError as error:
                raise explain("failed to decrypt DEK", error) from error
            self._remember(encrypted, key)
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], path.encode())

    def _ping(self) -> ProviderError | None:
        part = "encrypt"
        try:
            cipher = self._encrypt(b"ping")
            part = "decrypt"
            self._decrypt(cipher)
        except grpc.RpcError as error:
            return explain(f"failed to perform {part} section of the healthz check for KMS Provider {self.name}", error)
        except ProviderError as failed:
            return failed
        return None

    def _encrypt(self, plain: bytes) -> bytes:
        self._check_version()
        self.encrypts += 1
        request = api_pb2.EncryptRequest(version=VERSION, plain=plain)
        return self._connection.call(f"{SERVICE}/Encrypt", request, api_pb2.EncryptResponse).cipher

    def _decrypt(self, cipher: bytes) -> bytes:
        self._check_version()
        self.decrypts += 1
        request = api_pb2.DecryptRequest(version=VERSION, cipher=cipher)
        return self._connection.call(f"{SERVICE}/Decrypt", request, api_pb2.DecryptResponse).plain

    def _check_version(self) -> None:
        if self._version_checked:
            return
        request = api_pb2.VersionRequest(version=VERSION)
        got = self._connection.call(f"{SERVICE}/Version", request, api_pb2.VersionResponse).version
        if got != VERSION:
            raise ProviderError(f"KMS provider api version {got} is not supported, only {VERSION} is supported now")
        self._version_checked = True

    def _remember(self, encrypted: bytes, key: bytes) -> None:
        self._keys[encrypted] = key
        while len(self._keys) > self._cache_size:
            self._keys.popitem(last=False)
