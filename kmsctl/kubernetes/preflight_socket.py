"""Check that kube-apiserver may connect to a socket of kmsd. Reads only, and says nothing on the connection."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from kmsctl.kubernetes import reach
from kmsctl.kubernetes.findings import AS_ROOT, NodeCheck, Outcome
from kmsctl.kubernetes.kube_apiserver import KubeApiserver


@dataclass(frozen=True)
class Wanted:
    """A socket that kube-apiserver wants. name, title: of the check. section: of kmsd's configuration. start: what to
    do if nobody listens. path: on this node."""

    name: str
    title: str
    section: str
    start: str
    path: str


def reachable(wanted: Wanted, server: KubeApiserver, user: int | None) -> tuple[NodeCheck, bool]:
    """Check that kube-apiserver may connect, and say whether somebody may answer there. user: that kube-apiserver runs
    as; None for the one of its manifest."""
    who = server.user if user is None else user
    group = server.group if user is None or user == server.user else user
    path, error = wanted.path, None
    try:
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            return _failed(wanted, f"{path} is not a socket", f"name {wanted.section}.socket of kmsd"), False
        error = reach.connect_as(path, who, group, server.groups, powerless=server.powerless)
    except PermissionError:
        seen = f"whether the user {who} may connect to {path} can be tried by that user and by root alone"
        return NodeCheck(wanted.name, wanted.title, Outcome.NOT_CHECKED, seen, AS_ROOT, denied=True), True
    except OSError as missing:
        error = missing
    if error is None:
        return NodeCheck(wanted.name, wanted.title, Outcome.OK, f"{path}, as user {who}"), True
    if error.errno in (errno.EACCES, errno.EPERM):
        seen = f"the user {who} of kube-apiserver may not connect to {path}{_owner(path)}"
        fix = (
            f"run kmsd as that user; or give the socket to a group that the user is in ({wanted.section}.group, "
            f"{wanted.section}.mode), and have the folder let it pass"
        )
        return _failed(wanted, seen, fix), True
    why = "nobody listens" if error.errno == errno.ECONNREFUSED else os.strerror(error.errno or 0)
    return _failed(wanted, f"{path}: {why}", wanted.start), False


def _failed(wanted: Wanted, seen: str, fix: str) -> NodeCheck:
    return NodeCheck(wanted.name, wanted.title, Outcome.FAILED, seen, fix)


def _owner(path: str) -> str:
    try:
        found = Path(path).stat()
    except OSError:
        return ""
    return f", which belongs to {found.st_uid}:{found.st_gid} with mode {stat.S_IMODE(found.st_mode):04o}"
