"""A kubeconfig, read as kubectl reads it, and refused where it would have kmsctl trust whoever answers.

Knows the file's form; connects to nothing and runs nothing. No secret of it is ever part of a message.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from kmsctl import files
from kmsctl.diagnostics import UsageError

FILES_MAX: Final = 32
ARGUMENTS_MAX: Final = 1000
_TOO_LONG: Final = "is it a kubeconfig?"
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_BETTER: Final = "use a client certificate, a token, a tokenFile or an exec plugin"
_REFUSED_USER: Final = {
    "username": f"a password: Kubernetes takes none since 1.19; {_BETTER}",
    "password": f"a password: Kubernetes takes none since 1.19; {_BETTER}",
    "auth-provider": f"an auth-provider: kubectl has none since 1.26; {_BETTER}",
    "as": "impersonation: name a context whose user has the permissions itself",
    "as-groups": "impersonation: name a context whose user has the permissions itself",
    "as-uid": "impersonation: name a context whose user has the permissions itself",
    "as-user-extra": "impersonation: name a context whose user has the permissions itself",
}
"""Fields of a user that are not followed, and what to say of them."""


@dataclass(frozen=True)
class ExecPlugin:
    """A program that gives credentials (client.authentication.k8s.io). environment: variables to add. cluster: what it
    is told of the cluster, if it wants to know. hint: how to install it."""

    command: str
    arguments: tuple[str, ...]
    api_version: str
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    cluster: Mapping[str, Any] | None = None
    hint: str = ""


@dataclass(frozen=True)
class KubeAccess:
    """The way to a kube-apiserver. ca: PEM, empty for the system's own. server_name: in its certificate, empty for the
    host of `server`. proxy: URL, empty for none. certificate, key: PEM of the client, empty for none."""

    context: str
    server: str
    ca: bytes = b""
    server_name: str = ""
    proxy: str = ""
    certificate: bytes = b""
    key: bytes = field(default=b"", repr=False)
    token: str = field(default="", repr=False)
    token_file: str = ""
    plugin: ExecPlugin | None = None


@dataclass(frozen=True)
class _Entry:
    """A named entry of a kubeconfig. where: the file that has it, for messages and relative paths."""

    what: str
    name: str
    fields: Mapping[str, Any]
    where: Path

    def text(self, name: str) -> str:
        value = self.fields.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.wrong(f"{name} must be text, got {type(value).__name__}")
        return value

    def flag(self, name: str) -> bool:
        return self.fields.get(name) is True

    def mapping(self, name: str) -> Mapping[str, Any]:
        value = self.fields.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(f"{name} must be a mapping, got {type(value).__name__}")
        return value or {}

    def sequence(self, name: str) -> Sequence[Any]:
        value = self.fields.get(name)
        if value is not None and (not isinstance(value, list) or len(value) > ARGUMENTS_MAX):
            raise self.wrong(f"{name} must be a list of {ARGUMENTS_MAX} at most, got {type(value).__name__}")
        return value or []

    def data(self, name: str) -> bytes:
        """Return what stands in the file as base64, or in the file that it names; the first wins, as for kubectl."""
        if inline := self.text(f"{name}-data"):
            try:
                return base64.b64decode(inline, validate=True)
            except (ValueError, binascii.Error):
                raise self.wrong(f"{name}-data is not base64") from None
        path = self.path(name)
        return files.read(path, name, too_long=_TOO_LONG) if path else b""

    def path(self, name: str) -> str:
        """Return a file that the entry names, seen from the kubeconfig's directory; empty for none."""
        named = self.text(name)
        return str(self.where.parent / named) if named else ""

    def wrong(self, why: str, hint: str = "") -> UsageError:
        return UsageError(f"the {self.what} {self.name!r} in {self.where}: {why}", hint or "`kubectl config view`")


def read(named: str, context: str) -> KubeAccess:
    """Return the access of a context. named: the file; empty: those of KUBECONFIG, else ~/.kube/config. context: empty
    for the present one. Raises UsageError."""
    places = _places(named)
    entries: dict[str, dict[str, _Entry]] = {"cluster": {}, "user": {}, "context": {}}
    present = ""
    for place in places:
        document = _document(place)
        current = document.get("current-context")
        present = present or (current if isinstance(current, str) else "")
        for what, found in entries.items():
            for each in _named(document, what, place):
                found.setdefault(each.name, each)  # of several files, the first that has a name decides
    wanted = context or present
    if not wanted:
        raise UsageError(f"no context is named, and {places[0]} has no current-context", "name one: --context")
    if wanted not in entries["context"]:
        known = ", ".join(map(repr, sorted(entries["context"])[:10])) or "none"
        raise UsageError(f"no context {wanted!r} in {', '.join(map(str, places))}; there is {known}", "--context")
    chosen = entries["context"][wanted]
    return _access(wanted, _chosen(entries, chosen, "cluster"), _chosen(entries, chosen, "user"))


def _places(named: str) -> list[Path]:
    if named:
        return [Path(named)]
    listed = [each for each in os.environ.get("KUBECONFIG", "").split(os.pathsep) if each]
    if len(listed) > FILES_MAX:
        raise UsageError(f"KUBECONFIG must name {FILES_MAX} files at most, got {len(listed)}", "name one: --kubeconfig")
    places = [Path(each) for each in listed] or [Path("~/.kube/config").expanduser()]
    there = [each for each in places if each.exists()]
    if not there:
        raise UsageError(
            f"there is no kubeconfig at {', '.join(map(str, places))}",
            "name one: --kubeconfig FILE; on a node of kubeadm's it is /etc/kubernetes/admin.conf",
        )
    return there


