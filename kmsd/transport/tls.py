"""The files of one side of TLS: certificate, key, CA of the other side, and what is revoked. Read anew on change.

TLS 1.3 alone (RFC 8446), and always with certificates on both sides. Knows no socket and no API.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from kmsd import tlsfiles
from kmsd.errors import KmsdError, Misconfigured
from kmsd.observe import logs
from kmsd.transport.key_exchange import TellingContext
from kmsd.unreadable import X509_UNREADABLE

log = logs.get_logger("kmsd.transport")

_LOOK: Final = 1.0
"""Seconds between two looks at whether the files have changed."""
_PROVE_AGAIN: Final = 10.0
"""Seconds between two looks at whether a key that is in no file fits at last."""
_RIGHT: Final = "give the right file; it is read again as soon as it changes"
_SERIAL: Final = re.compile(r"[0-9a-f]{1,40}")


@dataclass(frozen=True)
class TlsFiles:
    """The paths of the files of one side of TLS.

    ca: PEM with the CA certificates that the other side's certificate is checked against. certificate: PEM with this
    side's certificate and its chain. key: PEM with its key; None if that is in no file. revoked: serial numbers or
    CRLs; None for no file. named: each path with its flag on the command line, for sentences.
    """

    ca: Path
    certificate: Path
    key: Path | None
    revoked: Path | None = None

    @property
    def named(self) -> tuple[tuple[str, Path], ...]:
        each = (
            *(("--tls-ca", self.ca), ("--tls-certificate", self.certificate)),
            *(("--tls-key", self.key), ("--tls-revoked", self.revoked)),
        )
        return tuple((flag, path) for flag, path in each if path is not None)


@dataclass(frozen=True)
class OwnCertificate:
    """The certificate of this side.

    names: as of `peers.Peer`, and "IP:address". serial: in lower hexadecimal. not_before, not_after: Unix seconds.
    key_uri: where its key is, if on a token (RFC 7512); else empty.
    """

    subject: str
    names: tuple[str, ...]
    serial: str
    not_before: float
    not_after: float
    key_uri: str = ""


class Revocations:
    """The certificates that are not taken although they are valid.

    serials: serial numbers, of any issuer. by_issuer: pairs of issuer and serial number. Both as `in` takes them.
    """

    def __init__(self, serials: frozenset[str] = frozenset(), by_issuer: frozenset[tuple[bytes, str]] = frozenset()):
        self._serials = serials
        self._by_issuer = by_issuer

    def __contains__(self, certificate: tuple[bytes, str]) -> bool:
        """Return whether the certificate of (the issuer's name as DER, serial in lower hexadecimal) is revoked."""
        return certificate[1] in self._serials or certificate in self._by_issuer

    def __len__(self) -> int:
        return len(self._serials) + len(self._by_issuer)


@dataclass(frozen=True)
class Loaded:
    """The content of the files. pem: ca, certificate with its chain, and key (empty if it is in no file), for libraries
    that take these.

    own: this side's certificate. authorities: the certificates in ca.
    """

    context: ssl.SSLContext
    own: OwnCertificate
    revocations: Revocations
    pem: tuple[bytes, bytes, bytes]
    authorities: tuple[x509.Certificate, ...]


def load(files: TlsFiles, *, server: bool) -> Loaded:
    """Read the files. Raises Misconfigured with the flag of the file that is wrong, and why.

    server: as of `TlsMaterial`.
    """
    try:
        return _load(files, server=server)
    except tlsfiles.TlsFileError as error:
        raise Misconfigured(error.message, error.hint or _RIGHT) from error


def _load(files: TlsFiles, *, server: bool) -> Loaded:
    read = {flag: tlsfiles.read(flag, path, secret=flag == "--tls-key") for flag, path in files.named}
    try:
        authorities = tuple(x509.load_pem_x509_certificates(read["--tls-ca"]))
    except X509_UNREADABLE as error:
        raise _wrong("--tls-ca", files.ca, "holds no certificates as PEM") from error
    try:
        chain = x509.load_pem_x509_certificates(read["--tls-certificate"])
    except X509_UNREADABLE as error:
        raise _wrong("--tls-certificate", files.certificate, "holds no certificate as PEM") from error
    revocations = Revocations()
    if files.revoked is not None:
        revocations = _revocations(files.revoked, read["--tls-revoked"], authorities)
    pem = read["--tls-ca"], read["--tls-certificate"], read.get("--tls-key", b"")
    context = tlsfiles.make_context(
        (files.ca, pem[0]), (files.certificate, pem[1]), files.key, server=server, kind=TellingContext
    )
    return Loaded(context, _own(chain[0]), revocations, pem, authorities)


def _own(certificate: x509.Certificate) -> OwnCertificate:
    names: tuple[str, ...] = ()
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = (
            *(f"DNS:{name}" for name in extension.get_values_for_type(x509.DNSName)),
            *(f"IP:{name}" for name in extension.get_values_for_type(x509.IPAddress)),
            *(f"URI:{name}" for name in extension.get_values_for_type(x509.UniformResourceIdentifier)),
        )
    except (x509.ExtensionNotFound, *X509_UNREADABLE):
        pass
    return OwnCertificate(
        certificate.subject.rfc4514_string(),
        names,
        f"{certificate.serial_number:x}",
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
    )


def _revocations(path: Path, data: bytes, authorities: tuple[x509.Certificate, ...]) -> Revocations:
    """Read a file of CRLs (PEM), or of serial numbers in hexadecimal, one a line; `#` begins a remark."""
    if b"-----BEGIN" in data:
        return _from_crls(path, data, authorities)
    serials = set()
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        text = line.partition("#")[0].strip().lower().replace(":", "").removeprefix("0x")
        if not text:
            continue
        if not _SERIAL.fullmatch(text):
            raise _wrong("--tls-revoked", path, f"has no serial number in hexadecimal on line {number}")
        serials.add(text.lstrip("0") or "0")
    return Revocations(frozenset(serials))


def _from_crls(path: Path, data: bytes, authorities: tuple[x509.Certificate, ...]) -> Revocations:
    revoked = set()
    for block in re.findall(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", data, re.DOTALL):
        try:
            crl = x509.load_pem_x509_crl(block)
        except X509_UNREADABLE as error:
            raise _wrong("--tls-revoked", path, "holds a CRL that cannot be read") from error
        if not any(_signed(crl, authority) for authority in authorities):
            raise _wrong("--tls-revoked", path, f"holds a CRL of {crl.issuer.rfc4514_string()}, no CA of --tls-ca's")
        issuer = crl.issuer.public_bytes()
        revoked |= {(issuer, f"{each.serial_number:x}") for each in crl}
    if b"-----BEGIN X509 CRL-----" not in data:
        raise _wrong("--tls-revoked", path, "holds neither CRLs nor serial numbers")
    return Revocations(by_issuer=frozenset(revoked))


def _signed(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        return crl.issuer == authority.subject and crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except (InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError):
        return False


def _wrong(flag: str, path: Path, why: str) -> Misconfigured:
    return Misconfigured(f"{flag} {path} {why}", _RIGHT)


class TlsMaterial:
    """The files of one side of TLS, and what they held when they were right last. Belongs to one event loop.

    server: whether they are for the side that is connected to. changed: called with this side's certificate when other
    files than before are in force. prove: tries whether a key that is in no file is that of the certificate; raises
    KmsdError. loaded: what is in force; None while the files have never been right. problem: why the files that lie
    there now are not in force; None if they are.
    """

    def __init__(
        self,
        files: TlsFiles,
        *,
        server: bool,
        changed: Callable[[OwnCertificate], None],
        prove: Callable[[Loaded], Awaitable[None]] | None = None,
    ) -> None:
        self.files = files
        self.problem: KmsdError | None = None
        self.loaded: Loaded | None = None
        self._server = server
        self._changed = changed
        self._prove = prove
        self._again_at = 0.0
        self._seen: object = None

    async def look(self) -> None:
        """Read the files if they have changed. Raises nothing if they are wrong: `problem` says so."""
        marks = await asyncio.to_thread(self._marks)
        if marks == self._seen and (self._prove is None or self.problem is None or monotonic() < self._again_at):
            return
        self._seen, self._again_at = marks, monotonic() + _PROVE_AGAIN
        try:
            loaded = await asyncio.to_thread(load, self.files, server=self._server)
            if self._prove is not None:
                await self._prove(loaded)
        except KmsdError as error:
            if self.problem is None or self.problem.kind != error.kind:
                log.warning("TLS files are not taken", reason=error.message, hint=error.hint)
            self.problem = error.again()
            return
        self.loaded = loaded
        self.problem = None
        self._changed(self.loaded.own)

    def try_soon(self) -> None:
        """Try again at the next look what was wrong."""
        self._again_at = 0.0

    async def keep(self) -> None:
        """Look every second, for ever, whether the files have changed."""
        while True:
            await asyncio.sleep(_LOOK)
            await self.look()

    def _marks(self) -> object:
        marks: list[object] = []
        for _, path in self.files.named:
            try:
                found = path.stat()
                marks.append((found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode))
            except OSError as error:
                marks.append(error.errno)
        return marks
