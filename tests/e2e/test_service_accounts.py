"""A real kube-apiserver, 1.34 or later, whose service account tokens kmsd signs: from a key file and back."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from tests.daemons import Kmsd, wait_for
from tests.e2e.encryption_config import document
from tests.e2e.real import RealApiServer
from tests.jwt.signing import settings, socket_of
from tests.tokens import make_token

ASSETS = os.environ.get("KUBEBUILDER_ASSETS")
ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"


def _signs_by_others() -> bool:
    if not ASSETS:
        return False
    told = subprocess.run([Path(ASSETS) / "kube-apiserver", "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"v1\.(\d+)", told.stdout)
    return found is not None and int(found[1]) >= 34


pytestmark = [
    pytest.mark.skipif(not _signs_by_others(), reason="needs a kube-apiserver of 1.34 or later (KUBEBUILDER_ASSETS)"),
    pytest.mark.timeout(900),
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RealApiServer]:
    assert ASSETS
    home = tmp_path / "kube"
    home.mkdir()
    running = RealApiServer(home, Path(ASSETS))
    yield running
    running.stop()


@pytest.fixture
def kmsd(short_tmp: Path) -> Iterator[Kmsd]:
    with Kmsd(short_tmp, make_token(short_tmp / "t"), environment=settings(short_tmp)).start() as kmsd:
        yield kmsd


def token_of(server: RealApiServer) -> str:
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": 3600},
    }
    return str(server.post(f"{ACCOUNTS}/builder/token", request)["status"]["token"])


def takes(server: RealApiServer, token: str) -> bool:
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    status: dict[str, Any] = server.post("/apis/authentication.k8s.io/v1/tokenreviews", review)["status"]
    return bool(status.get("authenticated"))


def published(server: RealApiServer) -> set[str]:
    assert server.get("/.well-known/openid-configuration")["jwks_uri"].endswith("/openid/v1/jwks")
    return {key["kid"] for key in server.get("/openid/v1/jwks")["keys"]}


def signs(kmsd: Kmsd) -> admin.JwtKey:
    found: list[admin.JwtKey] = [each for each in kmsd.admin("GetJwt").keys if each.state == "signing"]
    return found[0]


def test_a_cluster_moves_from_a_key_file_and_back_and_no_token_is_refused(
    server: RealApiServer, kmsd: Kmsd, tmp_path: Path
) -> None:
    server.start(document())
    server.post(ACCOUNTS, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "builder"}})
    tokens = [token_of(server)]
    (kid,) = published(server)

    # The key file moves into the token, with its kid.
    home = tmp_path / "kube"
    request = admin.ImportJwtKeyRequest(private_key=(home / "sa.key").read_bytes())
    assert kmsd.admin("ImportJwtKey", request).key.kid == kid
    server.signer = socket_of(kmsd)
    server.restart()
    tokens.append(token_of(server))
    assert all(takes(server, each) for each in tokens)
    assert published(server) == {kid}

    # A rotation under load.
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            tokens.append(token_of(server))

    thread = threading.Thread(target=load)
    thread.start()
    try:
        new = kmsd.admin("PublishJwtKey", admin.PublishJwtKeyRequest(type="ec-p256")).key.kid
        wait_for(lambda: published(server) == {kid, new}, 30)
        wait_for(lambda: all(each.current for each in kmsd.admin("GetJwt").fetchers))
        kmsd.admin("SwitchJwtKey", admin.SwitchJwtKeyRequest(kid=new, force=True))
        tokens.append(token_of(server))
    finally:
        stop.set()
        thread.join()
    assert signs(kmsd).kid == new
    assert all(takes(server, each) for each in tokens)
    server.restart()
    assert all(takes(server, each) for each in tokens)

    # The way back: the file signs again, and the token's public key verifies what it signed.
    with (home / "sa.pub").open("a") as file:
        file.write(signs(kmsd).pem)
    server.signer = None
    server.restart()
    tokens.append(token_of(server))
    assert all(takes(server, each) for each in tokens)

    # A key that is retired verifies nothing any more.
    server.signer = socket_of(kmsd)
    server.restart()
    kmsd.admin("RetireJwtKey", admin.RetireJwtKeyRequest(kid=kid, confirm_kid=kid))
    wait_for(lambda: published(server) == {new}, 30)
    assert not takes(server, tokens[0])
