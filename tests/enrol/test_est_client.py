"""`kmsctl enrol` against our own server, and against servers that know nothing of it."""

from __future__ import annotations

import hashlib
import http.server
import json
import ssl
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from kmsd.est import csrattrs, wire
from kmsd.store.store import Store
from tests import forkserver
from tests.ca import software
from tests.daemons import KMSCTL
from tests.enrol.site import Served, Site, server_certificate, write_key

pytestmark = pytest.mark.processes


@dataclass
class Node:
    """A machine that enrols: its folder, and how it knows the server."""

    folder: Path
    url: str
    pin: str
    name: str = "node-1"

    def enrol(self, *flags: str, token: str | None = None, pinned: bool = True) -> subprocess.CompletedProcess[str]:
        command = [KMSCTL, "enrol", "--server", self.url, "--out", str(self.folder), "--node", self.name, *flags]
        if pinned:
            command += ["--ca-fingerprint", self.pin]
        if token is not None:
            command += ["--token-file", "-"]
        return forkserver.run(command, input=token or "", capture_output=True, text=True, timeout=60, check=False)

    def read(self, name: str = "tls.crt") -> x509.Certificate:
        return x509.load_pem_x509_certificate((self.folder / name).read_bytes())

    @property
    def fits(self) -> bool:
        key = load_pem_private_key((self.folder / "tls.key").read_bytes(), None)
        return self.read().public_key() == key.public_key()


def pin_of(certificate: x509.Certificate) -> str:
    return "sha256:" + hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


