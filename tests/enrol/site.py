"""An EST server with a CA whose key is in memory: a real store behind it, and TLS, on a port of this machine."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kmsd.ca.authority import Authority, Signer
from kmsd.ca.making import CaKey
from kmsd.errors import KmsdError
from kmsd.est.enrolment import Enrolment
from kmsd.est.listener import EstListener
from kmsd.est.server import EstServer
from kmsd.store.store import Store
from tests.ca import software

PEM = serialization.Encoding.PEM


@dataclass
class Records:
    """What was audited: (action, code, detail or reason)."""

    said: list[tuple[str, str, str]] = field(default_factory=list)

    async def begin(self, action: str, caller: str) -> None:
        pass

    async def ended(self, action: str, code: str, seconds: float, caller: str, detail: str, reason: str) -> None:
        self.said.append((action, code, f"{caller} {detail}"))

    def refused(self, action: str, code: str, caller: str, reason: str) -> None:
        self.said.append((action, code, f"{caller} {reason}"))


def write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(0o600)
    path.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


def server_certificate(folder: Path, ca: x509.Certificate, ca_key: CaKey, name: str = "server") -> tuple[Path, Path]:
    """Write certificate and key of a server on this machine, signed by a CA."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]), False
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.public_key()), False)  # type: ignore[arg-type]
        .sign(ca_key, hashes.SHA256())
    )
    certificate = folder / f"{name}.crt"
    certificate.write_bytes(made.public_bytes(PEM))
    write_key(folder / f"{name}.key", key)
    return certificate, folder / f"{name}.key"


class Loop:
    """An event loop on a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Site:
    """A CA and any number of servers for it. now: the clock of the CA."""

    def __init__(self, folder: Path, store: Callable[[], Store]) -> None:
        self.folder = folder
        self.key = software.ec_key()
        self.root = software.root(self.key)
        self.ca_file = folder / "ca.crt"
        self.ca_file.write_bytes(self.root.public_bytes(PEM))
        self.certificate, self.certificate_key = server_certificate(folder, self.root, self.key)
        self.records = Records()
        self.refused: list[str] = []
        self.away: KmsdError | None = None
        """Raised in place of having a CA."""
        self._store = store
        self._loop = Loop()
        self._servers: list[tuple[EstListener, EstServer]] = []

    def serve(self, approval: Literal["token", "manual"] = "token", connections: int = 256) -> Served:
        """Start one more server, with a store of its own."""
        store = self._store()
        ca = Authority([Signer(self.root, self.key)], software.PROFILE, store.ledger)

        def chain() -> tuple[x509.Certificate, ...]:
            return authority().chain

        def authority() -> Authority:
            if self.away is not None:
                raise self.away.again()
            return ca

        enrolment = Enrolment(lambda: store, authority, lambda: software.PROFILE, approval)

        async def begin() -> tuple[EstListener, EstServer]:
            server = EstServer(enrolment, self.records, chain, lambda: authority().crl(), "ec-p256")
            listener = EstListener(
                "127.0.0.1:0", self.certificate, self.certificate_key, server.application(),
                chain=lambda: ca.chain, connections=connections,
                refused=lambda address, why: self.refused.append(why), told=lambda _: None, taken=lambda _: None,
            )  # fmt: skip
            await listener.start()
            assert listener.is_open, listener.problem
            return listener, server

        made = self._loop.run(begin())
        self._servers.append(made)
        return Served(made[0].port, enrolment, store, ca)

    def token(self, served: Served, node: str = "node-1", tenant: str = "cluster-a", **fields: int) -> str:
        return served.enrolment.make_token(node, tenant, fields.get("ttl", 3600), fields.get("uses", 1), "uid 0")[0]

    def shorten(self, served: Served, lifetime: timedelta, backdate: timedelta) -> None:
        """Have the CA of a server issue certificates that last for so long, and began so long ago."""
        served.ca.profile = replace(software.PROFILE, lifetime=lifetime, backdate=backdate)

    def expired(self, key: Path | None = None, public: Any = None) -> x509.Certificate:
        """Issue a certificate that has ended, for the key of this file or this public key."""
        if key is not None:
            public = serialization.load_pem_private_key(key.read_bytes(), None).public_key()
        past = datetime.now(UTC) - timedelta(days=2)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node-1")]))
            .issuer_name(self.root.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(past)
            .not_valid_after(past + timedelta(days=1))
            .sign(self.key, hashes.SHA256())
        )

    def close(self) -> None:
        async def end() -> None:
            for listener, server in self._servers:
                await listener.stop()
                server.close()

        self._loop.run(end())
        self._loop.close()


@dataclass(frozen=True)
class Served:
    """A server that runs."""

    port: int
    enrolment: Enrolment
    store: Store
    ca: Authority

    def url(self, operation: str, label: str = "") -> str:
        return f"https://127.0.0.1:{self.port}/.well-known/est/{label + '/' if label else ''}{operation}"

    def context(self, site: Site, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(site.ca_file))
        if certificate is not None:
            context.load_cert_chain(certificate, key)
        return context
