"""Key managers that hang, reset, answer nonsense or are somebody else: each costs a sentence, and no call while another
key manager is left."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest

from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.daemons import Kmsd, wait_for
from tests.remote.certificates import Authority, Issued
from tests.remote.conftest import SEED, Manager, decrypt, well
from tests.rpc.refusals import refusal

Answer = Callable[[str, bytes], bytes]


@contextmanager
def answering(shown: Issued, ca: Authority, answer: Answer) -> Iterator[int]:
    """Serves mTLS on a port, and answers every method with what the function makes of its path and request."""

    class Handlers(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
            return grpc.unary_unary_rpc_method_handler(lambda body, _: answer(details.method, body))

    server = grpc.server(ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((Handlers(),))
    credentials = grpc.ssl_server_credentials(
        [(shown.key.read_bytes(), shown.certificate.read_bytes())], ca.file.read_bytes(), require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield port
    finally:
        server.stop(0.1)


@contextmanager
def accepting(then: Callable[[socket.socket], None]) -> Iterator[int]:
    """Listens on a port, and does this with every connection, which stays open until the end."""
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        over = threading.Event()

        def run() -> None:
            while not over.is_set():
                try:
                    accepted, _ = listening.accept()
                except OSError:
                    return
                kept.append(accepted)
                then(accepted)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            over.set()
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for each in kept:
                each.close()


def _reset(accepted: socket.socket) -> None:
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    accepted.close()


def _hangs(_: str, __: bytes) -> bytes:
    time.sleep(8)
    return b""


def _nothing(_: str, __: bytes) -> bytes:
    return b""


def _noise(_: str, __: bytes) -> bytes:
    return b"\xff" * 200


def _huge(_: str, __: bytes) -> bytes:
    return b"\x0a" + bytes(3 << 20)


def _well_but_empty(path: str, _: bytes) -> bytes:
    """Says that all is well, and opens everything to nothing."""
    if path.endswith("Status"):
        return v2.StatusResponse(version="v2", healthz="ok", key_id="theirs").SerializeToString()
    if path.endswith("Encrypt"):
        return v2.EncryptResponse(ciphertext=b"e", key_id="theirs").SerializeToString()
    return b""


def _another_key(path: str, body: bytes) -> bytes:
    """A whole KMS of somebody else's, that opens what it wrote itself."""
    if path.endswith("Status"):
        return v2.StatusResponse(version="v2", healthz="ok", key_id="theirs").SerializeToString()
    if path.endswith("v2.KeyManagementService/Encrypt"):
        sealed = b"sealed " + v2.EncryptRequest.FromString(body).plaintext
        return v2.EncryptResponse(ciphertext=sealed, key_id="theirs").SerializeToString()
    opened = v2.DecryptRequest.FromString(body).ciphertext.removeprefix(b"sealed ")
    return v2.DecryptResponse(plaintext=opened).SerializeToString()


ANSWERS = {each.__name__.strip("_"): each for each in (_hangs, _nothing, _noise, _huge, _well_but_empty, _another_key)}
SOCKETS: dict[str, Callable[[socket.socket], None]] = {
    "silent": lambda _: None,
    "resets": _reset,
    "http/1": lambda each: each.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    "noise": lambda each: each.sendall(bytes(range(256)) * 64),
}


@contextmanager
def bad(name: str, ca: Authority, other: Authority) -> Iterator[int]:
    """The port of a bad key manager of this kind."""
    shown = ca.issue("bad", "DNS:manager.test", "IP:127.0.0.1", server=True)
    if name == "of another name":
        shown = ca.issue("bad", "DNS:elsewhere.test", server=True)
    if name == "of another CA":
        shown = other.issue("bad", "DNS:manager.test", "IP:127.0.0.1", server=True)
    if name in SOCKETS:
        with accepting(SOCKETS[name]) as port:
            yield port
        return
    with answering(shown, ca, ANSWERS.get(name, _another_key)) as port:
        yield port


