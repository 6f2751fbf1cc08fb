"""The calls of the admin API that are about the keys of service account tokens."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import Message

from kmsd.api.admin.v1 import jwt_pb2 as pb
from kmsd.client import decode, model
from kmsd.client.enrolment import text

Response = TypeVar("Response", bound=Message)


class JwtCalls:
    """The part of `AdminClient` that is about service account tokens. All methods take `timeout` in seconds, and raise
    ClientError. tenant: whose keys; empty: those of kmsd's own socket. kid: what tokens name a key by. confirm_kid: the
    kid once more, for what is dangerous. dry_run: find out what would be done, and change nothing."""

    def get_jwt(self, *, tenant: str = "", timeout: float | None = None) -> model.Jwt:
        """Get the keys that sign and are published, and who has fetched them. Conflict if no tokens are signed."""
        request = pb.GetJwtRequest(tenant=text("tenant", tenant))
        return decode.jwt.jwt(self._call("GetJwt", request, pb.GetJwtResponse, timeout))

    def publish_jwt_key(
        self,
        *,
        type: str = "",  # noqa: A002 - the field's name in the API
        token: str = "",
        tenant: str = "",
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> model.PublishedJwtKey:
        """Make the key that is to sign next, and publish it; one that waits already is answered. type: as "ec-p256";
        empty: as the key that signs."""
        request = pb.PublishJwtKeyRequest(
            tenant=text("tenant", tenant), type=text("type", type), token=text("token", token), dry_run=dry_run
        )
        answer = self._call("PublishJwtKey", request, pb.PublishJwtKeyResponse, timeout)
        return model.PublishedJwtKey(decode.jwt.optional_key(answer, "key"), answer.created)

    def switch_jwt_key(
        self, kid: str, *, force: bool = False, tenant: str = "", dry_run: bool = False, timeout: float | None = None
    ) -> model.SwitchedJwtKey:
        """Have the key that waits sign, or one that signed before sign again. force: although not everybody has fetched
        it. NotFound, Conflict."""
        request = pb.SwitchJwtKeyRequest(
            tenant=text("tenant", tenant), kid=text("kid", kid), force=force, dry_run=dry_run
        )
        answer = self._call("SwitchJwtKey", request, pb.SwitchJwtKeyResponse, timeout)
        return model.SwitchedJwtKey(
            decode.jwt.key(answer.key), decode.jwt.optional_key(answer, "previous"), answer.switched
        )

    def retire_jwt_key(
        self,
        kid: str,
        *,
        confirm_kid: str = "",
        tenant: str = "",
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> model.JwtKey:
        """Publish a key on a token no more, for good; return it as it was. NotFound; Conflict if tokens that it signed
        may be in force and confirm_kid is missing."""
        request = pb.RetireJwtKeyRequest(
            tenant=text("tenant", tenant),
            kid=text("kid", kid),
            confirm_kid=text("kid", confirm_kid),
            dry_run=dry_run,
        )
        return decode.jwt.key(self._call("RetireJwtKey", request, pb.RetireJwtKeyResponse, timeout).key)

    def import_jwt_key(
        self,
        private_key: bytes,
        *,
        pending: bool = False,
        token: str = "",
        tenant: str = "",
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> model.ImportedJwtKey:
        """Take a private key (PEM or DER) into the token. pending: to sign next, not now. InvalidRequest, Conflict."""
        request = pb.ImportJwtKeyRequest(
            tenant=text("tenant", tenant),
            private_key=private_key,
            pending=pending,
            token=text("token", token),
            dry_run=dry_run,
        )
        answer = self._call("ImportJwtKey", request, pb.ImportJwtKeyResponse, timeout)
        return model.ImportedJwtKey(decode.jwt.optional_key(answer, "key"), answer.imported, answer.wrapped)

    def trust_jwt_key(
        self,
        public_keys: bytes,
        *,
        exclude_from_discovery: bool = False,
        note: str = "",
        tenant: str = "",
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> model.TrustedJwtKeys:
        """Publish public keys (PEM) from outside. note: words for whoever reads the list. InvalidRequest, Conflict."""
        request = pb.TrustJwtKeyRequest(
            tenant=text("tenant", tenant),
            public_keys=public_keys,
            exclude_from_discovery=exclude_from_discovery,
            note=text("note", note),
            dry_run=dry_run,
        )
        answer = self._call("TrustJwtKey", request, pb.TrustJwtKeyResponse, timeout)
        return model.TrustedJwtKeys(tuple(map(decode.jwt.key, answer.keys)), answer.added)

    def untrust_jwt_key(
        self,
        kid: str,
        *,
        confirm_kid: str = "",
        tenant: str = "",
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> model.JwtKey:
        """Publish a public key from outside no more; return it as it was. NotFound; Conflict without confirm_kid."""
        request = pb.UntrustJwtKeyRequest(
            tenant=text("tenant", tenant),
            kid=text("kid", kid),
            confirm_kid=text("kid", confirm_kid),
            dry_run=dry_run,
        )
        return decode.jwt.key(self._call("UntrustJwtKey", request, pb.UntrustJwtKeyResponse, timeout).key)

    def _call(self, method: str, request: Message, response: type[Response], timeout: float | None) -> Response:
        raise NotImplementedError
