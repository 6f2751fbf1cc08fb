"""Tell in words what keeps kmsd from listening on TCP. Opens nothing."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from kmsd.config.remote import Server


def not_served(server: Server) -> tuple[str, str] | None:
    """Return (what is wrong, what to do) if TCP is asked for and its TLS files cannot be used; None if all is well.

    A file that is missing is told as long as it is: look again for each telling.
    """
    if not server.enabled:
        return None
    files = {"--tls-ca": server.tls_ca, "--tls-certificate": server.tls_certificate, "--tls-key": server.tls_key}
    wrong = [f"{flag} {why}" for flag, path in files.items() if (why := _unusable(path))]
    asked = "nothing listens on TCP, though --enable-server (server.enabled) asks for it: "
    if not wrong:
        return None
    return (
        asked + "; ".join(wrong),
        "TCP is never served without TLS and client certificates: give all three files, or drop --enable-server "
        "(server.enabled) if only callers on this machine are to be served",
    )


def _unusable(path: Path | None) -> str:
    if path is None:
        return "is not given"
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return f"names {path}, which is no file"
    except OSError as error:
        return f"names {path}: {(error.strerror or 'it cannot be looked at').lower()}"
    return "" if os.access(path, os.R_OK) else f"names {path}, which kmsd may not read"
