"""Reads etcd over its own gRPC API, page by page, from the first of several endpoints that answers.

Read-only: it knows Range, and Authenticate where etcd wants a user. The one place where a call to etcd that failed
becomes a `ClientError`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast
from urllib.parse import quote

# gRPC core writes to stderr of its own accord; read once, when it loads.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
from google.protobuf.message import Message

from kmsd.api.etcd import rpc_pb2 as pb
from kmsd.client.errors import ClientError, Denied, InvalidRequest, Overloaded, Unhealthy, Unreachable
from kmsd.etcd import dial
from kmsd.etcd.endpoints import NO_TLS, Endpoint, Tls, parse_endpoints
from kmsd.etcd.tls import TlsBytes, read_tls

PAGE_BYTES_MAX: Final = 16 << 20
"""Octets of one answer. etcd's own bound for a value is 1.5 MiB unless it is told otherwise."""

_RETRY_PAUSE: Final = 0.5
_PATIENCE: Final = 20.0
"""Seconds that an etcd which has answered before is tried again: longer than members take to choose a leader."""
_MESSAGE_TOO_LARGE: Final = "larger than max"
_COMPACTED: Final = "required revision has been compacted"
_FUTURE: Final = "required revision is a future revision"
_SERIALIZABLE: Final = "serializable is not"
_OLD_TOKEN: Final = "invalid auth token"  # noqa: S105 - what etcd answers
_OLD_AUTH: Final = "revision of auth store is old"

Response = TypeVar("Response", bound=Message)


class PageTooLarge(Exception):
    """Raised if a page has more than PAGE_BYTES_MAX octets: ask for fewer keys."""


class _NotSerializable(Exception):
    """Raised if what answers has linearizable reads only, as kine."""


class Compacted(Exception):
    """Raised if etcd has forgotten this revision."""


@dataclass(frozen=True)
class User:
    """A user of etcd's own authentication."""

    name: str
    password: str


@dataclass(frozen=True)
class RangePage:
    """A page of keys and values. items: key and value, in the order of the keys. count: keys of the whole range.
    octets: of the answer."""

    items: Sequence[Any]
    more: bool
    count: int
    revision: int
    cluster_id: int
    octets: int


class _Member:
    """An endpoint and its channel. fresh: it has shown that it is not behind."""

    def __init__(self, endpoint: Endpoint, tls: TlsBytes | None) -> None:
        self.endpoint = endpoint
        self.fresh = False
        self.token = ""
        address = f"{endpoint.host}:{endpoint.port}"
        if ":" in endpoint.host:
            address = f"[{endpoint.host}]:{endpoint.port}"
        # gRPC reads a unix: target as a URI and undoes percent-encoding.
        target = f"unix:{quote(endpoint.path)}" if endpoint.path else f"dns:///{address}"
        options = (
            ("grpc.enable_http_proxy", 0),
            ("grpc.max_receive_message_length", PAGE_BYTES_MAX),
            ("grpc.enable_retries", 0),
        )
        if tls is None:
            self.channel = grpc.insecure_channel(target, options)
        else:
            proof = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.cert)
            self.channel = grpc.secure_channel(target, proof, options)


