"""What the tests ask of a kube-apiserver, and one that is simulated: its storage layer over a real etcd.

Knows Secrets, storage paths and the order of providers; the providers know the rest.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Protocol

from tests.e2e.connection import HASTY, ProviderError, Timing
from tests.e2e.encryption_config import Document, Identity, Kms, providers_of_secrets
from tests.e2e.etcd import Etcd
from tests.e2e.provider_v1 import ProviderV1
from tests.e2e.provider_v2 import ProviderV2

ENCRYPTED = b"k8s:enc:"


def path_of(name: str) -> str:
    """Where the Secret `name` of the namespace `default` lies in etcd."""
    return f"/registry/secrets/default/{name}"


class ApiServer(Protocol):
    """One kube-apiserver with its etcd."""

    def start(self, config: Document) -> None:
        """Start with this EncryptionConfiguration; returns when requests are answered, ready or not."""

    def stop(self) -> None: ...

    def restart(self, config: Document | None = None) -> None:
        """Stop and start, with another EncryptionConfiguration if given. No cache survives."""

    def create_secret(self, name: str, data: Mapping[str, bytes]) -> None:
        """Raises `ProviderError` if it was not stored."""

    def read_secret(self, name: str) -> Mapping[str, bytes]:
        """Raises `ProviderError` if it cannot be read."""

    def raw_stored(self, name: str) -> bytes:
        """The Secret's value in etcd."""

    def readyz(self) -> tuple[bool, str]:
        """Whether /readyz is ok, and the reasons if not."""


class PlainText:
    """The `identity` provider: writes and reads values as they are, and refuses to read encrypted ones."""

    name = "identity"
    prefix = b""

    def start(self) -> None: ...

    def close(self) -> None: ...

    def check(self) -> None: ...

    def to_storage(self, value: bytes, path: str) -> bytes:
        return value

    def from_storage(self, raw: bytes, path: str) -> bytes:
        if raw.startswith(ENCRYPTED):
            raise ProviderError(f"identity transformer tried to read encrypted data at {path}")
        return raw


Provider = ProviderV1 | ProviderV2 | PlainText


class SimulatedApiServer:
    """kube-apiserver's rules on KMS providers, at a test's pace."""

    def __init__(self, etcd: Etcd, timing: Timing = HASTY) -> None:
        self.providers: list[Provider] = []
        self._etcd = etcd
        self._timing = timing
        self._config: Document = {}

    def start(self, config: Document) -> None:
        self._config = config
        for parsed in providers_of_secrets(config):
            provider: Provider
            match parsed:
                case Kms(api="v2"):
                    provider = ProviderV2(parsed, self._timing)
                case Kms():
                    provider = ProviderV1(parsed, self._timing)
                case Identity():
                    provider = PlainText()
            self.providers.append(provider)
            provider.start()

    def stop(self) -> None:
        while self.providers:
            self.providers.pop().close()

    def restart(self, config: Document | None = None) -> None:
        self.stop()
        self.start(config or self._config)

    def create_secret(self, name: str, data: Mapping[str, bytes]) -> None:
        writer, path = self.providers[0], path_of(name)
        value = json.dumps({key: base64.b64encode(raw).decode() for key, raw in data.items()})
        self._etcd.put(path, writer.prefix + writer.to_storage(value.encode(), path))

    def read_secret(self, name: str) -> Mapping[str, bytes]:
        path = path_of(name)
        raw = self.raw_stored(name)
        for provider in self.providers:
            if raw.startswith(provider.prefix):
                value = json.loads(provider.from_storage(raw.removeprefix(provider.prefix), path))
                return {key: base64.b64decode(text) for key, text in value.items()}
        raise ProviderError("no matching prefix found")

    def raw_stored(self, name: str) -> bytes:
        raw = self._etcd.get(path_of(name))
        if raw is None:
            raise ProviderError(f'secrets "{name}" not found')
        return raw

    def readyz(self) -> tuple[bool, str]:
        reasons = []
        for provider in self.providers:
            try:
                provider.check()
            except ProviderError as failed:
                reasons.append(str(failed))
        return not reasons, "\n".join(reasons) or "ok"
