"""What kmsctl says where TLS lets nobody in: one true sentence for each reason, with what to do, within --timeout."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ctl.terminal import PROGRAMS
from tests.remote.certificates import HOUR, Authority, Issued
from tests.remote.conftest import Manager, free_port
from tests.remote.test_targets import OPERATOR, Caller, kmsctl

Talk = Callable[[socket.socket], object]


@contextlib.contextmanager
def listening(talk: Talk) -> Iterator[str]:
    """Talks to everybody who connects; yields the target."""

    def serve(one: socket.socket) -> None:
        with one, contextlib.suppress(OSError):
            one.settimeout(10)
            talk(one)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        accepting = threading.Thread(target=accept)
        accepting.start()
        yield f"tls://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        accepting.join()


def speaking_tls(shown: Issued, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> Talk:
    """Shakes hands with anybody, and says nothing more."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = version
    context.load_cert_chain(shown.certificate, shown.key)
    context.set_alpn_protocols(["h2"])

    def talk(one: socket.socket) -> None:
        with context.wrap_socket(one, server_side=True) as secure:
            while secure.recv(4096):
                pass

    return talk


def silent(one: socket.socket) -> None:
    while one.recv(4096):
        pass


@pytest.fixture
def shown(ca: Authority) -> Issued:
    return ca.issue("operator", OPERATOR)


def refused(caller: Caller, *words: str) -> tuple[int, str]:
    """The exit code, and what stands on stderr."""
    began = time.monotonic()
    done = caller(*words, "--timeout=3s")
    assert time.monotonic() - began < 5  # what starts and ends the process comes on top
    assert done.stdout == ""
    assert "hint: " in done.stderr
    return done.returncode, done.stderr


def test_who_shows_a_certificate_that_is_not_taken_is_told_why(
    manager: Manager, ca: Authority, shown: Issued, tmp_path: Path
) -> None:
    target, other = f"tls://127.0.0.1:{manager.port}", Authority(tmp_path / "other", "Another CA")
    for issued, words in (
        (ca.issue("ended", OPERATOR, begins=-2 * HOUR, ends=-HOUR), "it has ended on 20"),
        (ca.issue("to-come", OPERATOR, begins=HOUR), "it begins on 20"),
        (ca.issue("for-servers", OPERATOR, server=True), "it is not for clients (extendedKeyUsage)"),
        (other.issue("stranger", OPERATOR), f"it is from none of the CAs in {ca.file}"),
    ):
        code, said = refused(Caller(target, ca.file, issued), "status")
        assert code == 4
        assert f"{target} refuses the certificate in {issued.certificate}: {words}" in said
        assert "from a CA in the key manager's server.tls_ca" in said
    # A caller who trusts the other CA as well cannot see more than that the connection ends.
    both = tmp_path / "both.crt"
    both.write_bytes(ca.file.read_bytes() + other.file.read_bytes())
    code, said = refused(Caller(target, both, other.issue("stranger", OPERATOR)), "status")
    assert code == 3
    assert "it ends the connection after the handshake: it stops, or does not take the certificate in" in said
    assert Caller(target, ca.file, shown)("health").stdout == "ok\n"


def test_a_key_manager_that_is_another_is_not_asked_for_anything(
    manager: Manager, ca: Authority, shown: Issued, tmp_path: Path
) -> None:
    target, other = f"tls://localhost:{manager.port}", Authority(tmp_path / "other", "Another CA")
    code, said = refused(Caller(target, other.file, shown), "rotate", "--yes")
    assert code == 4
    assert f"the certificate of {target} is from none of the CAs in {other.file}" in said
    code, said = refused(Caller(target, ca.file, shown, name=""), "status")
    assert code == 4
    assert f"the certificate of {target} is not for 'localhost': it is for manager.test, 127.0.0.1" in said
    assert "--tls-server-name" in said


@pytest.mark.parametrize(
    ("dates", "words"),
    [({"begins": -2 * HOUR, "ends": -HOUR}, "has ended"), ({"begins": HOUR}, "has not begun yet")],
    ids=["ended", "to come"],
)
def test_a_key_manager_whose_certificate_is_out_of_force_is_told(
    ca: Authority, shown: Issued, dates: dict[str, object], words: str
) -> None:
    theirs = ca.issue("theirs", "IP:127.0.0.1", server=True, **dates)  # type: ignore[arg-type]
    with listening(speaking_tls(theirs)) as target:
        code, said = refused(Caller(target, ca.file, shown, name=""), "status")
    assert code == 4
    assert f"the certificate of {target} {words}" in said
    assert "look at both clocks" in said


