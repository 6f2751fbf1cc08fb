"""A real kmsd on a TPM that crashes, is reset, hangs, or is used by others: it recovers without being started again."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from kmsd.api.kms.v2 import api_pb2 as v2
from tests import tpm
from tests.daemons import KMSD, Kmsd, wait_for
from tests.tpm import TpmToken

_KEY_ID = "01900000-0000-7000-8000-000000000001"
_ENVIRONMENT = {"KMSD_KEYS__REFRESH": "0.5", "KMSD_HEALTH__INTERVAL": "0.5", "KMSD_TOKEN__SESSIONS": "2"}


@pytest.fixture(params=[True, False], ids=["managed", "unmanaged"])
def token(short_tmp: Path, request: pytest.FixtureRequest) -> Iterator[TpmToken]:
    made = tpm.make_tpm(short_tmp / "hsm", managed=request.param)
    made.add_pair("k8s-kek", "k8s-kek.hmac", _KEY_ID)
    yield made
    made.stop()


@pytest.fixture
def kmsd(short_tmp: Path, token: TpmToken) -> Iterator[Kmsd]:
    folder = short_tmp / "d"
    folder.mkdir()
    with Kmsd(
        folder,
        token,  # of the same shape
        token.flags,
        environment=_ENVIRONMENT,
        default_flags=False,
        command=(KMSD, "serve"),
    ).start() as running:
        yield running.wait_ok()


class _Load:
    """Clients that encrypt and decrypt as fast as they are answered. wrong: what was answered and is not right."""

    def __init__(self, kmsd: Kmsd, clients: int = 3) -> None:
        self.good = self.failed = 0
        self.wrong: list[str] = []
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(kmsd,)) for _ in range(clients)]

    def _run(self, kmsd: Kmsd) -> None:
        with grpc.insecure_channel(f"unix:{kmsd.socket}") as channel:
            encrypt: Callable[..., v2.EncryptResponse] = channel.unary_unary(
                "/v2.KeyManagementService/Encrypt",
                request_serializer=v2.EncryptRequest.SerializeToString,
                response_deserializer=v2.EncryptResponse.FromString,
            )
            decrypt: Callable[..., v2.DecryptResponse] = channel.unary_unary(
                "/v2.KeyManagementService/Decrypt",
                request_serializer=v2.DecryptRequest.SerializeToString,
                response_deserializer=v2.DecryptResponse.FromString,
            )
            while not self._ended.is_set():
                plaintext = os.urandom(32)
                try:
                    sealed = encrypt(v2.EncryptRequest(plaintext=plaintext, uid="load"), timeout=3)
                    request = v2.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id, uid="load")
                    opened = decrypt(request, timeout=3).plaintext
                except grpc.RpcError:
                    with self._lock:
                        self.failed += 1
                    continue
                with self._lock:
                    self.good += 1
                    if opened != plaintext:
                        self.wrong.append("another plaintext came back")

    def __enter__(self) -> _Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


def _seal(kmsd: Kmsd, plaintext: bytes) -> v2.EncryptResponse:
    answer: v2.EncryptResponse = kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=plaintext, uid="u"))
    return answer


def _open(kmsd: Kmsd, sealed: v2.EncryptResponse) -> bytes:
    request = v2.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id, uid="u")
    plaintext: bytes = kmsd.v2("Decrypt", request).plaintext
    return plaintext


def _works_again(kmsd: Kmsd, load: _Load) -> None:
    """Whatever was lost: Status is ok again, and the clients go on."""
    kmsd.wait_ok(60)
    before = load.good
    wait_for(lambda: load.good > before + 5, 60)


def test_a_tpm_that_crashes_under_load_is_used_again_when_it_is_back(kmsd: Kmsd, token: TpmToken) -> None:
    stored = _seal(kmsd, b"written before")
    assert kmsd.process is not None
    process = kmsd.process.pid
    with _Load(kmsd) as load:
        wait_for(lambda: load.good > 5, 30)
        for _ in range(2):
            with token.away():
                wait_for(lambda: kmsd.v2("Status").healthz != "ok", 30)
            _works_again(kmsd, load)
    assert load.wrong == []
    assert load.failed > 0
    assert kmsd.process.pid == process
    assert kmsd.process.poll() is None
    assert _open(kmsd, stored) == b"written before"


def test_a_tpm_that_was_reset_unseen_is_used_again(kmsd: Kmsd, token: TpmToken) -> None:
    """As after a suspend: when kmsd looks the next time random numbers work, and no key does."""
    stored = _seal(kmsd, b"written before")
    assert kmsd.process is not None
    kmsd.process.send_signal(signal.SIGSTOP)
    try:
        with token.away():
            pass
    finally:
        kmsd.process.send_signal(signal.SIGCONT)
    with _Load(kmsd) as load:
        _works_again(kmsd, load)
    assert load.wrong == []
    assert _open(kmsd, stored) == b"written before"


def test_while_a_tpm_hangs_status_answers_and_afterwards_all_is_well(kmsd: Kmsd, token: TpmToken) -> None:
    with _Load(kmsd) as load:
        wait_for(lambda: load.good > 5, 30)
        with token.hanging():
            for _ in range(3):
                assert kmsd.v2("Status", timeout=2).version == "v2"
            with pytest.raises(grpc.RpcError) as late:
                _seal(kmsd, b"nobody answers")
            assert late.value.code() in {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}
        _works_again(kmsd, load)
    assert load.wrong == []


_SWEPT = "held what a killed program had loaded"


def test_killed_and_started_again_kmsd_serves(kmsd: Kmsd, token: TpmToken) -> None:
    """Without a resource manager what the killed one had loaded keeps everybody out, until it is thrown out."""
    stored = _seal(kmsd, b"written before")
    for _ in range(2):
        # A host that lives lets go of the TPM when kmsd is gone.
        (host,) = kmsd.hosts()
        os.kill(host, signal.SIGSTOP)
        kmsd.stop(signal.SIGKILL)
        os.kill(host, signal.SIGKILL)
        kmsd.start().wait_ok(60)
        assert _open(kmsd, stored) == b"written before"
    said = [line for line in kmsd.log_lines() if _SWEPT in line["event"]]
    assert len(said) == (0 if token.managed else 2)
    assert token.lockout_counter() == 0


def test_its_host_lets_go_of_the_tpm_when_kmsd_is_killed(kmsd: Kmsd, token: TpmToken) -> None:
    stored = _seal(kmsd, b"written before")
    (host,) = kmsd.hosts()
    kmsd.stop(signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{host}").exists(), 20)
    kmsd.start().wait_ok(60)
    assert _open(kmsd, stored) == b"written before"
    assert not [line for line in kmsd.log_lines() if _SWEPT in line["event"]]
    assert token.lockout_counter() == 0


def test_where_nothing_was_left_nothing_is_thrown_out(token: TpmToken, short_tmp: Path) -> None:
    """A TPM that was cleared refuses every login; there is nothing to be had by trying once more."""
    token.clear()
    folder = short_tmp / "d"
    folder.mkdir()
    with Kmsd(
        folder,
        token,
        token.flags,
        environment=_ENVIRONMENT,
        default_flags=False,
    ).start() as kmsd:
        wait_for(lambda: "it was cleared" in kmsd.v2("Status").healthz, 60)
        assert not [line for line in kmsd.log_lines() if _SWEPT in line["event"]]
