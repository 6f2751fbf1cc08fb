"""The keys of service account tokens."""

from __future__ import annotations

from google.protobuf.message import Message

from kmsd.api.admin.v1 import jwt_pb2 as pb
from kmsd.client.decode.plain import alike, optional, time
from kmsd.client.model.jwt import Jwt, JwtFetcher, JwtKey


def key(message: pb.JwtKey) -> JwtKey:
    """Decode a key."""
    return alike(
        JwtKey,
        message,
        published_since=time(message.published_unix_ms),
        stopped=time(message.stopped_unix_ms),
        needed_until=time(message.needed_until_unix_ms),
        trusted=time(message.trusted_unix_ms),
        last_signed=time(message.last_signed_unix_ms),
    )


def optional_key(message: Message, field: str) -> JwtKey | None:
    """Decode a key that may be absent: then None."""
    found = optional(message, field)
    return None if found is None else key(found)


def jwt(message: pb.GetJwtResponse) -> Jwt:
    """Decode how the signer is."""
    return alike(
        Jwt,
        message,
        max_token_expiration=message.max_token_expiration_ms / 1000,
        refresh_hint=message.refresh_hint_ms / 1000,
        keys=tuple(map(key, message.keys)),
        changed=time(message.data_timestamp_unix_ms),
        fetchers=tuple(
            JwtFetcher(each.who, time(each.first_unix_ms), time(each.last_unix_ms), each.current)
            for each in message.fetchers
        ),
        now=time(message.now_unix_ms),
    )
