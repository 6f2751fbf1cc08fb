"""Real etcd servers, with TLS or without, alone or three together, and the writing that tests need."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.e2e.program import NotUpError, Program, free_port
from tests.raw import unary

READY = "ready to serve client requests"


class Server:
    """One etcd of its own. flags: more of its command line."""

    def __init__(self, home: Path, flags: Sequence[str] = (), scheme: str = "http") -> None:
        self._home = home
        self._flags = flags
        self._scheme = scheme
        self._program: Program | None = None
        self.url = ""
        self.name = "only"
        self.peers = ""

    def start(self) -> Server:
        for attempt in range(3):  # another process may take a port between the look and the bind
            peer = self.peers or f"http://127.0.0.1:{free_port()}"
            self.url = self.url or f"{self._scheme}://127.0.0.1:{free_port()}"
            command = [
                "env",
                f"--chdir={self._home}",
                "etcd",
                f"--name={self.name}",
                f"--data-dir={self._home / self.name}",
                f"--listen-client-urls={self.url}",
                f"--advertise-client-urls={self.url}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                *(() if self.peers else (f"--initial-cluster={self.name}={peer}",)),
                *self._flags,
            ]
            self._program = Program(command, self._home / f"{self.name}.log")
            if self.peers:
                return self
            try:
                self.wait()
            except NotUpError:
                if attempt == 2:
                    raise
                self.stop()
                self.url = ""
            else:
                break
        return self

    def wait(self) -> None:
        assert self._program
        program = self._program
        program.wait_for(lambda: READY in program.output(), seconds=30, what="etcd serves")

    def stop(self) -> None:
        if self._program:
            self._program.stop()
            self._program = None

    def ctl(self, *arguments: str) -> str:
        """etcdctl, without TLS."""
        done = subprocess.run(
            ["etcdctl", f"--endpoints={self.url}", *arguments],
            env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def put(self, values: Mapping[str, bytes]) -> None:
        self.put_many(values.items())

    def put_many(self, values: Iterable[tuple[str, bytes]]) -> None:
        """In transactions of 128, the most that etcd takes; without TLS."""
        with grpc.insecure_channel(self.url.removeprefix("http://")) as channel:
            transact = unary(channel, "/etcdserverpb.KV/Txn")
            operations: list[bytes] = []
            for key, value in values:
                put = _field(1, key.encode()) + _field(2, value)
                operations.append(_field(2, _field(2, put)))  # TxnRequest.success, RequestOp.request_put
                if len(operations) == 128 or len(value) > 100_000:
                    transact(b"".join(operations), timeout=20)
                    operations.clear()
            if operations:
                transact(b"".join(operations), timeout=20)

    def clear(self) -> None:
        with grpc.insecure_channel(self.url.removeprefix("http://")) as channel:
            unary(channel, "/etcdserverpb.KV/DeleteRange")(_field(1, b"\0") + _field(2, b"\0"), timeout=20)

    def compact(self, revision: int) -> None:
        with grpc.insecure_channel(self.url.removeprefix("http://")) as channel:
            unary(channel, "/etcdserverpb.KV/Compact")(b"\x08" + _varint(revision) + b"\x10\x01", timeout=20)


def start_three(home: Path) -> list[Server]:
    """A cluster of three members that has a leader."""
    peers = {name: f"http://127.0.0.1:{free_port()}" for name in ("a", "b", "c")}
    together = ",".join(f"{name}={url}" for name, url in peers.items())
    servers = []
    for name, url in peers.items():
        server = Server(home, [f"--initial-cluster={together}"])
        server.name, server.peers = name, url
        servers.append(server.start())
    for server in servers:
        server.wait()
    return servers


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


class Authority:
    """A CA with its files in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        made = _builder(name, name, self._key).add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        self.certificate.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    @property
    def certificate(self) -> Path:
        return self.folder / f"{self.name}.crt"

    def issue(self, name: str, *, days: int = 1, host: str = "127.0.0.1") -> tuple[Path, Path]:
        """Certificate and key of a server at `host` or of a client; days: until it ends, negative for one that has."""
        key = ec.generate_private_key(ec.SECP256R1())
        san = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address(host))])
        made = _builder(name, self.name, key, days).add_extension(san, False)
        certificate, private = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        certificate.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        private.chmod(0o600)
        return certificate, private


def _builder(name: str, issuer: str, key: ec.EllipticCurvePrivateKey, days: int = 1) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=3))
        .not_valid_after(now + timedelta(days=days))
    )
