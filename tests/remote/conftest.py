"""A key manager with two tenants, an admin of each role, and a CA."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from kmsd.api.kms.v2 import api_pb2 as v2
from tests.daemons import KMSD, Kmsd, wait_for
from tests.remote.certificates import Authority, Issued
from tests.remote.machine import Machine, machines
from tests.tokens import SoftToken

TENANTS = """
[[tenants]]
name = "cluster-a"
san = ["DNS:*.cluster-a.test", "URI:spiffe://cluster-a/kms/*"]
key_label = "kek-a"

[[tenants]]
name = "cluster-b"
san = ["DNS:*.cluster-b.test"]
key_label = "kek-b"

[[admins]]
san = ["DNS:watcher.test"]
role = "viewer"

[[admins]]
san = ["DNS:operator.test"]
role = "operator"
"""


@dataclass
class Manager:
    """A kmsd that serves TCP. port: where."""

    kmsd: Kmsd
    ca: Authority
    config: Path
    shown: Issued
    port: int = 0
    _channels: list[grpc.Channel] = field(default_factory=list)

    def channel(self, caller: Issued | None, ca: Authority | None = None, name: str = "manager.test") -> grpc.Channel:
        """A connection of its own, with the certificate of this caller."""
        pem = (ca or self.ca).file.read_bytes()
        parts = (caller.key.read_bytes(), caller.certificate.read_bytes()) if caller is not None else (None, None)
        credentials = grpc.ssl_channel_credentials(pem, *parts)
        options = (("grpc.ssl_target_name_override", name), ("grpc.use_local_subchannel_pool", 1))
        channel = grpc.secure_channel(f"127.0.0.1:{self.port}", credentials, options)
        self._channels.append(channel)
        return channel

    def reload(self, text: str) -> None:
        """Give the tenants and admins anew, and SIGHUP."""
        before = self.kmsd.log_text().count("configuration read again")
        self.config.write_text(text)
        assert self.kmsd.process is not None
        os.kill(self.kmsd.process.pid, signal.SIGHUP)
        wait_for(lambda: self.kmsd.log_text().count("configuration read again") > before)

    def close(self) -> None:
        for channel in self._channels:
            channel.close()


class Client:
    """KMS v2 over one connection."""

    def __init__(self, channel: grpc.Channel) -> None:
        def method(name: str, request: type, response: type) -> Callable[..., object]:
            return channel.unary_unary(
                f"/v2.KeyManagementService/{name}",
                request_serializer=request.SerializeToString,  # type: ignore[attr-defined]
                response_deserializer=response.FromString,  # type: ignore[attr-defined]
            )

        self._status = method("Status", v2.StatusRequest, v2.StatusResponse)
        self._encrypt = method("Encrypt", v2.EncryptRequest, v2.EncryptResponse)
        self._decrypt = method("Decrypt", v2.DecryptRequest, v2.DecryptResponse)

    def status(self, timeout: float = 5) -> v2.StatusResponse:
        answer = self._status(v2.StatusRequest(), timeout=timeout)
        assert isinstance(answer, v2.StatusResponse)
        return answer

    def encrypt(self, plaintext: bytes, timeout: float = 5) -> v2.EncryptResponse:
        answer = self._encrypt(v2.EncryptRequest(plaintext=plaintext, uid="u"), timeout=timeout)
        assert isinstance(answer, v2.EncryptResponse)
        return answer

    def decrypt(self, sealed: v2.EncryptResponse, timeout: float = 5) -> bytes:
        request = v2.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id, uid="u")
        answer = self._decrypt(request, timeout=timeout)
        assert isinstance(answer, v2.DecryptResponse)
        return answer.plaintext


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def make_manager(
    start_kmsd: Callable[..., Kmsd], token: SoftToken, ca: Authority, short_tmp: Path
) -> Iterator[Callable[..., Manager]]:
    """Starts a key manager; flags and fields as of `start_kmsd`."""
    made: list[Manager] = []

    default = ca

    def make(
        *flags: str,
        tenants: str = TENANTS,
        name: str = "d",
        port: int = 0,
        ca: Authority = default,
        signer: Authority | None = None,
        wait: bool = True,
        key_mode: int = 0o600,
        **fields: Any,
    ) -> Manager:
        shown = (signer or ca).issue(f"manager-{name}", "DNS:manager.test", "IP:127.0.0.1", server=True)
        shown.key.chmod(key_mode)
        config = short_tmp / f"{name}.toml"
        config.write_text(tenants)
        port = port or free_port()
        kmsd = start_kmsd(
            "--auto-create", f"--config={config}", "--enable-server", "--host=127.0.0.1", f"--port={port}",
            f"--tls-ca={ca.file}", f"--tls-certificate={shown.certificate}", f"--tls-key={shown.key}", *flags,
            name=name, **fields,
        )  # fmt: skip
        manager = Manager(kmsd, ca, config, shown, port)
        made.append(manager)
        if wait:
            wait_for(lambda: "serving on TCP" in kmsd.log_text())
        return manager

    yield make
    for manager in made:
        manager.close()


@pytest.fixture
def manager(make_manager: Callable[..., Manager]) -> Manager:
    """One whose tenants are healthy."""
    made = make_manager()
    made.kmsd.wait_ok()
    wait_for(lambda: made.kmsd.log_text().count("tenant is healthy") >= 2)
    return made


def free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture
def make_machine() -> Iterator[Callable[..., Machine]]:
    with machines() as make:
        yield make


@pytest.fixture
def make_proxy(start_kmsd: Callable[..., Kmsd]) -> Callable[..., Kmsd]:
    """Starts a proxy of these key managers, with this certificate; flags and environment as of `start_kmsd`."""

    def make(
        caller: Issued,
        ca: Authority,
        *managers: Manager | str,
        name: str = "p",
        flags: tuple[str, ...] = (),
        **fields: Any,
    ) -> Kmsd:
        asked = [each if isinstance(each, str) else f"127.0.0.1:{each.port}" for each in managers]
        quick = {"KMSD_HEALTH__INTERVAL": "0.5", **fields.pop("environment", {})}
        return start_kmsd(
            *(f"--upstream={each}" for each in asked), f"--tls-ca={ca.file}",
            f"--tls-certificate={caller.certificate}", f"--tls-key={caller.key}", *flags,
            name=name, command=(KMSD, "proxy"), default_flags=False, environment=quick, **fields,
        )  # fmt: skip

    return make


SEED = v2.EncryptRequest(plaintext=b"0123456789abcdef0123456789abcdef", uid="u")


def decrypt(kmsd: Kmsd, sealed: v2.EncryptResponse) -> bytes:
    request = v2.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id, uid="u")
    plaintext: bytes = kmsd.v2("Decrypt", request).plaintext
    return plaintext


def well(proxy: Kmsd) -> Kmsd:
    """The proxy, once it serves."""
    wait_for(lambda: proxy.v2("Status").healthz == "ok")
    return proxy
