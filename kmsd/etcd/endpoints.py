"""Where etcd is, and what proves who is who: addresses and TLS files, checked before anything is dialled.

Knows nothing of gRPC.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kmsd.client.errors import Denied, InvalidRequest

DEFAULT_ENDPOINT: Final = "127.0.0.1:2379"
ENDPOINTS_MAX: Final = 32
TLS_FILE_MAX: Final = 1 << 20
"""Octets."""

_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")
_HOW = "write https://host:2379, http://host:2379 or unix:///path"


@dataclass(frozen=True)
class Endpoint:
    """host and port of TCP, or the path of a Unix socket. name: as it was written."""

    name: str
    tls: bool
    host: str = ""
    port: int = 0
    path: str = ""


@dataclass(frozen=True)
class Tls:
    """PEM files. cacert: who may have signed etcd's certificate; empty: whom this system trusts.
    cert, key: what we show of ourselves; both or neither."""

    cacert: str = ""
    cert: str = ""
    key: str = ""

    @property
    def any(self) -> bool:
        return bool(self.cacert or self.cert or self.key)


@dataclass(frozen=True)
class TlsBytes:
    """What the files held. ca is None where the system's own are to be used."""

    ca: bytes | None
    cert: bytes | None
    key: bytes | None


def parse_endpoints(texts: Sequence[str], tls: Tls) -> tuple[Endpoint, ...]:
    """Each text may hold several, with commas between them. Without a scheme it is https if TLS files are given.

    Raises InvalidRequest.
    """
    names = [name.strip() for text in texts for name in text.split(",") if name.strip()]
    if not names or len(names) > ENDPOINTS_MAX:
        raise _refused(f"{len(names)} endpoints of etcd are given, 1 to {ENDPOINTS_MAX} are needed", _HOW)
    found = tuple(dict.fromkeys(_parse(name, tls) for name in names))
    for each in found:
        if tls.any and not each.tls and not each.path:
            raise _refused(
                f"TLS files are given, and {each.name} would be spoken to without TLS",
                "write https://, or leave the files out (ETCDCTL_CACERT, ETCDCTL_CERT and ETCDCTL_KEY name them, too)",
            )
    return found


def _parse(name: str, tls: Tls) -> Endpoint:
    scheme, separator, rest = name.partition("://")
    if not separator:
        scheme, rest = ("https" if tls.any else "http"), name
    if scheme == "unix":
        if not rest.startswith("/") or "\0" in rest:
            raise _refused(f"endpoint {name!r} names no absolute path", _HOW)
        return Endpoint(name, tls=False, path=rest)
    if scheme not in ("http", "https"):
        raise _refused(f"endpoint {name!r} is neither http, https nor unix", _HOW)
    parts = _ADDRESS.fullmatch(rest.removesuffix("/"))
    port = int(parts["port"] or 2379) if parts else 0
    if not parts or not 0 < port < 65536:
        raise _refused(f"endpoint {name!r} is no address of a host", _HOW)
    return Endpoint(name, tls=scheme == "https", host=parts["host"].strip("[]"), port=port)


def read_tls(tls: Tls) -> TlsBytes:
    """The files, after a look at whether they fit together. Raises InvalidRequest."""
    if bool(tls.cert) != bool(tls.key):
        missing, given = ("--key", "--cert") if tls.cert else ("--cert", "--key")
        raise _refused(f"{given} is given without {missing}", "etcd's clients need the certificate and its key")
    context(tls)
    return TlsBytes(
        ca=_read(tls.cacert) if tls.cacert else _system_ca(),
        cert=_read(tls.cert) if tls.cert else None,
        key=_read(tls.key) if tls.key else None,
    )


def context(tls: Tls) -> ssl.SSLContext:
    """The same for the standard library, which explains better than gRPC what does not fit. Raises InvalidRequest."""
    made = ssl.create_default_context()
    if tls.cacert:
        _read(tls.cacert)
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            made.load_verify_locations(tls.cacert)
        except ssl.SSLError:
            raise _refused(f"{tls.cacert} holds no certificate in PEM", "give the CA's certificate") from None
    if tls.cert:
        _read(tls.cert)
        _read(tls.key)
        try:
            made.load_cert_chain(tls.cert, tls.key, password=_no_password)
        except ssl.SSLError as error:
            raise _refused(*_pair_trouble(tls, error)) from None
    made.set_alpn_protocols(["h2"])
    return made


def _no_password() -> str:
    # Without this the library would ask on the terminal.
    return ""


def _pair_trouble(tls: Tls, error: ssl.SSLError) -> tuple[str, str]:
    if error.reason == "KEY_VALUES_MISMATCH":
        return (
            f"the key in {tls.key} is not that of the certificate in {tls.cert}",
            "give the two that were made together",
        )
    if b"ENCRYPTED" in _read(tls.key):
        return f"the key in {tls.key} is encrypted with a password", "give one that is not, in a file of mode 0600"
    return (
        f"{tls.cert} and {tls.key} are not a certificate and its key in PEM",
        "give PEM files that begin with -----BEGIN",
    )


def _system_ca() -> bytes | None:
    path = ssl.get_default_verify_paths().cafile
    return _read(path) if path else None


def _read(name: str) -> bytes:
    try:
        with Path(name).open("rb") as file:
            data = file.read(TLS_FILE_MAX + 1)
    except PermissionError:
        raise Denied(
            f"no permission to read {name}", "run this as root, as etcd's own files are", "PERMISSION_DENIED"
        ) from None
    except OSError as error:
        raise _refused(f"cannot read {name}: {error.strerror}", "name a PEM file") from None
    if len(data) > TLS_FILE_MAX:
        raise _refused(f"{name} holds more than {TLS_FILE_MAX} bytes", "give a PEM file")
    return data


def _refused(message: str, hint: str) -> InvalidRequest:
    return InvalidRequest(message, hint, "INVALID_ARGUMENT")
