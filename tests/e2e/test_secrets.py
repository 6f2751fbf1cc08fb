"""Secrets through a kube-apiserver and kmsd: the same promises to a simulated server and to a real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.apiserver import ApiServer
from tests.e2e.connection import ProviderError
from tests.e2e.encryption_config import Document, Kms, document
from tests.e2e.kmsd_process import Kmsd, SoftHsm, kmsd_with
from tests.e2e.waiting import wait_until

DATA = {"password": b"correct horse battery staple", "binary": bytes(range(256)), "empty": b""}
PATIENCE = 60.0
"""Seconds: a real server remembers a good answer for 20, and then waits 3 for each call."""


@pytest.fixture
def keyless(tmp_path: Path) -> Iterator[Kmsd]:
    """A running kmsd whose token holds no key."""
    kmsd = kmsd_with(SoftHsm(tmp_path / "hsm"), tmp_path)
    kmsd.start()
    yield kmsd
    kmsd.stop()


@pytest.fixture
def kmsd(keyless: Kmsd) -> Kmsd:
    keyless.keygen()
    return keyless


def v2(kmsd: Kmsd) -> Kms:
    return Kms("kmsd", "v2", kmsd.socket)


def v1(kmsd: Kmsd) -> Kms:
    return Kms("kmsd-v1", "v1", kmsd.socket)


@pytest.fixture(params=["v2", "v1"])
def config(request: pytest.FixtureRequest, kmsd: Kmsd) -> Document:
    return document(v2(kmsd) if request.param == "v2" else v1(kmsd))


def ready(apiserver: ApiServer) -> None:
    wait_until(lambda: apiserver.readyz()[0], seconds=PATIENCE, what="readyz is ok")


def not_ready(apiserver: ApiServer) -> str:
    """The reasons, once there are some."""

    def reasons() -> str:
        is_ready, text = apiserver.readyz()
        return "" if is_ready else text

    return wait_until(reasons, seconds=PATIENCE, what="readyz fails")


@pytest.mark.parametrize(
    ("provider", "prefix"),
    [(v2, b"k8s:enc:kms:v2:kmsd:"), (v1, b"k8s:enc:kms:v1:kmsd-v1:")],
    ids=["v2", "v1beta1"],
)
def test_a_secret_lies_encrypted_in_etcd_and_outlives_an_apiserver_restart(
    apiserver: ApiServer, kmsd: Kmsd, provider: type, prefix: bytes
) -> None:
    apiserver.start(document(provider(kmsd)))
    ready(apiserver)
    apiserver.create_secret("one", DATA)
    raw = apiserver.raw_stored("one")
    assert raw.startswith(prefix)
    assert b"battery" not in raw
    assert apiserver.read_secret("one") == DATA
    apiserver.restart()
    ready(apiserver)
    assert apiserver.read_secret("one") == DATA


def test_an_apiserver_on_a_keyless_kmsd_says_why_and_recovers_when_a_key_is_made(
    apiserver: ApiServer, keyless: Kmsd
) -> None:
    apiserver.start(document(v2(keyless)))
    reason = not_ready(apiserver)
    assert "kmsv2 Provider kmsd is not healthy" in reason
    assert "k8s-kek" in reason, "it names the key that is missing"
    assert "keygen" in reason, "and how to make it"
    with pytest.raises(ProviderError):
        apiserver.create_secret("early", DATA)
    keyless.keygen()
    ready(apiserver)
    apiserver.create_secret("late", DATA)
    assert apiserver.read_secret("late") == DATA


def test_a_keyless_kmsd_fails_the_ping_of_v1beta1_with_a_reason(apiserver: ApiServer, keyless: Kmsd) -> None:
    apiserver.start(document(v1(keyless)))
    reason = not_ready(apiserver)
    assert "failed to perform encrypt section" in reason or "k8s-kek" in reason
    keyless.keygen()
    ready(apiserver)


def test_both_apis_serve_one_server_from_one_socket(apiserver: ApiServer, kmsd: Kmsd) -> None:
    apiserver.start(document(v2(kmsd), v1(kmsd)))
    ready(apiserver)
    apiserver.create_secret("new", DATA)
    apiserver.restart(document(v1(kmsd), v2(kmsd)))
    ready(apiserver)
    apiserver.create_secret("old", DATA)
    assert apiserver.raw_stored("new").startswith(b"k8s:enc:kms:v2:kmsd:")
    assert apiserver.raw_stored("old").startswith(b"k8s:enc:kms:v1:kmsd-v1:")
    assert apiserver.read_secret("new") == apiserver.read_secret("old") == DATA


def test_values_of_v1beta1_stay_readable_after_the_move_to_v2(apiserver: ApiServer, kmsd: Kmsd) -> None:
    apiserver.start(document(v1(kmsd)))
    ready(apiserver)
    apiserver.create_secret("before", DATA)
    apiserver.restart(document(v2(kmsd), v1(kmsd)))
    ready(apiserver)
    assert apiserver.read_secret("before") == DATA
    apiserver.create_secret("after", DATA)
    assert apiserver.raw_stored("after").startswith(b"k8s:enc:kms:v2:kmsd:")
    assert apiserver.raw_stored("before").startswith(b"k8s:enc:kms:v1:kmsd-v1:")


def test_a_server_outlives_a_restart_of_kmsd_and_reads_what_was_written_before(
    apiserver: ApiServer, kmsd: Kmsd, config: Document
) -> None:
    apiserver.start(config)
    ready(apiserver)
    apiserver.create_secret("before", DATA)
    kmsd.stop()
    assert "KMS Provider kmsd" in not_ready(apiserver)
    kmsd.start()
    ready(apiserver)
    apiserver.create_secret("after", DATA)
    assert apiserver.read_secret("before") == apiserver.read_secret("after") == DATA
    apiserver.restart()  # forgets all data keys, so that kmsd must decrypt them
    ready(apiserver)
    assert apiserver.read_secret("before") == apiserver.read_secret("after") == DATA


def test_values_written_in_the_clear_stay_readable_once_encryption_is_on(
    apiserver: ApiServer, kmsd: Kmsd
) -> None:
    apiserver.start(document())
    ready(apiserver)
    apiserver.create_secret("plain", DATA)
    assert b"k8s:enc:" not in apiserver.raw_stored("plain")
    apiserver.restart(document(v2(kmsd)))
    ready(apiserver)
    assert apiserver.read_secret("plain") == DATA
