"""The client of EST (RFC 7030): asks a server for CA certificates, wishes and certificates, over TLS 1.2 or 1.3.

Blocks, each call for so many seconds at the most. Keeps nothing: `files` does. Speaks with any server of RFC 7030.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import re
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kmsd.errors import Denied, InvalidRequest, KmsdError, Misconfigured, Unavailable, printable
from kmsd.est import csrattrs, wire

if TYPE_CHECKING:
    from kmsd.est.gnutls import Signer

_MOST: Final = 512 * 1024
"""Bytes of an answer at the most."""
_WORDS: Final = 300
"""Characters of a server's sentence that are repeated."""
_LATER_LEAST: Final = 1
_LATER_MOST: Final = 3600
_LATER: Final = 30
"""Seconds after which to ask again, of a server that does not say."""
_FINGERPRINT: Final = re.compile(r"(?:sha-?256:)?([0-9a-f]{64})")


_BY_THE_CLOCK: Final = {9: "has not begun", 10: "has ended"}
"""The errors of OpenSSL's verification that are about the time (X509_V_ERR_CERT_NOT_YET_VALID, ..._HAS_EXPIRED)."""
_STRANGER: Final = "it may not speak EST, or something stands between; try again"
T = TypeVar("T")


class Later(Unavailable):
    """Raised if the server says that the same request may be answered later. seconds: when to ask again."""

    def __init__(self, message: str, hint: str = "", seconds: int = _LATER) -> None:
        super().__init__(message, hint)
        self.seconds = seconds

    def again(self) -> Later:
        """Return the same failure to be raised once more."""
        return Later(self.message, self.hint, self.seconds)


@dataclass(frozen=True)
class Server:
    """The address of an EST server, and how it is known.

    base: path of its operations. authorities: PEM of the CAs that its certificate is checked against; empty: those of
    the system. timeout: seconds for each call.
    """

    host: str
    port: int
    base: str
    authorities: bytes = b""
    timeout: float = 20.0

    @classmethod
    def parse(cls, url: str) -> Server:
        """Return the server at https://host[:port][/label], or at the whole path that EST has there. Raises
        InvalidRequest."""
        try:
            parts = urlsplit(url)
            port = parts.port or 443
        except ValueError as error:
            raise _no_url(url) from error
        label = parts.path.strip("/").removeprefix(wire.PREFIX.strip("/")).strip("/")
        if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
            raise _no_url(url)
        if label and not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", label):
            raise _no_url(url)
        return cls(parts.hostname, port, f"{wire.PREFIX}/{label}" if label else wire.PREFIX)

    @property
    def where(self) -> str:
        """The server in words."""
        return f"{self.host}:{self.port}"


def fingerprint(text: str) -> str:
    """Return the SHA-256 fingerprint of a certificate in lower hexadecimal. Raises InvalidRequest."""
    found = _FINGERPRINT.fullmatch(text.strip().lower().replace(":", "").replace("sha256", "sha256:"))
    if found is None:
        raise InvalidRequest(
            "the fingerprint of a CA must be sha256: and 64 hexadecimal digits",
            "openssl x509 -in ca.crt -noout -fingerprint -sha256",
        )
    return found[1]


