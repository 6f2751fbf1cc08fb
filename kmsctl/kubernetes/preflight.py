"""Check the files of a control-plane node that decide whether kube-apiserver encrypts: its static pod, and its
EncryptionConfiguration. Reads only, and asks nobody."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from posixpath import dirname
from typing import Final

from kmsctl.diagnostics import UsageError
from kmsctl.kubernetes import encryption_rules, kube_apiserver, preflight_change, yamltext
from kmsctl.kubernetes.encryption_fields import Fault
from kmsctl.kubernetes.encryption_rules import Provider, Reading
from kmsctl.kubernetes.findings import AS_ROOT, NodeCheck, Outcome
from kmsctl.kubernetes.kube_apiserver import CONFIG_FLAG, KubeApiserver
from kmsctl.kubernetes.places import CONFIG

FILE_MAX: Final = 1 << 20
"""Bytes of a file that is read."""
NEIGHBOURS_MAX: Final = 100
"""Files beside the manifest that are looked at."""
_SHORT: Final = 1.0
"""Seconds for a call below which a token that is busy is taken for one that is away."""
_LONG: Final = 10.0
"""Seconds for a call above which requests to kube-apiserver fail while one waits."""


@dataclass(frozen=True)
class Files:
    """The files of a node, as far as they could be read. config: where the EncryptionConfiguration lies on the node."""

    checks: tuple[NodeCheck, ...]
    server: KubeApiserver | None
    config: str
    reading: Reading | None

    def socket(self, provider: Provider) -> str:
        """Return where a provider's socket lies on the node: its own path if the manifest tells no other."""
        return (self.server.on_node(provider.socket) if self.server else "") or provider.socket


def look(manifest: str, config: str, present: str = "") -> Files:
    """Check the manifest of kube-apiserver and its EncryptionConfiguration. manifest: its path; empty if kube-apiserver
    is no static pod. config: path of the EncryptionConfiguration on this node; empty for the one that the manifest
    names. present: path of the one whose place that is to take; empty for the one that the manifest names."""
    checks, server = _manifest(manifest)
    named = server.on_node(server.config) if server else ""
    config = config or named or CONFIG
    reading = None
    if server is not None:
        checks.append(_flag(server, config, named))
    text, problem = _read(config)
    if problem is not None:
        checks.append(_missing("encryption-config", "EncryptionConfiguration", config, problem))
    else:
        reading, found = _encryption_config(text, config, server)
        checks += found
    if server is not None and reading is not None:
        checks += _mounts(server, reading)
    present = present or named
    if present and reading is not None and not reading.faults and os.path.realpath(present) != os.path.realpath(config):
        checks += _change(present, reading)
    return Files(tuple(checks), server, config, reading)


