"""Reaching a real etcd, or saying plainly why not: addresses, TLS, users."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kmsd.client import ClientError, Denied, InvalidRequest, Unreachable
from kmsd.etcd.client import Etcd, User
from kmsd.etcd.endpoints import Endpoint, Tls, parse_endpoints
from kmsd.etcd.scan import scan
from tests.e2e.program import free_port
from tests.etcd.server import Authority, Server
from tests.etcd.values import NEW_ID, v2


def failure(endpoint: str, tls: Tls | None = None, user: User | None = None, timeout: float = 5.0) -> ClientError:
    with pytest.raises(ClientError) as failed, Etcd([endpoint], tls or Tls(), user, timeout=timeout) as client:
        scan(client)
    assert failed.value.hint
    return failed.value


class Secure:
    """An etcd that wants client certificates, and every certificate that fits it or does not."""

    def __init__(self, folder: Path) -> None:
        self.ca = Authority(folder, "ca")
        self.other = Authority(folder, "other-ca")
        self.server = self.ca.issue("server")
        self.client = self.ca.issue("client")
        self.stranger = self.other.issue("stranger")
        self.expired = self.ca.issue("expired", days=-1)
        self.elsewhere = self.ca.issue("elsewhere", host="192.0.2.1")

    def tls(self, pair: tuple[Path, Path] | None = None, ca: Authority | None = None) -> Tls:
        certificate, key = map(str, pair) if pair else ("", "")
        return Tls(str((ca or self.ca).certificate), certificate, key)

    def flags(self, pair: tuple[Path, Path], *, clients: bool) -> list[str]:
        shown = [f"--cert-file={pair[0]}", f"--key-file={pair[1]}"]
        if clients:
            shown += ["--client-cert-auth", f"--trusted-ca-file={self.ca.certificate}"]
        return shown


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Secure:
    return Secure(tmp_path_factory.mktemp("pki"))


@contextmanager
def serving(secure: Secure, folder: Path, pair: tuple[Path, Path], *, clients: bool) -> Iterator[str]:
    server = Server(folder, secure.flags(pair, clients=clients), "https")
    try:
        yield server.start().url
    finally:
        server.stop()


@pytest.fixture(scope="module")
def mutual(secure: Secure, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(secure, tmp_path_factory.mktemp("mutual"), secure.server, clients=True) as url:
        yield url


def test_tls_with_a_client_certificate_reads(secure: Secure, mutual: str) -> None:
    with Etcd([mutual], secure.tls(secure.client)) as client:
        assert scan(client).objects == 0


def test_a_ca_that_did_not_sign_etcd_is_named(secure: Secure, mutual: str) -> None:
    failed = failure(mutual, secure.tls(secure.client, secure.other))
    assert isinstance(failed, Denied)
    assert "does not verify" in failed.message
    assert "--cacert" in failed.hint


def test_without_a_client_certificate_the_hint_names_the_flags(secure: Secure, mutual: str) -> None:
    failed = failure(mutual, secure.tls())
    assert isinstance(failed, Denied)
    assert "wants a client certificate" in failed.message
    assert "--cert and --key" in failed.hint


@pytest.mark.parametrize("which", ["stranger", "expired"])
def test_a_client_certificate_that_etcd_refuses_is_named(secure: Secure, mutual: str, which: str) -> None:
    pair = getattr(secure, which)
    failed = failure(mutual, secure.tls(pair))
    assert isinstance(failed, Denied)
    assert f"refuses the certificate in {pair[0]}" in failed.message


def test_a_server_certificate_that_has_ended_is_said_to(secure: Secure, tmp_path: Path) -> None:
    with serving(secure, tmp_path, secure.expired, clients=False) as url:
        failed = failure(url, secure.tls())
    assert isinstance(failed, Denied)
    assert "expired" in failed.message
    assert "renew" in failed.hint


def test_a_server_certificate_for_another_host_is_said_to_be(secure: Secure, tmp_path: Path) -> None:
    with serving(secure, tmp_path, secure.elsewhere, clients=False) as url:
        failed = failure(url, secure.tls())
    assert isinstance(failed, Denied)
    assert "mismatch" in failed.message
    assert "subjectAltName" in failed.hint


def test_http_to_an_etcd_with_tls_and_the_other_way_round_are_told_apart(
    secure: Secure, mutual: str, etcd: Server
) -> None:
    plain = failure(mutual.replace("https://", "http://"))
    assert isinstance(plain, Unreachable)
    assert "https://" in plain.hint
    tls = failure(etcd.url.replace("http://", "https://"), secure.tls())
    assert isinstance(tls, Unreachable)
    # It answers in its own way and closes, which may reach us as an answer or as an end.
    assert re.search("does not speak TLS|connection reset", tls.message)


def test_a_certificate_and_a_key_that_do_not_belong_together_are_refused(secure: Secure) -> None:
    failed = failure("https://127.0.0.1:1", Tls("", str(secure.client[0]), str(secure.server[1])))
    assert isinstance(failed, InvalidRequest)
    assert "is not that of the certificate" in failed.message


def test_an_encrypted_key_is_refused_and_not_asked_for(secure: Secure, tmp_path: Path) -> None:
    locked = tmp_path / "locked.key"
    command = ["openssl", "pkey", "-in", str(secure.client[1]), "-aes256", "-passout", "pass:x", "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True)
    failed = failure("https://127.0.0.1:1", Tls("", str(secure.client[0]), str(locked)))
    assert isinstance(failed, InvalidRequest)
    assert "encrypted with a password" in failed.message


@pytest.mark.parametrize("which", ["cacert", "cert", "key"])
@pytest.mark.parametrize("content", [None, b"", b"nonsense", b"x" * (2 << 20), "directory"])
def test_files_that_are_no_pem_are_named(
    secure: Secure, tmp_path: Path, which: str, content: bytes | str | None
) -> None:
    bad = tmp_path / "bad.pem"
    if content == "directory":
        bad.mkdir()
    elif isinstance(content, bytes):
        bad.write_bytes(content)
    files = {
        "cacert": str(secure.ca.certificate),
        "cert": str(secure.client[0]),
        "key": str(secure.client[1]),
        which: str(bad),
    }
    failed = failure("https://127.0.0.1:1", Tls(**files))
    assert isinstance(failed, InvalidRequest)
    assert str(bad) in failed.message


@pytest.mark.parametrize(("given", "missing"), [("cert", "--key"), ("key", "--cert")])
def test_half_a_pair_is_refused(secure: Secure, given: str, missing: str) -> None:
    failed = failure("https://127.0.0.1:1", Tls(**{given: str(secure.client[0])}))
    assert isinstance(failed, InvalidRequest)
    assert failed.message.endswith(f"without {missing}")


def test_tls_files_are_not_ignored_by_an_endpoint_without_tls(secure: Secure) -> None:
    failed = failure("http://127.0.0.1:2379", secure.tls())
    assert isinstance(failed, InvalidRequest)
    assert "without TLS" in failed.message


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Server]:
    """An etcd with users: root, and reader, who may read /registry only."""
    server = Server(tmp_path)
    try:
        server.start().put({"/registry/secrets/a/b": v2(NEW_ID)})
        for command in (
            "user add root:root-secret",
            "user add reader:reader-secret",
            "role add registry",
            "role grant-permission registry --prefix=true read /registry/",
            "user grant-role reader registry",
            "user grant-role root root",
            "auth enable",
        ):
            server.ctl(*command.split())
        yield server
    finally:
        server.stop()


def test_a_user_who_may_read_reads_and_nobody_else(guarded: Server) -> None:
    with Etcd([guarded.url], user=User("reader", "reader-secret")) as client:
        assert scan(client).objects == 1
    for user in (None, User("reader", "wrong"), User("nobody", "x")):
        failed = failure(guarded.url, user=user)
        assert isinstance(failed, Denied), failed.message
        assert "--password-file" in failed.hint
        assert "wrong" not in failed.message
    with Etcd([guarded.url], user=User("reader", "reader-secret")) as client, pytest.raises(Denied) as failed_read:
        scan(client, "/elsewhere")
    assert "permission denied" in failed_read.value.message


def test_a_token_that_etcd_has_forgotten_is_renewed(guarded: Server) -> None:
    with Etcd([guarded.url], user=User("reader", "reader-secret")) as client:
        scan(client)
        client._members[0].token = "forgotten.1"
        assert scan(client).objects == 1


def test_a_user_for_an_etcd_without_users_is_refused(etcd: Server) -> None:
    failed = failure(etcd.url, user=User("root", "x"))
    assert isinstance(failed, InvalidRequest)
    assert failed.hint == "leave out --user"


def test_a_unix_socket_is_spoken_to(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    server = Server(tmp_path, [f"--listen-client-urls={url},unix://etcd.sock:0"])  # relative, in etcd's own manner
    server.url = url
    try:
        server.start()
        with Etcd([f"unix://{tmp_path}/etcd.sock:0"]) as client:
            assert scan(client).objects == 0
    finally:
        server.stop()


@contextmanager
def listening(answer: bytes | None) -> Iterator[str]:
    """Something on a port that is no etcd: answers these bytes to whatever comes, or with None says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                held.append(connection)
                if answer is not None:
                    connection.recv(10)
                    connection.sendall(answer)
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in held:
                connection.close()


