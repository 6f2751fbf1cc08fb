"""The parts of the admin API that know no token: the table of a part, pages, and domain to protobuf."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final, Protocol, TypeVar

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.errors import Conflict, InvalidRequest, short
from kmsd.problem import Problem
from kmsd.service.following import Following
from kmsd.transport.call import Call, Handler, Method, Role, StreamHandler, StreamMethod, Table

API: Final = "admin"
SERVICE: Final = "kmsd.admin.v1.Admin"
SECONDS: Final = 60.0
"""Seconds for the answer to a call, wherever it comes from: a slow token makes keys for longer than it encrypts."""
_PAGE: Final = 500
_PAGE_MOST: Final = 1000
T = TypeVar("T")
M = TypeVar("M", bound=Message)

READS: Final = frozenset(
    {
        "GetStatus",
        "GetConfig",
        "ListSlots",
        "ListMechanisms",
        "ListKeys",
        "GetKey",
        "InspectCiphertext",
        "VerifyAudit",
        "ListPeers",
        "ListEnrolmentTokens",
        "ListEnrolmentRequests",
        "CheckStore",
        "GetCa",
        "GetCrl",
        "GetMetrics",
        "GetJwt",
    }
)
"""The methods that change nothing: a viewer may call them, and the audit does not record them."""


ENROLMENT: Final = (
    *("CreateEnrolmentToken", "ListEnrolmentTokens", "RevokeEnrolmentToken", "ListEnrolmentRequests"),
    *("DecideEnrolmentRequest", "CheckStore", "BackUpStore"),
)
"""The methods that want a store."""
JWT: Final = (
    *("GetJwt", "PublishJwtKey", "SwitchJwtKey", "RetireJwtKey", "ImportJwtKey", "TrustJwtKey", "UntrustJwtKey"),
)
"""The methods that want a signer of service account tokens."""


def refusing(names: Sequence[str], message: str, hint: str) -> Table:
    """Return the table of methods that this kmsd does not do, with the reason. message: has a place for the method's
    name."""

    async def refuse(call: Call, body: bytes) -> bytes:
        raise Conflict(message.format(call.method), hint)

    return table(dict.fromkeys(names, refuse))


def table(methods: Mapping[str, Handler] | None = None, streams: Mapping[str, StreamHandler] | None = None) -> Table:
    """Return the table of one part of the admin API, from the names of its methods."""
    return {
        **{
            f"/{SERVICE}/{name}": Method(
                API,
                name,
                handler,
                role=Role.VIEWER if name in READS else Role.OPERATOR,
                hinted=True,
                seconds=SECONDS,
            )
            for name, handler in (methods or {}).items()
        },
        **{
            f"/{SERVICE}/{name}": StreamMethod(
                API,
                name,
                handler,
                role=Role.VIEWER if name in READS or name.startswith("Watch") else Role.OPERATOR,
                hinted=True,
            )
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


def problem(problem: Problem) -> pb.Problem:
    """Return the message for a problem."""
    about, calls = problem.about, problem.about.calls
    requests = pb.Filter(failed=True, method=calls.method, code=calls.code) if calls is not None else None
    return alike(pb.Problem, problem, about=alike(pb.Problem.About, about, requests=requests))


def sessions(pool: object) -> pb.GetStatusResponse.Sessions:
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


def following_times(following: Following) -> pb.GetStatusResponse.Following:
    """Return how far kube-apiserver has followed, as clients see it."""
    return pb.GetStatusResponse.Following(
        since_unix_ms=int(following.since * 1000),
        first_status_unix_ms=int(following.first_status * 1000),
        last_status_unix_ms=int(following.last_status * 1000),
        first_encrypt_unix_ms=int(following.first_encrypt * 1000),
        last_encrypt_unix_ms=int(following.last_encrypt * 1000),
        previous_key_id=following.previous,
        previous_key_id_sha256=sha256(following.previous),
    )


class CertificateView(Protocol):
    """A certificate of kmsd's. names: as "DNS:name" and so on. serial: in hexadecimal. not_before, not_after: Unix
    seconds. key_uri: where its key is, if on a token (RFC 7512); else empty."""

    @property
    def subject(self) -> str: ...
    @property
    def names(self) -> Sequence[str]: ...
    @property
    def serial(self) -> str: ...
    @property
    def not_before(self) -> float: ...
    @property
    def not_after(self) -> float: ...
    @property
    def key_uri(self) -> str: ...


def certificate(own: CertificateView) -> pb.GetStatusResponse.Certificate:
    """Return a certificate as clients see it."""
    return pb.GetStatusResponse.Certificate(
        subject=own.subject,
        names=own.names,
        serial=own.serial,
        not_before_unix_ms=int(own.not_before * 1000),
        not_after_unix_ms=int(own.not_after * 1000),
        key_uri=own.key_uri,
    )