class Etcd:
    """A client of one etcd cluster.

    endpoints: as `parse_endpoints` reads them. timeout: seconds for each call.
    Nothing is dialled until the first call. Raises InvalidRequest, Denied.
    """

    def __init__(
        self, endpoints: Sequence[str], tls: Tls = NO_TLS, user: User | None = None, *, timeout: float = 10.0
    ) -> None:
        found = parse_endpoints(endpoints, tls)
        material = read_tls(tls) if tls.any or any(each.tls for each in found) else None
        self._tls = tls
        self._user = user
        self._timeout = timeout
        self._answered = False
        self.linearizable = False
        """Set once the server has refused a serializable read: every read is linearizable then (RangeRequest)."""
        self._cluster_id = 0
        self._members = [_Member(each, material if each.tls else None) for each in found]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        for member in self._members:
            member.channel.close()

    def page(self, start: bytes, end: bytes, *, limit: int, revision: int = 0, keys_only: bool = False) -> RangePage:
        """Read at most `limit` keys from `start` to before `end`. revision: 0: the newest.

        Raises PageTooLarge, Compacted, ClientError.
        """

        def ask(member: _Member) -> pb.RangeResponse:
            try:
                return read(member)
            except _NotSerializable:
                self.linearizable = True
                return read(member)

        def read(member: _Member) -> pb.RangeResponse:
            request = pb.RangeRequest(
                key=start,
                range_end=end,
                limit=limit,
                revision=revision,
                # A member that has once answered at this revision has it; the others need not be asked again.
                serializable=bool(revision) and member.fresh and not self.linearizable,
                keys_only=keys_only,
            )
            return self._call(member, "/etcdserverpb.KV/Range", request, pb.RangeResponse)

        answer = self._anywhere(ask)
        if self._cluster_id not in (0, answer.header.cluster_id):
            raise InvalidRequest(
                "the endpoints belong to different etcd clusters", "scan each cluster by itself", "INVALID_ARGUMENT"
            )
        self._cluster_id = answer.header.cluster_id
        return RangePage(
            items=answer.kvs,
            more=answer.more,
            count=answer.count,
            revision=answer.header.revision,
            cluster_id=answer.header.cluster_id,
            octets=answer.ByteSize(),
        )

    def _anywhere(self, ask: Callable[[_Member], Response]) -> Response:
        """Return the answer of the first member that gives one; that member is asked first from then on."""
        failures: list[ClientError] = []
        until = time.monotonic() + _PATIENCE
        while not failures or (self._answered and time.monotonic() < until):
            if failures:
                time.sleep(_RETRY_PAUSE)
            failures.clear()
            for member in list(self._members):
                try:
                    answer = ask(member)
                except ClientError as error:
                    if not error.retryable:
                        raise
                    member.fresh = False
                    failures.append(error)
                    continue
                member.fresh = self._answered = True
                self._members.remove(member)
                self._members.insert(0, member)
                return answer
        raise _all_failed(failures)

    def _call(self, member: _Member, method: str, request: Message, response: type[Response]) -> Response:
        user = self._user
        if user is None:
            return self._once(member, method, request, response)
        if not member.token:
            self._log_in(member, user)
        try:
            return self._once(member, method, request, response)
        except _TokenExpired:
            self._log_in(member, user)
            return self._once(member, method, request, response)

    def _log_in(self, member: _Member, user: User) -> None:
        request = pb.AuthenticateRequest(name=user.name, password=user.password)
        member.token = ""
        answer = self._once(member, "/etcdserverpb.Auth/Authenticate", request, pb.AuthenticateResponse)
        member.token = answer.token

    def _once(self, member: _Member, method: str, request: Message, response: type[Response]) -> Response:
        stub = member.channel.unary_unary(
            method, request_serializer=type(request).SerializeToString, response_deserializer=response.FromString
        )
        metadata = (("token", member.token),) if member.token else ()
        try:
            answer: Response = stub(request, timeout=self._timeout, metadata=metadata)
        except grpc.RpcError as error:
            call = cast("grpc.Call", error)
            raise self._translate(member, call.code(), call.details() or "") from None
        return answer

    def _translate(self, member: _Member, code: grpc.StatusCode, details: str) -> Exception:
        name = member.endpoint.name
        words = details.removeprefix("etcdserver: ").strip() or code.name
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _MESSAGE_TOO_LARGE in details:
            return PageTooLarge()
        if code is grpc.StatusCode.UNIMPLEMENTED and _SERIALIZABLE in details and not self.linearizable:
            return _NotSerializable()
        if _COMPACTED in details:
            return Compacted()
        if member.token and (_OLD_TOKEN in details or _OLD_AUTH in details):
            return _TokenExpired()
        if _FUTURE in details:
            return Unhealthy(
                f"etcd at {name} is behind the others",
                "try again in a moment, or leave this endpoint out",
                code.name,
                retryable=True,
            )
        if not details.startswith("etcdserver: "):
            if code is grpc.StatusCode.UNAVAILABLE:
                return dial.explain(member.endpoint, self._tls)
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                return Unreachable(
                    f"etcd at {name} gave no answer within {self._timeout:g} s",
                    "allow it more time with --timeout",
                    code.name,
                    retryable=True,
                )
        return _answered(name, code, words)


class _TokenExpired(Exception):
    pass


def _answered(name: str, code: grpc.StatusCode, words: str) -> ClientError:
    message = f"etcd at {name} answered: {words}"
    match code:
        case grpc.StatusCode.PERMISSION_DENIED:
            hint = "the user needs the right to read this prefix: etcdctl role grant-permission ROLE --prefix=true read"
            return Denied(message, hint, code.name)
        case grpc.StatusCode.UNAUTHENTICATED:
            return Denied(message, "give a user with --user and --password-file", code.name)
        case grpc.StatusCode.INVALID_ARGUMENT if "user name" in words or "authentication failed" in words:
            return Denied(message, "give a user with --user and its password with --password-file", code.name)
        case grpc.StatusCode.FAILED_PRECONDITION if "authentication is not enabled" in words:
            return InvalidRequest(message, "leave out --user", code.name)
        case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.OUT_OF_RANGE:
            return InvalidRequest(message, "", code.name)
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED:
            return Unhealthy(message, "`etcdctl endpoint health --cluster` shows more", code.name, retryable=True)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Overloaded(message, "etcd is busy; try again", code.name, retryable=True)
        case grpc.StatusCode.UNIMPLEMENTED | grpc.StatusCode.NOT_FOUND:
            return InvalidRequest(
                f"what answers at {name} is no etcd v3", "is that its port for clients, 2379?", code.name
            )
        case _:
            return ClientError(message, "look at the log of etcd", code.name)


def _all_failed(failures: Sequence[ClientError]) -> ClientError:
    """Return one error for all endpoints: of the kind of the first, with what each said."""
    first = failures[0]
    if len(failures) == 1:
        return first
    said = "; ".join(dict.fromkeys(each.message for each in failures))
    return type(first)(said, first.hint, first.code, retryable=True)