@pytest.mark.parametrize("command", ["status", "stats --watch"])
def test_what_is_no_key_manager_is_unreachable_and_told_from_the_others(
    ca: Authority, shown: Issued, command: str
) -> None:
    theirs = ca.issue("theirs", "IP:127.0.0.1", server=True)
    for talk, words in (
        (speaking_tls(theirs, ssl.TLSVersion.TLSv1_2), "it does not speak TLS 1.3"),
        (lambda one: one.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n"), "it does not speak TLS"),
        (lambda one: one.close(), "it ends the connection in the handshake"),
        (silent, "it takes the connection and says nothing"),
        (speaking_tls(theirs), "it takes the connection and says nothing"),
    ):
        with listening(talk) as target:
            code, said = refused(Caller(target, ca.file, shown, name=""), *command.split())
        assert code == 3
        assert f"cannot reach {target}: {words}\n" in said
        assert "retry: the same command may succeed later" in said
    for target, words in (
        (f"tls://127.0.0.1:{free_port()}", "nothing listens there"),
        ("tls://nobody.invalid:31400", "the name nobody.invalid does not resolve"),
    ):
        code, said = refused(Caller(target, ca.file, shown), *command.split())
        assert code == 3
        assert f"cannot reach {target}: {words}" in said


def test_a_port_that_takes_no_connection_costs_the_timeout_and_no_more(ca: Authority, shown: Issued) -> None:
    # Connections that nobody accepts: the kernel lets what comes after them wait.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, contextlib.ExitStack() as held:
        for _ in range(8):
            one = held.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(server.getsockname())
        code, said = refused(Caller(f"tls://127.0.0.1:{server.getsockname()[1]}", ca.file, shown), "status")
    assert code == 3
    assert ": nobody takes the connection\n" in said


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("tls://keys.test", "its port must be given, for there is no usual one (server.port of the key manager)"),
        ("tls://[::1]", "its port must be given"),
        ("tls://keys.test:0", "its port must be 1 to 65535, got 0"),
        ("tls://keys.test:65536", "its port must be 1 to 65535, got 65536"),
        ("tls://me@keys.test:1", "it must be a name or an IP address, and a port"),
        ("tls://keys.test:1/path", "it must be a name or an IP address, and a port"),
        ("tls://[::g]:1", "it must be a name or an IP address, and a port"),
        ("tls:keys.test:1", "it must be a name or an IP address, and a port"),
        ("https://keys.test:1", "it must be a Unix socket, named by its absolute path"),
    ],
)
def test_a_target_that_cannot_be_one_is_wrong_usage(target: str, words: str) -> None:
    done = kmsctl("status", f"--target={target}")
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "tls://" in done.stderr.partition("hint: ")[2]


def test_files_that_are_missing_or_wrong_are_told_before_anything_is_dialled(
    ca: Authority, shown: Issued, tmp_path: Path
) -> None:
    target = f"tls://127.0.0.1:{free_port()}"
    caller = Caller(target, ca.file, shown)
    empty = tmp_path / "empty"
    empty.touch(0o600)
    other = ca.issue("another", OPERATOR)
    for option, code, words in (
        ("--tls-key=", 2, "--tls-key (KMSCTL_TLS_KEY) is missing"),
        (f"--tls-ca={empty}", 2, f"--tls-ca {empty} holds no certificates as PEM"),
        (f"--tls-ca={tmp_path}", 2, f"--tls-ca {tmp_path} cannot be read: is a directory"),
        (f"--tls-certificate={empty}", 2, f"--tls-certificate {empty} holds no certificate as PEM"),
        (f"--tls-key={empty}", 2, f"--tls-key {empty} cannot be used with {shown.certificate}"),
        (f"--tls-key={other.key}", 2, f"--tls-key {other.key} is not the key of the certificate"),
        (f"--tls-key={tmp_path}/none", 2, f"--tls-key {tmp_path}/none cannot be read: no such file or directory"),
        ("--tls-server-name=a b", 2, "--tls-server-name must be a name in a certificate, got 'a b'"),
    ):
        done = kmsctl("status", *caller.options, option)
        assert done.returncode == code, done.stderr
        assert words in done.stderr
    done = kmsctl("status", f"--target={target}", f"--tls-ca={ca.file}")
    assert done.returncode == 2
    assert "--tls-certificate (KMSCTL_TLS_CERTIFICATE), --tls-key (KMSCTL_TLS_KEY) are missing" in done.stderr
    shown.key.chmod(0o644)
    done = caller("status")
    assert done.returncode == 2
    assert (
        f"--tls-key {shown.key} may be read by every user of this machine\nhint: chmod 600 {shown.key}" in done.stderr
    )


def test_files_for_a_unix_socket_are_wrong_usage(ca: Authority, tmp_path: Path) -> None:
    for line in (
        "status --target=/nowhere.sock",
        "--target=/nowhere.sock keys list",
        "targets /nowhere.sock",
        "encrypt",
    ):
        done = kmsctl(*line.split(), f"--tls-ca={ca.file}")
        assert (done.returncode, done.stdout) == (2, "")
        assert "--tls-ca is for a target that is reached by TLS" in done.stderr
    shown = subprocess.run(
        [PROGRAMS / "kmstui", "--target=/nowhere.sock", f"--tls-ca={ca.file}"],
        env={"KMSCTL_CONFIG": "/dev/null", "PATH": "/usr/bin"}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert shown.returncode == 2
    assert "--tls-ca is for a target that is reached by TLS, and there is none" in shown.stderr
