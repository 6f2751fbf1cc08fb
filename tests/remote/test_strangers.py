"""Who is not let in by TCP: each gets one sentence, a line of the audit, and nothing else; others are served on."""

from __future__ import annotations

import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.daemons import wait_for
from tests.raw import unary
from tests.remote.certificates import HOUR, Authority, Issued
from tests.remote.conftest import TENANTS, Client, Manager
from tests.rpc.refusals import refusal, told

OVERLAP = """
[[tenants]]
name = "whole"
san = ["DNS:*.both.test"]
key_label = "kek-whole"

[[tenants]]
name = "one"
san = ["DNS:node.both.test"]
key_label = "kek-one"
max_rate = 5
"""
BAD_CERTIFICATES: dict[str, tuple[Callable[[Authority, Authority], Issued | None], str]] = {
    "none": (lambda ca, other: None, "it showed no certificate"),
    "another CA's": (lambda ca, other: other.issue("x", "DNS:node-1.cluster-a.test"), "its certificate is not taken"),
    "ended": (lambda ca, other: ca.issue("x", "DNS:n.cluster-a.test", begins=-2 * HOUR, ends=-HOUR), "has expired"),
    "not begun": (lambda ca, other: ca.issue("x", "DNS:n.cluster-a.test", begins=HOUR), "not yet valid"),
    "for servers": (
        lambda ca, other: ca.issue("x", "DNS:n.cluster-a.test", server=True),
        "its certificate is not taken",
    ),
}


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"), "Another CA")


def friend(manager: Manager) -> Client:
    """A tenant as it should be."""
    return Client(manager.channel(manager.ca.issue("friend", "DNS:friend.cluster-a.test")))


def test_tls_refuses_certificates_that_prove_nothing(manager: Manager, ca: Authority, other: Authority) -> None:
    honest = friend(manager)
    for name, (make, words) in BAD_CERTIFICATES.items():
        with pytest.raises(grpc.RpcError) as caught:
            Client(manager.channel(make(ca, other))).status(timeout=3)
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED), name
        wait_for(lambda words=words: words in manager.kmsd.log_text())
        assert honest.status().healthz == "ok"
    # Of many alike within a short time the audit has the first ones and how many there were.
    wait_for(lambda: "caller refused" in str(manager.kmsd.audit_records()))


def _old_tls(sock: socket.socket, version: ssl.TLSVersion) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = version
    with context.wrap_socket(sock, server_hostname="manager.test"):
        pass


@pytest.mark.parametrize("what", ["TLS 1.2", "HTTP/1", "HTTP/2 without TLS", "noise", "silence"])
def test_who_does_not_speak_tls_1_3_gets_no_answer(manager: Manager, what: str) -> None:
    honest = friend(manager)
    with socket.create_connection(("127.0.0.1", manager.port), timeout=10) as sock:
        match what:
            case "TLS 1.2":
                with pytest.raises((ssl.SSLError, OSError)):
                    _old_tls(sock, ssl.TLSVersion.TLSv1_2)
            case "HTTP/1":
                sock.sendall(b"GET / HTTP/1.1\r\nHost: manager.test\r\n\r\n")
                _ends(sock)
            case "HTTP/2 without TLS":
                sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
                _ends(sock)
            case "noise":
                sock.sendall(bytes(range(256)) * 64)
                _ends(sock)
            case _:
                began = time.monotonic()
                _ends(sock)
                assert time.monotonic() - began < 9
    assert honest.status().healthz == "ok"


def _ends(sock: socket.socket) -> None:
    """Read until the other side has ended the connection; it says nothing but a TLS alert."""
    heard = b""
    try:
        while data := sock.recv(4096):
            heard += data
    except ConnectionResetError:
        pass
    assert len(heard) < 64


def test_a_certificate_without_a_tenant_is_told_what_is_missing(manager: Manager, ca: Authority) -> None:
    unknown = refusal(Client(manager.channel(ca.issue("u", "DNS:node.cluster-c.test"))).encrypt, b"p" * 32)
    assert unknown.code == "PERMISSION_DENIED"
    assert "'DNS:node.cluster-c.test', which no entry of [[tenants]] has" in unknown.details
    nameless = refusal(Client(manager.channel(ca.issue("n"))).encrypt, b"p" * 32)
    assert "no name at all (no subjectAltName)" in nameless.details
    deep = refusal(Client(manager.channel(ca.issue("d", "DNS:a.b.cluster-a.test"))).encrypt, b"p" * 32)
    assert deep.code == "PERMISSION_DENIED"
    spiffe = Client(manager.channel(ca.issue("s", "URI:spiffe://cluster-a/kms/node-1")))
    assert spiffe.decrypt(spiffe.encrypt(b"p" * 32)) == b"p" * 32
    stolen = refusal(Client(manager.channel(ca.issue("t", "URI:spiffe://cluster-a/kms/a/b"))).encrypt, b"p" * 32)
    assert stolen.code == "PERMISSION_DENIED"


