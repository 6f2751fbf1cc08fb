"""A real etcd, shared by the tests of a module and emptied for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.etcd.server import Server


@pytest.fixture(scope="module")
def _etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("etcd"))
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def etcd(_etcd: Server) -> Server:
    _etcd.clear()
    return _etcd
