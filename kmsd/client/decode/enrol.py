"""Decode what kmsd tells of enrolment."""

from __future__ import annotations

from kmsd.api.admin.v1 import enrol_pb2 as pb
from kmsd.client import model
from kmsd.client.decode.plain import alike, time


def token(message: pb.EnrolmentToken) -> model.EnrolmentToken:
    """Decode a token."""
    return alike(
        model.EnrolmentToken,
        message,
        created=time(message.made_unix_ms),
        expires=time(message.expires_unix_ms),
        revoked=time(message.revoked_unix_ms),
    )


def request(message: pb.EnrolmentRequest) -> model.EnrolmentRequest:
    """Decode a request."""
    return alike(
        model.EnrolmentRequest,
        message,
        asked=time(message.asked_unix_ms),
        expires=time(message.expires_unix_ms),
        decided=time(message.decided_unix_ms),
    )


def check(message: pb.CheckStoreResponse) -> model.StoreCheck:
    """Decode the outcome of a look at the store."""
    return alike(model.StoreCheck, message, rows=tuple(sorted(message.rows.items())))
