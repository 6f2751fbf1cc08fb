"""Check what answers on the sockets of an EncryptionConfiguration, as kube-apiserver asks it, and whether the nodes of
a cluster write with one key. Reads only: what it encrypts is of no meaning, and kept nowhere."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kmsctl.kubernetes import preflight_socket
from kmsctl.kubernetes.encryption_rules import Provider
from kmsctl.kubernetes.findings import NodeCheck, Outcome, refused
from kmsctl.kubernetes.kube_apiserver import KubeApiserver
from kmsctl.kubernetes.preflight_socket import Wanted
from kmsd.client import ClientError, Denied, kms_connect
from kmsd.client.clientconfig import Target

if TYPE_CHECKING:
    from kmsd.client.kms import KmsClient

KEY_ID_MAX: Final = 1024
"""Bytes of a key id from which kube-apiserver refuses it (envelope/kmsv2/envelope.go: ValidateKeyID)."""
_PING: Final = b"ping"
"""The plaintext of kube-apiserver's health check of KMS v1."""


@dataclass(frozen=True)
class Reached:
    """The outcome of a connection to the socket of a provider. listens: whether somebody may answer there."""

    provider: Provider
    path: str
    check: NodeCheck
    listens: bool


def reachable(provider: Provider, path: str, server: KubeApiserver | None, user: int | None) -> Reached:
    """Check that kube-apiserver may connect. path: of the socket on this node. user: that kube-apiserver runs as; None
    for the one of its manifest, else root."""
    wanted = Wanted("socket", f"socket of {provider.name}", "kms", "start kmsd on this node: docs/kubernetes.md", path)
    check, listens = preflight_socket.reachable(wanted, server or KubeApiserver({}, ()), user)
    return Reached(provider, path, check, listens)


def answering(provider: Provider, path: str, timeout: float) -> tuple[list[NodeCheck], str]:
    """Check Status and a round trip, as the provider's API has them. timeout: seconds for each call, at most.

    Return the checks, and the key id that Status answers for KMS v2; empty if there is none.
    """
    api = "v2" if provider.api == "v2" else "v1beta1"
    with kms_connect(path, "v2" if api == "v2" else "v1beta1", timeout=min(timeout, provider.timeout)) as kms:
        try:
            status = kms.status()
        except ClientError as error:
            return [refused("status", f"Status of {provider.name}", error)], ""
        checks = list(_status(provider, status.version, status.healthz, status.key_id))
        checks.append(_round_trip(provider, kms, status.key_id))
    return checks, status.key_id


def _status(provider: Provider, version: str, healthz: str, key_id: str) -> Iterator[NodeCheck]:
    name, title = "status", f"Status of {provider.name}"
    if version not in (("v2", "v2beta1") if provider.api == "v2" else ("v1beta1",)):
        seen = f"it answers version {version[:40]!r}"
        yield NodeCheck(name, title, Outcome.FAILED, seen, f"name the socket of a server of KMS {provider.api}")
    elif provider.api != "v2":
        yield NodeCheck(name, title, Outcome.OK, f"version {version}")
    elif healthz != "ok":
        yield NodeCheck(name, title, Outcome.FAILED, f"healthz: {healthz}", "`kmsctl status` says what to do")
    elif not key_id or len(key_id.encode()) >= KEY_ID_MAX:
        seen = f"its key id has {len(key_id.encode())} bytes, and kube-apiserver takes 1 to {KEY_ID_MAX - 1}"
        yield NodeCheck(name, title, Outcome.FAILED, seen, "`kmsctl status` says what to do")
    else:
        yield NodeCheck(name, title, Outcome.OK, f"ok, key id {key_id}")


def _round_trip(provider: Provider, kms: KmsClient, key_id: str) -> NodeCheck:
    name, title = "round-trip", f"round trip by {provider.name}"
    plaintext = os.urandom(32) if provider.api == "v2" else _PING
    started = time.monotonic()
    try:
        made = kms.encrypt(plaintext)
        middle = time.monotonic()
        same = kms.decrypt(made.ciphertext, key_id=made.key_id, annotations=made.annotations) == plaintext
    except ClientError as error:
        return refused(name, title, error)
    ended = time.monotonic()
    if not same:
        fix = "`kmsctl doctor` tries what the token does; encrypt nothing until it is mended"
        return NodeCheck(name, title, Outcome.FAILED, "Decrypt gave other bytes than were encrypted", fix)
    if provider.api == "v2" and made.key_id != key_id:
        seen = f"Encrypt used the key {made.key_id}, Status says {key_id}: kube-apiserver throws that away"
        return NodeCheck(name, title, Outcome.FAILED, seen, "look once more: a rotation may be under way")
    longest = max(middle - started, ended - middle)
    seen = f"Encrypt {1000 * (middle - started):.0f} ms, Decrypt {1000 * (ended - middle):.0f} ms"
    if longest > provider.timeout / 2:
        fix = "raise `timeout` in the EncryptionConfiguration, or find out why the token is slow: kmsctl stats"
        return NodeCheck(name, title, Outcome.WARNING, f"{seen}, and the timeout is {provider.timeout:g} s", fix)
    return NodeCheck(name, title, Outcome.OK, seen)


def agreement(key_id: str, targets: Sequence[Target], timeout: float) -> Iterator[NodeCheck]:
    """Check that the kmsd of other nodes write with this key. targets: their admin sockets, or key managers."""
    from kmsd.client.fleet import ask_all

    name, title = "nodes", "write key of the nodes"
    if not targets:
        seen = "no other node is named"
        fix = "name the kmsd of each: --node TARGET, or [[targets]] in the configuration file"
        yield NodeCheck(name, title, Outcome.NOT_CHECKED, seen, fix)
        return
    if not key_id:
        yield NodeCheck(name, title, Outcome.NOT_CHECKED, "this node has no key id to compare", "mend that first")
        return
    same = []
    for member in ask_all(targets, timeout):
        shown = member.target.name
        if member.error is not None:
            denied = isinstance(member.error, Denied)
            seen, fix = f"{shown}: {member.error.message}", member.error.hint
            yield NodeCheck(name, title, Outcome.NOT_CHECKED, seen, fix, denied)
        elif member.write_key is None:
            yield NodeCheck(name, title, Outcome.FAILED, f"{shown} has no write key", "`kmsctl status` says what to do")
        elif member.write_key.key_id != key_id:
            seen = f"{shown} writes with {member.write_key.key_id}, this node with {key_id}"
            fix = "what one node writes another cannot read: give all one token, or one key; see `kmsctl targets`"
            yield NodeCheck(name, title, Outcome.FAILED, seen, fix)
        else:
            same.append(shown)
    if same:
        yield NodeCheck(name, title, Outcome.OK, f"the same on {', '.join(same)}")
