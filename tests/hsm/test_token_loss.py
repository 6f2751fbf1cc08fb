"""The token goes away while kmsd serves, or stops answering, and comes back."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.daemons import Kmsd, wait_for
from tests.rpc.known import AES192, WRITE
from tests.rpc.refusals import Refusal, refusal, told
from tests.tokens import SoftToken

SEED = v2.EncryptRequest(plaintext=b"0123456789abcdef0123456789abcdef")
QUICK = {"KMSD_KEYS__REFRESH": "0.3", "KMSD_HEALTH__INTERVAL": "0.3"}
NOBODY = b"eyJhbGciOiJkaXIiLCJraWQiOiJub2JvZHkiLCJlbmMiOiJBMjU2R0NNIn0..AAAAAAAAAAAAAAAA.AAAA.AAAAAAAAAAAAAAAAAAAAAA"


def _decrypt(kmsd: Kmsd, ciphertext: bytes, key_id: str = WRITE.key_id) -> bytes:
    request = v2.DecryptRequest(ciphertext=ciphertext, key_id=key_id)
    plaintext: bytes = kmsd.v2("Decrypt", request).plaintext
    return plaintext


def _status(kmsd: Kmsd) -> str | Refusal:
    try:
        healthz: str = kmsd.v2("Status").healthz
    except grpc.RpcError as error:
        return told(error)
    return healthz


def _tried(call: Callable[[], object]) -> str:
    try:
        call()
    except grpc.RpcError as error:
        return told(error).code
    return "OK"


@pytest.fixture
def keys(token: SoftToken) -> SoftToken:
    token.objects(WRITE.step, AES192.step)
    return token


@pytest.mark.parametrize(("mode", "empty"), [("coast", False), ("coast", True), ("fail-closed", False)])
def test_a_token_that_goes_and_comes_back_is_served_again(
    start_kmsd: Callable[..., Kmsd], keys: SoftToken, mode: str, empty: bool
) -> None:
    kmsd = start_kmsd(environment={**QUICK, "KMSD_KMS__ON_HSM_LOSS": mode})
    wait_for(lambda: _status(kmsd) == "ok")
    written = kmsd.v2("Encrypt", SEED).ciphertext
    socket = kmsd.socket.stat().st_ino
    process = kmsd.process
    assert process is not None
    with keys.away(empty=empty):
        if mode == "coast":
            # kube-apiserver goes on with the data key it has: a reason, and the key_id it knows.
            wait_for(lambda: kmsd.v2("Status").healthz != "ok")
            for _ in range(5):
                status = kmsd.v2("Status")
                assert status.healthz != "ok"
                assert status.key_id == WRITE.key_id
        else:
            wait_for(lambda: isinstance(_status(kmsd), Refusal))
            refused = _status(kmsd)
            assert isinstance(refused, Refusal)
            assert refused.code == "UNAVAILABLE"
            assert refused.hint
        for request in (lambda: kmsd.v2("Encrypt", SEED), lambda: _decrypt(kmsd, written)):
            refused = refusal(request)
            assert refused.code == "UNAVAILABLE"
            assert refused.retryable
        seen = kmsd.status()
        assert seen.state == admin.SERVING_STATE_DOWN
        assert not seen.token.up
        assert seen.hint
        assert process.poll() is None
        assert kmsd.socket.stat().st_ino == socket
    wait_for(lambda: _status(kmsd) == "ok")
    assert kmsd.status().token.up
    assert kmsd.socket.stat().st_ino == socket
    assert _decrypt(kmsd, written) == SEED.plaintext
    assert _decrypt(kmsd, kmsd.v2("Encrypt", SEED).ciphertext) == SEED.plaintext


@pytest.mark.parametrize("empty", [False, True])
def test_an_unknown_key_is_not_called_missing_while_the_token_is_away(
    start_kmsd: Callable[..., Kmsd], keys: SoftToken, empty: bool
) -> None:
    """SoftHSM finds no key then, and answers CKR_OK: an operator who believed it would throw data away."""
    kmsd = start_kmsd().wait_ok()
    assert refusal(_decrypt, kmsd, NOBODY, "nobody").code == "NOT_FOUND"
    with keys.away(empty=empty):
        # At once, before anything else could notice, and again when it has.
        for _ in range(4):
            refused = refusal(_decrypt, kmsd, NOBODY, "nobody")
            assert refused.code == "UNAVAILABLE", refused
            assert "no key" not in refused.details
        assert kmsd.status().keys == 2
    kmsd.wait_ok()
    assert refusal(_decrypt, kmsd, NOBODY, "nobody").code == "NOT_FOUND"


def test_a_key_that_is_known_is_not_called_missing_either(start_kmsd: Callable[..., Kmsd], keys: SoftToken) -> None:
    kmsd = start_kmsd().wait_ok()
    written = kmsd.v2("Encrypt", SEED).ciphertext
    with keys.away():
        for _ in range(10):
            # What a session holds in memory may serve a little longer.
            assert _tried(lambda: _decrypt(kmsd, written)) in ("OK", "UNAVAILABLE")
        wait_for(lambda: _tried(lambda: kmsd.admin("ListKeys")) == "UNAVAILABLE")
    kmsd.wait_ok()
    assert {key.key_id for key in kmsd.admin("ListKeys").keys} == {WRITE.key_id, AES192.key_id}


def test_it_heals_again_and_again(start_kmsd: Callable[..., Kmsd], keys: SoftToken) -> None:
    kmsd = start_kmsd(environment=QUICK).wait_ok()
    written = kmsd.v2("Encrypt", SEED).ciphertext
    for _ in range(3):
        with keys.away():
            wait_for(lambda: kmsd.v2("Status").healthz != "ok")
        kmsd.wait_ok()
        assert _decrypt(kmsd, written) == SEED.plaintext
    assert sum(line["event"] == "token is up" for line in kmsd.log_lines()) >= 4


def _told(kmsd: Kmsd, *actions: str) -> list[tuple[str, str]]:
    """Action and outcome of the events in the audit, of these actions."""
    records = kmsd.audit_records()
    return [(each["action"], each["outcome"]) for each in records if each["action"] in actions]


def test_a_token_that_is_missing_is_told_once_however_often_it_is_looked_for(
    start_kmsd: Callable[..., Kmsd], keys: SoftToken
) -> None:
    kmsd = start_kmsd(environment=QUICK).wait_ok()
    with keys.away():
        wait_for(lambda: kmsd.v2("Status").healthz != "ok")
        wait_for(lambda: not kmsd.status().token.up)
        wait_for(lambda: _told(kmsd, "token down", "not healthy")[1:])
        settled = len(kmsd.log_lines()), len(_told(kmsd, "token down", "not healthy"))
        time.sleep(8)  # attempts after 0.5, 1, 2 and 4 seconds
        lines = [line for line in kmsd.log_lines()[settled[0] :] if line["level"] != "debug"]
        # The first attempt may find another reason than the call that found it gone.
        assert len(_told(kmsd, "token down", "not healthy")) <= settled[1] + 2, lines
        assert len(lines) <= 2, lines
        reasons = [line["reason"] for line in kmsd.log_lines() if line["event"] == "token is down"]
        assert len(reasons) == len(set(reasons))
    kmsd.wait_ok()
    wait_for(lambda: _told(kmsd, "token up", "token down")[-1] == ("token up", "OK"))


def test_a_reconnection_on_purpose_is_no_outage(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    """A first key is made; kmsd looks with a new module whether another process has made one at the same moment."""
    kmsd = start_kmsd("--auto-create").wait_ok()
    told = wait_for(lambda: _told(kmsd, "token up", "token down", "token reconnected")[1:])
    assert set(told) == {("token reconnected", "OK")}
    planned = [line for line in kmsd.log_lines() if line["event"] == "another process has the token's module"]
    assert {(line["level"], line["reason"]) for line in planned} == {
        ("info", "another process may have made a key at the same moment")
    }
    assert not [line for line in kmsd.log_lines() if line["event"] == "token is down"]
    assert not [each for each in kmsd.audit_records() if each["outcome"] == "UNAVAILABLE"]
    assert not kmsd.status().problems


def test_it_heals_under_load(start_kmsd: Callable[..., Kmsd], keys: SoftToken) -> None:
    """C_Finalize while another thread is inside the module would crash the process."""
    kmsd = start_kmsd(environment=QUICK).wait_ok()
    process = kmsd.process
    assert process is not None
    written = kmsd.v2("Encrypt", SEED).ciphertext
    ends = time.monotonic() + 4

    def client(_: int) -> set[str]:
        codes: set[str] = set()
        while time.monotonic() < ends:
            codes.add(_tried(lambda: _decrypt(kmsd, written)))
        return codes

    with ThreadPoolExecutor(4) as clients:
        running = [clients.submit(client, number) for number in range(4)]
        for _ in range(2):
            with keys.away():
                wait_for(lambda: kmsd.v2("Status").healthz != "ok")
            kmsd.wait_ok()
        codes = set().union(*(each.result() for each in running))
    assert process.poll() is None
    assert codes <= {"OK", "UNAVAILABLE", "RESOURCE_EXHAUSTED"}
    assert "OK" in codes
    assert _decrypt(kmsd, written) == SEED.plaintext


def test_a_restart_while_the_token_is_away_names_the_same_key(start_kmsd: Callable[..., Kmsd], keys: SoftToken) -> None:
    """Another key_id than before would have kube-apiserver throw its data key away."""
    kmsd = start_kmsd(environment=QUICK).wait_ok()
    written = kmsd.v2("Encrypt", SEED).ciphertext
    kmsd.stop()
    with keys.away():
        kmsd.start()
        wait_for(lambda: "kmsd is starting" not in kmsd.v2("Status").healthz)
        status = kmsd.v2("Status")
        assert status.healthz != "ok"
        assert status.key_id == WRITE.key_id
    kmsd.wait_ok()
    assert _decrypt(kmsd, written) == SEED.plaintext


@pytest.fixture
def impatient(start_kmsd: Callable[..., Kmsd], keys: SoftToken) -> Kmsd:
    """A kmsd that gives a call half a second."""
    environment = {**QUICK, "KMSD_KMS__REQUEST_TIMEOUT": "0.5", "KMSD_HEALTH__STUCK_AFTER": "0.4"}
    return start_kmsd(environment=environment).wait_ok()


def test_a_token_that_hangs_does_not_hang_status(impatient: Kmsd, keys: SoftToken) -> None:
    """A C call cannot be cancelled; who waits for it is answered all the same."""
    written = impatient.v2("Encrypt", SEED).ciphertext
    with keys.hanging():
        for request in (lambda: impatient.v2("Encrypt", SEED), lambda: _decrypt(impatient, written)):
            began = time.monotonic()
            refused = refusal(request)
            assert refused.code == "DEADLINE_EXCEEDED"
            assert refused.retryable
            assert "the token did not answer in time" in refused.details
            assert time.monotonic() - began < 2
        wait_for(lambda: impatient.status().sessions.stuck > 0)
        wait_for(lambda: impatient.v2("Status").healthz != "ok")
        slowest = 0.0
        for _ in range(20):
            began = time.monotonic()
            status = impatient.v2("Status")
            slowest = max(slowest, time.monotonic() - began)
            assert status.key_id == WRITE.key_id
        assert slowest < 2
        seen = impatient.status()
        assert any("stuck inside the PKCS#11 module" in problem.message for problem in seen.problems)
    impatient.wait_ok()
    assert impatient.status().sessions.stuck == 0
    assert _decrypt(impatient, written) == SEED.plaintext


def test_calls_beyond_the_queue_of_a_token_that_hangs_are_turned_away(
    start_kmsd: Callable[..., Kmsd], keys: SoftToken
) -> None:
    environment = {"KMSD_TOKEN__QUEUE": "8", "KMSD_TOKEN__SESSIONS": "2", "KMSD_KMS__REQUEST_TIMEOUT": "2"}
    kmsd = start_kmsd(environment=environment).wait_ok()
    with keys.hanging(), ThreadPoolExecutor(40) as clients:
        codes = list(clients.map(lambda _: refusal(kmsd.v2, "Encrypt", SEED).code, range(40)))
    assert set(codes) == {"RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
    assert codes.count("RESOURCE_EXHAUSTED") >= 20
    kmsd.wait_ok()
    assert _decrypt(kmsd, kmsd.v2("Encrypt", SEED).ciphertext) == SEED.plaintext
