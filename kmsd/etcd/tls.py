"""The files that prove who is who to etcd, checked before anything is dialled.

The standard library reads them too, because it says better than gRPC what does not fit. Knows nothing of gRPC.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kmsd.client.errors import Denied, InvalidRequest
from kmsd.etcd.endpoints import Tls

FILE_MAX: Final = 1 << 20
"""The most octets that one of the files may have."""


@dataclass(frozen=True)
class TlsBytes:
    """The content of the files. ca is None where the system's own are to be used."""

    ca: bytes | None
    cert: bytes | None
    key: bytes | None


def read_tls(tls: Tls) -> TlsBytes:
    """Read the files, after a look at whether they fit together. Raises InvalidRequest, Denied."""
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
    """Make the TLS context of the standard library from the files. Raises InvalidRequest, Denied."""
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
            data = file.read(FILE_MAX + 1)
    except PermissionError:
        raise Denied(
            f"no permission to read {name}", "run this as root, as etcd's own files are", "PERMISSION_DENIED"
        ) from None
    except OSError as error:
        raise _refused(f"cannot read {name}: {error.strerror}", "name a PEM file") from None
    if len(data) > FILE_MAX:
        raise _refused(f"{name} holds more than {FILE_MAX} bytes", "give a PEM file")
    return data


def _refused(message: str, hint: str) -> InvalidRequest:
    return InvalidRequest(message, hint, "INVALID_ARGUMENT")