KINDS = [*ANSWERS, *SOCKETS, "of another name", "of another CA"]
SAYS = {
    "hangs": "did not answer in time",
    "nothing": "answered what is no v2.",
    "noise": "cannot be reached",
    "huge": "what answers at",
    "well_but_empty": "answered what is no v2.DecryptResponse",
    "another_key": "does not know the key that wrote here",
    "of another name": "cannot be reached",
    "of another CA": "cannot be reached",
}


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"), "Other CA")


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_key_manager_costs_no_call_while_a_good_one_is_left(
    manager: Manager, make_proxy: Callable[..., Kmsd], ca: Authority, other: Authority, kind: str
) -> None:
    """The bad one is the preferred one, and has been there from the start."""
    with bad(kind, ca, other) as port:
        proxy = make_proxy(ca.issue("a1", "DNS:node-1.cluster-a.test"), ca, f"127.0.0.1:{port}", manager)
        wait_for(lambda: any(each.up for each in proxy.status().upstreams), 30)
        own = next(each for each in manager.kmsd.status().tenants if each.name == "cluster-a").write_key.key_id
        if kind == "another_key":
            # Nothing has told this proxy yet whose keys are whose.
            wait_for(lambda: "does not know the key that wrote here" in str(proxy.status().problems))
            return
        for number in range(12):
            sealed = proxy.v2("Encrypt", SEED, timeout=3)
            assert sealed.key_id == own
            assert decrypt(proxy, sealed) == SEED.plaintext
            if number < 2:
                old = v1beta1.EncryptRequest(version="v1beta1", plain=b"s" * 5000)
                cipher = proxy.v1beta1("Encrypt", old, timeout=3).cipher
                request = v1beta1.DecryptRequest(version="v1beta1", cipher=cipher)
                assert proxy.v1beta1("Decrypt", request, timeout=3).plain == b"s" * 5000
            assert proxy.v2("Status", timeout=3).healthz == "ok"
        assert not proxy.status().upstreams[0].up
        assert proxy.status().upstreams[0].reason


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_manager_that_goes_bad_is_left_and_its_reason_is_told(
    manager: Manager, make_proxy: Callable[..., Kmsd], ca: Authority, other: Authority, kind: str
) -> None:
    """It was alone, and another answers at its address now: nothing of that one's is passed on."""
    good = well(make_proxy(ca.issue("a1", "DNS:node-1.cluster-a.test"), ca, manager))
    sealed = good.v2("Encrypt", SEED)
    wait_for(lambda: (good.folder / "state" / "canary.json").exists())
    good.stop()
    with bad(kind, ca, other) as port:
        proxy = make_proxy(ca.issue("a1", "DNS:node-1.cluster-a.test"), ca, f"127.0.0.1:{port}", name="p")
        status = wait_for(lambda: (answer := proxy.v2("Status", timeout=4)).healthz != "ok" and answer)
        assert status.key_id == sealed.key_id
        refused = refusal(lambda: proxy.v2("Encrypt", SEED, timeout=4))
        assert refused.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "FAILED_PRECONDITION"), refused
        if kind in SAYS:
            told = wait_for(lambda: SAYS[kind] in (seen := proxy.v2("Status", timeout=4).healthz) and seen)
            assert told.isprintable()
        request = v2.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id, uid="u")
        assert refusal(lambda: proxy.v2("Decrypt", request, timeout=4)).code != "NOT_FOUND"
        assert proxy.socket.exists()


def test_a_status_that_never_comes_costs_no_more_than_its_time(
    manager: Manager, make_proxy: Callable[..., Kmsd], ca: Authority
) -> None:
    def slow(path: str, body: bytes) -> bytes:
        return _hangs(path, body) if path.endswith("Status") else _another_key(path, body)

    with answering(ca.issue("bad", "DNS:manager.test", "IP:127.0.0.1", server=True), ca, slow) as port:
        proxy = make_proxy(ca.issue("a1", "DNS:node-1.cluster-a.test"), ca, f"127.0.0.1:{port}")
        began = time.monotonic()
        answer = proxy.v2("Status", timeout=5)
        assert time.monotonic() - began < 3
        assert "did not answer in time" in answer.healthz
        assert "since 20" in proxy.v2("Status", timeout=5).healthz
