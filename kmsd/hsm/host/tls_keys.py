"""EC key pairs that kmsd makes on a node's token for its TLS certificates, each beside the one before. Each function
runs on a thread with a session.

They have the label that the address of the token names, with the time of their making behind it, and a CKA_ID that
tells that kmsd made them. No other key is listed, made or destroyed here.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from kmsd.errors import Conflict
from kmsd.hsm.host import calls
from kmsd.hsm.host import cryptoki as c
from kmsd.hsm.host.keys import TokenKey, begin, objects, public_halves
from kmsd.hsm.host.session import TokenSession
from kmsd.hsm.host.signing import PublicHalf, ec_halves, make_pair
from kmsd.hsm.operation import Operation, operation
from kmsd.hsm.purpose import is_tls_id

_MADE_AT: Final = re.compile(r"@[0-9]{8}T[0-9]{6}Z")
_LISTED_MOST: Final = 256
"""Keys that are listed: each costs a few calls."""


class TlsKey(NamedTuple):
    """A key pair of a node. halves: what may be its public half; anybody can make such an object."""

    label: str
    cka_id: bytes
    halves: tuple[PublicHalf, ...]


@operation(Operation.LIST_TLS_KEYS)
def list_keys(session: TokenSession) -> list[TlsKey]:
    """List the keys of the label that the address names. Raises CkrError, Conflict."""
    found = [key for _, key in made_keys(session)][:_LISTED_MOST]
    return [TlsKey(key.label, key.cka_id, tuple(ec_halves(session, key.cka_id))) for key in found]


@operation(Operation.GENERATE_TLS_KEY, changes=True)
def generate(session: TokenSession, until: float, label: str, cka_id: bytes, bits: int) -> None:
    """Make a key pair that signs. `session` is read-write. until: see `begin`. Raises CkrError, Conflict."""
    _check(session, label, cka_id)
    begin(until)
    make_pair(session, label, cka_id, "ec", bits)


@operation(Operation.DESTROY_TLS_KEY, changes=True)
def destroy(session: TokenSession, until: float, cka_id: bytes) -> None:
    """Destroy the key pair with this CKA_ID, if it is there; cannot be undone. `session` is read-write. until: see
    `begin`. Raises CkrError, Conflict."""
    for handle, key in made_keys(session):
        if key.cka_id == cka_id:
            both = (*public_halves(session, handle, "ec"), handle)
            begin(until)
            for each in both:
                calls.destroy_object(session.cryptoki.table, session.handle, each)


def made_keys(session: TokenSession) -> list[tuple[int, TokenKey]]:
    """Return the private keys of the label that the address names, with their handles. Raises CkrError, Conflict."""
    label = _named(session)
    found = objects(session, {c.CKA_PRIVATE: True}, "ec", is_tls_id)
    session.check_login()
    return [(handle, key) for handle, key in found if _belongs(key.label, label)]


def _check(session: TokenSession, label: str, cka_id: bytes) -> None:
    """Raise Conflict unless a key with this label and CKA_ID may be made."""
    if not is_tls_id(cka_id) or not _belongs(label, _named(session)):
        raise Conflict(f"no key labelled {label!r} is made for the certificates of a node", "leave its name to kmsd")


def _named(session: TokenSession) -> str:
    if session.tls_key is None or not session.tls_key.label or session.tls_key.cka_id:
        raise Conflict(
            "the keys of a node's certificates are made and found by their label, and none is named",
            "name the key by object=LABEL alone, without id=",
        )
    return session.tls_key.label


def _belongs(label: str, named: str) -> bool:
    return label.startswith(named) and _MADE_AT.fullmatch(label[len(named) :]) is not None
