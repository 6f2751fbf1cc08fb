"""Enrol the machine that this program runs on: what kmsctl sees of `kmsd.est`. Knows no kmsd on this machine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from kmsd.client.errors import ClientError, Conflict, Denied, InvalidRequest, Unreachable
from kmsd.client.model.enrol import EnrolledNode
from kmsd.errors import KmsdError
from kmsd.est import enrolling
from kmsd.est.client import Later, Server
from kmsd.est.files import NodeFiles, NodeStore, due, prepare

_ERRORS: Final[dict[str, type[ClientError]]] = {
    "INVALID_ARGUMENT": InvalidRequest, "PERMISSION_DENIED": Denied, "UNAVAILABLE": Unreachable,
    "FAILED_PRECONDITION": Conflict,
}  # fmt: skip


def enrol_node(
    url: str,
    folder: Path,
    node: str,
    *,
    key: str = "",
    pin: str = "",
    authorities: bytes = b"",
    token: Callable[[], str | None] = lambda: None,
    if_needed: bool = False,
    timeout: float = 60.0,
    waiting: Callable[[str], None] = lambda _: None,
) -> EnrolledNode:
    """Get the node's certificate from the EST server at `url`, and put it into a folder: tls.key, tls.crt, ca.crt.

    key: URI of the key, if that is to be on a token (RFC 7512); its successors are made under the same label. pin:
    fingerprint of a CA of the server. authorities: PEM of CAs, in place of that. token: called if one is needed.
    if_needed: do nothing while the certificate is good, and renew one that is in force by itself. timeout: seconds for
    all of it, an operator's decision included. waiting: told what is waited for. Raises ClientError, retryable if the
    same call may succeed later.
    """
    try:
        with _store(key, folder) as files:
            return _enrolled(url, files, node, pin, authorities, token, if_needed, timeout, waiting)
    except KmsdError as error:
        kind = _ERRORS.get(error.code, ClientError)
        raise kind(error.message, error.hint, error.code, retryable=error.retryable) from error


@contextlib.contextmanager
def _store(key: str, folder: Path) -> Iterator[NodeStore]:
    prepare(folder)
    if not key:
        yield NodeFiles.within(folder)
        return
    from kmsd.est.node_token import opened  # it loads what keys in files do not need

    with opened(key, folder) as files:
        with contextlib.suppress(KmsdError, OSError):
            files.retire()
        yield files


def _enrolled(
    url: str,
    files: NodeStore,
    node: str,
    pin: str,
    authorities: bytes,
    token: Callable[[], str | None],
    if_needed: bool,
    timeout: float,
    waiting: Callable[[str], None],
) -> EnrolledNode:
    server, until = Server.parse(url), time.monotonic() + timeout
    server = replace(server, timeout=min(server.timeout, timeout))
    good = enrolling.current(files)
    if if_needed and good is not None:
        return _node(enrolling.Enrolled(good, "kept"), files)
    server = enrolling.trusted(server, files, pin, authorities)
    while True:
        try:
            return _node(enrolling.enrol(server, files, node, token, renew=if_needed), files)
        except Later as later:
            if time.monotonic() + later.seconds > until:
                raise
            waiting(later.message)
            time.sleep(later.seconds)


def _node(found: enrolling.Enrolled, files: NodeStore) -> EnrolledNode:
    certificate = found.certificate
    return EnrolledNode(
        found.what,
        certificate.subject.rfc4514_string(),
        f"{certificate.serial_number:x}",
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        due(certificate),
        tuple(map(str, files.written)),
    )
