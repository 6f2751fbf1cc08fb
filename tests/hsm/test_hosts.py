"""The process that has the module loaded may crash, hang and be killed: kmsd goes on, and nothing is lost or wrong."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from kmsd.api.kms.v2 import api_pb2 as v2
from tests.chaos import ChaosToken, make_chaos
from tests.daemons import Kmsd, wait_for
from tests.rpc.refusals import refusal, told
from tests.tokens import PIN, SoftToken

SEED = v2.EncryptRequest(plaintext=b"0123456789abcdef0123456789abcdef")
QUICK = {
    "KMSD_HEALTH__INTERVAL": "0.3",
    "KMSD_HEALTH__STUCK_AFTER": "1.0",
    "KMSD_KMS__REQUEST_TIMEOUT": "0.8",
    "KMSD_KEYS__REFRESH": "0.5",
}


@pytest.fixture
def chaos(short_tmp: Path) -> ChaosToken:
    token = make_chaos(short_tmp / "chaos")
    token.import_aes("k8s-kek", bytes(32), b"an-id")
    return token


@pytest.fixture
def kmsd(start_kmsd: Callable[..., Kmsd], chaos: ChaosToken) -> Kmsd:
    return start_kmsd(*chaos.flags, default_flags=False, environment={**chaos.environment, **QUICK}).wait_ok()


def _decrypt(kmsd: Kmsd, sealed: v2.EncryptResponse) -> bytes:
    request = v2.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id)
    plaintext: bytes = kmsd.v2("Decrypt", request).plaintext
    return plaintext


def _events(kmsd: Kmsd) -> str:
    return "\n".join(f"{line['event']} {line.get('reason', '')}" for line in kmsd.log_lines())


@pytest.mark.parametrize("operation", ["C_EncryptInit", "C_Encrypt", "C_DecryptInit", "C_Decrypt", "C_GenerateRandom"])
def test_a_crash_costs_at_most_the_calls_that_were_inside(kmsd: Kmsd, chaos: ChaosToken, operation: str) -> None:
    sealed = kmsd.v2("Encrypt", SEED)
    (before,) = kmsd.hosts()
    assert kmsd.process is not None
    # Another host sees it, too: the module crashes at each use until it is told to behave.
    with chaos.told(f"{operation} crash"):
        codes = set()
        for _ in range(3):
            for call in (lambda: kmsd.v2("Encrypt", SEED), lambda: _decrypt(kmsd, sealed)):
                try:
                    call()
                except grpc.RpcError as error:
                    codes.add(told(error).code)
        assert codes <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
        wait_for(lambda: "was killed by SIGSEGV" in _events(kmsd))
        wait_for(lambda: kmsd.v2("Status").healthz != "ok")
    kmsd.wait_ok()
    assert kmsd.process.poll() is None
    assert _decrypt(kmsd, sealed) == SEED.plaintext
    assert kmsd.hosts() != [before]
    assert "inside: " in _events(kmsd)


def test_a_single_crash_is_not_even_noticed_by_callers(kmsd: Kmsd) -> None:
    """The call is done by the next host."""
    sealed = kmsd.v2("Encrypt", SEED)
    time.sleep(2.1)  # a host that has served this long is replaced at once
    (host,) = kmsd.hosts()
    os.kill(host, signal.SIGKILL)
    assert _decrypt_within(kmsd, sealed) == SEED.plaintext
    assert kmsd.hosts() != [host]


def test_a_call_that_is_alone_inside_a_host_that_dies_is_done_by_the_next(
    start_kmsd: Callable[..., Kmsd], chaos: ChaosToken
) -> None:
    environment = {**chaos.environment, **QUICK, "KMSD_KMS__REQUEST_TIMEOUT": "15", "KMSD_KEYS__REFRESH": "60"}
    environment |= {"KMSD_HEALTH__INTERVAL": "60", "KMSD_HEALTH__STUCK_AFTER": "30"}
    kmsd = start_kmsd(*chaos.flags, default_flags=False, environment=environment).wait_ok()
    sealed = kmsd.v2("Encrypt", SEED)
    time.sleep(2.1)  # a host that has served this long is replaced at once
    (host,) = kmsd.hosts()
    calls = chaos.calls()["C_Decrypt"]
    with chaos.told("C_Decrypt delay=0.5"), ThreadPoolExecutor(1) as client:
        request = v2.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id)
        inside = client.submit(kmsd.v2, "Decrypt", request, 20.0)
        wait_for(lambda: chaos.calls()["C_Decrypt"] > calls, pause=0.001)
        os.kill(host, signal.SIGKILL)
        assert inside.result(20).plaintext == SEED.plaintext
    assert kmsd.hosts() != [host]


def _decrypt_within(kmsd: Kmsd, sealed: v2.EncryptResponse) -> bytes:
    request = v2.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id)
    answers: list[bytes] = []

    def answered() -> bool:
        with contextlib.suppress(grpc.RpcError):
            answers.append(kmsd.v2("Decrypt", request).plaintext)
        return bool(answers)

    wait_for(answered)
    return answers[-1]


def test_a_module_that_crashes_at_each_start_does_not_spin(kmsd: Kmsd, chaos: ChaosToken) -> None:
    with chaos.told("C_Login crash"):
        for host in kmsd.hosts():
            os.kill(host, signal.SIGKILL)
        wait_for(lambda: "was killed by SIGSEGV (inside: log_in)" in str(kmsd.status().tokens[0].reason))
        chaos.forget_calls()
        time.sleep(4)
        assert chaos.calls()["C_Login"] <= 5
    kmsd.wait_ok(30)


def test_calls_that_hang_in_every_session_are_answered_and_the_host_is_replaced(kmsd: Kmsd, chaos: ChaosToken) -> None:
    sealed = kmsd.v2("Encrypt", SEED)
    (before,) = kmsd.hosts()
    with chaos.told("* hang"):
        began = time.monotonic()
        with ThreadPoolExecutor(8) as clients:
            codes = {each.code for each in clients.map(lambda _: refusal(kmsd.v2, "Encrypt", SEED), range(8))}
        assert codes <= {"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
        wait_for(lambda: kmsd.v2("Status").healthz != "ok")
        assert time.monotonic() - began < 4
        wait_for(lambda: "has not come back for" in _events(kmsd))
    kmsd.wait_ok()
    assert kmsd.hosts() != [before]
    assert _decrypt(kmsd, sealed) == SEED.plaintext
    wait_for(lambda: kmsd.status().sessions.stuck == 0)


def test_one_call_that_hangs_delays_no_other(kmsd: Kmsd, chaos: ChaosToken) -> None:
    sealed = kmsd.v2("Encrypt", SEED)
    chaos.tell("C_Decrypt hang count=1")
    with ThreadPoolExecutor(1) as client:
        hung = client.submit(refusal, _decrypt, kmsd, sealed)
        wait_for(lambda: chaos.calls()["C_Decrypt"])
        took = []
        for _ in range(20):
            began = time.monotonic()
            assert _decrypt(kmsd, sealed) == SEED.plaintext
            took.append(time.monotonic() - began)
        assert sorted(took)[10] < 0.25  # the one that hangs is given 0.8
        assert hung.result().code == "DEADLINE_EXCEEDED"
    # Its process is replaced, and nobody else notices.
    wait_for(lambda: "its process is replaced" in _events(kmsd))
    assert _decrypt(kmsd, sealed) == SEED.plaintext
    kmsd.wait_ok()


def test_one_call_that_never_returns_and_a_lost_token_heal_without_a_restart(kmsd: Kmsd, chaos: ChaosToken) -> None:
    sealed = kmsd.v2("Encrypt", SEED)
    assert kmsd.process is not None
    with chaos.told("C_DecryptInit hang", "C_EncryptInit rv=0x30", "C_GenerateRandom rv=0x30"):
        refusal(_decrypt, kmsd, sealed)
        refusal(kmsd.v2, "Encrypt", SEED)
        wait_for(lambda: kmsd.v2("Status").healthz != "ok")
    kmsd.wait_ok()
    assert kmsd.process.poll() is None
    assert _decrypt(kmsd, sealed) == SEED.plaintext


def test_a_login_that_is_lost_is_made_anew_and_no_key_is_called_missing(kmsd: Kmsd, chaos: ChaosToken) -> None:
    sealed = kmsd.v2("Encrypt", SEED)
    (host,) = kmsd.hosts()
    with chaos.told("C_EncryptInit logout"):
        wait_for(lambda: host not in kmsd.hosts())
    kmsd.wait_ok()
    assert _decrypt(kmsd, sealed) == SEED.plaintext
    assert "CKR_USER_NOT_LOGGED_IN" in kmsd.log_text()
    assert "there is no key" not in kmsd.log_text()


def test_a_token_that_fails_while_kmsd_logs_in_serves_once_it_is_well(kmsd: Kmsd, chaos: ChaosToken) -> None:
    """AES-GCM is tried at each login: what fails then is not taken for what the token cannot do."""
    sealed = kmsd.v2("Encrypt", SEED)
    for word in ("C_EncryptInit rv=0x30", "C_Encrypt flip", "C_Decrypt rv=0x5"):
        with chaos.told(word):
            for host in kmsd.hosts():
                os.kill(host, signal.SIGKILL)
            wait_for(lambda: "encrypts nothing as it should" in kmsd.v2("Status").healthz)
        kmsd.wait_ok()
        assert _decrypt(kmsd, sealed) == SEED.plaintext
    assert "cannot serve" not in kmsd.log_text()


def test_a_stopped_host_is_replaced(kmsd: Kmsd) -> None:
    sealed = kmsd.v2("Encrypt", SEED)
    (host,) = kmsd.hosts()
    os.kill(host, signal.SIGSTOP)
    try:
        _decrypt(kmsd, sealed)
        code = ""
    except grpc.RpcError as error:
        code = told(error).code
    # On a busy machine the next host may be there before the call is.
    assert code == "DEADLINE_EXCEEDED" or host not in kmsd.hosts()
    wait_for(lambda: host not in kmsd.hosts())
    kmsd.wait_ok()
    assert _decrypt(kmsd, sealed) == SEED.plaintext


@contextlib.contextmanager
def _load(kmsd: Kmsd, callers: int) -> Iterator[dict[str, int]]:
    """Round trips without a pause. Counts of what came of them; "wrong" for a plaintext that is not the one."""
    counts: dict[str, int] = {}
    stop = threading.Event()

    def client(number: int) -> None:
        plaintext = bytes([number]) * 32
        while not stop.is_set():
            try:
                sealed = kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=plaintext))
                code = "OK" if _decrypt(kmsd, sealed) == plaintext else "wrong"
            except grpc.RpcError as error:
                code = told(error).code
            counts[code] = counts.get(code, 0) + 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_hosts_killed_under_load_give_no_wrong_answer_and_leave_no_call_without_one(
    start_kmsd: Callable[..., Kmsd], token: SoftToken
) -> None:
    token.import_aes("k8s-kek", bytes(32), b"an-id")
    kmsd = start_kmsd().wait_ok()
    with _load(kmsd, 4) as counts:
        for _ in range(3):
            time.sleep(2.5)
            for host in kmsd.hosts():
                os.kill(host, signal.SIGKILL)
        before = counts["OK"]
        wait_for(lambda: counts["OK"] > before + 20)
    assert set(counts) <= {"OK", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
    assert len(kmsd.hosts()) == 1
    assert PIN not in kmsd.log_text()


def test_a_host_ends_with_its_kmsd(kmsd: Kmsd, chaos: ChaosToken) -> None:
    (host,) = kmsd.hosts()
    kmsd.stop(signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{host}").exists())
    assert chaos.calls()["C_Finalize"]


def test_a_host_that_hangs_ends_with_its_kmsd_all_the_same(kmsd: Kmsd, chaos: ChaosToken) -> None:
    (host,) = kmsd.hosts()
    with chaos.told("* hang"):
        refusal(kmsd.v2, "Encrypt", SEED)
        kmsd.stop(signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{host}").exists())


def test_the_pin_is_nowhere_to_be_seen(kmsd: Kmsd) -> None:
    (host,) = kmsd.hosts()
    for file in ("cmdline", "environ"):
        assert PIN.encode() not in Path(f"/proc/{host}/{file}").read_bytes()
    assert PIN not in kmsd.log_text()
