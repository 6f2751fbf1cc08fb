"""Keep what is revoked in force: the lists that the CA signed last, and the certificates that callers may not show.

What is revoked counts here soon after `LOOK` seconds, whichever key manager it was revoked on, and at once on this one.
The lists lie in the state directory as well, so that what is in them stays revoked when the ledger cannot be had.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from kmsd import state
from kmsd.ca.ledger import Issued
from kmsd.ca.lifecycle import CaLifecycle, pem
from kmsd.errors import Conflict, KmsdError, Misconfigured, NotFound
from kmsd.observe import logs
from kmsd.problem import About, Calls, Problem

log = logs.get_logger("kmsd.ca")

LOOK: Final = 4.0
"""Seconds between two looks at what is revoked. With the look itself it counts everywhere within 5."""
CRL_FILE: Final = "ca-crl.pem"
CHAIN_FILE: Final = "ca.pem"
"""Files in the state directory: the lists of revocations, and the certificates of the CA."""
_MOST: Final = 64 * 1024 * 1024
_ENDS_SOON_DAYS: Final = 60

Revoked = frozenset[tuple[bytes, str]]
"""Certificates, by the DER of the issuer's name and the number in lower hexadecimal."""


class Revoking:
    """The lists of revocations of a CA, kept fresh. directory: for state. enforce: told which certificates are revoked
    whenever that changes. Belongs to one event loop."""

    def __init__(self, ca: CaLifecycle, directory: Path, enforce: Callable[[Revoked], None]) -> None:
        self.error: KmsdError | None = None
        self.lists: tuple[x509.CertificateRevocationList, ...] = ()
        self._ca = ca
        self._directory = directory
        self._enforce = enforce
        self._enforced: Revoked = frozenset()
        self._issuers: dict[int, bytes] = {}
        self._chain: tuple[x509.Certificate, ...] = ()
        self._signed_for: tuple[x509.Certificate, ...] = ()
        self._signing = asyncio.Lock()

    async def begin(self) -> None:
        """Go by the lists that were signed last, until the ledger tells more."""
        data = await asyncio.to_thread(state.recall_file, self._directory, CRL_FILE, _MOST)
        try:
            self.lists = tuple(_lists(data))
        except ValueError:
            log.warning("the list of revocations that was kept cannot be read, and is made anew", file=CRL_FILE)
        self._go_by({(each.issuer.public_bytes(), f"{one.serial_number:x}") for each in self.lists for one in each})

    async def crls(self, until: float = inf) -> tuple[x509.CertificateRevocationList, ...]:
        """Return the lists that are in force, by the key that issues first. Signs them if there are none yet. Raises
        what `CaLifecycle.crls` does, if there are none that have not ended."""
        if not self.lists:
            await self._sign(until)
        if all(each.next_update_utc is not None and each.next_update_utc < _now() for each in self.lists):
            await self._sign(until)
        return self.lists

    async def look(self, until: float = inf) -> None:
        """Put in force what is revoked now, and sign the lists anew if it is not in them, or half their time is over.
        Raises what the ledger and the token say; what is known to be revoked is in force all the same."""
        revoked = await self._ca.revoked()
        wanted = {(self._issuer(each), each.serial_hex) for each in revoked}
        self._go_by(wanted)
        chain = await self._ca.chain()
        self._chain_changed(chain)
        listed = {f"{one.serial_number:x}" for one in self.lists[0]} if self.lists else None
        whole = listed is not None and {each.serial_hex for each in revoked} <= listed
        if not whole or self._is_old() or chain != self._signed_for:
            await self._sign(until)
            self._signed_for = chain

    async def keep(self) -> None:
        """Look every few seconds, for ever."""
        while True:
            try:
                await self.look()
                self.error = None
            except NotFound:
                self.error = None  # there is no CA yet
            except KmsdError as error:
                if self.error is None or self.error.kind != error.kind:
                    log.warning("the list of revocations is not signed anew", reason=error.message, hint=error.hint)
                self.error = error.again()
            await asyncio.sleep(LOOK)

    @property
    def problems(self) -> Sequence[Problem]:
        """The facts about the CA that an operator should know."""
        found = []
        if self.error is not None:
            waits = isinstance(self.error, Conflict)
            found.append(
                Problem(
                    self.error.message if waits else f"the CA signs nothing: {self.error.message}",
                    self.error.hint,
                    fatal=False,
                    about=About(setting="ca.enabled", calls=Calls(code=self.error.code)),
                )
            )
        for each in self._chain[:1]:
            days = (each.not_valid_after_utc - _now()).total_seconds() / 86400
            if days < _ENDS_SOON_DAYS:
                ends = f"ends in {days:.0f} days" if days > 0 else "has ended"
                found.append(
                    Problem(
                        f"the certificate of the CA {ends}, and no certificate that it issues lasts longer",
                        "make it another key in time: kmsctl ca roll",
                        fatal=False,
                        about=About(setting="ca.enabled"),
                    )
                )
        return found

    async def _sign(self, until: float) -> None:
        async with self._signing:
            crls = tuple(map(x509.load_der_x509_crl, await self._ca.crls(until)))
        self.lists = crls
        await self._write(CRL_FILE, b"".join(each.public_bytes(serialization.Encoding.PEM) for each in crls))
        log.info("list of revocations signed", revoked=len(crls[0]), lists=len(crls))

    def _chain_changed(self, chain: tuple[x509.Certificate, ...]) -> None:
        if chain != self._chain:
            self._chain = chain
            self._writing = asyncio.create_task(self._write(CHAIN_FILE, pem(*chain)), name="ca-chain")

    async def _write(self, name: str, data: bytes) -> None:
        try:
            await asyncio.to_thread(state.remember_file, self._directory, name, data)
        except (OSError, Misconfigured) as error:
            log.warning("cannot be kept in the state directory", file=name, reason=state.reason(error))

    def _go_by(self, revoked: set[tuple[bytes, str]]) -> None:
        # What a list has that the ledger does not know stays revoked: the ledger may be an old copy.
        wanted = self._enforced | revoked
        if wanted != self._enforced:
            self._enforced = wanted
            self._enforce(wanted)

    def _issuer(self, issued: Issued) -> bytes:
        """Return the DER of the name of a certificate's issuer."""
        known = self._issuers.get(issued.serial)
        if known is None:
            known = self._issuers[issued.serial] = x509.load_der_x509_certificate(issued.der).issuer.public_bytes()
        return known

    def _is_old(self) -> bool:
        first = self.lists[0]
        end = first.next_update_utc
        return end is None or _now() - first.last_update_utc > (end - first.last_update_utc) / 2


def _lists(data: bytes) -> list[x509.CertificateRevocationList]:
    end = b"-----END X509 CRL-----"
    return [x509.load_pem_x509_crl(each + end) for each in data.split(end)[:-1]]


def _now() -> datetime:
    return datetime.now(UTC)
