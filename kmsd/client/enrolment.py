"""The part of the admin API for enrolment and the store, as plain calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

from google.protobuf.message import Message

from kmsd.api.admin.v1 import enrol_pb2 as pb
from kmsd.client import decode, model
from kmsd.client.errors import ClientError, InvalidRequest

if TYPE_CHECKING:
    from kmsd.client.wire import Stream

Response = TypeVar("Response", bound=Message)


class Page(Protocol):
    """A page of a list."""

    @property
    def next_page_token(self) -> str:
        """The token of the next page; empty for the last one."""


P = TypeVar("P", bound=Page)


class EnrolmentCalls:
    """The calls for enrolment. Every method takes `timeout`, and raises ClientError, as those of `AdminClient`."""

    def create_enrolment_token(
        self, node: str, tenant: str, *, ttl: float = 0, uses: int = 0, timeout: float | None = None
    ) -> model.MadeEnrolmentToken:
        """Make a token for a node. ttl: seconds; 0: an hour. uses: certificates that it is good for; 0: one."""
        request = pb.CreateEnrolmentTokenRequest(
            node=text("node", node), tenant=text("tenant", tenant), ttl_seconds=round(ttl), uses=uses
        )
        answer = self._call("CreateEnrolmentToken", request, pb.CreateEnrolmentTokenResponse, timeout)
        return model.MadeEnrolmentToken(decode.enrol.token(answer.token), answer.text)

    def list_enrolment_tokens(self, *, timeout: float | None = None) -> tuple[model.EnrolmentToken, ...]:
        """List the tokens, the newest first, without their secrets."""

        def page(token: str) -> pb.ListEnrolmentTokensResponse:
            request = pb.ListEnrolmentTokensRequest(page_token=token)
            return self._call("ListEnrolmentTokens", request, pb.ListEnrolmentTokensResponse, timeout)

        return tuple(decode.enrol.token(each) for answer in pages(page) for each in answer.tokens)

    def revoke_enrolment_token(self, token_id: str, *, timeout: float | None = None) -> model.EnrolmentToken:
        """Have a token count no more. NotFound."""
        request = pb.RevokeEnrolmentTokenRequest(id=text("token", token_id))
        answer = self._call("RevokeEnrolmentToken", request, pb.RevokeEnrolmentTokenResponse, timeout)
        return decode.enrol.token(answer.token)

    def list_enrolment_requests(self, *, timeout: float | None = None) -> tuple[model.EnrolmentRequest, ...]:
        """List the requests that an operator decides on, the oldest first."""

        def page(token: str) -> pb.ListEnrolmentRequestsResponse:
            request = pb.ListEnrolmentRequestsRequest(page_token=token)
            return self._call("ListEnrolmentRequests", request, pb.ListEnrolmentRequestsResponse, timeout)

        return tuple(decode.enrol.request(each) for answer in pages(page) for each in answer.requests)

    def decide_enrolment_request(
        self,
        request_id: str,
        *,
        approve: bool,
        node: str = "",
        tenant: str = "",
        reason: str = "",
        timeout: float | None = None,
    ) -> model.EnrolmentRequest:
        """Approve or deny a request. node, tenant: for whom; empty: whom it asks for. reason: what the node is told
        when it is denied. NotFound; Conflict if it was decided already."""
        request = pb.DecideEnrolmentRequestRequest(
            id=text("request", request_id),
            approve=approve,
            node=text("node", node),
            tenant=text("tenant", tenant),
            reason=text("reason", reason),
        )
        answer = self._call("DecideEnrolmentRequest", request, pb.DecideEnrolmentRequestResponse, timeout)
        return decode.enrol.request(answer.request)

    def check_store(self, *, timeout: float | None = None) -> model.StoreCheck:
        """Have kmsd look at its store."""
        return decode.enrol.check(self._call("CheckStore", pb.CheckStoreRequest(), pb.CheckStoreResponse, timeout))

    def back_up_store(self, *, timeout: float | None = None) -> Stream[bytes]:
        """Have kmsd copy its store; the pieces, in order, are an SQLite file. timeout: seconds for all of it."""
        request = pb.BackUpStoreRequest()
        return self._stream("BackUpStore", request, pb.BackUpStoreResponse, timeout).map(lambda each: each.data)

    def _call(self, method: str, request: Message, response: type[Response], timeout: float | None) -> Response:
        raise NotImplementedError

    def _stream(
        self, method: str, request: Message, response: type[Response], timeout: float | None
    ) -> Stream[Response]:
        raise NotImplementedError


def pages(ask: Callable[[str], P]) -> Iterator[P]:
    """Yield every page; ask: gives the one at a page token, "" first. Raises ClientError for one that comes twice."""
    token = ""
    while True:
        page = ask(token)
        yield page
        if page.next_page_token and page.next_page_token == token:
            raise ClientError("kmsd answered the same page twice", "this is a bug in kmsd", "INTERNAL")
        token = page.next_page_token
        if not token:
            return


def text(what: str, given: str) -> str:
    """Return the text. Raises InvalidRequest if it is not UTF-8."""
    try:
        given.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"the {what} {given!r} is not UTF-8", "name it in UTF-8", "INVALID_ARGUMENT") from None
    return given
