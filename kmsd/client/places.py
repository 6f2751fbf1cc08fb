"""The places where a kmsd is reached: a Unix socket, or a TCP port by TLS with a client certificate. Pure."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kmsd.client.errors import InvalidRequest

SCHEME: Final = "tls:"
# Compiled when they are used: most who import this have a Unix socket.
_HOST: Final = r"(?!-)[A-Za-z0-9_.-]{1,253}"
_ADDRESS: Final = r"tls://(?:\[(?P<six>[^\[\]]+)\]|(?P<host>[^:/\[\]]+))(?::(?P<port>[0-9]{1,5}))?/?"


@dataclass(frozen=True)
class TlsOptions:
    """The options that prove to both sides of a TLS connection who the other is; empty as far as none is given.

    ca, certificate, key: paths of PEM files: the CA of the other side's certificate, this side's certificate with its
    chain, its key. server_name: the name that the other side's certificate must have, in place of the host's.
    """

    ca: str = ""
    certificate: str = ""
    key: str = ""
    server_name: str = ""

    def over(self, other: TlsOptions) -> TlsOptions:
        """Return these options, and the other's where nothing is given here."""
        return TlsOptions(*(getattr(self, name) or getattr(other, name) for name in NAMES))

    @classmethod
    def from_environment(cls) -> TlsOptions:
        """Return what KMSCTL_TLS_CA and its sisters say."""
        return cls(*(os.environ.get(variable(name), "") for name in NAMES))


NAMES: Final = tuple(each.name for each in dataclasses.fields(TlsOptions))
FILES: Final = NAMES[:3]
"""Names of those without which nobody is reached."""


def flag(name: str) -> str:
    """Return the option of the command line for a name of NAMES."""
    return f"--tls-{name.replace('_', '-')}"


def variable(name: str) -> str:
    """Return the environment variable for a name of NAMES."""
    return f"KMSCTL_TLS_{name.upper()}"


@dataclass(frozen=True)
class UnixPlace:
    """A Unix socket."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def address(self) -> str:
        """The place as a target."""
        return f"unix://{self.path}"


@dataclass(frozen=True)
class TlsPlace:
    """A TCP port that speaks TLS. host: a name, or an IP address without brackets."""

    host: str
    port: int
    tls: TlsOptions = dataclasses.field(default_factory=TlsOptions)

    def __str__(self) -> str:
        return self.address

    @property
    def address(self) -> str:
        """The place as a target."""
        return f"tls://{self.host_and_port}"

    @property
    def host_and_port(self) -> str:
        """The place without its scheme."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def server_name(self) -> str:
        """The name that the other side's certificate must have."""
        return self.tls.server_name or self.host

    def check(self) -> None:
        """Raise InvalidRequest unless all files are named without which nobody is reached by TLS, and the name of the
        other side, if it is given, can be one."""
        missing = [name for name in FILES if not getattr(self.tls, name)]
        if missing:
            names = ", ".join(f"{flag(name)} ({variable(name)})" for name in missing)
            raise InvalidRequest(
                f"target {self.address} is reached with certificates only: {names} {_is(missing)} missing",
                "give all three: with these options, with their variables, or in kmsctl's configuration file",
                "INVALID_ARGUMENT",
            )
        if not is_server_name(self.server_name):
            raise InvalidRequest(
                f"{flag('server_name')} must be a name in a certificate, got {self.server_name!r}",
                "name it as keys-1.example.com",
                "INVALID_ARGUMENT",
            )


def _is(things: Sequence[str]) -> str:
    return "is" if len(things) == 1 else "are"


Place = UnixPlace | TlsPlace


def is_server_name(text: str) -> bool:
    """Return whether a certificate may have this name: a DNS name or an IP address."""
    return re.fullmatch(r"[A-Za-z0-9_.:-]{1,253}", text) is not None


def parse_tls(target: str) -> TlsPlace:
    """Return the place that `tls://host:port` means, without files. Raises InvalidRequest."""
    found = re.fullmatch(_ADDRESS, target)
    host = (found["six"] or found["host"]) if found else ""
    if not found or not (_is_ipv6(host) if found["six"] else re.fullmatch(_HOST, host)):
        raise _refused(target, "it must be a name or an IP address, and a port")
    if found["port"] is None:
        raise _refused(target, "its port must be given, for there is no usual one (server.port of the key manager)")
    port = int(found["port"])
    if not 1 <= port <= 65535:
        raise _refused(target, f"its port must be 1 to 65535, got {port}")
    return TlsPlace(host.lower(), port)


def _is_ipv6(text: str) -> bool:
    import ipaddress

    try:
        return ipaddress.IPv6Address(text).scope_id is None
    except ValueError:
        return False


def _refused(target: str, why: str) -> InvalidRequest:
    hint = "name it as tls://keys-1.example.com:31400 or tls://[2001:db8::1]:31400"
    return InvalidRequest(f"target {target!r}: {why}", hint, "INVALID_ARGUMENT")
