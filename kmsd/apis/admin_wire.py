"""Share what the handlers of the admin API need: domain to protobuf, pages, and the table of one part of the API."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeVar

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.errors import InvalidRequest, short
from kmsd.hsm.connection import PoolView
from kmsd.keys.key import Key, KeyState, known_made_ms
from kmsd.keys.keyring import Keyring
from kmsd.observe.stats import Stats
from kmsd.problem import Problem
from kmsd.transport.call import Handler, Method, Role, StreamHandler, StreamMethod, Table

API: Final = "admin"
SERVICE: Final = "kmsd.admin.v1.Admin"
_PAGE: Final = 500
_PAGE_MOST: Final = 1000
T = TypeVar("T")
M = TypeVar("M", bound=Message)

_STATES: Final = {
    KeyState.WRITE: pb.KEY_STATE_WRITE,
    KeyState.READABLE: pb.KEY_STATE_READABLE,
    KeyState.PENDING: pb.KEY_STATE_PENDING,
    KeyState.UNUSABLE: pb.KEY_STATE_UNUSABLE,
    KeyState.COMPANION: pb.KEY_STATE_COMPANION,
    KeyState.ARCHIVED: pb.KEY_STATE_ARCHIVED,
    KeyState.PLANTED: pb.KEY_STATE_PLANTED,
}
_TYPES: Final = {"aes": pb.KEY_TYPE_AES, "hmac": pb.KEY_TYPE_HMAC, "rsa": pb.KEY_TYPE_RSA, "other": pb.KEY_TYPE_OTHER}


READS: Final = frozenset(
    {"GetStatus", "GetConfig", "ListSlots", "ListMechanisms", "ListKeys", "GetKey", "InspectCiphertext", "VerifyAudit"}
)
"""Change nothing, and are asked every second by whoever watches."""


def table(methods: Mapping[str, Handler] | None = None, streams: Mapping[str, StreamHandler] | None = None) -> Table:
    """Return the table of one part of the admin API, from the names of its methods."""
    return {
        **{
            f"/{SERVICE}/{name}": Method(API, name, handler, role=Role.VIEWER if name in READS else Role.OPERATOR)
            for name, handler in (methods or {}).items()
        },
        **{
            f"/{SERVICE}/{name}": StreamMethod(API, name, handler, role=Role.VIEWER)
            for name, handler in (streams or {}).items()
        },
    }


def alike(kind: type[M], shown: object, **given: Any) -> M:
    """Make a message from the attributes that have its fields' names. given: the fields that have another name there,
    or another type."""
    values = {name: getattr(shown, name) for name in _names(kind.DESCRIPTOR) if name not in given}
    return kind(**values, **given)


@cache
def _names(descriptor: Descriptor) -> tuple[str, ...]:
    return tuple(field.name for field in descriptor.fields)


@dataclass(frozen=True)
class KeyPresenter:
    """The keys as clients see them."""

    keyring: Keyring
    stats: Stats

    def key(self, key: Key) -> pb.Key:
        """Return the message for a key."""
        token = key.token
        use = self.stats.key_use(key.key_id)
        return pb.Key(
            label=key.label,
            key_id=key.key_id,
            key_id_sha256=key.key_id_sha256,
            type=_TYPES[token.kind],
            bits=token.bits,
            state=_STATES[key.state],
            unusable_reason=key.reason,
            unusable_hint=key.hint,
            can_encrypt=token.encrypt,
            can_decrypt=token.decrypt,
            can_sign=token.sign,
            can_verify=token.verify,
            sensitive=bool(token.sensitive),
            extractable=bool(token.extractable),
            private=token.private,
            local=token.local,
            always_sensitive=token.always_sensitive,
            never_extractable=token.never_extractable,
            created_unix_ms=known_made_ms(key),
            token_label=self.keyring.hsm(key).label,
            token=key.place,
            encrypts=use.encrypts if token.seals else 0,
            decrypts=use.decrypts if token.seals else 0,
            last_used_unix_ms=use.last_used_unix_ms if token.seals else 0,
            enc=key.enc if key.may_write else "",
        )

    def optional(self, key: Key | None) -> pb.Key | None:
        """Return the message for a key, or None for none."""
        return self.key(key) if key is not None else None


def problem(problem: Problem) -> pb.Problem:
    """Return the message for a problem."""
    about, calls = problem.about, problem.about.calls
    requests = pb.Filter(failed=True, method=calls.method, code=calls.code) if calls is not None else None
    return alike(pb.Problem, problem, about=alike(pb.Problem.About, about, requests=requests))


def sessions(pool: PoolView) -> pb.GetStatusResponse.Sessions:
    """Return the message for the sessions of a token."""
    return alike(pb.GetStatusResponse.Sessions, pool)


def sha256(key_id: str) -> str:
    """Return the hash of a key id as kube-apiserver logs it; empty for none."""
    return hashlib.sha256(key_id.encode()).hexdigest() if key_id else ""


def page(items: Sequence[T], size: int, token: str) -> tuple[Sequence[T], str]:
    """Return one page, and the token of the next ("" at the end). The token is the place to go on from."""
    if token and not (token.isascii() and token.isdigit() and len(token) <= 9):
        raise InvalidRequest(
            f"the page token must be one that this kmsd answered, got {short(token)}",
            "leave it out to begin with the first page",
        )
    begin = int(token or "0")
    end = begin + min(size or _PAGE, _PAGE_MOST)
    return items[begin:end], str(end) if end < len(items) else ""
