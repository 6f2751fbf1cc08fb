"""Secrets through a kube-apiserver and kmsd: the same promises to a simulated server and to a real one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from itertools import count
from urllib.parse import quote

import pytest

from kmsd.api.kms.v2.api_pb2 import StatusRequest, StatusResponse
from tests import forkserver
from tests.daemons import KMSCTL, Kmsd, wait_for
from tests.e2e.apiserver import ApiServer
from tests.e2e.connection import HASTY, Connection, ProviderError
from tests.e2e.encrypted_object import EncryptedObject
from tests.e2e.encryption_config import Document, Kms, document
from tests.tokens import SoftToken

DATA = {"password": b"correct horse battery staple", "binary": bytes(range(256)), "empty": b""}
PATIENCE = 60.0
"""Seconds: a real server remembers a good answer for 20, and then waits 3 for each call."""


@pytest.fixture
def keyless(start_kmsd: Callable[..., Kmsd]) -> Kmsd:
    """A running kmsd whose token holds no key."""
    return start_kmsd()


@pytest.fixture
def kmsd(keyless: Kmsd) -> Kmsd:
    keygen(keyless)
    return keyless


def keygen(kmsd: Kmsd) -> None:
    """Make the key as an operator does."""
    command = [KMSCTL, "--target", f"unix://{kmsd.admin_socket}"]
    forkserver.run([*command, "keygen", "k8s-kek"], check=True, timeout=60, stdout=subprocess.DEVNULL)
    kmsd.wait_ok()


def v2(kmsd: Kmsd) -> Kms:
    return Kms("kmsd", "v2", kmsd.socket)


def v1(kmsd: Kmsd) -> Kms:
    return Kms("kmsd-v1", "v1", kmsd.socket)


@pytest.fixture(params=["v2", "v1"])
def config(request: pytest.FixtureRequest, kmsd: Kmsd) -> Document:
    return document(v2(kmsd) if request.param == "v2" else v1(kmsd))


def ready(apiserver: ApiServer) -> None:
    wait_for(lambda: apiserver.readyz()[0], PATIENCE)


def not_ready(apiserver: ApiServer) -> str:
    """The reasons, once there are some."""

    def reasons() -> str:
        is_ready, text = apiserver.readyz()
        return "" if is_ready else text

    text: str = wait_for(reasons, PATIENCE)
    return text


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
    keygen(keyless)
    ready(apiserver)
    apiserver.create_secret("late", DATA)
    assert apiserver.read_secret("late") == DATA


def test_a_keyless_kmsd_fails_the_ping_of_v1beta1_with_a_reason(apiserver: ApiServer, keyless: Kmsd) -> None:
    apiserver.start(document(v1(keyless)))
    assert "k8s-kek" in not_ready(apiserver)
    keygen(keyless)
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
    assert kmsd.stop() == 0
    assert "rpc error" in not_ready(apiserver)
    kmsd.start()
    ready(apiserver)
    apiserver.create_secret("after", DATA)
    assert apiserver.read_secret("before") == apiserver.read_secret("after") == DATA
    apiserver.restart()  # forgets all data keys, so that kmsd must decrypt them
    ready(apiserver)
    assert apiserver.read_secret("before") == apiserver.read_secret("after") == DATA


def test_a_new_write_key_is_taken_up_without_a_restart_and_old_values_stay_readable(
    apiserver: ApiServer, token: SoftToken, start_kmsd: Callable[..., Kmsd]
) -> None:
    kmsd = start_kmsd(environment={"KMSD_KEYS__REFRESH": "0.2"})
    keygen(kmsd)
    apiserver.start(document(v2(kmsd)))
    ready(apiserver)
    apiserver.create_secret("old", DATA)
    old = key_id_of(apiserver, "old")
    assert old == kmsd.v2("Status").key_id
    token.relabel("k8s-kek", "k8s-kek@old")
    keygen(kmsd)
    names = (f"new-{number}" for number in count())

    def written_by_another_key() -> str:
        name = next(names)
        apiserver.readyz()  # makes a real server ask for Status, which it otherwise does once a minute
        apiserver.create_secret(name, DATA)
        return name if key_id_of(apiserver, name) != old else ""

    name = wait_for(written_by_another_key, PATIENCE, pause=0.2)
    assert key_id_of(apiserver, name) == kmsd.v2("Status").key_id
    apiserver.restart()
    ready(apiserver)
    assert apiserver.read_secret("old") == apiserver.read_secret(name) == DATA


def key_id_of(apiserver: ApiServer, name: str) -> str:
    raw = apiserver.raw_stored(name).removeprefix(b"k8s:enc:kms:v2:kmsd:")
    return EncryptedObject.from_bytes(raw).key_id


@pytest.mark.parametrize("authority", ["localhost", "{path}", "{escaped}", "%5B::1%5D:443"])
def test_kmsd_does_not_mind_which_authority_a_client_names(kmsd: Kmsd, authority: str) -> None:
    """grpc-go sends `localhost`, the socket's path, or that path percent-encoded."""
    name = authority.format(path=kmsd.socket, escaped=quote(str(kmsd.socket), safe=""))
    connection = Connection(kmsd.socket, name, 3.0, HASTY)
    status = connection.call("/v2.KeyManagementService/Status", StatusRequest(), StatusResponse)
    connection.close()
    assert (status.version, status.healthz) == ("v2", "ok")


def test_values_written_in_the_clear_stay_readable_once_encryption_is_on(apiserver: ApiServer, kmsd: Kmsd) -> None:
    apiserver.start(document())
    ready(apiserver)
    apiserver.create_secret("plain", DATA)
    assert b"k8s:enc:" not in apiserver.raw_stored("plain")
    apiserver.restart(document(v2(kmsd)))
    ready(apiserver)
    assert apiserver.read_secret("plain") == DATA
