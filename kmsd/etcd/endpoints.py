"""Parse where etcd is: addresses, and the names of the files that TLS needs. Reads no file, dials nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kmsd.client.errors import InvalidRequest

DEFAULT_ENDPOINT: Final = "127.0.0.1:2379"
ENDPOINTS_MAX: Final = 32

_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")
_HOW = "write https://host:2379, http://host:2379 or unix:///path"


@dataclass(frozen=True)
class Endpoint:
    """The host and port of TCP, or the path of a Unix socket. name: as it was written."""

    name: str
    tls: bool
    host: str = ""
    port: int = 0
    path: str = ""


@dataclass(frozen=True)
class Tls:
    """The names of PEM files. cacert: who may have signed etcd's certificate; empty: whom this system trusts. cert,
    key: what we show of ourselves; both or neither."""

    cacert: str = ""
    cert: str = ""
    key: str = ""

    @property
    def any(self) -> bool:
        return bool(self.cacert or self.cert or self.key)


NO_TLS: Final = Tls()


def parse_endpoints(texts: Sequence[str], tls: Tls) -> tuple[Endpoint, ...]:
    """Parse endpoints, several of which may be in one text with commas between them. Without a scheme it is https if
    TLS files are given.

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


def _refused(message: str, hint: str) -> InvalidRequest:
    return InvalidRequest(message, hint, "INVALID_ARGUMENT")