def test_what_answers_and_is_no_etcd_is_said_not_to_be() -> None:
    with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
        failed = failure(url)
    assert isinstance(failed, Unreachable)
    assert "speaks no gRPC" in failed.message


def test_what_accepts_and_says_nothing_is_not_waited_for_for_ever() -> None:
    with listening(None) as url:
        failed = failure(url, timeout=0.5)
    assert isinstance(failed, Unreachable)
    assert failed.retryable


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("127.0.0.1:1", "connection refused"),
        ("http://no-such-host.invalid:2379", "does not resolve"),
        ("unix:///nonexistent/etcd.sock", "no such file"),
    ],
)
def test_what_cannot_be_reached_is_told_as_the_kernel_tells_it(endpoint: str, words: str) -> None:
    failed = failure(endpoint)
    assert isinstance(failed, Unreachable)
    assert endpoint in failed.message
    assert words in failed.message


def test_when_no_endpoint_answers_each_is_told() -> None:
    failed = failure("127.0.0.1:1,unix:///nonexistent/etcd.sock")
    assert isinstance(failed, Unreachable)
    assert "127.0.0.1:1" in failed.message
    assert "unix:///nonexistent/etcd.sock" in failed.message


def test_endpoints_are_read_as_etcdctl_reads_them() -> None:
    plain = parse_endpoints(["127.0.0.1:2379, http://[::1]:1,unix:///run/x", "h"], Tls())
    assert plain == (
        Endpoint("127.0.0.1:2379", False, "127.0.0.1", 2379),
        Endpoint("http://[::1]:1", False, "::1", 1),
        Endpoint("unix:///run/x", False, path="/run/x"),
        Endpoint("h", False, "h", 2379),
    )
    assert parse_endpoints(["h:1/"], Tls(cacert="x")) == (Endpoint("h:1/", True, "h", 1),)
    assert parse_endpoints(["https://h/"], Tls()) == (Endpoint("https://h/", True, "h", 2379),)


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        ",",
        "ftp://h:1",
        "unix://relative",
        "h:0",
        "h:65536",
        "h:x",
        "http://h:1/path",
        "http://",
        "h h:1",
        "u@h:1",
        pytest.param(",".join(f"h{number}" for number in range(33)), id="too many"),
    ],
)
def test_what_is_no_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(InvalidRequest) as failed:
        parse_endpoints([endpoint], Tls())
    assert "https://host:2379" in failed.value.hint
