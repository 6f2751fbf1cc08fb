"""A call has one deadline, however many waits and keys it takes."""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc
import pytest

from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from tests.chaos import ChaosToken, make_chaos
from tests.daemons import Kmsd
from tests.raw import unary
from tests.rpc.vectors import CBC, GCM, K8S_KMS_PLUGIN_KEYS
from tests.security.forging import header

TIMEOUT = 1.0
KEYS = 12


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> ChaosToken:
    """With many keys that held the label which old values name, and none of them wrote what is asked for."""
    made = make_chaos(tmp_path_factory.mktemp("c") / "hsm")
    steps = [key.step for key in K8S_KMS_PLUGIN_KEYS]
    for number in range(KEYS):
        at = f"gone@202601{number + 1:02d}T000000Z"
        steps.append({"do": "import", "type": "aes", "label": at, "value": f"{number:064x}", "id": f"{number:04x}"})
    made.objects(*steps)
    return made


@pytest.fixture(scope="module")
def kmsd(tmp_path_factory: pytest.TempPathFactory, chaos: ChaosToken) -> Iterator[Kmsd]:
    environment = {
        "KMSD_KMS__REQUEST_TIMEOUT": str(TIMEOUT),
        "KMSD_LEGACY__ALLOW_UNAUTHENTICATED": "true",
        "KMSD_LEGACY__KEY": "k8s-dek",
        "KMSD_HEALTH__INTERVAL": "300",
    }
    flags = (*chaos.flags, "--auto-create")
    started = Kmsd(tmp_path_factory.mktemp("d"), chaos, flags, environment, default_flags=False).start()
    yield started.wait_ok()
    chaos.tell()
    started.stop()


def naming(label: str) -> bytes:
    """A value of k8s-kms-plugin's that names a label."""
    return b".".join([header({"alg": "dir", "kid": label, "enc": "A256GCM"}), *GCM[0].ciphertext.split(b".")[1:]])


@pytest.mark.parametrize("cipher", [naming("gone"), CBC[0].ciphertext], ids=["many keys", "aes-cbc"])
@pytest.mark.parametrize("deadline", [None, 0.5])
@pytest.mark.parametrize("function", ["C_Decrypt", "C_Encrypt"])
def test_a_slow_token_does_not_make_a_call_last_longer(
    kmsd: Kmsd, chaos: ChaosToken, cipher: bytes, deadline: float | None, function: str
) -> None:
    request = v1beta1.DecryptRequest(version="v1beta1", cipher=cipher).SerializeToString()
    call = unary(kmsd.channel(), "/v1beta1.KeyManagementService/Decrypt")
    with chaos.told(f"{function} delay=0.3"):
        began = time.monotonic()
        try:
            call(request, timeout=deadline)
            code = "OK"
        except grpc.RpcError as error:
            code = error.code().name
        took = time.monotonic() - began
    assert took < (deadline or TIMEOUT) + 1.5
    assert code in ("OK", "DEADLINE_EXCEEDED", "INVALID_ARGUMENT")


def test_unknown_keys_are_looked_for_within_it(kmsd: Kmsd, chaos: ChaosToken) -> None:
    request = v1beta1.DecryptRequest(version="v1beta1", cipher=naming("nobody"))
    with chaos.told("C_FindObjects delay=1.5"):
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            kmsd.v1beta1("Decrypt", request, 30.0)
        assert time.monotonic() - began < TIMEOUT + 1.5
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
