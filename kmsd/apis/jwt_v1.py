"""The API of Kubernetes for signers of service account tokens, v1.ExternalJWTSigner (KEP-740): protobuf to domain and
back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from kmsd.api.externaljwt.v1 import api_pb2 as pb
from kmsd.errors import KmsdError
from kmsd.jwt.api import JwtService
from kmsd.jwt.claims import MOST, Rules, check
from kmsd.share import Share
from kmsd.transport.call import Call, Method, Table, parse
from kmsd.transport.peers import Peer

API: Final = "jwt"
SERVICE: Final = "v1.ExternalJWTSigner"
_KID: Final = 12
"""Characters of a kid that a record shows."""


def table(service_of: Callable[[Call], JwtService], rules_of: Callable[[Call], Rules]) -> Table:
    """Return the methods of this API. service_of: who answers a call; rules_of: the bounds of what is signed for it.
    Both raise KmsdError."""

    async def sign(call: Call, body: bytes) -> bytes:
        request = parse(pb.SignJWTRequest, body)
        claims = check(request.claims, rules_of(call), time.time())
        call.detail = claims.told
        try:
            done = await service_of(call).sign(request.claims, call.until)
        except KmsdError as error:
            call.key_id_sha256 = error.key_id_sha256
            raise
        call.key_id_sha256 = done.key_id_sha256
        call.detail = f"kid {done.kid[:_KID]} {claims.told}"
        return pb.SignJWTResponse(header=done.header, signature=done.signature).SerializeToString()

    async def fetch_keys(call: Call, body: bytes) -> bytes:
        parse(pb.FetchKeysRequest, body)
        found = await service_of(call).key_set("" if call.check else _who(call), call.until)
        return pb.FetchKeysResponse(
            keys=[pb.Key(key_id=k.kid, key=k.der, exclude_from_oidc_discovery=k.excluded) for k in found.keys],
            data_timestamp=Timestamp(seconds=found.ms // 1000, nanos=found.ms % 1000 * 1_000_000),
            refresh_hint_seconds=found.refresh,
        ).SerializeToString()

    async def metadata(call: Call, body: bytes) -> bytes:
        parse(pb.MetadataRequest, body)
        seconds = await service_of(call).longest(call.until)
        return pb.MetadataResponse(max_token_expiration_seconds=seconds).SerializeToString()

    return {
        f"/{SERVICE}/Sign": Method(API, "Sign", sign, Share.JWT, MOST),
        f"/{SERVICE}/FetchKeys": Method(API, "FetchKeys", fetch_keys, Share.JWT, largest=0),
        f"/{SERVICE}/Metadata": Method(API, "Metadata", metadata, Share.JWT, largest=0),
    }


def _who(call: Call) -> str:
    """Return who asks, in words that stay the same from call to call."""
    if isinstance(call.identity, Peer):
        return call.identity.name
    return f"{call.caller} pid={call.caller_pid}" if call.caller_pid else call.caller
