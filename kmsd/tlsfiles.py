"""Read the PEM files of one side of TLS, and say what is wrong with them.

TLS 1.3 alone (RFC 8446), with certificates on both sides. Knows no socket, and the standard library alone.
"""

from __future__ import annotations

import ssl
import stat
from pathlib import Path
from typing import Final

from kmsd import plainfile

FILE_MOST: Final = 4 * 1024 * 1024
"""Bytes of one file at the most."""


class TlsFileError(Exception):
    """Raised for a file that cannot be used.

    message: names the file, and says why. hint: what mends it, where that is known; else empty. denied: whether this
    process may not read the file.
    """

    def __init__(self, message: str, hint: str = "", *, denied: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.denied = denied


def read(flag: str, path: Path, *, secret: bool = False) -> bytes:
    """Read one file. Raises TlsFileError.

    flag: the option that names the file, for the sentence. secret: refuse a file that every user of this machine may
    read.
    """
    try:
        data, found = plainfile.read_input(path, FILE_MOST + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise TlsFileError(
            f"{flag} {path} cannot be read: {why.lower()}", denied=isinstance(error, PermissionError)
        ) from error
    if len(data) > FILE_MOST:
        raise TlsFileError(f"{flag} {path} has more than {FILE_MOST} bytes")
    if secret and stat.S_ISREG(found.st_mode) and found.st_mode & 0o007:
        raise TlsFileError(f"{flag} {path} may be read by every user of this machine", f"chmod 600 {path}")
    return data


def make_context(
    ca: tuple[Path, bytes],
    certificate: tuple[Path, bytes],
    key: Path | None,
    *,
    server: bool,
    kind: type[ssl.SSLContext] = ssl.SSLContext,
) -> ssl.SSLContext:
    """Make the context of one side, which wants a certificate of the other. Raises TlsFileError.

    ca, certificate: path and content. key: the ssl module reads it, and the certificate, from the files themselves;
    None for a key that is in no file: then the certificate is not shown. server: whether for the side that is connected
    to. kind: class of the context.
    """
    context = kind(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    # A session that is resumed shows no certificate again: whoever is revoked meanwhile would stay.
    if server:
        context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    try:
        context.load_verify_locations(cadata=ca[1].decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise TlsFileError(f"--tls-ca {ca[0]} holds no certificates as PEM") from error
    if b"-----BEGIN CERTIFICATE-----" not in certificate[1]:
        raise TlsFileError(f"--tls-certificate {certificate[0]} holds no certificate as PEM")
    if key is None:
        return context
    try:
        context.load_cert_chain(certificate[0], key, password=_no_password)
    except (ssl.SSLError, ValueError, OSError) as error:
        why = getattr(error, "reason", None) or str(error)
        if why == "KEY_VALUES_MISMATCH":
            raise TlsFileError(f"--tls-key {key} is not the key of the certificate in {certificate[0]}") from error
        raise TlsFileError(f"--tls-key {key} cannot be used with {certificate[0]} ({why})") from error
    return context


def _no_password() -> str:
    # Without this the library would ask on the terminal.
    raise ValueError("it is encrypted with a password")
