"""The simulated kube-apiserver keeps kube-apiserver's rules, so that passing against it means something."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag

from tests.daemons import wait_for
from tests.e2e.apiserver import SimulatedApiServer
from tests.e2e.connection import HASTY, ProviderError
from tests.e2e.encrypted_object import EncryptedObject
from tests.e2e.encryption_config import ConfigError, Document, Kms, document, providers_of_secrets
from tests.e2e.etcd import Etcd
from tests.e2e.plugin import Plugin
from tests.e2e.provider_v1 import ProviderV1
from tests.e2e.provider_v2 import ProviderV2

DATA = {"password": b"correct horse", "binary": bytes(range(256)), "empty": b""}


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Plugin]:
    plugin = Plugin(tmp_path / "kms.sock")
    yield plugin
    plugin.stop()


@pytest.fixture
def server(etcd: Etcd) -> Iterator[SimulatedApiServer]:
    server = SimulatedApiServer(etcd)
    yield server
    server.stop()


def v2(plugin: Plugin, timeout: float = 3.0) -> Document:
    return document(Kms("kms", "v2", plugin.socket, timeout))


def v1(plugin: Plugin) -> Document:
    return document(Kms("old", "v1", plugin.socket))


def writer(server: SimulatedApiServer) -> ProviderV1 | ProviderV2:
    provider = server.providers[0]
    assert isinstance(provider, ProviderV1 | ProviderV2)
    return provider


@pytest.mark.parametrize("config", [v2, v1])
def test_a_secret_is_stored_encrypted_and_read_back_after_a_restart(
    server: SimulatedApiServer, plugin: Plugin, config: Callable[[Plugin], Document]
) -> None:
    server.start(config(plugin))
    server.create_secret("one", DATA)
    raw = server.raw_stored("one")
    assert raw.startswith(writer(server).prefix)
    assert b"password" not in raw
    assert server.read_secret("one") == DATA
    assert writer(server).decrypts == 0, "a server remembers what it wrote"
    server.restart()
    assert server.read_secret("one") == DATA
    assert server.read_secret("one") == DATA
    assert writer(server).decrypts == 1, "it asks once for each encrypted data key"


def _writes_under(server: SimulatedApiServer) -> str:
    provider = writer(server)
    assert isinstance(provider, ProviderV2)
    return provider._state.envelope.key_id if provider._state is not None else ""


def test_v2_encrypts_once_for_many_writes_and_again_when_the_key_changes(
    server: SimulatedApiServer, plugin: Plugin
) -> None:
    server.start(v2(plugin))
    for number in range(5):
        server.create_secret(f"s{number}", DATA)
    assert plugin.calls.count("v2.Encrypt") == 1
    plugin.key_id = "second"
    wait_for(lambda: _writes_under(server) == "second", 5)
    assert plugin.calls.count("v2.Encrypt") == 2
    server.create_secret("s5", DATA)
    stored = [
        EncryptedObject.from_bytes(server.raw_stored(name).removeprefix(b"k8s:enc:kms:v2:kms:"))
        for name in ("s4", "s5")
    ]
    assert [envelope.key_id for envelope in stored] == ["first", "second"]
    assert server.read_secret("s0") == server.read_secret("s5") == DATA


def test_v1_encrypts_for_every_write_after_one_version_call(server: SimulatedApiServer, plugin: Plugin) -> None:
    server.start(v1(plugin))
    assert plugin.calls == []
    for number in range(3):
        server.create_secret(f"s{number}", DATA)
    assert plugin.calls == ["v1beta1.Version"] + ["v1beta1.Encrypt"] * 3


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"version": "v2alpha1"}, "expected KMSv2 API version v2, got v2alpha1"),
        ({"healthz": "OK"}, "unexpected healthz status: OK"),
        ({"key_id": ""}, "keyID is 0 bytes"),
        ({"key_id": "k" * 1024}, "keyID is 1024 bytes"),
        ({"encrypt_key_id": "another"}, "failed to rotate DEK"),
        ({"padding": 1024}, "encrypted DEK source is"),
        ({"annotations": {"nodots": b""}}, "no fully qualified domain name"),
        ({"annotations": {"a_b.example.org": b""}}, "no fully qualified domain name"),
        ({"annotations": {"kms.example.org": bytes(32768)}}, "total size of annotations"),
        ({"down": True}, "code = Unavailable desc = the token is away"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_v2_is_not_ready_while_a_rule_is_broken_and_ready_after(
    server: SimulatedApiServer, plugin: Plugin, broken: dict[str, object], reason: str
) -> None:
    kept = {name: getattr(plugin, name) for name in broken}
    for name, value in broken.items():
        setattr(plugin, name, value)
    server.start(v2(plugin))
    ready, text = server.readyz()
    assert not ready
    assert reason in text
    for name, value in kept.items():
        setattr(plugin, name, value)
    if "version" in broken:
        server.restart()
    wait_for(lambda: server.readyz() == (True, "ok"), 5)


def test_v2_takes_a_changed_version_for_a_failure(server: SimulatedApiServer, plugin: Plugin) -> None:
    server.start(v2(plugin))
    assert server.readyz() == (True, "ok")
    plugin.version = "v2beta1"
    wait_for(lambda: "should not change" in server.readyz()[1], 5)


def test_v2_writes_go_on_while_healthz_is_bad_and_stop_after_status_fails(etcd: Etcd, plugin: Plugin) -> None:
    server = SimulatedApiServer(etcd, replace(HASTY, write_expiry=0.6))
    server.start(v2(plugin))
    plugin.healthz = "the token is away"
    wait_for(lambda: not server.readyz()[0], 5)
    server.create_secret("coasting", DATA)
    plugin.down = True

    def refused() -> bool:
        try:
            server.create_secret("late", DATA)
        except ProviderError as error:
            return "expired" in str(error)
        return False

    wait_for(refused, 5)
    assert server.read_secret("coasting") == DATA
    server.stop()


def test_a_call_waits_for_the_socket_and_gives_up_at_its_timeout(server: SimulatedApiServer, tmp_path: Path) -> None:
    socket = tmp_path / "late.sock"
    server.start(document(Kms("kms", "v2", socket, timeout=0.3)))
    ready, text = server.readyz()
    assert not ready
    assert "status section of the healthz check for KMS Provider kms" in text
    plugin = Plugin(socket)
    wait_for(lambda: server.readyz()[0], 10)
    plugin.stop()


def test_v1_is_not_ready_when_ping_fails_or_the_version_is_wrong(server: SimulatedApiServer, plugin: Plugin) -> None:
    plugin.v1_version = "v2"
    server.start(v1(plugin))
    assert "api version v2 is not supported" in server.readyz()[1]
    plugin.v1_version = "v1beta1"
    wait_for(lambda: server.readyz()[0], 5)
    plugin.down = True
    wait_for(lambda: "failed to perform encrypt section" in server.readyz()[1], 5)


def test_a_value_moved_to_another_path_does_not_open(server: SimulatedApiServer, plugin: Plugin, etcd: Etcd) -> None:
    server.start(v2(plugin))
    server.create_secret("one", DATA)
    etcd.put("/registry/secrets/default/two", server.raw_stored("one"))
    with pytest.raises(InvalidTag):
        server.read_secret("two")


def test_without_a_matching_provider_encrypted_values_are_refused(server: SimulatedApiServer, plugin: Plugin) -> None:
    server.start(v2(plugin))
    server.create_secret("one", DATA)
    server.restart(v1(plugin))
    with pytest.raises(ProviderError, match="tried to read encrypted data"):
        server.read_secret("one")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cachesize": 10}, "cachesize"),
        ({"apiVersion": "v3"}, "unsupported KMS apiVersion"),
        ({"name": "a:b"}, "colon"),
        ({"name": ""}, "empty"),
        ({"endpoint": "tcp://127.0.0.1:1"}, "unix://"),
        ({"timeout": "3"}, "no duration"),
        ({"timeout": "0s"}, "not positive"),
        ({"retries": 3}, "unknown field"),
    ],
    ids=str,
)
def test_a_wrong_configuration_is_refused(change: dict[str, object], reason: str) -> None:
    config = document(Kms("kms", "v2", Path("/run/kmsd/kms.sock")))
    config["resources"][0]["providers"][0]["kms"].update(change)
    with pytest.raises(ConfigError, match=reason):
        providers_of_secrets(config)


def test_an_encrypted_object_reads_back_as_written() -> None:
    whole = EncryptedObject(b"\0" * 200, "kéy", b"dek", {"a.example": b"", "b.example": b"\xff" * 300})
    assert EncryptedObject.from_bytes(whole.to_bytes()) == whole
    with pytest.raises(ValueError, match="cut short"):
        EncryptedObject.from_bytes(whole.to_bytes()[:-3])
