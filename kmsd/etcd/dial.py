"""Find out why an endpoint of etcd cannot be reached: gRPC says UNAVAILABLE to all of it, a plain connection knows
better.

Knows nothing of gRPC.
"""

from __future__ import annotations

import socket
import ssl

from kmsd.client.errors import ClientError, Denied, Unreachable
from kmsd.etcd.endpoints import Endpoint, Tls
from kmsd.etcd.tls import context

_SECONDS = 2.0
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
"""The first bytes of a client of HTTP/2 (RFC 9113, 3.4); a server answers with its own settings."""


def explain(endpoint: Endpoint, tls: Tls) -> ClientError:
    """Dial once more, and return what is wrong."""
    try:
        with _connect(endpoint) as sock:
            return _talk(sock, endpoint, tls)
    except PermissionError:
        return Denied(f"no permission on {endpoint.name}", "run this as root", "PERMISSION_DENIED")
    except socket.gaierror as error:
        return _unreachable(endpoint, f"its name does not resolve: {error.strerror}")
    except (TimeoutError, BlockingIOError):
        return _unreachable(endpoint, "nobody answers there")
    except OSError as error:
        return _unreachable(endpoint, (error.strerror or str(error)).lower())


def _connect(endpoint: Endpoint) -> socket.socket:
    if not endpoint.path:
        return socket.create_connection((endpoint.host, endpoint.port), timeout=_SECONDS)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(_SECONDS)
        sock.connect(endpoint.path)
    except OSError:
        sock.close()
        raise
    return sock


def _talk(sock: socket.socket, endpoint: Endpoint, tls: Tls) -> ClientError:
    if not endpoint.tls:
        return _greet(sock, endpoint)
    try:
        with context(tls).wrap_socket(sock, server_hostname=endpoint.host) as secure:
            return _greet(secure, endpoint)
    except ssl.SSLCertVerificationError as error:
        return _server_certificate(endpoint, error)
    except ssl.SSLError as error:
        return _handshake(endpoint, tls, error)


def _greet(sock: socket.socket, endpoint: Endpoint) -> ClientError:
    """Return what is wrong behind a connection that is made. With TLS 1.3 a server refuses a client's certificate only
    after the client has finished: so listen."""
    sock.sendall(_PREFACE)
    answer = sock.recv(9)
    if not answer:
        return _unreachable(endpoint, "it closes the connection", "if it wants TLS, write https:// and give --cacert")
    if answer[3:4] != b"\x04":
        hint = "is that the port for clients, 2379?"
        return _unreachable(endpoint, "what answers there speaks no gRPC", hint)
    return _unreachable(endpoint, "the connection broke before an answer came", "look at the log of etcd")


def _server_certificate(endpoint: Endpoint, error: ssl.SSLCertVerificationError) -> ClientError:
    what = error.verify_message.rstrip(".").lower()
    message = f"the certificate of {endpoint.name} does not verify: {what}"
    if "mismatch" in what or "not valid for" in what:
        hint = "name etcd as its certificate does (`openssl x509 -noout -ext subjectAltName` shows it)"
    elif "expired" in what or "not yet valid" in what:
        hint = "renew etcd's certificate, and look at both clocks"
    else:
        hint = "give the CA that signed it with --cacert; on kubeadm's nodes /etc/kubernetes/pki/etcd/ca.crt"
    return Denied(message, hint, "UNAUTHENTICATED")


def _handshake(endpoint: Endpoint, tls: Tls, error: ssl.SSLError) -> ClientError:
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if any(words in reason for words in ("wrong version number", "http request", "record layer", "unexpected eof")):
        return _unreachable(endpoint, "it does not speak TLS, it seems", "write http://, if that is meant")
    if "alert" in reason and ("certificate" in reason or "unknown ca" in reason or "handshake failure" in reason):
        if not tls.cert:
            return Denied(
                f"{endpoint.name} wants a client certificate",
                "give one with --cert and --key; on kubeadm's nodes /etc/kubernetes/pki/etcd/healthcheck-client.crt",
                "UNAUTHENTICATED",
            )
        return Denied(
            f"{endpoint.name} refuses the certificate in {tls.cert}: {reason}",
            "give one that etcd's own client CA (its --trusted-ca-file) has signed, for clients",
            "UNAUTHENTICATED",
        )
    return _unreachable(endpoint, f"no TLS connection: {reason}")


def _unreachable(endpoint: Endpoint, why: str, hint: str = "") -> Unreachable:
    return Unreachable(
        f"cannot reach etcd at {endpoint.name}: {why}",
        hint or "does etcd run, and is this its address for clients?",
        "UNAVAILABLE",
        retryable=True,
    )
