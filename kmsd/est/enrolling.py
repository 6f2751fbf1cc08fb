"""Get a node its certificate, or the next one, and put it in its place: what `kmsctl enrol` and `kmsd proxy` do.

Blocks. May be cut off at any moment and begun anew: a key is kept until its certificate is there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from kmsd import plainfile
from kmsd.errors import Denied, InvalidRequest, KmsdError, Misconfigured, Unavailable
from kmsd.est import client
from kmsd.est.client import Server
from kmsd.est.files import NodeStore, due, fits, has_ended, request

USUAL_KEY: Final = "ec-p256"
"""The type of key for a server that asks for none."""
_MOST: Final = 1024 * 1024


@dataclass(frozen=True)
class Enrolled:
    """The certificate of a node. what: whether it was there already, is the next one, or the first."""

    certificate: x509.Certificate
    what: Literal["kept", "renewed", "enrolled"]


def trusted(server: Server, files: NodeStore, pin: str, authorities: bytes) -> Server:
    """Return the server with what it is known by: a CA's fingerprint, else these CAs (PEM), else those that the node
    has from before. Raises KmsdError; InvalidRequest if there is none of them."""
    if pin:
        return client.pinned(server, client.fingerprint(pin))
    with contextlib.suppress(OSError):
        authorities = authorities or plainfile.read_input(files.authorities, _MOST)[0]
    if not authorities:
        raise InvalidRequest(
            "nothing says who the server is",
            "give --ca-fingerprint sha256:..., as `kmsctl ca show` prints it, or --ca FILE",
        )
    return replace(server, authorities=authorities)


def current(files: NodeStore) -> x509.Certificate | None:
    """Return the certificate that has not ended and is not due for renewal; None if something is to be done. Finishes
    what a crash has cut off. Raises Misconfigured."""
    with _written(files):
        files.settle()
        kept = files.kept()
        if kept is not None and not has_ended(kept):
            files.put(kept)
        else:
            present = files.present()
            kept = present if present is not None and not has_ended(present) else None
    good = kept is not None and datetime.now(UTC) < due(kept) and files.has_key_of(kept)
    return kept if good else None


def enrol(server: Server, files: NodeStore, node: str, token: Callable[[], str | None], *, renew: bool) -> Enrolled:
    """Get a certificate and put it in its place. server: known already. token: called if one is needed. renew: show the
    present certificate if it has not ended. Raises Later, and KmsdError."""
    present = files.present() if renew else None
    ended = present if present is not None and has_ended(present) else None
    if present is not None and (ended is not None or not files.has_key_of(present)):
        present = None
    try:
        made, chain = obtain(server, files, node, token, present)
    except Denied as error:
        if ended is None:
            raise
        raise Denied(
            f"{error.message}; the certificate that is here ended at {ended.not_valid_after_utc:%F %T} by the clock of "
            f"this machine, where it is {datetime.now(UTC):%F %T} UTC",
            error.hint,
        ) from error
    with _written(files):
        files.put(made, chain)
    return Enrolled(made, "renewed" if present is not None else "enrolled")


def obtain(
    server: Server,
    files: NodeStore,
    node: str,
    token: Callable[[], str | None],
    present: x509.Certificate | None,
) -> tuple[x509.Certificate, Sequence[x509.Certificate]]:
    """Return a new certificate, for the key that `NodeStore.next_key` keeps, and the CAs of the server. present: the
    one to show. Raises Later, and KmsdError."""
    chain = client.authorities(server)
    key_type = client.wanted_key(server) or USUAL_KEY
    with _written(files):
        key = files.next_key(key_type)
    try:
        if present is not None:
            made = files.again(server, request(key, node, present))
        else:
            made = client.first(server, request(key, node), node, token())
    except (Denied, InvalidRequest):
        # It may be the key that is refused: another one is made the next time.
        with contextlib.suppress(OSError, KmsdError):
            files.drop()
        raise
    if not fits(made, key):
        raise Unavailable(f"{server.where} sent a certificate for another key", "it was thrown away; see its log")
    if not any(issued(made, each) for each in chain):
        raise Unavailable(
            f"{server.where} sent a certificate that none of its CAs has signed", "it was thrown away; see its log"
        )
    return made, chain


def issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Return whether a CA has issued a certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


@contextlib.contextmanager
def _written(files: NodeStore) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Misconfigured(
            f"{error.filename or files.certificate.parent} cannot be written: {error.strerror}",
            "let this user write in the folder of the certificate",
        ) from error
