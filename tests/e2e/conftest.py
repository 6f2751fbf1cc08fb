"""What every e2e test stands on: an etcd, and an apiserver, simulated and, where there is one, real."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.apiserver import ApiServer, SimulatedApiServer
from tests.e2e.etcd import Etcd
from tests.e2e.real import RealApiServer

ASSETS = os.environ.get("KUBEBUILDER_ASSETS")
KINDS = [
    "simulated",
    *([pytest.param("real", marks=pytest.mark.timeout(600))] if ASSETS else []),
]


@pytest.fixture(scope="session")
def shared_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    etcd = Etcd(tmp_path_factory.mktemp("etcd"))
    etcd.start()
    yield etcd
    etcd.stop()


@pytest.fixture
def etcd(shared_etcd: Etcd) -> Etcd:
    shared_etcd.clear()
    return shared_etcd


@pytest.fixture(params=KINDS)
def apiserver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ApiServer]:
    """Not started yet: a test starts it with its own EncryptionConfiguration."""
    server: ApiServer
    if request.param == "real":
        assert ASSETS
        home = tmp_path / "kube"
        home.mkdir()
        server = RealApiServer(home, Path(ASSETS))
    else:
        server = SimulatedApiServer(request.getfixturevalue("etcd"))
    yield server
    server.stop()