def test_a_certificate_with_names_without_end_is_let_go_at_once(manager: Manager, ca: Authority) -> None:
    many = ca.issue("many", *(f"DNS:n{number}.cluster-a.test" for number in range(33)))
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        Client(manager.channel(many)).status(timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert time.monotonic() - began < 8
    wait_for(lambda: "its subjectAltName has too many names" in manager.kmsd.log_text())
    assert friend(manager).status().healthz == "ok"


def test_a_certificate_that_fits_two_tenants_is_neithers_and_rates_are_kept(
    make_manager: Callable[..., Manager], ca: Authority
) -> None:
    manager = make_manager(tenants=OVERLAP)
    wait_for(lambda: manager.kmsd.log_text().count("tenant is healthy") >= 2)
    assert "fits the tenants whole and one" in str(manager.kmsd.status().problems)
    both = refusal(Client(manager.channel(ca.issue("b", "DNS:node.both.test"))).encrypt, b"p" * 32)
    assert both.code == "PERMISSION_DENIED"
    assert "fits 2 tenants (whole, one)" in both.details
    whole = Client(manager.channel(ca.issue("w", "DNS:other.both.test")))
    assert whole.decrypt(whole.encrypt(b"w" * 32)) == b"w" * 32
    manager.reload(OVERLAP.replace("*.both.test", "*.whole.test"))
    one = Client(manager.channel(ca.issue("o", "DNS:node.both.test")))
    codes = []
    for _ in range(30):
        try:
            one.encrypt(b"o" * 32)
            codes.append("OK")
        except grpc.RpcError as error:
            codes.append(told(error).code)
    assert set(codes) == {"OK", "RESOURCE_EXHAUSTED"}
    assert one.status().healthz == "ok"


@pytest.mark.parametrize("how", ["serials", "crl"])
def test_a_revoked_certificate_is_refused_at_its_next_call(
    make_manager: Callable[..., Manager], ca: Authority, tmp_path: Path, how: str
) -> None:
    revoked = tmp_path / "revoked"
    bad, good = ca.issue("bad", "DNS:bad.cluster-a.test"), ca.issue("good", "DNS:good.cluster-a.test")
    revoked.write_bytes(b"# none yet\n" if how == "serials" else ca.crl())
    manager = make_manager(f"--tls-revoked={revoked}")
    wait_for(lambda: manager.kmsd.log_text().count("tenant is healthy") >= 2)
    theirs, ours = Client(manager.channel(bad)), Client(manager.channel(good))
    assert theirs.status().healthz == ours.status().healthz == "ok"
    revoked.write_bytes(f"{bad.serial}  # left\n".encode() if how == "serials" else ca.crl(bad))

    def refused() -> bool:
        try:
            theirs.encrypt(b"p" * 32)
        except grpc.RpcError as error:
            return "is revoked" in told(error).details
        return False

    wait_for(refused, 10)
    assert ours.encrypt(b"p" * 32).ciphertext


def test_an_admin_by_tcp_may_do_what_its_role_allows(manager: Manager, ca: Authority) -> None:
    def ask(caller: Issued, method: str, request: admin.RotateKeyRequest | admin.GetStatusRequest) -> bytes:
        call = unary(manager.channel(caller), f"/kmsd.admin.v1.Admin/{method}")
        return call(request.SerializeToString(), timeout=10)

    viewer, operator = ca.issue("v", "DNS:watcher.test"), ca.issue("o", "DNS:operator.test")
    tenant = ca.issue("t", "DNS:node-1.cluster-a.test")
    assert admin.GetStatusResponse.FromString(ask(viewer, "GetStatus", admin.GetStatusRequest())).tenants
    rotate = admin.RotateKeyRequest(label="kek-a")
    assert (
        refusal(ask, viewer, "RotateKey", rotate).details
        == "'DNS:watcher.test' is a viewer, and this needs an operator"
    )
    assert refusal(ask, tenant, "GetStatus", admin.GetStatusRequest()).code == "PERMISSION_DENIED"
    assert admin.RotateKeyResponse.FromString(ask(operator, "RotateKey", rotate)).rotated
    wait_for(lambda: "san=DNS:operator.test" in str(manager.kmsd.audit_records()))
    assert refusal(Client(manager.channel(viewer)).encrypt, b"p" * 32).code == "PERMISSION_DENIED"


def test_a_tenant_that_is_taken_out_is_refused_and_the_others_go_on(manager: Manager, ca: Authority) -> None:
    a = Client(manager.channel(ca.issue("a1", "DNS:node-1.cluster-a.test")))
    b = Client(manager.channel(ca.issue("b1", "DNS:node-1.cluster-b.test")))
    kept = b.encrypt(b"b" * 32)
    _, _, rest = TENANTS.partition('[[tenants]]\nname = "cluster-b"')
    manager.reload('[[tenants]]\nname = "cluster-b"' + rest)
    assert refusal(a.encrypt, b"a" * 32).code == "PERMISSION_DENIED"
    assert b.decrypt(kept) == b"b" * 32
    manager.reload(TENANTS)
    wait_for(lambda: [each.healthz for each in manager.kmsd.status().tenants] == ["ok", "ok"])
    assert a.encrypt(b"a" * 32).ciphertext


def test_a_port_that_is_taken_is_told_and_taken_when_it_is_free(
    make_manager: Callable[..., Manager], ca: Authority
) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        manager = make_manager(port=port, wait=False)
        wait_for(lambda: f"nothing listens on tls://127.0.0.1:{port}" in str(manager.kmsd.status().problems))
        manager.kmsd.wait_ok()
    wait_for(lambda: "serving on TCP" in manager.kmsd.log_text())
    assert friend(manager).status().healthz


def test_a_key_that_others_may_read_is_refused_until_they_may_not(
    make_manager: Callable[..., Manager], ca: Authority
) -> None:
    manager = make_manager(key_mode=0o644, wait=False)
    wait_for(lambda: "may be read by every user of this machine" in str(manager.kmsd.status().problems))
    manager.shown.key.chmod(0o600)
    wait_for(lambda: "serving on TCP" in manager.kmsd.log_text())


def test_openssl_and_curl_are_strangers_like_any_other(manager: Manager, ca: Authority) -> None:
    address = f"127.0.0.1:{manager.port}"
    shown = subprocess.run(
        ["openssl", "s_client", "-connect", address, "-CAfile", str(ca.file), "-servername", "manager.test", "-tls1_3"],
        input=b"", capture_output=True, timeout=20, check=False,
    )  # fmt: skip
    assert b"Verify return code: 0 (ok)" in shown.stdout
    mine = ca.issue("c", "DNS:node-1.cluster-a.test")
    curl = subprocess.run(
        ["curl", "-sS", "--http2-prior-knowledge", "--cacert", str(ca.file), "--cert", str(mine.certificate), "--key",
         str(mine.key), f"https://localhost:{manager.port}/", "--connect-to", f"localhost:{manager.port}:{address}",
         "--resolve", f"manager.test:{manager.port}:127.0.0.1", "-o", "/dev/null", "-w", "%{http_code}",
         f"https://manager.test:{manager.port}/v2.KeyManagementService/Status"],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert "200" not in curl.stdout.split()
    assert friend(manager).status().healthz == "ok"


def test_a_thousand_hostile_requests_open_nothing(manager: Manager, ca: Authority) -> None:
    a, b = friend(manager), Client(manager.channel(ca.issue("b1", "DNS:node-1.cluster-b.test")))
    theirs = b.encrypt(b"b" * 32)
    channel = manager.channel(ca.issue("h", "DNS:hostile.cluster-a.test"))
    call, known = unary(channel, "/v2.KeyManagementService/Decrypt"), a.status().key_id

    def ask(number: int) -> str:
        sealed = bytearray(theirs.ciphertext)
        if number % 2:
            sealed[number % len(sealed)] ^= 1 + number % 255
        request = v2.DecryptRequest(ciphertext=bytes(sealed), key_id=theirs.key_id if number % 3 else known)
        try:
            call(request.SerializeToString(), timeout=20)
        except grpc.RpcError as error:
            return told(error).code
        return "OK"

    with ThreadPoolExecutor(50) as callers:
        codes = set(callers.map(ask, range(1000)))
    assert codes <= {"NOT_FOUND", "INVALID_ARGUMENT"}, codes
    assert b.decrypt(theirs) == b"b" * 32
