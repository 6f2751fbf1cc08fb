"""The signers of service account tokens, built and wired: only a kmsd with [jwt], or a tenant with a jwt_label, loads
this."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from kmsd.apis import jwt_v1
from kmsd.apis.admin_jwt import JwtAdmin, Served
from kmsd.audit.trail import Audit
from kmsd.config.remote import Tenant
from kmsd.config.settings import Settings
from kmsd.crypto.signing import key_pair
from kmsd.daemon import event_sinks
from kmsd.daemon.sockets import Remade, jwt_listener
from kmsd.daemon.writer import Writer
from kmsd.errors import Conflict, Denied, KmsdError
from kmsd.hsm.doctor.findings import Check
from kmsd.jwt.api import KeySet
from kmsd.jwt.changes import JwtChanges
from kmsd.jwt.claims import Rules
from kmsd.jwt.fetchers import Fetchers
from kmsd.jwt.keys import JwtKeys
from kmsd.jwt.local import LocalJwt
from kmsd.problem import Problem
from kmsd.transport.call import Call, Observer, Table


@dataclass(frozen=True)
class _Signer:
    """The signer of one label. label: as `LabelUpkeep` has it."""

    served: Served
    service: LocalJwt
    rules: Rules

    @property
    def label(self) -> str:
        return self.served.changes.keys.label

    @property
    def well(self) -> bool:
        """Whether a token would be signed now, as far as is known."""
        keys = self.served.changes.keys
        try:
            return self.served.changes.keyring.hsm(keys.signer().key).available
        except KmsdError:
            return False


class JwtParts:
    """The signers of a kmsd with tokens: that of its own socket, and those of tenants.

    own: whose keyring shows all keys, and whose life cycle changes them.
    """

    def __init__(self, settings: Settings, own: Writer, audit: Audit, traffic: Observer, remade: Remade) -> None:
        self._settings = settings
        self._own = own
        self._audit = audit
        self._tenants: dict[str, _Signer] = {}
        jwt = settings.jwt
        self.own: _Signer | None = None
        self.listener = None
        if jwt.socket is not None:
            self.own = self._signer(jwt.key_label, settings.state.dir, str(jwt.socket), jwt.issuers, "")
            signer = self.own
            tables = (jwt_v1.table(lambda _: signer.service, lambda _: signer.rules),)
            self.listener = jwt_listener(settings, tables, traffic, remade)

    def table(self) -> Table:
        """Return the methods of the API of Kubernetes for tenants."""
        return jwt_v1.table(lambda call: self._of_call(call).service, lambda call: self._of_call(call).rules)

    def admin_table(self) -> Table:
        """Return the methods of the admin API that are about these signers."""
        return JwtAdmin(self._served).table()

    def rule(self, tenants: Sequence[Tenant]) -> None:
        """Sign for these tenants from now on, and for no others."""
        wanted = {each.name: each for each in tenants if each.jwt_label}
        for name, signer in tuple(self._tenants.items()):
            if name not in wanted or not _same(signer, wanted[name]):
                del self._tenants[name]
        for name, tenant in wanted.items():
            if name not in self._tenants:
                directory = self._settings.state.dir / "tenants" / name
                self._tenants[name] = self._signer(tenant.jwt_label, directory, "", tenant.jwt_issuers, name)

    async def looked(self) -> None:
        """Prove and publish what a look at the tokens has shown."""
        for signer in self._all():
            await signer.served.changes.roll_forward()
            await signer.served.changes.keys.look()
        if self.listener is not None and self.own is not None:
            self.listener.set_serving(self.own.well)

    async def tried(self, place: str, seconds: float) -> Sequence[Check]:
        """Have each key that signs on a token sign once more, and check that with its public key. seconds: for each."""
        checks = []
        for signer in self._all():
            title = f"Service account tokens, {signer.label!r}"
            try:
                key = signer.served.changes.keys.signer()
                if key.key.place != place:
                    continue
                await key_pair(key.pair.hsm, key.pair.cka_id, key.pair.kind, seconds, (key.verifying.public,))
                checks.append(Check("jwt_key", title, "ok", f"signs {key.verifying.alg}, as its public key shows"))
            except KmsdError as error:
                checks.append(Check("jwt_key", title, "failed", error.message, error.hint))
        return checks

    def measured(self) -> Iterator[tuple[str, bool, KeySet]]:
        """Yield of each signer its tenant, empty for kmsd's own socket, whether it signs, and what it publishes."""
        if self.own is not None:
            yield "", self.own.well, self.own.served.changes.keys.key_set
        for tenant, signer in self._tenants.items():
            yield tenant, signer.well, signer.served.changes.keys.key_set

    def _all(self) -> Sequence[_Signer]:
        return (*((self.own,) if self.own is not None else ()), *self._tenants.values())

    @property
    def problems(self) -> Sequence[Problem]:
        """The facts about the keys of kmsd's own socket that an operator should know."""
        return self.own.served.changes.keys.problems if self.own is not None else ()

    def _signer(self, label: str, directory: Path, socket: str, issuers: tuple[str, ...], tenant: str) -> _Signer:
        jwt, keyring = self._settings.jwt, self._own.keyring
        longest, refresh = int(jwt.max_token_expiration), int(jwt.refresh_hint)
        told: Callable[[str], None] = lambda words: event_sinks.jwt_keys_changed(self._audit, words, tenant)  # noqa: E731
        keys = JwtKeys(keyring, label, directory, longest, refresh, told)
        fetchers = Fetchers(refresh)
        changes = JwtChanges(keys, fetchers, keyring, self._own.lifecycle, jwt.token, refresh)

        async def look() -> None:
            await keyring.look_soon()
            await keys.look(inf)

        service = LocalJwt(keys, fetchers, look, 0.0 if tenant else jwt.max_rate)
        return _Signer(Served(changes, socket, issuers), service, Rules(issuers, longest))

    def _of_call(self, call: Call) -> _Signer:
        signer = self._tenants.get(call.tenant)
        if signer is None:
            raise Denied(
                f"no service account tokens are signed for tenant {call.tenant}",
                "give it a jwt_label in [[tenants]] of the key manager, and reload kmsd (SIGHUP)",
            )
        return signer

    def _served(self, tenant: str) -> Served:
        signer = self._tenants.get(tenant) if tenant else self.own
        if signer is None and tenant:
            raise Conflict(
                f"no service account tokens are signed for tenant {tenant!r}", "give it a jwt_label in [[tenants]]"
            )
        if signer is None:
            raise Conflict("this kmsd signs service account tokens for tenants alone", "name one with --tenant")
        return signer.served


def _same(signer: _Signer, tenant: Tenant) -> bool:
    return signer.label == tenant.jwt_label and signer.rules.issuers == tenant.jwt_issuers
