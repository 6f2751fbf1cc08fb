"""Check what kube-apiserver needs of the socket on which its service account tokens are signed, at any time, and before
its key files are taken out. Reads only, and has nothing signed."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from posixpath import dirname
from typing import Final

from kmsctl.diagnostics import UsageError
from kmsctl.kubernetes import key_files, preflight_socket
from kmsctl.kubernetes.encryption_fields import duration
from kmsctl.kubernetes.findings import NodeCheck, Outcome, refused
from kmsctl.kubernetes.kube_apiserver import ENDPOINT_FLAG, EXPIRATION_FLAG, KEY_FLAG, SIGNING_KEY_FLAG, KubeApiserver
from kmsd.client import ClientError, signer_connect

_PATCH: Final = "`kmsctl k8s apply-patch --jwt-socket {}` shows the lines"
_SHOWN: Final = 4
"""Ids of keys that a sentence names."""
_NO_KEY: Final = (
    "make one: kmsctl keygen sa-signer --type ec-p256 --purpose jwt; or import the file: docs/service-accounts.md"
)


@dataclass(frozen=True)
class Signer:
    """The signing endpoint of a kube-apiserver. checks: of what was found without asking. path: of the socket on this
    node; empty if nobody answers there."""

    server: KubeApiserver
    checks: tuple[NodeCheck, ...]
    path: str


def look(server: KubeApiserver | None, user: int | None) -> Signer | None:
    """Check the flags, the mount and the socket of a signing endpoint; None if there is none. user: as of
    `preflight_socket.reachable`."""
    if server is None or not server.endpoint:
        return None
    endpoint = server.endpoint
    flags = NodeCheck("jwt-flags", f"--{ENDPOINT_FLAG}", Outcome.OK, endpoint)
    beside = [each for each in (SIGNING_KEY_FLAG, KEY_FLAG) if each in server.flags]
    if not endpoint.startswith("/"):
        fix = "name jwt.socket of kmsd, from the slash at its beginning"
        return Signer(server, (_failed(flags, f"{endpoint} is no path of a socket", fix),), "")
    if beside:
        seen = f"--{beside[0]} stands beside it, and kube-apiserver does not start with both"
        flags = _failed(flags, seen, _PATCH.format(endpoint))
    path = server.on_node(endpoint)
    mount = NodeCheck("jwt-mount", "mount of the signing endpoint", Outcome.OK, f"{endpoint} from {path}")
    found = server.mount_of(endpoint)
    if not path:
        seen = f"{endpoint} is not mounted into the pod from the node"
        mount = _failed(mount, seen, _PATCH.format(endpoint))
    elif found is not None and (found.file or found.path == endpoint):
        seen = f"{endpoint} itself is mounted: a socket that kmsd makes anew is not seen by kube-apiserver"
        mount = NodeCheck(mount.name, mount.title, Outcome.WARNING, seen, f"mount its folder {dirname(endpoint)}")
    path = path or endpoint
    wanted = preflight_socket.Wanted(
        "jwt-socket",
        "socket of the signing endpoint",
        "jwt",
        "set jwt.socket of kmsd on this node, and start it: docs/service-accounts.md",
        path,
    )
    socket, listens = preflight_socket.reachable(wanted, server, user)
    return Signer(server, (flags, mount, socket), path if listens else "")


def answering(signer: Signer, timeout: float) -> Iterator[NodeCheck]:
    """Check what kube-apiserver asks at its start. timeout: seconds for each call, at most."""
    if not signer.path:
        return
    keys = NodeCheck("jwt-keys", "published keys", Outcome.OK, "")
    expiration = NodeCheck("jwt-expiration", "longest service account token", Outcome.OK, "")
    with signer_connect(signer.path, timeout=timeout) as asked:
        try:
            published = len(asked.kids())
        except ClientError as error:
            yield refused(keys.name, keys.title, error)
            return
        if published:
            yield NodeCheck(keys.name, keys.title, Outcome.OK, "1 key" if published == 1 else f"{published} keys")
        else:
            yield _failed(keys, "none is published, and kube-apiserver does not start", _NO_KEY)
        try:
            longest = asked.longest()
        except ClientError as error:
            yield refused(expiration.name, expiration.title, error)
            return
    fault = _too_long(signer.server, longest)
    if fault is not None:
        yield _failed(expiration, fault.message, fault.hint)
    else:
        yield NodeCheck(expiration.name, expiration.title, Outcome.OK, f"{longest} s")


def faults(
    before: KubeApiserver, after: KubeApiserver, socket: str, timeout: float, *, write: bool
) -> Iterator[ClientError | UsageError]:
    """Yield why tokens would be refused, or kube-apiserver would not start, if it had its tokens signed on a socket.

    before, after: without and with that. timeout: seconds for each call. write: whether a socket and files that are not
    here count too; else the manifest may be that of another machine.
    """
    path = after.on_node(socket)
    if not write and not os.path.exists(path):  # noqa: PTH110 - Path.exists raises where folders let nobody in
        return
    try:
        with signer_connect(path, timeout=timeout) as asked:
            published, longest = asked.kids(), asked.longest()
    except ClientError as error:
        yield error
        return
    if not published:
        yield UsageError(f"no key is published on {path}: kube-apiserver would not start", _NO_KEY)
    yield from _lost(before, published, path, write=write)
    if (fault := _too_long(before, longest)) is not None:
        yield fault


def _lost(server: KubeApiserver, published: Collection[str], socket: str, *, write: bool) -> Iterator[UsageError]:
    """Yield for each file what it verifies, and those who fetch the published keys would not."""
    private = server.flags.get(SIGNING_KEY_FLAG, "")
    flag = KEY_FLAG if server.key_files else SIGNING_KEY_FLAG
    for named in server.key_files or ((private,) if private else ()):
        try:
            path, kids = _read(server, named)
        except UsageError as error:
            if write:
                wanted = f"--{flag}={named} must be readable here, to know which tokens would be refused"
                yield UsageError(f"{wanted}: {error.message}", error.hint)
            continue
        missing = [kid for kid in kids if kid not in published]
        if missing:
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            yield UsageError(
                f"tokens of these keys in {path} would be refused, for {socket} does not publish them: "
                f"{', '.join(missing[:_SHOWN])}{more}",
                _ways(missing, path, kids, server.on_node(private)),
            )


def _read(server: KubeApiserver, named: str) -> tuple[str, dict[str, bool]]:
    """Return where a file of keys lies on this node, and its keys. named: as kube-apiserver calls it."""
    path = server.on_node(named)
    if not path:
        raise UsageError(f"{named} is not mounted into the pod from the node", "mount its folder")
    return path, key_files.kids(path)


def _ways(missing: Collection[str], path: str, kids: Mapping[str, bool], private: str) -> str:
    """Return the commands that have keys of a file published. kids: in the file, as of `key_files`. private: the file
    of the key that signs, on this node; empty if there is none."""
    ways = []
    if any(kids[kid] for kid in missing):
        ways.append(f"kmsctl jwt import --pem {shlex.quote(path)}")
    else:
        with contextlib.suppress(UsageError):
            if private and not key_files.kids(private).keys().isdisjoint(missing):
                ways.append(f"kmsctl jwt import --pem {shlex.quote(private)}")
    if not any(kids.values()):
        ways.append(f"kmsctl jwt trust --pem {shlex.quote(path)}")
    return f"{', or '.join(ways)}: docs/service-accounts.md"


def _too_long(server: KubeApiserver, longest: int) -> UsageError | None:
    value = server.flags.get(EXPIRATION_FLAG, "")
    if (duration(value) or 0.0) <= longest:
        return None
    return UsageError(
        f"--{EXPIRATION_FLAG}={value} is longer than the {longest} s for which tokens are signed: kube-apiserver does "
        "not start",
        "raise jwt.max_token_expiration where the key is (kmsd, or the key manager), or shorten the flag",
    )


def _failed(check: NodeCheck, seen: str, fix: str) -> NodeCheck:
    return NodeCheck(check.name, check.title, Outcome.FAILED, seen, fix)
