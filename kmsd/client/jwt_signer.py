"""The API that kube-apiserver asks for published keys (v1.ExternalJWTSigner, KEP-740), as plain calls. Knows its
protobufs; shows nothing, and signs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from kmsd.api.externaljwt.v1 import api_pb2 as pb
from kmsd.client.places import UnixPlace
from kmsd.client.wire import Client, Stranger

_FETCH: Final = "/v1.ExternalJWTSigner/FetchKeys"
_METADATA: Final = "/v1.ExternalJWTSigner/Metadata"


class JwtSignerClient(Client):
    """A client that asks what kube-apiserver asks at its start. `timeout`: seconds per call. All methods raise
    ClientError."""

    STRANGER = Stranger(
        "/grpc.health.v1.Health/Check",
        (_FETCH, _METADATA),
        "no service account tokens are signed on {}: it is the socket of another API",
        "name jwt.socket of kmsd instead; `kmsctl jwt keys` shows it",
    )

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__(UnixPlace(path), timeout)

    def kids(self) -> tuple[str, ...]:
        """Fetch the published keys, and return the ids by which tokens name them. kmsd takes this for no
        kube-apiserver."""
        return tuple(key.key_id for key in self._wire.call(_FETCH, pb.FetchKeysRequest(), pb.FetchKeysResponse).keys)

    def longest(self) -> int:
        """Return the seconds for which a token may be in force at the most."""
        return self._wire.call(_METADATA, pb.MetadataRequest(), pb.MetadataResponse).max_token_expiration_seconds
