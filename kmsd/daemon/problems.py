"""Gather for GetStatus what is wrong with the parts of the daemon: the fatal first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kmsd import state
from kmsd.apis.admin import why_down
from kmsd.audit.trail import Audit
from kmsd.daemon.background_tasks import Upkeep
from kmsd.daemon.tenancy import Tenancy
from kmsd.daemon.writer import Writer
from kmsd.errors import DeadlineExceeded, KmsdError
from kmsd.hsm.connection import Hsm, PoolView
from kmsd.keys.key import Key
from kmsd.observe.expiry import how_long, soon
from kmsd.observe.stats import Stats
from kmsd.problem import About, Calls, Problem

if TYPE_CHECKING:
    from kmsd.transport.tls import OwnCertificate

_MANY_ENCRYPTS: Final = 2**30
"""A quarter of the invocations that one AES-GCM key with random IVs may see (NIST SP 800-38D, 8.3: 2^32)."""
_TENANTS_TOLD: Final = 16
_REMEMBER_FIX: Final = "let kmsd write in state.dir, and correct the PIN before kmsd is restarted"


@dataclass(frozen=True)
class Problems:
    """The gatherer of what is wrong with each part of kmsd."""

    tokens: Mapping[str, Hsm]
    own: Writer
    tenancy: Tenancy
    upkeep: Upkeep
    audit: Audit
    stats: Stats
    state_dir: Path
    tls_problem: Callable[[], KmsdError | None]
    certificate: Callable[[], OwnCertificate | None]
    unreachable: Callable[[], KmsdError | None]
    verdict: Callable[[], str]
    enrolment: Callable[[], Iterable[Problem]]
    observed: Callable[[], Iterable[Problem]]
    ca: Callable[[], Iterable[Problem]]

    def now(self, tenant: str) -> list[Problem]:
        """Return what is wrong, as far as it concerns the tenant called so, or kmsd's own sockets. Raises
        InvalidRequest."""
        writer = self.tenancy.find(tenant) if tenant else self.own
        keyring = writer.keyring
        write = keyring.inventory.write
        found = [*keyring.inventory.problems, *keyring.problems, *writer.lifecycle.problems, *writer.foreign.problems]
        found.extend((*self.upkeep.problems, *writer.upkeep.problems))
        for name, hsm in self.tokens.items():
            if not hsm.available:
                fatal, about = write is None or write.place == name, About(name, calls=Calls(code=hsm.error.code))
                found.insert(0, Problem(hsm.error.message, hsm.error.hint, fatal, about=about))
            found.extend(_pin_warnings(name, hsm))
            if hsm.guard.problem:
                found.append(Problem(hsm.guard.problem, _REMEMBER_FIX, fatal=False, about=About(name)))
        error = writer.health.view().error
        if error is not None and write is not None and not any(problem.fatal for problem in found):
            about = About(write.place, write.key_id, write.label, calls=Calls(code=error.code))
            found.insert(0, Problem(error.message, error.hint, fatal=True, about=about))
        unreachable = self.unreachable()
        if unreachable is not None:
            about = About(setting="kms.socket")
            found.insert(0, Problem(unreachable.message, unreachable.hint, fatal=True, about=about))
        if verdict := self.verdict():
            found.insert(0, Problem(f"only a restart can help: {verdict}", "kmsd is ending by itself", fatal=True))
        found.extend(self._warnings(write))
        if not writer.tenant:
            found.extend((*self.ca(), *self.observed()))
        if writer.tenant:
            found.extend(self._of_peers(writer))
        else:
            found.extend((*self.enrolment(), *self._of_tenants()))
        return found

    def of_tenant(self, tenant: str) -> list[Problem]:
        """Return what is wrong with a tenant and with nothing else. Raises InvalidRequest."""
        writer = self.tenancy.find(tenant)
        found = [*writer.keyring.inventory.problems, *writer.lifecycle.problems, *writer.foreign.problems]
        found.extend(writer.upkeep.problems)
        if (error := why_down(writer)) is not None and not any(each.fatal for each in found):
            about = About(key_label=writer.label, calls=Calls(code=error.code))
            found.insert(0, Problem(error.message, error.hint, fatal=True, about=about))
        return [*found, *self._of_peers(writer)]

    def _of_peers(self, writer: Writer) -> Iterator[Problem]:
        """Yield the certificate of a tenant's callers that ends first, if that is soon."""
        _, first = self.tenancy.first_end(writer.tenant)
        if first is not None and soon(first.not_before, first.not_after):
            yield Problem(
                f"the certificate of {first.name or 'a caller'} (serial {first.serial}) {how_long(first.not_after)}",
                "give that machine a new one: its kmsd proxy reads the files anew when they change",
                fatal=False,
                about=About(setting="tenants.san"),
            )

    def _warnings(self, write: Key | None) -> Iterator[Problem]:
        stuck = pool_of(self.tokens).stuck
        if stuck:
            at = next(name for name, hsm in self.tokens.items() if hsm.pool_view().stuck)
            yield Problem(
                f"{stuck} sessions are stuck inside the PKCS#11 module",
                "check the token and the network to it: kmsctl doctor",
                fatal=False,
                about=About(at, calls=Calls(code=DeadlineExceeded.code)),
            )
        if (doubt := state.doubt(self.state_dir)) is not None:
            yield Problem(doubt.message, doubt.hint, fatal=False, about=About(setting="state.dir"))
        for trouble in self.audit.troubles:
            about = About(audit=True, tampered=trouble == self.audit.tampering.trouble)
            yield Problem(trouble.message, trouble.hint, fatal=False, about=about)
        if (tcp := self.tls_problem()) is not None:
            yield Problem(tcp.message, tcp.hint, fatal=False, about=About(setting="server.enabled"))
        if (own := self.certificate()) is not None and soon(own.not_before, own.not_after):
            words = how_long(own.not_after, own.not_before)
            yield Problem(
                f"the certificate that callers from other machines are shown ({own.subject}) {words}",
                "put a new one in its place: kmsd reads the files of [server] anew when they change",
                fatal=False,
                about=About(setting="server.tls_certificate"),
            )
        # Under an RSA key each value has an AES key of its own.
        if write is None or write.token.kind != "aes":
            return
        encrypts = self.stats.key_use(write.key_id).encrypts
        if encrypts >= _MANY_ENCRYPTS:
            yield Problem(
                f"the write key has encrypted {encrypts:,} times since kmsd started; with random IVs an "
                "AES-GCM key may do so 2^32 times in all",
                "rotate soon: kmsctl rotate",
                fatal=False,
                about=About(write.place, write.key_id, write.label),
            )

    def _of_tenants(self) -> Iterator[Problem]:
        """Yield what is wrong with tenants."""
        for one, other, name in self.tenancy.overlapping[:_TENANTS_TOLD]:
            yield Problem(
                f"a certificate for {name} fits the tenants {one} and {other}, so it stands for neither",
                "let the san of [[tenants]] have no name in common",
                fatal=False,
                about=About(setting="tenants.san"),
            )
        down = [(each, error) for each in self.tenancy.writers if (error := why_down(each)) is not None]
        for tenant, error in down[:_TENANTS_TOLD]:
            yield Problem(
                f"tenant {tenant.tenant}: {error.message}",
                error.hint,
                fatal=False,
                about=About(key_label=tenant.label, calls=Calls(code=error.code)),
            )
        if len(down) > _TENANTS_TOLD:
            more = len(down) - _TENANTS_TOLD
            yield Problem(f"{more} more tenants are not served", "kmsctl tenants shows all", fatal=False)
        ending = [(each, told) for each in self.tenancy.writers for told in self._of_peers(each)]
        for tenant, told in ending[:_TENANTS_TOLD]:
            yield replace(told, message=f"tenant {tenant.tenant}: {told.message}")


def _pin_warnings(name: str, hsm: Hsm) -> Iterator[Problem]:
    if hsm.connected is not None:
        token = hsm.connected.token
        for text in token.pin_warnings:
            yield Problem(f"token {token.label!r}: {text}", "kmsctl slots shows it", fatal=False, about=About(name))


def pool_of(tokens: Mapping[str, Hsm]) -> PoolView:
    """Return the sessions of all tokens together."""
    views = [hsm.pool_view() for hsm in tokens.values()]
    return PoolView(
        configured=sum(view.configured for view in views),
        open=sum(view.open for view in views),
        busy=sum(view.busy for view in views),
        stuck=sum(view.stuck for view in views),
        queued=sum(view.queued for view in views),
        most=sum(view.most for view in views),
    )
