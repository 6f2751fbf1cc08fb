"""The certificate authority, built and wired: only a kmsd with [ca] loads this."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from time import monotonic
from typing import Final, TypeVar

from cryptography import x509

from kmsd.apis.admin_ca import CaAdmin
from kmsd.apis.admin_wire import KeyPresenter
from kmsd.ca.authority import DER, Authority
from kmsd.ca.lifecycle import CaLifecycle
from kmsd.ca.profile import Profile
from kmsd.ca.revoking import Revoked, Revoking
from kmsd.config.settings import Settings
from kmsd.daemon.stored import StoreKeeper
from kmsd.daemon.tenancy import Tenancy
from kmsd.daemon.writer import Writer
from kmsd.problem import Problem
from kmsd.transport.call import Table
from kmsd.transport.peers import NamePattern
from kmsd.transport.tls import Revocations

T = TypeVar("T")

_SECONDS: Final = 10.0
"""Seconds for the keys of the CA to be found, where others ask for it."""


class CaParts:
    """The parts of a CA. own: whose keyring shows the CA's keys, and whose life cycle makes them."""

    def __init__(
        self, settings: Settings, own: Writer, tenancy: Tenancy, keeper: StoreKeeper, shown: KeyPresenter
    ) -> None:
        self._tenancy = tenancy
        self._keeper = keeper
        ca = settings.ca
        self.ca = CaLifecycle(
            own.keyring, own.lifecycle, ca.key_label, ca.token, profile(settings), lambda: keeper.store().ledger
        )
        self.revoking = Revoking(self.ca, settings.state.dir, self._enforce)
        self.on_change: Callable[[], None] = lambda: None
        """Called when another key of the CA signs."""
        self._admin = CaAdmin(self.ca, self.revoking, shown, lambda: self.on_change())

    def table(self) -> Table:
        """Return the methods of the admin API that are about the CA."""
        return self._admin.table()

    @property
    def problems(self) -> Sequence[Problem]:
        """The facts about the CA that an operator should know; of the store, others tell."""
        return () if self._keeper.problem is not None else self.revoking.problems

    async def begin(self) -> None:
        """Have in force what was revoked before kmsd started."""
        self._loop = asyncio.get_running_loop()
        await self.revoking.begin()

    def work(self) -> Sequence[Coroutine[object, object, None]]:
        """Return what goes on beside the calls, for ever."""
        return (self.revoking.keep(),)

    def authority(self) -> Authority:
        """Return the authority as it is now. Waits: for any thread but the event loop's. Raises what
        `CaLifecycle.authority` does."""
        return self._awaited(self.ca.authority(monotonic() + _SECONDS))

    def chain(self) -> Sequence[x509.Certificate]:
        """Return the certificates of the CA, for which no token is needed. Waits, and raises as `CaLifecycle.chain`."""
        return self._awaited(self.ca.chain())

    def crl(self) -> bytes:
        """Return the list of revocations by the key that issues now, as DER. Waits, and raises as `authority`."""
        return self._awaited(self.revoking.crls(monotonic() + _SECONDS))[0].public_bytes(DER)

    def _awaited(self, work: Coroutine[object, object, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def rule(self, settings: Settings) -> None:
        """Go by these tenants and admins from now on."""
        self.ca.profile = profile(settings)

    def close(self) -> None:
        """Take no more work."""
        self.ca.close()

    def _enforce(self, revoked: Revoked) -> None:
        self._tenancy.admission.revoked_here = Revocations(by_issuer=revoked)


def profile(settings: Settings) -> Profile:
    """Return the rules for certificates that the configuration has."""
    ca = settings.ca
    return Profile(
        key_types=frozenset(ca.key_types),
        names=ca.names,
        tenants={each.name: tuple(map(NamePattern.parse, each.san)) for each in settings.tenants},
        admins=tuple(NamePattern.parse(san) for each in settings.admins for san in each.san),
        lifetime=timedelta(seconds=ca.lifetime),
        # Longer, and a certificate would be due for renewal when it is issued.
        backdate=timedelta(seconds=min(ca.backdate, ca.lifetime)),
        crl_lifetime=timedelta(seconds=ca.crl_lifetime),
        crl_url=ca.crl_url,
    )