def _document(place: Path) -> Mapping[str, Any]:
    import yaml

    raw = files.read(str(place), "the kubeconfig", too_long=_TOO_LONG)
    try:
        document = yaml.safe_load(raw)
    except (yaml.YAMLError, RecursionError) as error:
        at = getattr(error, "problem_mark", None)
        where = f", line {at.line + 1}" if at is not None else ""
        raise UsageError(f"{place} is no YAML{where}", "`kubectl config view` shows what is wrong") from None
    if not isinstance(document, dict) or document.get("kind") != "Config":
        raise UsageError(f"{place} is no kubeconfig: its kind must be Config", "name another: --kubeconfig")
    return document


def _named(document: Mapping[str, Any], what: str, place: Path) -> list[_Entry]:
    found = document.get(f"{what}s") or []
    if not isinstance(found, list):
        raise UsageError(f"{what}s in {place} must be a list, got {type(found).__name__}", "`kubectl config view`")
    entries = []
    for each in found:
        match each:
            case {"name": str(name), **rest}:
                fields = rest.get(what)
                entries.append(_Entry(what, name, fields if isinstance(fields, dict) else {}, place))
            case _:
                raise UsageError(f"a {what} in {place} has no name", "`kubectl config view` shows them")
    return entries


def _chosen(entries: Mapping[str, Mapping[str, _Entry]], context: _Entry, what: str) -> _Entry:
    name = context.text(what)
    if not name and what == "user":
        return _Entry(what, "", {}, context.where)
    if name not in entries[what]:
        raise context.wrong(f"its {what} {name!r} is not in the file")
    return entries[what][name]


def _access(context: str, cluster: _Entry, user: _Entry) -> KubeAccess:
    for name, why in _REFUSED_USER.items():
        if user.fields.get(name):
            raise user.wrong(f"{name} is not followed: {why}", "`kubectl config get-contexts` shows others")
    if cluster.flag("insecure-skip-tls-verify"):
        raise cluster.wrong(
            "insecure-skip-tls-verify is not followed: whoever answers would get the credentials",
            "give the CA of the cluster as certificate-authority-data, and tls-server-name if another name is in the "
            "certificate",
        )
    server = cluster.text("server")
    _check_server(cluster, server)
    access = KubeAccess(
        context=context,
        server=server.rstrip("/"),
        ca=cluster.data("certificate-authority"),
        server_name=cluster.text("tls-server-name"),
        proxy=cluster.text("proxy-url"),
        certificate=user.data("client-certificate"),
        key=user.data("client-key"),
        token=user.text("token"),
        # A file that is renewed wins over what was in it once.
        token_file=user.path("tokenFile"),
        plugin=_plugin(user, cluster, server),
    )
    if bool(access.certificate) != bool(access.key):
        missing = "client-key" if access.certificate else "client-certificate"
        raise user.wrong(f"{missing} is missing", "a client certificate and its key belong together")
    if access.proxy and urlsplit(access.proxy).scheme not in ("http", "https"):
        raise cluster.wrong("proxy-url must begin with http:// or https://", "SOCKS is not spoken")
    return access


def _check_server(cluster: _Entry, server: str) -> None:
    try:
        parts = urlsplit(server)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        host = ""
    if not host or parts.scheme not in ("http", "https") or parts.username is not None or parts.query:
        raise cluster.wrong("server must be a URL as https://host:6443", "`kubectl config set-cluster` changes it")
    if parts.scheme == "http" and host not in _LOOPBACK:
        raise cluster.wrong(
            "server must begin with https://: credentials would cross the network as they are",
            "http:// is taken for this machine alone, as `kubectl proxy` serves",
        )


def _plugin(user: _Entry, cluster: _Entry, server: str) -> ExecPlugin | None:
    given = user.mapping("exec")
    if not given:
        return None
    plugin = _Entry("exec plugin of the user", user.name, given, user.where)
    command, version = plugin.text("command"), plugin.text("apiVersion")
    if not command:
        raise plugin.wrong("command is missing", "`kubectl config view` shows it")
    if version not in ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"):
        raise plugin.wrong(f"apiVersion must be client.authentication.k8s.io/v1 or v1beta1, got {version!r}")
    if plugin.text("interactiveMode") == "Always":
        raise plugin.wrong("it wants to ask somebody (interactiveMode: Always), and objects are rewritten unattended")
    arguments, environment = plugin.sequence("args"), plugin.sequence("env")
    if not all(isinstance(each, str) for each in arguments):
        raise plugin.wrong("args must be a list of text")
    variables = {}
    for each in environment:
        match each:
            case {"name": str(name), "value": str(value)}:
                variables[name] = value
            case _:
                raise plugin.wrong("env must be a list of name and value")
    return ExecPlugin(
        command=str(user.where.parent / command) if "/" in command else command,
        arguments=tuple(arguments),
        api_version=version,
        environment=variables,
        cluster=_cluster_info(cluster, server) if plugin.flag("provideClusterInfo") else None,
        hint=plugin.text("installHint"),
    )


def _cluster_info(cluster: _Entry, server: str) -> Mapping[str, Any]:
    """Return what a plugin is told of the cluster (client.authentication.k8s.io/v1, Cluster)."""
    extensions = {
        each.get("name"): each.get("extension") for each in cluster.sequence("extensions") if isinstance(each, dict)
    }
    info = {
        "server": server,
        "tls-server-name": cluster.text("tls-server-name"),
        "certificate-authority-data": base64.b64encode(cluster.data("certificate-authority")).decode(),
        "proxy-url": cluster.text("proxy-url"),
        "config": extensions.get("client.authentication.k8s.io/exec"),
    }
    return {name: value for name, value in info.items() if value}
