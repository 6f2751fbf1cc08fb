"""The place where etcd is, as options and etcdctl's own variables name it, and who reads there. Knows no command."""

from __future__ import annotations

import codecs
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from kmsctl import diagnostics, files
from kmsctl.diagnostics import UsageError
from kmsd.etcd.endpoints import DEFAULT_ENDPOINT, NO_TLS, Tls

if TYPE_CHECKING:
    from kmsd.etcd.client import Etcd

PREFIX = "/registry"
SHOW_MOST = 1000
"""Objects that are named."""
NOT_FOLLOWED = {
    "ETCDCTL_INSECURE_SKIP_TLS_VERIFY": "etcd's certificate is always verified",
    "ETCDCTL_DISCOVERY_SRV": "name etcd with --endpoints",
    "ETCDCTL_COMMAND_TIMEOUT": "--timeout says how long each call may take",
    "ETCDCTL_DIAL_TIMEOUT": "--timeout says how long each call may take, and connecting is a part of it",
}
"""Variables of etcdctl that mean something else to who reads here, and why."""

Endpoints = Annotated[
    list[str] | None,
    typer.Option(
        "--endpoints",
        metavar="URL",
        envvar="ETCDCTL_ENDPOINTS",
        help=f"URLs of etcd, as https://host:2379, with commas between several. Default: {DEFAULT_ENDPOINT}.",
        show_default=False,
    ),
]
Cacert = Annotated[
    str,
    typer.Option(
        "--cacert", metavar="FILE", envvar="ETCDCTL_CACERT", help="PEM file with the CA of etcd's certificate."
    ),
]
Cert = Annotated[
    str,
    typer.Option(
        "--cert", metavar="FILE", envvar="ETCDCTL_CERT", help="PEM file with the client certificate for etcd."
    ),
]
CertKey = Annotated[
    str, typer.Option("--key", metavar="FILE", envvar="ETCDCTL_KEY", help="PEM file with the private key of --cert.")
]
User = Annotated[
    str,
    typer.Option("--user", metavar="NAME", help="Name of an etcd user; or ETCDCTL_USER, as NAME or NAME:PASSWORD."),
]
PasswordFile = Annotated[
    str,
    typer.Option(
        "--password-file",
        metavar="FILE",
        help="File with the password of --user on its first line; or ETCDCTL_PASSWORD.",
    ),
]
Show = Annotated[
    int,
    typer.Option(
        "--show",
        metavar="N",
        min=0,
        max=SHOW_MOST,
        help="Name up to N objects that could not be understood or need another key than the write key.",
    ),
]
Prefix = Annotated[
    str, typer.Option("--prefix", metavar="PATH", help="Prefix of the keys in etcd: kube-apiserver's --etcd-prefix.")
]
Report = Annotated[
    str | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write the counts to this file (mode 0600), for `kmsctl keys retire` and `destroy`.",
    ),
]


@dataclass(frozen=True)
class EtcdPlace:
    """The place where etcd is, as the options name it. endpoints: none given: the default."""

    endpoints: tuple[str, ...] = ()
    tls: Tls = NO_TLS
    user: str = ""
    password_file: str = ""
    prefix: str = PREFIX

    @property
    def named(self) -> bool:
        """Return whether an option or a variable says where etcd is, which asks for a scan."""
        return bool(self.endpoints or self.tls.any or self.user)

    def check(self) -> None:
        """Find out what can never work, before anything is dialled. Raises UsageError, ClientError."""
        from kmsd.etcd.scan import parse_prefix

        parse_prefix(self.prefix)
        self.connect(1.0).close()

    def connect(self, timeout: float) -> Etcd:
        """Connect to etcd. timeout: seconds for each call. Raises UsageError, ClientError."""
        from kmsd.etcd.client import Etcd
        from kmsd.etcd.client import User as EtcdUser

        name, password = self._credentials()
        user = EtcdUser(name, password) if name else None
        return Etcd(self.endpoints or (DEFAULT_ENDPOINT,), self.tls, user, timeout=timeout)

    @property
    def user_name(self) -> str:
        """Return the name of etcd's user, from the option or etcdctl's variable; empty if there is none."""
        return self.user or os.environ.get("ETCDCTL_USER", "").partition(":")[0]

    def _credentials(self) -> tuple[str, str]:
        """Name and password; both empty if none is given. What an option says wins over a variable."""
        if ":" in self.user:
            raise UsageError(
                "a password must not be on a command line, where others can see it",
                "name the user alone, and --password-file",
            )
        name, colon, written = os.environ.get("ETCDCTL_USER", "").partition(":")
        if self.user and self.user != name:
            colon = written = ""
        password = written if colon else os.environ.get("ETCDCTL_PASSWORD", "")
        if self.password_file:
            password = self._password()
        name = self.user or name
        if bool(name) != bool(password) and (name or self.password_file):
            missing = "--password-file (or ETCDCTL_PASSWORD)" if name else "--user (or ETCDCTL_USER)"
            raise UsageError(f"etcd wants a user and a password: {missing} is missing", "give both, or neither")
        return (name, password) if name else ("", "")

    def _password(self) -> str:
        lines = files.read(self.password_file, "etcd's password").removeprefix(codecs.BOM_UTF8).splitlines()
        try:
            password = lines[0].decode() if lines else ""
        except UnicodeDecodeError:
            raise UsageError(f"the password in {self.password_file} is not UTF-8", "write it in UTF-8") from None
        if not password:
            raise UsageError(f"there is no password on the first line of {self.password_file}", "write it there")
        return password

    def arguments(self) -> list[str]:
        """Return the options that name it once more, for a command to be copied."""
        named = {
            "--endpoints": ",".join(self.endpoints),
            "--cacert": self.tls.cacert,
            "--cert": self.tls.cert,
            "--key": self.tls.key,
            "--user": self.user,
            "--password-file": self.password_file,
            "--prefix": "" if self.prefix == PREFIX else self.prefix,
        }
        return [word for option, value in named.items() if value for word in (option, value)]


@dataclass(frozen=True)
class EtcdOptions:
    """The options of a command that say where etcd is."""

    endpoints: Endpoints = None
    cacert: Cacert = ""
    cert: Cert = ""
    key: CertKey = ""
    user: User = ""
    password_file: PasswordFile = ""
    prefix: Prefix = PREFIX

    @property
    def place(self) -> EtcdPlace:
        tls = Tls(self.cacert, self.cert, self.key)
        return EtcdPlace(tuple(self.endpoints or ()), tls, self.user, self.password_file, self.prefix)


def check(place: EtcdPlace) -> None:
    """Find out what can never work, before anything is dialled; warn of a password that would cross a network as it is,
    and of a variable of etcdctl that is not followed. Raises UsageError, ClientError."""
    place.check()
    from kmsd.etcd.endpoints import parse_endpoints

    for name, why in NOT_FOLLOWED.items():
        if os.environ.get(name, "") not in ("", "false", "0"):
            diagnostics.warning(f"{name} is not followed: {why}")
    if place.user_name:
        for each in parse_endpoints(place.endpoints or (DEFAULT_ENDPOINT,), place.tls):
            if not each.tls and not each.path:
                diagnostics.warning(f"the password of {place.user_name!r} goes to {each.name} unencrypted")
