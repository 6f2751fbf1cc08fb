"""The admin API, kmsd.admin.v1: enrolment tokens, requests that wait, and the store. Protobuf to domain and back."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kmsd.api.admin.v1 import enrol_pb2 as pb
from kmsd.apis.admin_table import page, table
from kmsd.audit.trail import Audit
from kmsd.errors import KmsdError
from kmsd.est.enrolment import Enrolment
from kmsd.store.records import EnrolmentRequest, EnrolmentToken
from kmsd.store.store import FILE, Store
from kmsd.transport.call import Call, Table, parse

_TTL: Final = 3600
_CHUNK: Final = 256 * 1024


@dataclass(frozen=True)
class EnrolmentAdmin:
    """The part of the admin API for enrolment. store: raises KmsdError while it cannot be used. directory: where a copy
    of it can be made for a moment."""

    enrolment: Enrolment
    store: Callable[[], Store]
    directory: Path
    audit: Audit

    def table(self) -> Table:
        """Return the methods of this part, by path."""
        return table(
            {
                "CreateEnrolmentToken": self.create_token,
                "ListEnrolmentTokens": self.list_tokens,
                "RevokeEnrolmentToken": self.revoke_token,
                "ListEnrolmentRequests": self.list_requests,
                "DecideEnrolmentRequest": self.decide_request,
                "CheckStore": self.check_store,
            },
            {"BackUpStore": self.back_up_store},
        )

    async def create_token(self, call: Call, body: bytes) -> bytes:
        """Make a token, and answer its text this once."""
        request = parse(pb.CreateEnrolmentTokenRequest, body)
        call.detail = f"node={request.node[:255]!r} tenant={request.tenant[:64]!r}"
        text, token = await asyncio.to_thread(
            self.enrolment.make_token,
            request.node,
            request.tenant,
            request.ttl_seconds or _TTL,
            request.uses or 1,
            call.caller,
        )
        call.detail = f"token={token.id} node={token.node} tenant={token.tenant} uses={token.uses}"
        return pb.CreateEnrolmentTokenResponse(token=_token(token), text=text).SerializeToString()

    async def list_tokens(self, call: Call, body: bytes) -> bytes:
        """List the tokens, the newest first, without their secrets."""
        request = parse(pb.ListEnrolmentTokensRequest, body)
        found, following = page(await asyncio.to_thread(self.enrolment.tokens), request.page_size, request.page_token)
        return pb.ListEnrolmentTokensResponse(tokens=map(_token, found), next_page_token=following).SerializeToString()

    async def revoke_token(self, call: Call, body: bytes) -> bytes:
        """Have a token count no more."""
        request = parse(pb.RevokeEnrolmentTokenRequest, body)
        call.detail = f"token={request.id[:32]!r}"
        revoked = await asyncio.to_thread(self.enrolment.revoke_token, request.id)
        return pb.RevokeEnrolmentTokenResponse(token=_token(revoked)).SerializeToString()

    async def list_requests(self, call: Call, body: bytes) -> bytes:
        """List the requests that an operator decides on, the oldest first."""
        request = parse(pb.ListEnrolmentRequestsRequest, body)
        found, following = page(await asyncio.to_thread(self.enrolment.requests), request.page_size, request.page_token)
        return pb.ListEnrolmentRequestsResponse(
            requests=map(_request, found), next_page_token=following
        ).SerializeToString()

    async def decide_request(self, call: Call, body: bytes) -> bytes:
        """Approve or deny a request."""
        request = parse(pb.DecideEnrolmentRequestRequest, body)
        call.detail = f"request={request.id[:32]!r} approve={request.approve}"
        decided = await asyncio.to_thread(
            self.enrolment.decide,
            request.id,
            request.approve,
            request.node,
            request.tenant,
            call.caller,
            request.reason,
        )
        call.detail = f"request={decided.id} {decided.state} node={decided.node} tenant={decided.tenant}"
        return pb.DecideEnrolmentRequestResponse(request=_request(decided)).SerializeToString()

    async def check_store(self, call: Call, body: bytes) -> bytes:
        """Look at the store."""
        parse(pb.CheckStoreRequest, body)
        found = await asyncio.to_thread(lambda: self.store().check())
        return pb.CheckStoreResponse(
            kind=found.kind,
            name=found.name,
            version=found.version,
            newest=found.newest,
            rows=found.rows,
            problem=found.problem,
        ).SerializeToString()

    async def back_up_store(self, call: Call, body: bytes) -> AsyncIterator[bytes]:
        """Copy the store into an SQLite file, and answer that piece by piece."""
        parse(pb.BackUpStoreRequest, body)
        await self.audit.begin("BackUpStore", caller=call.caller)
        began, code, reason = time.perf_counter(), "OK", ""
        try:
            with tempfile.TemporaryDirectory(prefix=".backup-", dir=self.directory) as folder:
                copy = Path(folder) / FILE
                await asyncio.to_thread(lambda: self.store().backup(copy))
                with copy.open("rb") as file:
                    while data := await asyncio.to_thread(file.read, _CHUNK):
                        yield pb.BackUpStoreResponse(data=data).SerializeToString()
        except KmsdError as error:
            code, reason = error.code, error.reason
            raise
        finally:
            seconds = time.perf_counter() - began
            await self.audit.admin("BackUpStore", code, seconds=seconds, caller=call.caller, reason=reason)


def _token(token: EnrolmentToken) -> pb.EnrolmentToken:
    return pb.EnrolmentToken(
        id=token.id,
        node=token.node,
        tenant=token.tenant,
        made_unix_ms=token.made_at * 1000,
        expires_unix_ms=token.expires * 1000,
        revoked_unix_ms=token.revoked_at * 1000,
        uses=token.uses,
        uses_left=token.uses_left,
        made_by=token.made_by,
        usable=token.usable(time.time()),
    )


def _request(request: EnrolmentRequest) -> pb.EnrolmentRequest:
    return pb.EnrolmentRequest(
        id=request.id,
        public_key_sha256=request.public_key_sha256,
        subject=request.subject,
        label=request.label,
        address=request.address,
        asked_unix_ms=request.asked_at * 1000,
        expires_unix_ms=request.expires * 1000,
        state=str(request.state),
        node=request.node,
        tenant=request.tenant,
        decided_by=request.decided_by,
        decided_unix_ms=request.decided_at * 1000,
        reason=request.reason,
    )
