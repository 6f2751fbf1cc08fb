"""The tests of `tests/e2e/test_secrets.py`, whose kube-apiserver asks a proxy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons import Kmsd
from tests.e2e.conftest import apiserver, etcd, shared_etcd  # noqa: F401 - fixtures
from tests.e2e.test_secrets import *
from tests.remote.through import ThroughProxy
from tests.tokens import SoftToken


@pytest.fixture(name="keyless")
def keyless_behind_a_proxy(short_tmp: Path, token: SoftToken) -> Iterator[Kmsd]:
    (short_tmp / "d").mkdir()
    with ThroughProxy(short_tmp / "d", token).start() as made:
        yield made
