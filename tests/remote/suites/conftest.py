"""What the tests of `rpc` and `serving` are given here: a key manager, and the KMS socket of a proxy in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.daemons import KMSD, Kmsd
from tests.remote.through import ThroughProxy
from tests.rpc.conftest import unharmed
from tests.rpc.known import KEYS, WRITE
from tests.rpc.vectors import K8S_KMS_PLUGIN_KEYS
from tests.serving.conftest import ENVIRONMENT, Served, softhsm_gcm, tpm_cbc
from tests.tokens import make_token

__all__ = ["unharmed"]


def _held(label: str) -> str:
    """The label that makes a key the tenant's."""
    return f"{WRITE.label}@20200101T0000{int(label[-3:]) % 60:02d}Z" if label.startswith("older") else label


@pytest.fixture(scope="package")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kmsd]:
    """Serves with the keys of `tests.rpc.known`, of which the older ones had the tenant's label before."""
    folder = tmp_path_factory.mktemp("k")
    token = make_token(folder / "hsm")
    token.objects(*(replace(key, label=_held(key.label)).step for key in (*KEYS, *K8S_KMS_PLUGIN_KEYS)))
    (folder / "d").mkdir()
    with ThroughProxy(folder / "d", token).start() as kmsd:
        yield kmsd.wait_ok()


@pytest.fixture(scope="module", params=["softhsm-gcm", "tpm-cbc"])
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One token of each kind."""
    make = {"softhsm-gcm": softhsm_gcm, "tpm-cbc": tpm_cbc}[request.param]
    made = make(tmp_path_factory.mktemp("t") / "token")
    yield made
    stop = getattr(made.token, "stop", None)
    if stop is not None:
        stop()


@pytest.fixture(scope="module")
def through(kind: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kmsd]:
    """A key manager on it and a proxy, for all tests of a module."""
    made = ThroughProxy(
        tmp_path_factory.mktemp("d"),
        kind.token,
        (*kind.flags, "--auto-create"),
        environment=ENVIRONMENT,
        default_flags=False,
        command=(*kind.enter, KMSD, "serve"),
    )
    with made.start() as running:
        yield running.wait_ok(60.0)