def _read(path: str) -> tuple[str, OSError | UsageError | None]:
    """Return the text of a file, or why there is none."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(FILE_MAX + 1)
    except OSError as error:
        return "", error
    if len(data) > FILE_MAX:
        return "", UsageError(f"it holds more than {FILE_MAX} bytes", "give the file that kube-apiserver has")
    try:
        return data.decode("utf-8-sig"), None
    except UnicodeDecodeError:
        return "", UsageError("it is not text in UTF-8", "give the file that kube-apiserver has")


def _missing(name: str, title: str, path: str, problem: OSError | UsageError) -> NodeCheck:
    if isinstance(problem, PermissionError):
        return NodeCheck(name, title, Outcome.NOT_CHECKED, f"no permission to read {path}", AS_ROOT, denied=True)
    if isinstance(problem, OSError):
        fix = "name it with --manifest, or leave it out with --no-manifest"
        fix = "install it there" if name != "manifest" else fix
        return NodeCheck(name, title, Outcome.FAILED, f"{path}: {problem.strerror}", fix)
    return NodeCheck(name, title, Outcome.FAILED, f"{path}: {problem.message}", problem.hint)


def _manifest(path: str) -> tuple[list[NodeCheck], KubeApiserver | None]:
    name, title = "manifest", "static pod of kube-apiserver"
    if not path:
        fix = "what starts kube-apiserver must name the file and reach the socket: docs/kubernetes.md"
        return [NodeCheck(name, title, Outcome.NOT_CHECKED, "kube-apiserver is no static pod here", fix)], None
    text, problem = _read(path)
    if problem is not None:
        return [_missing(name, title, path, problem)], None
    try:
        server = kube_apiserver.read(text)
    except UsageError as error:
        return [NodeCheck(name, title, Outcome.FAILED, f"{path}: {error.message}", error.hint)], None
    second = [each for each in _neighbours(Path(path)) if _runs_kube_apiserver(each)]
    if second:
        seen = f"{second[0]} starts a second kube-apiserver: the kubelet starts every file in this folder"
        fix = "move it out of the folder; backups belong elsewhere"
        return [NodeCheck(name, title, Outcome.FAILED, seen, fix)], server
    return [NodeCheck(name, title, Outcome.OK, f"{path}, as user {server.user}")], server


def _neighbours(manifest: Path) -> Iterator[Path]:
    """Yield the other files that the kubelet takes for manifests: all whose name does not begin with a dot."""
    try:
        found = sorted(manifest.parent.iterdir())
    except OSError:
        return
    for each in found[:NEIGHBOURS_MAX]:
        if each.name != manifest.name and not each.name.startswith(".") and each.is_file():
            yield each


def _runs_kube_apiserver(path: Path) -> bool:
    text, problem = _read(str(path))
    if problem is not None:
        return False
    try:
        kube_apiserver.container_at(kube_apiserver.document(text))
    except UsageError:
        return False
    return True


def _flag(server: KubeApiserver, config: str, named: str) -> NodeCheck:
    name, title = "flag", f"--{CONFIG_FLAG}"
    if not server.config:
        fix = "`kmsctl k8s apply-patch` shows the lines that are missing"
        return NodeCheck(name, title, Outcome.FAILED, "kube-apiserver has no such flag: it encrypts nothing", fix)
    if named and os.path.realpath(named) != os.path.realpath(config):
        seen, fix = f"kube-apiserver reads {named}, and {config} was checked", f"install it as {named} when all is well"
        return NodeCheck(name, title, Outcome.WARNING, seen, fix)
    return NodeCheck(name, title, Outcome.OK, server.config)


def _change(present: str, reading: Reading) -> Iterator[NodeCheck]:
    text, problem = _read(present)
    if problem is not None:
        yield _missing(preflight_change.NAME, preflight_change.TITLE, present, problem)
        return
    try:
        documents = yamltext.load(text, "it")
    except UsageError as error:
        seen = f"{present}: {error.message}"
        yield NodeCheck(preflight_change.NAME, preflight_change.TITLE, Outcome.NOT_CHECKED, seen, error.hint)
        return
    yield from preflight_change.compared(encryption_rules.read(documents[0] if documents else None), reading, present)


def _encryption_config(text: str, path: str, server: KubeApiserver | None) -> tuple[Reading | None, list[NodeCheck]]:
    name, title = "encryption-config", "EncryptionConfiguration"
    try:
        documents = yamltext.load(text, "it", strict=True)
    except UsageError as error:
        return None, [NodeCheck(name, title, Outcome.FAILED, f"{path}: {error.message}", error.hint)]
    # kube-apiserver reads the first document, and no other.
    reading = encryption_rules.read(documents[0] if documents else None, reload=server is not None and server.reloads)
    if reading.faults:
        return reading, [_fault(path, each) for each in reading.faults]
    rules = "1 rule" if len(reading.rules) == 1 else f"{len(reading.rules)} rules"
    checks = [NodeCheck(name, title, Outcome.OK, f"{path}: {rules}, as kube-apiserver takes it")]
    if len(documents) > 1:
        seen = f"{path} has {len(documents)} documents, and kube-apiserver reads the first alone"
        checks.append(NodeCheck(name, title, Outcome.WARNING, seen, "leave one"))
    checks += _permissions(path, reading, server)
    checks += _writers(reading)
    checks += [each for provider in reading.kms for each in _provider(provider, server)]
    return reading, checks


def _fault(path: str, fault: Fault) -> NodeCheck:
    seen = ": ".join(filter(None, (path, fault.where, fault.text)))
    return NodeCheck("encryption-config", "EncryptionConfiguration", Outcome.FAILED, seen, fault.fix)


def _permissions(path: str, reading: Reading, server: KubeApiserver | None) -> Iterator[NodeCheck]:
    name, title = "permissions", "permissions of the EncryptionConfiguration"
    found = Path(path).stat()
    holds_keys = any(each.kind not in ("kms", "identity") for rule in reading.rules for each in rule.providers)
    mode = stat.S_IMODE(found.st_mode)
    if server is not None and server.user:
        groups = {server.group, *server.groups}
        bit = 0o400 if found.st_uid == server.user else 0o040 if found.st_gid in groups else 0o004
        if not mode & bit:
            owner = f"{found.st_uid}:{found.st_gid}"
            seen = f"mode {mode:04o}, owner {owner}: the user {server.user} of kube-apiserver may not read it"
            yield NodeCheck(name, title, Outcome.FAILED, seen, f"chown {server.user}:{server.group} {path}")
            return
    if holds_keys and mode & 0o044:
        seen = f"mode {mode:04o}, and keys stand in it"
        yield NodeCheck(name, title, Outcome.WARNING, seen, f"chmod 600 {path}")
    elif mode & 0o022:
        seen = f"mode {mode:04o}: others than its owner may change which provider writes"
        yield NodeCheck(name, title, Outcome.WARNING, seen, f"chmod 600 {path}")
    else:
        yield NodeCheck(name, title, Outcome.OK, f"mode {mode:04o}")


def _writers(reading: Reading) -> Iterator[NodeCheck]:
    name, title = "writer", "what writes"
    seen_resources: set[str] = set()
    for rule in reading.rules:
        more = f" and {len(rule.resources) - 3} more" if len(rule.resources) > 3 else ""
        shown, first = ", ".join(rule.resources[:3]) + more, rule.providers[0]
        again = [each for each in rule.resources if each in seen_resources]
        seen_resources |= set(rule.resources)
        if again:
            seen = f"{again[0]} has an earlier rule, whose first provider writes; this one's only read"
            yield NodeCheck(name, title, Outcome.WARNING, seen, "put all providers of a resource into one rule")
        elif first.kind == "kms":
            plain = " and plain values are read" if any(each.kind == "identity" for each in rule.providers) else ""
            yield NodeCheck(name, title, Outcome.OK, f"{shown}: {first.name!r} by KMS {first.api}{plain}")
        elif first.kind == "identity" and len(rule.providers) == 1:
            yield NodeCheck(name, title, Outcome.OK, f"{shown}: nothing encrypts, as the rule says")
        else:
            by = f"{first.kind} encrypts them, with a key in this file"
            what = "nothing encrypts them" if first.kind == "identity" else by
            fix = "right while other kube-apiservers still learn to read; then put the kms provider first"
            yield NodeCheck(name, title, Outcome.WARNING, f"{shown}: {what}", fix)
    if not reading.of("secrets"):
        yield NodeCheck(name, title, Outcome.WARNING, "no rule is for secrets: they are stored plain", "name `secrets`")


def _provider(provider: Provider, server: KubeApiserver | None) -> Iterator[NodeCheck]:
    name, title = "provider", f"provider {provider.name}"
    if provider.api == "v1":
        fix = "add --feature-gates=KMSv1=true, or move to v2: docs/kubernetes.md"
        if server is not None and not server.kms_v1:
            seen = "KMS v1, which kube-apiserver serves since 1.29 only if its feature gate is on, and it is not"
            yield NodeCheck(name, title, Outcome.WARNING, seen, fix)
        else:
            yield NodeCheck(name, title, Outcome.OK, "KMS v1, for clusters that still have it; v2 is there since 1.29")
    timeout = f"{provider.timeout:g} s"
    if provider.timeout < _SHORT:
        seen = f"{timeout}: a token that is busy for that long counts as away"
        yield NodeCheck("timeout", f"timeout of {provider.name}", Outcome.WARNING, seen, "write 3s")
    elif provider.timeout > _LONG:
        seen = f"{timeout}: requests to kube-apiserver fail while one call waits for that long"
        yield NodeCheck("timeout", f"timeout of {provider.name}", Outcome.WARNING, seen, "write 3s")
    else:
        yield NodeCheck("timeout", f"timeout of {provider.name}", Outcome.OK, timeout)
    if provider.socket.startswith("@"):
        seen = f"{provider.endpoint} is an abstract socket, which has no permissions; kmsd has none"
        yield NodeCheck("endpoint", f"endpoint of {provider.name}", Outcome.FAILED, seen, "name kms.socket of kmsd")
    elif not provider.socket.startswith("/") or f"unix://{provider.socket}" != provider.endpoint:
        seen = f"of {provider.endpoint} kube-apiserver dials {provider.socket or 'nothing'!r}"
        fix = "write three slashes: unix:///run/kmsd/kms.sock"
        yield NodeCheck("endpoint", f"endpoint of {provider.name}", Outcome.FAILED, seen, fix)


def _mounts(server: KubeApiserver, reading: Reading) -> Iterator[NodeCheck]:
    name, title, fix = "mounts", "mounts of kube-apiserver", "`kmsctl k8s apply-patch` shows the lines that are missing"
    wanted = ([server.config] if server.config else []) + sorted({each.socket for each in reading.kms})
    missing = [each for each in wanted if not server.on_node(each)]
    for each in missing:
        yield NodeCheck(name, title, Outcome.FAILED, f"{each} is not mounted into the pod from the node", fix)
    for provider in reading.kms:
        mount = server.mount_of(provider.socket)
        if mount is not None and mount.source and (mount.file or mount.path == provider.socket):
            seen = f"{provider.socket} itself is mounted: a socket that kmsd makes anew is not seen by kube-apiserver"
            yield NodeCheck(name, title, Outcome.WARNING, seen, f"mount its folder {dirname(provider.socket)}")
    if server.reloads and (mount := server.mount_of(server.config)) is not None and mount.path == server.config:
        seen = f"{server.config} itself is mounted: a file that takes its place is never read anew"
        yield NodeCheck(name, title, Outcome.WARNING, seen, "mount its folder")
    if not missing:
        seen = ", ".join(f"{each} from {server.on_node(each)}" for each in wanted) or "none is needed"
        yield NodeCheck(name, title, Outcome.OK, seen)
