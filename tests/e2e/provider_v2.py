"""A KMS v2 provider as kube-apiserver runs it: one data key seed for all writes, Status asked for ever.

Source: `kmsv2PluginProbe` of `encryptionconfig` and `envelopeTransformer` of `envelope/kmsv2` in
k8s.io/apiserver; KEP-3299. Knows nothing of Secrets or etcd: bytes and their storage path in, bytes out.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
import uuid
from dataclasses import dataclass, replace

import grpc
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from kmsd.api.kms.v2 import api_pb2
from tests.e2e.connection import Connection, ProviderError, Timing, explain
from tests.e2e.encrypted_object import HKDF_SHA256_XNONCE_AES_GCM_SEED, EncryptedObject
from tests.e2e.encryption_config import Kms

SERVICE = "/v2.KeyManagementService"
SEED_BYTES = 32
INFO_BYTES = 32
NONCE_BYTES = 12
KIB = 1024
DNS_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
DNS_NAME = re.compile(rf"{DNS_LABEL}(\.{DNS_LABEL})+\.?")


@dataclass(frozen=True)
class State:
    """What writes use: a seed, and what goes beside each value so that it can be read again."""

    seed: bytes
    envelope: EncryptedObject
    """With empty data."""
    expires: float
    """Monotonic seconds after which writes are refused."""


class ProviderV2:
    """`check` at least once before the first write; `start` does, and goes on asking in the background."""

    def __init__(self, kms: Kms, timing: Timing) -> None:
        self.name = kms.name
        self.prefix = f"k8s:enc:kms:v2:{kms.name}:".encode()
        self.encrypts = 0
        self.decrypts = 0
        self._timing = timing
        self._connection = Connection(kms.socket, "localhost", kms.timeout, timing)
        self._state: State | None = None
        self._version = ""
        self._seeds: dict[object, tuple[bytes, float]] = {}
        self._last: tuple[float, ProviderError | None] = (0.0, None)
        self._one_check = threading.Lock()
        self._end = threading.Event()
        self._poller = threading.Thread(target=self._poll, name=f"status of {kms.name}", daemon=True)

    def start(self) -> None:
        """The first check may fail: a provider may come up after kube-apiserver."""
        self._answer()
        self._poller.start()

    def close(self) -> None:
        self._end.set()
        self._connection.close()
        self._poller.join()

    def check(self) -> None:
        """Status, and Encrypt if its key_id is new; repeats a young answer. Raises `ProviderError`."""
        if failed := self._answer():
            raise failed

    def to_storage(self, value: bytes, path: str) -> bytes:
        state = self._state
        if state is None:
            raise ProviderError("got unexpected nil transformer")
        if time.monotonic() > state.expires:
            raise ProviderError(f"encryptedDEKSource with keyID hash {_hash(state.envelope.key_id)} expired")
        stored = replace(state.envelope, data=_seal(state.seed, value, path))
        validate(stored)
        self._seeds[_cache_key(stored)] = (state.seed, time.monotonic() + self._timing.read_cache)
        return stored.to_bytes()

    def from_storage(self, raw: bytes, path: str) -> bytes:
        stored = EncryptedObject.from_bytes(raw)
        validate(stored)
        if self._state is None:
            raise ProviderError("got unexpected nil transformer")
        cached = self._seeds.get(_cache_key(stored))
        if cached and cached[1] > time.monotonic():
            return _open(cached[0], stored.data, path)
        request = api_pb2.DecryptRequest(
            ciphertext=stored.dek_source,
            uid=str(uuid.uuid4()),
            key_id=stored.key_id,
            annotations=stored.annotations,
        )
        self.decrypts += 1
        try:
            seed = self._connection.call(f"{SERVICE}/Decrypt", request, api_pb2.DecryptResponse).plaintext
        except grpc.RpcError as error:
            raise explain("failed to decrypt DEK, error", error) from error
        if len(seed) < SEED_BYTES:
            raise ProviderError(f"invalid seed length {len(seed)} used for key generation")
        self._seeds[_cache_key(stored)] = (seed, time.monotonic() + self._timing.read_cache)
        return _open(seed, stored.data, path)

    def _poll(self) -> None:
        while not self._end.wait(self._timing.unhealthy_poll if self._last[1] else self._timing.healthy_poll):
            self._answer()

    def _answer(self) -> ProviderError | None:
        with self._one_check:
            when, failed = self._last
            memory = self._timing.unhealthy_memory if failed else self._timing.healthy_memory
            if when and time.monotonic() - when < memory:
                return failed
            failed = self._ask()
            self._last = (time.monotonic(), failed)
            return failed

    def _ask(self) -> ProviderError | None:
        try:
            status = self._connection.call(f"{SERVICE}/Status", api_pb2.StatusRequest(), api_pb2.StatusResponse)
        except grpc.RpcError as error:
            doing = f"failed to perform status section of the healthz check for KMS Provider {self.name}, error"
            return explain(doing, error)
        except ValueError as closed:  # the channel was closed under a late poll
            return ProviderError(str(closed))
        wrong: list[str] = []
        if status.healthz != "ok":
            wrong.append(f"got unexpected healthz status: {status.healthz}")
        if status.version != "v2":
            wrong.append(f"expected KMSv2 API version v2, got {status.version}")
        self._version = self._version or status.version
        if status.version != self._version:
            wrong.append(f"KMSv2 API version should not change after {self._version}, got {status.version}")
        try:
            validate_key_id(status.key_id)
            self._use(status.key_id)
        except ProviderError as failed:
            wrong.append(str(failed))
        if not wrong:
            return None
        return ProviderError(f"kmsv2 Provider {self.name} is not healthy, error: {'; '.join(wrong)}")

    def _use(self, key_id: str) -> None:
        """Go on writing under `key_id`: a new seed only if the key is another one."""
        expires = time.monotonic() + self._timing.write_expiry
        if self._state and self._state.envelope.key_id == key_id:
            self._state = replace(self._state, expires=expires)
            return
        seed = os.urandom(SEED_BYTES)
        request = api_pb2.EncryptRequest(plaintext=seed, uid=str(uuid.uuid4()))
        self.encrypts += 1
        try:
            answer = self._connection.call(f"{SERVICE}/Encrypt", request, api_pb2.EncryptResponse)
        except grpc.RpcError as error:
            raise explain("failed to encrypt DEK, error", error) from error
        envelope = EncryptedObject(
            b"", answer.key_id, answer.ciphertext, dict(answer.annotations), HKDF_SHA256_XNONCE_AES_GCM_SEED
        )
        validate(replace(envelope, data=b"\0"))
        if answer.key_id != key_id:
            raise ProviderError(
                f"failed to rotate DEK, statusKeyIDHash={_hash(key_id)}, encryptKeyIDHash={_hash(answer.key_id)}"
            )
        self._state = State(seed, envelope, expires)


def validate(stored: EncryptedObject) -> None:
    """The bounds on one stored value. "Less than 1 kB" is meant as documented; the code lets 1024 pass."""
    if stored.dek_source_type != HKDF_SHA256_XNONCE_AES_GCM_SEED:
        raise ProviderError(f"unknown encryptedDEKSourceType: {stored.dek_source_type}")
    if not stored.data:
        raise ProviderError("encrypted data is empty")
    if not 0 < len(stored.dek_source) < KIB:
        raise ProviderError(f"encrypted DEK source is {len(stored.dek_source)} bytes, not 1 to {KIB - 1}")
    validate_key_id(stored.key_id)
    for name in stored.annotations:
        if len(name) > 253 or not DNS_NAME.fullmatch(name):
            raise ProviderError(f"annotations: {name!r} is no fully qualified domain name")
    size = sum(len(name) + len(value) for name, value in stored.annotations.items())
    if size >= 32 * KIB:
        raise ProviderError(f"total size of annotations is {size}, which exceeds the max size of {32 * KIB}")


def validate_key_id(key_id: str) -> None:
    if not 0 < len(key_id.encode()) < KIB:
        raise ProviderError(f"keyID is {len(key_id.encode())} bytes, not 1 to {KIB - 1}")


def _cache_key(stored: EncryptedObject) -> object:
    return stored.dek_source, stored.key_id, tuple(sorted(stored.annotations.items()))


def _hash(key_id: str) -> str:
    return f"sha256:{hashlib.sha256(key_id.encode()).hexdigest()}" if key_id else ""


def _key(seed: bytes, info: bytes) -> AESGCM:
    return AESGCM(HKDFExpand(SHA256(), 32, info).derive(seed))


def _seal(seed: bytes, value: bytes, path: str) -> bytes:
    """info || nonce || AES-GCM, under a key of its own for each value, bound to the path it is stored at."""
    info, nonce = os.urandom(INFO_BYTES), os.urandom(NONCE_BYTES)
    return info + nonce + _key(seed, info).encrypt(nonce, value, path.encode())


def _open(seed: bytes, data: bytes, path: str) -> bytes:
    info, rest = data[:INFO_BYTES], data[INFO_BYTES:]
    return _key(seed, info).decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], path.encode())
