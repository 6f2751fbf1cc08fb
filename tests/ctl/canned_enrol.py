"""The answers of the canned server about enrolment and the store."""

from __future__ import annotations

from kmsd.api.admin.v1 import enrol_pb2 as pb
from tests.ctl.answers import CREATED

HOUR = 3_600_000
TOKEN_ID = "0123456789abcdef"


def token(token_id: str = TOKEN_ID, **fields: object) -> pb.EnrolmentToken:
    made = pb.EnrolmentToken(
        id=token_id, node="node-1", tenant="cluster-a", made_unix_ms=CREATED, expires_unix_ms=CREATED + HOUR, uses=1,
        uses_left=1, made_by="kmsctl uid=0", usable=True,
    )  # fmt: skip
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def request(request_id: str = "89abcdef01234567", **fields: object) -> pb.EnrolmentRequest:
    made = pb.EnrolmentRequest(
        id=request_id, public_key_sha256=request_id * 4, subject="CN=node-2", label="cluster-a", address="192.0.2.7",
        asked_unix_ms=CREATED, expires_unix_ms=CREATED + 24 * HOUR, state="waiting",
    )  # fmt: skip
    for name, value in fields.items():
        setattr(made, name, value)
    return made


class CannedEnrolment:
    """What a kmsd with EST answers."""

    def create_enrolment_token(self, request: pb.CreateEnrolmentTokenRequest) -> pb.CreateEnrolmentTokenResponse:
        made = token(node=request.node, tenant=request.tenant, uses=request.uses, uses_left=request.uses)
        return pb.CreateEnrolmentTokenResponse(token=made, text=f"kmsd-enrol-{made.id}-{'5' * 64}")

    def list_enrolment_tokens(self, request: pb.ListEnrolmentTokensRequest) -> pb.ListEnrolmentTokensResponse:
        found = [
            token(),
            token("1" * 16, node="node-2", uses=3, uses_left=0, usable=False),
            token("2" * 16, usable=False, revoked_unix_ms=CREATED + 1000),
            token("3" * 16, usable=False, expires_unix_ms=CREATED + 60_000),
        ]
        return pb.ListEnrolmentTokensResponse(tokens=found)

    def revoke_enrolment_token(self, request: pb.RevokeEnrolmentTokenRequest) -> pb.RevokeEnrolmentTokenResponse:
        return pb.RevokeEnrolmentTokenResponse(token=token(request.id, revoked_unix_ms=CREATED, usable=False))

    def list_enrolment_requests(self, asked: pb.ListEnrolmentRequestsRequest) -> pb.ListEnrolmentRequestsResponse:
        decided = request(
            "f" * 16, state="denied", decided_by="kmsctl uid=0", decided_unix_ms=CREATED + 5000, reason="no such node"
        )
        return pb.ListEnrolmentRequestsResponse(requests=[request(), decided])

    def decide_enrolment_request(self, asked: pb.DecideEnrolmentRequestRequest) -> pb.DecideEnrolmentRequestResponse:
        decided = request(asked.id, state="denied", reason=asked.reason)
        if asked.approve:
            decided = request(
                asked.id, state="approved", node=asked.node or "node-2", tenant=asked.tenant or "cluster-a"
            )
        decided.decided_by, decided.decided_unix_ms = "kmsctl uid=0", CREATED + 5000
        return pb.DecideEnrolmentRequestResponse(request=decided)

    def check_store(self, request: pb.CheckStoreRequest) -> pb.CheckStoreResponse:
        return pb.CheckStoreResponse(
            kind="sqlite", name="SQLite at /var/lib/kmsd/store.sqlite", version="0001", newest="0001",
            rows={"certificates": 1234, "enrolment_tokens": 4},
        )  # fmt: skip

    def back_up_store(self, request: pb.BackUpStoreRequest) -> pb.BackUpStoreResponse:
        return pb.BackUpStoreResponse(data=b"SQLite format 3\0")
