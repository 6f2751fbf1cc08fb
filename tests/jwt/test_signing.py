"""A kmsd that signs service account tokens, as kube-apiserver finds it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from tests.daemons import Kmsd, wait_for
from tests.jwt.signing import Apiserver, apiserver, settings
from tests.tokens import make_token


@pytest.fixture(scope="module")
def kmsd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kmsd]:
    folder = tmp_path_factory.mktemp("jwt")
    token = make_token(folder)
    with Kmsd(folder, token, environment=settings(folder)).start() as kmsd:
        kmsd.admin(
            "GenerateKey",
            admin.GenerateKeyRequest(label="sa-signer", type=admin.KEY_TYPE_EC, bits=256, purpose="jwt"),
        )
        wait_for(lambda: kmsd.admin("GetJwt").state == "ready")
        yield kmsd


@pytest.fixture
def caller(kmsd: Kmsd) -> Apiserver:
    return apiserver(kmsd)


def test_a_token_is_signed_and_verifies_with_what_is_published(kmsd: Kmsd, caller: Apiserver) -> None:
    caller.fetch()
    assert caller.verify(caller.token())["iss"]