def pinned(server: Server, digest: str) -> Server:
    """Return the server, to be checked against the one CA with this fingerprint (RFC 7030 4.1.1).

    Asks for its CA certificates without knowing yet who answers: only what has the fingerprint is believed. Raises
    KmsdError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for each in _understood(server, wire.certificates_in, _ask(server, context, "GET", "cacerts")[1]):
        der = each.public_bytes(Encoding.DER)
        if hmac.compare_digest(hashlib.sha256(der).hexdigest(), digest):
            return replace(server, authorities=each.public_bytes(Encoding.PEM))
    raise Denied(
        f"no CA of {server.where} has the fingerprint sha256:{digest}",
        "compare it with what `kmsctl ca show` says; somebody else may answer at that address",
    )


def authorities(server: Server) -> list[x509.Certificate]:
    """Return the CA certificates that a server gives, now that it is known who it is. Raises KmsdError."""
    return _understood(server, wire.certificates_in, _ask(server, _context(server), "GET", "cacerts")[1])


def wanted_key(server: Server) -> str | None:
    """Return the type of key that a server asks for; None if it asks for none. Raises KmsdError."""
    status, body = _ask(server, _context(server), "GET", "csrattrs", taken=(200, 204, 404))
    if status != 200 or not body.strip():
        return None
    return _understood(server, lambda sent: csrattrs.key_type(wire.decode(sent)), body)


def first(server: Server, csr: bytes, user: str, token: str | None) -> x509.Certificate:
    """Ask for a first certificate. csr: DER. token: None if the server is to ask an operator. Raises Later, and
    KmsdError."""
    headers = {}
    if token is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{token}".encode()).decode()
    return _certificate(server, _ask(server, _context(server), "POST", "simpleenroll", csr, headers)[1])


def again(server: Server, csr: bytes, certificate: Path, key: Path) -> x509.Certificate:
    """Ask for the certificate that follows the present one, which lies in these files. Raises Later, and KmsdError."""
    context = _context(server)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or "it is no PEM"
        raise Misconfigured(f"{certificate} cannot be shown: {why}", "enrol anew with a token") from error
    return _certificate(server, _ask(server, context, "POST", "simplereenroll", csr)[1])


def again_signed(server: Server, csr: bytes, signer: Signer) -> x509.Certificate:
    """Ask for the certificate that follows the present one, whose key is where `signer` asks it. Raises Later, and
    KmsdError."""
    return _certificate(server, _ask(server, _context(server), "POST", "simplereenroll", csr, signer=signer)[1])


def _certificate(server: Server, body: bytes) -> x509.Certificate:
    """Return the one certificate that was issued; RFC 7030 4.2.3 allows no other beside it, and some servers send the
    chain."""
    found = _understood(server, wire.certificates_in, body)
    leaves = [each for each in found if not _is_authority(each)]
    if len(found) != 1 and len(leaves) != 1:
        raise Unavailable(f"{server.where} sent {len(found)} certificates in place of one", _STRANGER)
    return found[0] if len(found) == 1 else leaves[0]


def _understood(server: Server, read: Callable[[bytes], T], body: bytes) -> T:
    """Return what was read of an answer. Raises Unavailable for one that is none of EST."""
    try:
        return read(body)
    except InvalidRequest as error:
        raise Unavailable(f"the answer of {server.where} is not understood: {error.message}", _STRANGER) from error


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _context(server: Server) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not server.authorities:
        context.load_default_certs()
        return context
    # The pinned CA may have others above it that nobody here knows.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=server.authorities.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise Misconfigured("the CA certificates cannot be read as PEM", "give the right file") from error
    return context


def _ask(
    server: Server,
    context: ssl.SSLContext,
    method: str,
    operation: str,
    csr: bytes | None = None,
    headers: dict[str, str] | None = None,
    taken: Sequence[int] = (200,),
    signer: Signer | None = None,
) -> tuple[int, bytes]:
    """Make one request; return the status, one of those that are taken, and the body. signer: of the connection, for a
    key that is in no file. Raises KmsdError."""
    until = time.monotonic() + server.timeout
    sent = {"User-Agent": "kmsd", "Accept": "*/*", "Connection": "close", **(headers or {})}
    if csr is not None:
        sent |= {"Content-Type": wire.PKCS10, "Content-Transfer-Encoding": "base64"}
    connection: http.client.HTTPConnection = http.client.HTTPSConnection(
        server.host, server.port, timeout=server.timeout, context=context
    )
    try:
        if signer is not None:
            connection = _signed(server, connection, signer)
        connection.request(
            method, f"{server.base}/{operation}", wire.encode_request(csr) if csr is not None else None, sent
        )
        answer = connection.getresponse()
        body = _body(answer, until)
        status, wait = answer.status, answer.headers.get("Retry-After", "")
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _BY_THE_CLOCK:
            raise Unavailable(
                f"the certificate of {server.where}, or that of its CA, {_BY_THE_CLOCK[error.verify_code]} by the "
                f"clock of this machine, where it is {datetime.now(UTC):%F %T} UTC",
                "set the clock (NTP) and try again; if it is right, the server's is wrong, or its certificate is old",
            ) from error
        raise Denied(
            f"the certificate of {server.where} is not taken: {error.verify_message}",
            "check the address and the CA (--ca-fingerprint, --ca)",
        ) from error
    except ssl.SSLError as error:
        reason = error.reason or "no reason given"
        raise Unavailable(
            f"the TLS connection to {server.where} failed ({reason})",
            "the server may not take the certificate that was shown, or its clock is another: its log says why",
        ) from error
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Unavailable(
            f"{server.where} does not answer: {why.lower()}", "check the address, and try again"
        ) from error
    finally:
        connection.close()
    if status not in taken:
        raise _failure(server, status, body, wait)
    return status, body


def _signed(server: Server, known: http.client.HTTPConnection, signer: Signer) -> http.client.HTTPConnection:
    """Return a connection that another library makes, to the server that this one has verified just now."""
    from kmsd.est.gnutls import Connection  # it is for keys on tokens alone

    try:
        known.connect()
        shown = known.sock.getpeercert(binary_form=True) if isinstance(known.sock, ssl.SSLSocket) else None
    finally:
        known.close()
    return Connection(server.host, server.port, server.timeout, signer, shown or b"")


def _body(answer: http.client.HTTPResponse, until: float) -> bytes:
    body = bytearray()
    while block := answer.read1(65536):
        body += block
        if len(body) > _MOST or time.monotonic() > until:
            raise http.client.HTTPException(f"the answer has more than {_MOST} bytes, or takes too long")
    return bytes(body)


def _failure(server: Server, status: int, body: bytes, wait: str) -> KmsdError:
    said = " ".join(printable(body[: 4 * _WORDS].decode("utf-8", "replace")).split())[:_WORDS]
    words = f"{server.where} says {status}" + (f": {said}" if said else "")
    seconds = min(max(int(wait), _LATER_LEAST), _LATER_MOST) if re.fullmatch(r"[0-9]{1,9}", wait) else _LATER
    match status:
        case 202:
            return Later(f"{server.where} has the request, and an operator decides on it", "", seconds)
        case 429 | 503:
            return Later(words, "it can be tried again", seconds)
        case 401:
            return Denied(words, "an enrolment token is good once, for one node, until it ends")
        case 403:
            return Denied(words, "the server's log says more")
        case 404 | 405 | 501:
            return InvalidRequest(words, f"EST is expected below https://{server.where}{server.base}")
        case _ if status >= 500:
            return Unavailable(words, "try again")
    return InvalidRequest(words, "the same request will not be answered otherwise")


def _no_url(url: str) -> InvalidRequest:
    return InvalidRequest(
        f"the server must be https://host[:port][/label], got {printable(url[:80])!r}",
        "for example https://keys.ops.test:31443",
    )
