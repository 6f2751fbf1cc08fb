"""Service account tokens through a proxy: signed by whichever key manager is there, and verified while none is."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import grpc
import pytest

from kmsd.api.admin.v1 import admin_pb2
from kmsd.api.admin.v1.jwt_pb2 import PublishJwtKeyRequest, RetireJwtKeyRequest
from kmsd.api.externaljwt.v1 import api_pb2 as pb
from kmsd.client import signer_connect
from tests.daemons import Kmsd, wait_for
from tests.jwt.signing import ISSUER, Apiserver, apiserver, claims, settings, socket_of
from tests.remote.certificates import Authority
from tests.remote.conftest import TENANTS, Manager
from tests.rpc.refusals import told

SIGNING = TENANTS.replace('key_label = "kek-a"', f'key_label = "kek-a"\njwt_label = "sa-a"\njwt_issuers = ["{ISSUER}"]')
GENERATE = admin_pb2.GenerateKeyRequest(label="sa-a", type=admin_pb2.KEY_TYPE_EC, purpose="jwt", if_not_exists=True)
OF_A = admin_pb2.GetJwtRequest(tenant="cluster-a")


def state(manager: Manager) -> str:
    return str(manager.kmsd.admin("GetJwt", OF_A).state)


def signs(caller: Apiserver) -> bool:
    try:
        caller.verify(caller.token())
    except grpc.RpcError:
        return False
    return True


def test_tokens_are_signed_by_whichever_key_manager_is_there_and_verify_while_none_is(
    make_manager: Callable[..., Manager], make_proxy: Callable[..., Kmsd], ca: Authority
) -> None:
    quick = {"KMSD_KEYS__REFRESH": "0.5", "KMSD_JWT__REFRESH_HINT": "1"}
    first = make_manager(tenants=SIGNING, environment=quick)
    first.kmsd.admin("GenerateKey", GENERATE)
    second = make_manager(tenants=SIGNING, name="e", environment=quick)
    wait_for(lambda: state(first) == state(second) == "ready")
    proxy = make_proxy(ca.issue("a1", "DNS:node-1.cluster-a.test"), ca, first, second, environment={})
    stranger = make_proxy(ca.issue("b1", "DNS:node-1.cluster-b.test"), ca, first, name="q")
    assert proxy.process is not None
    proxy.stop()
    proxy.environment = {**proxy.environment, **settings(proxy.folder, issuers=ISSUER)}
    caller = apiserver(proxy.start())
    wait_for(lambda: signs(caller))
    (key,) = first.kmsd.admin("GetJwt", OF_A).keys
    assert list(caller.known) == [key.kid]
    assert caller.call("Metadata", pb.MetadataRequest()).max_token_expiration_seconds == 86400
    fetchers = first.kmsd.admin("GetJwt", OF_A).fetchers
    assert [(each.who, each.current) for each in fetchers] == [("DNS:node-1.cluster-a.test", True)]

    # What an operator asks the proxy is not taken for its kube-apiserver, which has not fetched the next key.
    pending = first.kmsd.admin("PublishJwtKey", PublishJwtKeyRequest(tenant="cluster-a")).key.kid
    with signer_connect(str(socket_of(proxy))) as signer:
        assert set(signer.kids()) == {key.kid, pending}
    assert not any(each.current for each in first.kmsd.admin("GetJwt", OF_A).fetchers)
    first.kmsd.admin("RetireJwtKey", RetireJwtKeyRequest(tenant="cluster-a", kid=pending))
    with pytest.raises(grpc.RpcError) as caught:
        caller.call("Sign", pb.SignJWTRequest(claims=claims(iss="https://evil.test")))
    assert told(caught.value).code == "INVALID_ARGUMENT"

    # What another tenant's proxy asks for is refused, and it has no socket for it.
    channel = first.channel(ca.issue("b2", "DNS:node-2.cluster-b.test"))
    with pytest.raises(grpc.RpcError) as caught:
        Apiserver(channel).call("Sign", pb.SignJWTRequest(claims=claims()))
    assert told(caught.value).code == "PERMISSION_DENIED"
    assert not (stranger.folder / "jwt").exists()

    token = caller.token()
    for manager in (first, second):
        assert manager.kmsd.process is not None
        os.kill(manager.kmsd.process.pid, signal.SIGKILL)
        manager.kmsd.process.wait()
        if manager is first:
            assert signs(caller), "the second has not signed in its place"
    with pytest.raises(grpc.RpcError) as caught:
        caller.token()
    assert told(caught.value).code == "UNAVAILABLE"
    # A kube-apiserver that starts now finds the keys, and so does one behind a proxy that has just started.
    stamp = caller.fetch().data_timestamp.ToNanoseconds()
    proxy.stop()
    again = apiserver(proxy.start())
    answer = again.fetch()
    assert answer.data_timestamp.ToNanoseconds() == stamp
    assert again.verify(token)
