"""Find out why a kmsd cannot be reached by TLS: gRPC says UNAVAILABLE to all of it, a plain handshake knows better.

Knows nothing of gRPC. Loaded when a call by TLS has failed.
"""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Final

from kmsd import tlsfiles
from kmsd.client.errors import ClientError, Denied, Unreachable
from kmsd.client.places import TlsPlace, flag

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
"""The first bytes of a client of HTTP/2 (RFC 9113, 3.4); a server answers with its own settings."""
_MARGIN: Final = 0.25
"""Seconds by which what is found out may be late."""
_RUNNING: Final = "does the key manager run, with server.enabled, and is this its address and port (server.port)?"
_CUT: Final = "it ends the connection in the handshake"
_NETWORK: Final = "check the address, and what filters packets on the way to it"
_WHICH: Final = "give one for clients that is in force, from a CA in the key manager's server.tls_ca"
_CLOCKS: Final = "look at both clocks"


def explain(place: TlsPlace, seconds: float) -> ClientError | None:
    """Dial once more, for at most so many seconds, and return what is wrong; None if a handshake succeeds."""
    found: list[ClientError | None] = []
    # A thread: the look-up of a name has no bound, and cannot be interrupted.
    until = monotonic() + seconds
    thread = threading.Thread(target=lambda: found.append(_look(place, until)), daemon=True)
    thread.start()
    thread.join(seconds + _MARGIN)
    return found[0] if found else _unreachable(place, "nobody answers in time", _NETWORK)


def _look(place: TlsPlace, until: float) -> ClientError | None:
    try:
        context = _context(place)
        with socket.create_connection((place.host, place.port), timeout=_left(until)) as sock:
            sock.settimeout(_left(until))
            return _shake_hands(place, sock, context)
    except tlsfiles.TlsFileError as error:
        return Denied(error.message, error.hint, "UNAUTHENTICATED")  # replaced by others meanwhile
    except socket.gaierror as error:
        why = (error.strerror or str(error)).lower()
        return _unreachable(place, f"the name {place.host} does not resolve: {why}", "check the name, and DNS")
    except TimeoutError:
        return _unreachable(place, "nobody takes the connection", _NETWORK)
    except ConnectionRefusedError:
        return _unreachable(place, "nothing listens there", _RUNNING)
    except OSError as error:
        return _unreachable(place, (error.strerror or str(error)).lower(), _NETWORK)


def _left(until: float) -> float:
    return max(0.05, until - monotonic())


def _context(place: TlsPlace) -> ssl.SSLContext:
    ca, certificate, key = (Path(getattr(place.tls, name)) for name in ("ca", "certificate", "key"))
    read = tlsfiles.read(flag("ca"), ca), tlsfiles.read(flag("certificate"), certificate)
    return tlsfiles.make_context((ca, read[0]), (certificate, read[1]), key, server=False)


def _shake_hands(place: TlsPlace, sock: socket.socket, context: ssl.SSLContext) -> ClientError | None:
    agreed = False
    try:
        with context.wrap_socket(sock, server_hostname=place.server_name) as secure:
            agreed = True
            # With TLS 1.3 a server refuses a client's certificate only after the client has finished: so listen.
            secure.sendall(_PREFACE)
            heard = secure.recv(9)
    except ssl.SSLCertVerificationError as error:
        return _its_certificate(place, error, context)
    except ssl.SSLError as error:
        return _refusal(place, (error.reason or str(error)).replace("_", " ").lower())
    except (ConnectionResetError, BrokenPipeError):
        heard = b""
    except TimeoutError:
        return _unreachable(place, "it takes the connection and says nothing", _RUNNING)
    if not heard:
        return _closed(place) if agreed else _unreachable(place, _CUT, _RUNNING)
    return None if heard[3:4] == b"\x04" else _unreachable(place, "what answers there speaks no gRPC", _RUNNING)


