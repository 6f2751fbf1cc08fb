"""The admin API, kmsd.admin.v1: the keys that sign service account tokens. Protobuf to domain and back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from kmsd.api.admin.v1 import admin_pb2 as pb
from kmsd.apis.admin_table import table
from kmsd.errors import KmsdError, Misconfigured, Unavailable
from kmsd.jwt.changes import JwtChanges
from kmsd.jwt.views import KeyView
from kmsd.observe import logs
from kmsd.transport.call import Call, Table, parse

log = logs.get_logger("kmsd.jwt")


@dataclass(frozen=True)
class Served:
    """The signer of one label as it is configured. socket: empty for a tenant."""

    changes: JwtChanges
    socket: str
    issuers: tuple[str, ...]


@dataclass(frozen=True)
class JwtAdmin:
    """The part of the admin API that is about service account tokens. served: the signer of a tenant; of kmsd's own
    socket if it is empty. Raises Conflict if there is none."""

    served: Callable[[str], Served]

    def table(self) -> Table:
        """Return the methods of this part, by path."""
        return table(
            {
                "GetJwt": self.get_jwt,
                "PublishJwtKey": self.publish_jwt_key,
                "SwitchJwtKey": self.switch_jwt_key,
                "RetireJwtKey": self.retire_jwt_key,
                "ImportJwtKey": self.import_jwt_key,
                "TrustJwtKey": self.trust_jwt_key,
                "UntrustJwtKey": self.untrust_jwt_key,
            }
        )

    async def get_jwt(self, call: Call, body: bytes) -> bytes:
        """Tell which keys sign and are published, and who has fetched them; from what was seen last."""
        request = parse(pb.GetJwtRequest, body)
        served = self.served(request.tenant)
        changes, keys = served.changes, served.changes.keys
        state, error = _state(changes)
        return pb.GetJwtResponse(
            state=state,
            reason=error.message if error else "",
            hint=error.hint if error else "",
            tenant=request.tenant,
            socket=served.socket,
            label=keys.label,
            issuers=served.issuers,
            max_token_expiration_ms=keys.longest * 1000,
            refresh_hint_ms=changes.refresh * 1000,
            keys=[_key(each) for each in keys.views()],
            data_timestamp_unix_ms=keys.key_set.ms if keys.key_set.keys else 0,
            fetchers=[
                pb.JwtFetcher(
                    who=each.who,
                    first_unix_ms=_ms(each.first),
                    last_unix_ms=_ms(each.last),
                    current=each.ms == keys.key_set.ms,
                )
                for each in changes.fetchers.lately()
            ],
            now_unix_ms=_ms(time.time()),
        ).SerializeToString()

    async def publish_jwt_key(self, call: Call, body: bytes) -> bytes:
        """Make the key that is to sign next, and publish it."""
        request = parse(pb.PublishJwtKeyRequest, body)
        changes = self._of(call, request.tenant)
        view, made = await changes.publish(request.type, request.token, dry_run=request.dry_run, until=call.deadline)
        if view is not None:
            self._note(call, view, "published" if made else "was published already:")
        return pb.PublishJwtKeyResponse(key=_optional(view), created=made).SerializeToString()

    async def switch_jwt_key(self, call: Call, body: bytes) -> bytes:
        """Have the key that waits sign."""
        request = parse(pb.SwitchJwtKeyRequest, body)
        changes = self._of(call, request.tenant)
        view, before, switched = await changes.switch(
            request.kid, force=request.force, dry_run=request.dry_run, until=call.deadline
        )
        self._note(call, view, "signs from now on" if switched else "signed already:")
        return pb.SwitchJwtKeyResponse(
            key=_key(view), previous=_optional(before), switched=switched
        ).SerializeToString()

    async def retire_jwt_key(self, call: Call, body: bytes) -> bytes:
        """Publish a key no more."""
        request = parse(pb.RetireJwtKeyRequest, body)
        changes = self._of(call, request.tenant)
        view = await changes.retire(request.kid, request.confirm_kid, dry_run=request.dry_run, until=call.deadline)
        self._note(call, view, "retired")
        return pb.RetireJwtKeyResponse(key=_key(view)).SerializeToString()

    async def import_jwt_key(self, call: Call, body: bytes) -> bytes:
        """Take a private key in."""
        request = parse(pb.ImportJwtKeyRequest, body)
        changes = self._of(call, request.tenant)
        view, done, wrapped = await changes.take_in(
            request.private_key, request.token, pending=request.pending, dry_run=request.dry_run, until=call.deadline
        )
        if view is not None:
            self._note(call, view, "imported" if done else "was there already:")
        return pb.ImportJwtKeyResponse(key=_optional(view), imported=done, wrapped=wrapped).SerializeToString()

    async def trust_jwt_key(self, call: Call, body: bytes) -> bytes:
        """Publish public keys from outside."""
        request = parse(pb.TrustJwtKeyRequest, body)
        changes = self._of(call, request.tenant)
        views, added = await changes.trust(
            request.public_keys, request.note, excluded=request.exclude_from_discovery, dry_run=request.dry_run
        )
        for view in views:
            self._note(call, view, "trusted")
        call.detail = f"{added} new of {len(views)}: " + ", ".join(_kid(each)[:12] for each in views[:8])
        return pb.TrustJwtKeyResponse(keys=[_key(each) for each in views], added=added).SerializeToString()

    async def untrust_jwt_key(self, call: Call, body: bytes) -> bytes:
        """Publish a public key from outside no more."""
        request = parse(pb.UntrustJwtKeyRequest, body)
        changes = self._of(call, request.tenant)
        view = await changes.untrust(request.kid, request.confirm_kid, dry_run=request.dry_run)
        self._note(call, view, "not trusted any more:")
        return pb.UntrustJwtKeyResponse(key=_key(view)).SerializeToString()

    def _of(self, call: Call, tenant: str) -> JwtChanges:
        call.tenant = tenant
        return self.served(tenant).changes

    def _note(self, call: Call, view: KeyView, what: str) -> None:
        if view.key is not None:
            call.key_id_sha256 = view.key.key_id_sha256
        call.detail = f"{what} kid {_kid(view)}"
        log.info("service account key", kid=_kid(view), now=view.state, what=what)


def _state(changes: JwtChanges) -> tuple[str, KmsdError | None]:
    try:
        signer = changes.keys.signer()
    except Misconfigured as error:
        return "no-key", error
    except Unavailable as error:
        return "waiting", error
    except KmsdError as error:
        return "away", error
    hsm = changes.keyring.hsm(signer.key)
    return ("ready", None) if hsm.available else ("away", hsm.error)


def _key(view: KeyView) -> pb.JwtKey:
    key, verifying, error = view.key, view.verifying, view.error
    return pb.JwtKey(
        kid=_kid(view),
        alg=verifying.alg if verifying else "",
        state=view.state,
        published=view.published,
        proven=view.proven,
        excluded_from_discovery=view.excluded,
        pem=verifying.pem if verifying else "",
        jwk=json.dumps(verifying.jwk) if verifying else "",
        label=key.label if key else "",
        key_id=key.key_id if key else "",
        token=key.place if key else "",
        from_outside=key is not None and key.token.local is False,
        published_unix_ms=_ms(view.since) if view.state != "trusted" and view.published else 0,
        stopped_unix_ms=_ms(view.stopped),
        needed_until_unix_ms=_ms(view.needed_until),
        trusted_unix_ms=_ms(view.since) if view.state == "trusted" else 0,
        note=view.note,
        signed=view.use.signed,
        last_signed_unix_ms=_ms(view.use.last),
        reason=error.message if error else "",
        hint=error.hint if error else "",
    )


def _optional(view: KeyView | None) -> pb.JwtKey | None:
    return _key(view) if view is not None else None


def _kid(view: KeyView) -> str:
    return view.verifying.kid if view.verifying is not None else ""


def _ms(unix: float) -> int:
    return int(unix * 1000)