@pytest.fixture
def make_store(tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Stores on SQLite alone: what a client sees does not depend on the database."""
    tmp_path.chmod(0o700)
    made: list[Store] = []

    def make() -> Store:
        made.append(Store("", tmp_path))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def served(site: Site) -> Served:
    return site.serve()


@pytest.fixture
def node(site: Site, served: Served, tmp_path: Path) -> Node:
    return Node(tmp_path / "tls", f"https://127.0.0.1:{served.port}", pin_of(site.root))


def test_a_node_gets_its_files_with_a_token_and_the_fingerprint_of_the_ca(
    site: Site, served: Served, node: Node, tmp_path: Path
) -> None:
    token = site.token(served)
    done = node.enrol(token=token + "\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(node.folder / each) for each in ("tls.key", "tls.crt", "ca.crt")]
    assert "was issued" in done.stderr
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in node.folder.iterdir()}
    assert modes == {"tls.key": 0o600, "tls.crt": 0o644, "ca.crt": 0o644}
    assert stat.S_IMODE(node.folder.stat().st_mode) == 0o700
    assert node.fits
    assert node.read("ca.crt") == site.root
    assert software.openssl_verify(tmp_path, node.read(), [site.root])[0]
    assert token not in done.stdout + done.stderr


def test_a_boot_script_may_run_it_any_number_of_times(site: Site, served: Served, node: Node) -> None:
    assert node.enrol("--if-needed", token=site.token(served)).returncode == 0
    first = node.read()
    for _ in range(2):
        # Neither a token nor a fingerprint is needed any more, and no server.
        done = Node(node.folder, "https://127.0.0.1:1", "").enrol("--if-needed", "-o", "json", pinned=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["what"] == "kept"
    assert node.read() == first


def test_a_certificate_is_renewed_by_itself_when_two_thirds_of_its_time_are_over(
    site: Site, served: Served, node: Node
) -> None:
    site.shorten(served, timedelta(seconds=100), backdate=timedelta(seconds=290))
    assert node.enrol(token=site.token(served)).returncode == 0
    before, key = node.read(), (node.folder / "tls.key").read_bytes()
    done = node.enrol("--if-needed", "-o", "json", pinned=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["what"] == "renewed"
    assert node.read().serial_number != before.serial_number
    assert node.read().subject == before.subject
    assert (node.folder / "tls.key").read_bytes() != key
    assert node.fits
    assert site.records.said[-1][:2] == ("Renew", "OK")


def test_a_certificate_that_has_ended_needs_a_token_again(site: Site, served: Served, node: Node) -> None:
    site.shorten(served, timedelta(seconds=62), backdate=timedelta(seconds=0))
    assert node.enrol(token=site.token(served)).returncode == 0
    expired = site.expired(node.folder / "tls.key")
    (node.folder / "tls.crt").write_bytes(expired.public_bytes(Encoding.PEM))
    done = node.enrol("--if-needed", pinned=False)
    assert (done.returncode, "an enrolment token is needed" in done.stderr) == (4, True)
    assert node.read() == expired
    assert node.enrol("--if-needed", token=site.token(served), pinned=False).returncode == 0
    assert node.read() != expired


@pytest.mark.parametrize(
    ("flags", "token", "code", "words"),
    [
        (["--ca-fingerprint", "sha256:" + "0" * 64], "t", 4, "no CA of 127.0.0.1"),
        (["--ca-fingerprint", "sha256:12"], "t", 2, "64 hexadecimal digits"),
        ([], "t", 2, "nothing says who the server is"),
        (["--ca", "OTHER"], "t", 4, "the certificate of 127.0.0.1"),
        (["--ca-fingerprint", "PIN"], "kmsd-enrol-0123456789abcdef-" + "0" * 64, 4, "the enrolment token is not known"),
        (["--ca-fingerprint", "PIN"], "two words", 2, "there is no enrolment token in -"),
        (["--ca-fingerprint", "PIN"], None, 4, "an enrolment token is needed"),
        (["--ca-fingerprint", "PIN", "--server", "http://x"], "t", 2, "the server must be https://"),
        (["--ca-fingerprint", "PIN", "--server", "https://127.0.0.1:1"], "t", 3, "does not answer"),
        (["--ca-fingerprint", "PIN", "--server", "https://u:pw@127.0.0.1:1"], "t", 2, "the server must be https://"),
    ],
)
def test_what_cannot_be_is_refused_in_words_and_leaves_no_certificate(
    site: Site, node: Node, tmp_path: Path, flags: list[str], token: str | None, code: int, words: str
) -> None:
    other = tmp_path / "other.crt"
    other.write_bytes(software.root(software.ec_key(), "CN=Other").public_bytes(Encoding.PEM))
    given = [each.replace("PIN", node.pin).replace("OTHER", str(other)) for each in flags]
    done = node.enrol(*given, token=token, pinned=False)
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    assert not (node.folder / "tls.crt").exists()


def test_it_waits_for_an_operator_and_says_if_it_is_worth_trying_again(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmsd.est.enrolment.Waiting.seconds", 1)
    monkeypatch.setattr("kmsd.est.enrolment.Waiting.__init__.__defaults__", (1,))
    served = site.serve("manual")
    node = Node(tmp_path / "tls", f"https://127.0.0.1:{served.port}/cluster-a", pin_of(site.root))
    done = node.enrol("--timeout", "1.5s")
    assert done.returncode == 3
    assert "an operator decides on it" in done.stderr
    assert "retry:" in done.stderr
    (waiting,) = served.enrolment.requests()
    approve = threading.Timer(1.0, lambda: served.enrolment.decide(waiting.id, True, "", "", "uid 0", ""))
    approve.start()
    done = node.enrol("--timeout", "20s")
    approve.join()
    assert done.returncode == 0, done.stderr
    # The key is the one that the operator has seen.
    key = load_pem_private_key((node.folder / "tls.key").read_bytes(), None).public_key()
    spki = subprocess.run(
        ["openssl", "pkey", "-in", str(node.folder / "tls.key"), "-pubout", "-outform", "DER"],
        check=True, capture_output=True, timeout=30,
    ).stdout  # fmt: skip
    assert hashlib.sha256(spki).hexdigest() == waiting.public_key_sha256
    assert node.read().public_key() == key


def test_what_a_crash_has_cut_off_is_finished_the_next_time(site: Site, served: Served, node: Node) -> None:
    assert node.enrol(token=site.token(served)).returncode == 0
    key, certificate = node.folder / "tls.key", node.folder / "tls.crt"
    old_key, old = key.read_bytes(), certificate.read_bytes()
    assert node.enrol(token=site.token(served)).returncode == 0
    new_key, new = key.read_bytes(), certificate.read_bytes()
    # Between the key and the certificate.
    certificate.write_bytes(old)
    (node.folder / ".tls.crt.new").write_bytes(new)
    assert node.enrol("--if-needed", pinned=False).returncode == 0
    assert (key.read_bytes(), certificate.read_bytes()) == (new_key, new)
    # Before both.
    key.write_bytes(old_key)
    certificate.write_bytes(old)
    (node.folder / ".tls.crt.new").write_bytes(new)
    (node.folder / ".tls.key.new").write_bytes(new_key)
    assert node.enrol("--if-needed", pinned=False).returncode == 0
    assert (key.read_bytes(), certificate.read_bytes()) == (new_key, new)
    assert sorted(each.name for each in node.folder.iterdir()) == ["ca.crt", "tls.crt", "tls.key"]


def test_a_folder_that_cannot_be_written_is_told(site: Site, served: Served, node: Node) -> None:
    node.folder.write_text("a file")
    done = node.enrol(token=site.token(served))
    assert (done.returncode, "cannot be made" in done.stderr) == (6, True)


class Foreign(http.server.BaseHTTPRequestHandler):
    """A small EST server that shares nothing with ours: openssl does what it can."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(self.path, b"")

    def do_POST(self) -> None:
        self.answer(self.path, self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, path: str, body: bytes) -> None:
        server = self.server
        assert isinstance(server, ForeignServer)
        status, content, headers = server.script(path.rpartition("/")[2], body, dict(self.headers))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class has it so
        pass


@dataclass
class ForeignServer(http.server.ThreadingHTTPServer):
    folder: Path
    key_type: str = "rsa-3072"
    csrattrs_status: int = 200
    answers: dict[str, tuple[int, bytes, dict[str, str]]] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)

    def script(self, operation: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        self.seen.append(operation)
        if operation in self.answers:
            return self.answers[operation]
        match operation:
            case "csrattrs":
                return self.csrattrs_status, wire.encode(csrattrs.wanted(self.key_type)), {}
            case "cacerts":
                return 200, self.pkcs7(self.folder / "ca.crt"), {"Content-Type": "application/pkcs7-mime"}
            case _:
                (self.folder / "csr.b64").write_bytes(body)
                self.openssl("base64", "-d", "-in", "csr.b64", "-out", "csr.der")
                signing = "x509 -req -inform DER -in csr.der -CA ca.crt -CAkey ca.key -CAcreateserial -days 30"
                self.openssl(*signing.split(), "-copy_extensions", "copy", "-out", "leaf.crt")
                return 200, self.pkcs7(self.folder / "leaf.crt"), {"Content-Transfer-Encoding": "base64"}

    def pkcs7(self, certificate: Path) -> bytes:
        self.openssl("crl2pkcs7", "-nocrl", "-certfile", str(certificate), "-outform", "DER", "-out", "out.p7")
        # In one line, as some servers do.
        return self.openssl("base64", "-A", "-in", "out.p7")

    def openssl(self, *arguments: str) -> bytes:
        return subprocess.run(
            ["openssl", *arguments], cwd=self.folder, check=True, capture_output=True, timeout=30
        ).stdout


MakeForeign = Callable[..., ForeignServer]


@pytest.fixture
def make_foreign(tmp_path: Path) -> Iterator[MakeForeign]:
    folder, started = tmp_path / "foreign", list[ForeignServer]()
    folder.mkdir()
    key = software.ec_key()
    root = software.root(key)
    (folder / "ca.crt").write_bytes(root.public_bytes(Encoding.PEM))
    write_key(folder / "ca.key", key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*server_certificate(folder, root, key))
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(folder / "ca.crt")

    def make(**fields: object) -> ForeignServer:
        made = ForeignServer(folder, **fields)  # type: ignore[arg-type]
        http.server.ThreadingHTTPServer.__init__(made, ("127.0.0.1", 0), Foreign)
        made.socket = context.wrap_socket(made.socket, server_side=True)
        threading.Thread(target=made.serve_forever, daemon=True).start()
        started.append(made)
        return made

    yield make
    for each in started:
        each.shutdown()
        each.server_close()


def at(foreign: ForeignServer, folder: Path) -> Node:
    root = x509.load_pem_x509_certificate((foreign.folder / "ca.crt").read_bytes())
    return Node(folder, f"https://127.0.0.1:{foreign.server_address[1]}", pin_of(root))


def test_a_foreign_server_enrols_and_renews_with_the_key_that_it_asks_for(
    make_foreign: MakeForeign, tmp_path: Path
) -> None:
    foreign = make_foreign()
    node = at(foreign, tmp_path / "tls")
    assert node.enrol(token="whatever-it-takes").returncode == 0
    key = node.read().public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size == 3072
    assert (foreign.seen[-1], node.fits) == ("simpleenroll", True)


@pytest.mark.parametrize("status", [204, 404])
def test_a_server_that_wants_nothing_special_gets_an_ec_key(
    make_foreign: MakeForeign, tmp_path: Path, status: int
) -> None:
    node = at(make_foreign(csrattrs_status=status), tmp_path / "tls")
    assert node.enrol(token="t").returncode == 0
    assert isinstance(node.read().public_key(), ec.EllipticCurvePublicKey)


def broken(name: str) -> tuple[str, tuple[int, bytes, dict[str, str]], int, str]:
    leaf = software.root(software.ec_key())
    return {
        "html": ("simpleenroll", (200, b"<html>hello</html>", {}), 3, "is not understood: the body is not base64"),
        "empty": ("simpleenroll", (200, b"", {}), 3, "the body is empty"),
        "anothers": ("simpleenroll", (200, wire.certs_only([leaf]), {}), 3, "sent a certificate for another key"),
        "huge": ("cacerts", (200, b"A" * 600_000, {}), 3, "more than 524288 bytes"),
        "busy": ("simpleenroll", (503, b"later\n", {"Retry-After": "99"}), 3, "says 503: later"),
        "failing": ("simpleenroll", (500, b"\x1b[31mred", {}), 3, "says 500"),
        "moved": ("simpleenroll", (302, b"", {"Location": "https://evil.test/"}), 2, "says 302"),
        "no est": ("cacerts", (404, b"", {}), 2, "EST is expected below"),
        "bad wishes": ("csrattrs", (200, b"AgEA", {}), 3, "these are no csrattrs"),
    }[name]


@pytest.mark.parametrize(
    "name", ["html", "empty", "anothers", "huge", "busy", "failing", "moved", "no est", "bad wishes"]
)
def test_a_server_that_answers_nonsense_is_told_in_words_and_nothing_is_replaced(
    make_foreign: MakeForeign, tmp_path: Path, name: str
) -> None:
    operation, answer, code, words = broken(name)
    node = at(make_foreign(answers={operation: answer}), tmp_path / "tls")
    done = node.enrol("--timeout", "5s", token="t")
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    assert "\x1b" not in done.stderr
    assert not (node.folder / "tls.crt").exists()


def test_a_server_that_is_silent_is_given_up(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        done = Node(tmp_path / "tls", url, "sha256:" + "0" * 64).enrol("--timeout", "2s", token="t")
    assert (done.returncode, time.monotonic() - began < 15) == (3, True), done.stderr
    assert list((tmp_path / "tls").iterdir()) == []