def _its_certificate(place: TlsPlace, error: ssl.SSLCertVerificationError, context: ssl.SSLContext) -> ClientError:
    why = error.verify_message.rstrip(".").lower()
    if "mismatch" in why or "not valid for" in why:
        message = f"the certificate of {place} is not for {place.server_name!r}: it is for {_names(place, context)}"
        hint = f"name the host as its certificate does, or give one of its names with {flag('server_name')}"
    elif "expired" in why:
        message, hint = f"the certificate of {place} has ended", f"have it renewed on the key manager, and {_CLOCKS}"
    elif "not yet valid" in why:
        message, hint = f"the certificate of {place} has not begun yet", _CLOCKS
    elif "issuer" in why or "self-signed" in why or "self signed" in why:
        message = f"the certificate of {place} is from none of the CAs in {place.tls.ca} ({why})"
        hint = f"give the CA that signed it with {flag('ca')}, and make sure that it is the key manager that answers"
    else:
        message = f"the certificate of {place} is not taken: {why}"
        hint = "look at it: `openssl s_client -showcerts`"
    return Denied(message, hint, "UNAUTHENTICATED")


def _names(place: TlsPlace, context: ssl.SSLContext) -> str:
    """Return the names that its certificate, which is one of a known CA, has."""
    context.check_hostname = False
    try:
        with (
            socket.create_connection((place.host, place.port), timeout=1.0) as sock,
            context.wrap_socket(sock, server_hostname=place.server_name) as secure,
        ):
            found = secure.getpeercert() or {}
    except OSError:
        return "another name"
    names = [str(each[1]) for each in found.get("subjectAltName", ())]
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") or "no name at all (no subjectAltName)"


def _refusal(place: TlsPlace, reason: str) -> ClientError:
    """Return what to say of a handshake that failed for the reason in OpenSSL's words."""
    if "protocol version" in reason or "unsupported protocol" in reason:
        return _unreachable(place, "it does not speak TLS 1.3", "kmsd does: is this its address and port?")
    if "unexpected eof" in reason:
        return _unreachable(place, _CUT, _RUNNING)
    if any(words in reason for words in ("wrong version number", "http request", "record layer")):
        return _unreachable(place, "it does not speak TLS", _RUNNING)
    if "alert" not in reason:
        return _unreachable(place, f"no TLS connection: {reason}", _RUNNING)
    if "expired" in reason:
        return _refuses(place, "it has ended")
    if "unknown ca" in reason:
        return _refuses(place, "it is from a CA that is not in its server.tls_ca")
    return _refuses(place, reason)


def _closed(place: TlsPlace) -> ClientError:
    """Return what to say when the other side ends the connection after the handshake, without a word: kmsd does so to
    who shows a certificate that it does not take."""
    fault = _own_fault(place)
    if fault:
        return _refuses(place, fault)
    return _unreachable(
        place,
        "it ends the connection after the handshake: it stops, or does not take the certificate in "
        f"{place.tls.certificate}",
        f"{_WHICH}; the log of the key manager says which it was",
    )


def _own_fault(place: TlsPlace) -> str:
    """Return what is wrong with this side's certificate, as far as it can be seen here; empty if nothing is."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.x509.oid import ExtendedKeyUsageOID

    try:
        own, *chain = x509.load_pem_x509_certificates(Path(place.tls.certificate).read_bytes())
        authorities = x509.load_pem_x509_certificates(Path(place.tls.ca).read_bytes())
        usages = own.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        usages = None
    except (OSError, ValueError):
        return ""  # replaced by others meanwhile
    now = datetime.now(UTC)
    if own.not_valid_after_utc < now:
        return f"it has ended on {own.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    if own.not_valid_before_utc > now:
        return f"it begins on {own.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    if usages is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in usages:
        return "it is not for clients (extendedKeyUsage)"
    for issuer in (*chain, *authorities):
        try:
            own.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            continue
        return ""
    return f"it is from none of the CAs in {place.tls.ca}, and so perhaps from none that the key manager knows"


def _refuses(place: TlsPlace, why: str) -> Denied:
    message = f"{place} refuses the certificate in {place.tls.certificate}: {why}"
    return Denied(message, f"{_WHICH}, and {_CLOCKS}", "UNAUTHENTICATED")


def _unreachable(place: TlsPlace, why: str, hint: str) -> Unreachable:
    return Unreachable(f"cannot reach {place}: {why}", hint, "UNAVAILABLE", retryable=True)
