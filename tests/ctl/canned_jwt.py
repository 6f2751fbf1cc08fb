"""A signer of service account tokens out of a can, for the server of the tests of kmsctl."""

from __future__ import annotations

from typing import Any

from kmsd.api.admin.v1 import admin_pb2 as pb
from tests.ctl.answers import CREATED
from tests.ctl.canned_ca import FAR

PEM = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"
HOUR = 3_600_000
NOW = CREATED + 10 * HOUR


def jwt_key(kid: str, state: str, **fields: Any) -> pb.JwtKey:
    given: dict[str, Any] = {
        "kid": kid * 4 + "-_8", "alg": "ES256", "state": state, "published": True, "proven": True, "pem": PEM,
        "jwk": f'{{"kty": "EC", "kid": "{kid * 4}-_8"}}', "label": "sa-signer",
        "key_id": "jwt.0184e5d0-0000-7000-8000-000000000001", "token": "main", "published_unix_ms": CREATED,
    }  # fmt: skip
    return pb.JwtKey(**(given | fields))


def signer() -> pb.JwtKey:
    return jwt_key("Q2VydGlmaW", "signing", signed=1234, last_signed_unix_ms=NOW - 1000)


def waiting(**fields: Any) -> pb.JwtKey:
    given: dict[str, Any] = {
        "label": "sa-signer.pending", "key_id": "jwt.0184e5d0-0000-7000-8000-000000000002",
        "published_unix_ms": NOW - 2000,
    }  # fmt: skip
    return jwt_key("TmV4dEtleQ", "pending", **(given | fields))


def stopped(**fields: Any) -> pb.JwtKey:
    given: dict[str, Any] = {
        "label": "sa-signer@20220101T000000Z", "key_id": "jwt.0184e5d0-0000-7000-8000-000000000000",
        "from_outside": True, "alg": "RS256", "stopped_unix_ms": CREATED + HOUR, "needed_until_unix_ms": FAR,
    }  # fmt: skip
    return jwt_key("T2xkS2V5T2", "verifying", **(given | fields))


def trusted() -> pb.JwtKey:
    return jwt_key(
        "VHJ1c3RlZE", "trusted", label="", key_id="", token="", alg="RS256", proven=False, published_unix_ms=0,
        trusted_unix_ms=CREATED + HOUR, excluded_from_discovery=True, note="the key file\x1b[31m",
    )  # fmt: skip


class CannedJwt:
    """The methods of the admin API that are about service account tokens. jwt_keys: those that there are, jwt_state:
    "ready" or what else the signer is."""

    jwt_keys: tuple[pb.JwtKey, ...] = (signer(), stopped(), trusted())
    jwt_state = "ready"

    def get_jwt(self, request: pb.GetJwtRequest) -> pb.GetJwtResponse:
        ready = self.jwt_state == "ready"
        return pb.GetJwtResponse(
            state=self.jwt_state,
            reason="" if ready else "no key labelled 'sa-signer' signs service account tokens on token 'main'",
            hint="" if ready else "make one: kmsctl keygen sa-signer --type ec-p256 --purpose jwt",
            tenant=request.tenant,
            socket="" if request.tenant else "/run/kmsd/jwt.sock",
            label="sa-signer",
            issuers=["https://kubernetes.default.svc"],
            max_token_expiration_ms=24 * HOUR,
            refresh_hint_ms=60_000,
            keys=self.jwt_keys if ready else (),
            data_timestamp_unix_ms=CREATED,
            fetchers=[
                pb.JwtFetcher(who="- uid=0 user=root pid=1", last_unix_ms=NOW - 5000, current=True),
                pb.JwtFetcher(who="cp-2\x1b[31m", last_unix_ms=NOW - 65_000),
            ],
            now_unix_ms=NOW,
        )

    def publish_jwt_key(self, request: pb.PublishJwtKeyRequest) -> pb.PublishJwtKeyResponse:
        self.jwt_keys = (*self.jwt_keys, waiting())
        return pb.PublishJwtKeyResponse(key=waiting(), created=True)

    def switch_jwt_key(self, request: pb.SwitchJwtKeyRequest) -> pb.SwitchJwtKeyResponse:
        found = next(each for each in self.jwt_keys if each.kid == request.kid)
        return pb.SwitchJwtKeyResponse(key=found, previous=signer(), switched=True)

    def retire_jwt_key(self, request: pb.RetireJwtKeyRequest) -> pb.RetireJwtKeyResponse:
        return pb.RetireJwtKeyResponse(key=next(each for each in self.jwt_keys if each.kid == request.kid))

    def import_jwt_key(self, request: pb.ImportJwtKeyRequest) -> pb.ImportJwtKeyResponse:
        key = None if request.dry_run else waiting(from_outside=True, alg="RS256")
        return pb.ImportJwtKeyResponse(key=key, imported=not request.dry_run)

    def trust_jwt_key(self, request: pb.TrustJwtKeyRequest) -> pb.TrustJwtKeyResponse:
        return pb.TrustJwtKeyResponse(keys=[trusted()], added=1)

    def untrust_jwt_key(self, request: pb.UntrustJwtKeyRequest) -> pb.UntrustJwtKeyResponse:
        return pb.UntrustJwtKeyResponse(key=trusted())
