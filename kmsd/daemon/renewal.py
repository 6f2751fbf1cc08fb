"""Renew the certificate of a proxy from an EST server: after two thirds of its time, and tried before it is used.

The old files stay until a key manager has taken the new certificate. Whatever fails is tried again, and told in Status
with the time that is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kmsd import plainfile
from kmsd.apis.admin_proxy import Check
from kmsd.errors import KmsdError, Misconfigured
from kmsd.est import client, enrolling
from kmsd.est.client import Later, Server
from kmsd.est.files import RENEW_AT, NodeStore, due, has_ended
from kmsd.observe import logs
from kmsd.observe.expiry import how_long
from kmsd.problem import About, Problem
from kmsd.unreadable import X509_UNREADABLE

log = logs.get_logger("kmsd.est")

_LOOK: Final = 1.0
"""Seconds between two looks at whether the certificate is due."""
_JITTER: Final = 1 / 20
"""The part of a certificate's lifetime over which the renewals of many nodes spread."""
_AGAIN_LEAST: Final = 2.0
_AGAIN_MOST: Final = 3600.0
"""Seconds between two tries at the least and the most: a twentieth of the time that is left."""
_RETIRE: Final = 900.0
"""Seconds between two looks for keys that are of no use any more."""
_ASK_SECONDS: Final = 4.0
"""Time limit for the server to answer doctor."""
_MOST: Final = 1024 * 1024

Try = Callable[[tuple[bytes, bytes, bytes]], Awaitable[None]]
"""A function that tries CA, certificate and key (PEM) with a key manager. Raises KmsdError."""


class Tell(Protocol):
    """The log and the audit of renewals."""

    def __call__(self, error: KmsdError | None, words: str) -> None:
        """Tell that a certificate was renewed, or why not."""


class Renewal:
    """The renewal of one certificate. server: URL of the EST server. renewed: called when the files have changed."""

    def __init__(
        self, server: str, files: NodeStore, attempt: Try, renewed: Callable[[], Awaitable[None]], tell: Tell
    ) -> None:
        self.error: KmsdError | None = None
        self.renewed_at: float | None = None
        """Unix seconds of the last renewal by this process."""
        self._server = server
        self._files = files
        self._attempt = attempt
        self._renewed = renewed
        self._tell = tell
        self._jitter = random.uniform(0, _JITTER)  # noqa: S311 - spreads load, and hides nothing
        self._next = 0.0

    async def keep(self) -> None:
        """Watch for the time at which the certificate is due, and renew it then, for ever."""
        retired_at = -_RETIRE
        while True:
            await asyncio.sleep(_LOOK)
            if time.monotonic() - retired_at >= _RETIRE:
                retired_at = time.monotonic()
                await self._retire()
            if time.monotonic() < self._next:
                continue
            present = await asyncio.to_thread(self._files.present)
            if present is None or time.time() < due(present, RENEW_AT + self._jitter).timestamp():
                continue
            await self._renew(present)

    def problems(self) -> Iterator[Problem]:
        """Yield why the certificate is not renewed, and how long is left."""
        if self.error is not None:
            present = self._files.present()
            end = present.not_valid_after_utc.timestamp() if present is not None else 0.0
            yield Problem(
                f"the certificate of this proxy is not renewed, and {how_long(end)}: {self.error.message}",
                self.error.hint or "it is tried again",
                fatal=False,
                about=About(setting="proxy.est_server"),
            )

    async def check(self) -> list[Check]:
        """Try whether the next renewal would go well: what became of the last one, and whether the server answers, is
        who it is to be, and has the CA that issued the certificate."""
        present = await asyncio.to_thread(self._files.present)
        if present is None:
            return [Check("renewal", "Renewal", "failed", "there is no certificate that could be renewed")]
        left = how_long(present.not_valid_after_utc.timestamp())
        if self.error is not None:
            last = Check("renewal", "Renewal", "failed", f"{self.error.message}; it {left}", self.error.hint)
        else:
            when = (
                f"renewed at {_utc(self.renewed_at)}" if self.renewed_at is not None else "not due since kmsd started"
            )
            again = f"due at {_utc(due(present, RENEW_AT + self._jitter).timestamp())}"
            last = Check("renewal", "Renewal", "ok", f"{when}, {again}; it {left}")
        return [last, await asyncio.to_thread(self._ask, present)]

    def _ask(self, present: x509.Certificate) -> Check:
        """Ask the server for its CAs, which takes no certificate and changes nothing."""
        title = f"EST server {self._server}"
        try:
            server = enrolling.trusted(Server.parse(self._server), self._files, "", b"")
            chain = client.authorities(replace(server, timeout=_ASK_SECONDS))
        except KmsdError as error:
            return Check("est", title, "failed", error.message, error.hint)
        if not any(enrolling.issued(present, each) for each in chain):
            return Check(
                "est", title, "failed", "it answers, and none of its CAs has issued the certificate of this proxy",
                "it renews what it has issued alone: enrol anew with a token, or correct proxy.est_server",
            )  # fmt: skip
        return Check("est", title, "ok", "its certificate is taken, and its CA has issued that of this proxy")

    async def _retire(self) -> None:
        """Have keys on a token destroyed that no certificate needs; what fails is tried again later."""
        try:
            await asyncio.to_thread(self._files.retire)
        except (KmsdError, OSError) as error:
            log.warning("keys of certificates that have ended are not destroyed yet", reason=str(error))

    async def _renew(self, present: x509.Certificate) -> None:
        try:
            made, chain = await asyncio.to_thread(self._obtained, present)
            pem = await asyncio.to_thread(self._pem, made, chain)
            if not has_ended(present):
                await self._attempt(pem)
            await asyncio.to_thread(self._put, made, chain)
        except KmsdError as error:
            if self.error is None or self.error.kind != error.kind:
                self._tell(error, "")
            self.error = error.again()
            least = float(error.seconds) if isinstance(error, Later) else _AGAIN_LEAST
            self._next = time.monotonic() + max(_pause(present), least)
            return
        self.error, self.renewed_at = None, time.time()
        # A certificate may be due when it is issued, by a CA that has it begin long before.
        self._next = time.monotonic() + _pause(made)
        self._jitter = random.uniform(0, _JITTER)  # noqa: S311 - as above
        self._tell(None, f"{made.subject.rfc4514_string()}, serial {made.serial_number:x}")
        await self._renewed()

    def _obtained(self, present: x509.Certificate) -> tuple[x509.Certificate, list[x509.Certificate]]:
        """Return a new certificate, which lies beside the old one with its key, and the server's CAs. Raises
        KmsdError."""
        with _written(self._files):
            kept = self._files.kept()
        if kept is not None and not has_ended(kept) and kept.not_valid_after_utc > present.not_valid_after_utc:
            return kept, []  # no key manager has taken it yet, or none was reached
        if has_ended(present):
            raise Misconfigured(
                f"by the clock of this machine, where it is {datetime.now(UTC):%F %T} UTC, it has ended, and cannot "
                "show itself any more",
                "check the clock; if it is right, enrol anew: kmsctl enrol --server",
            )
        server = enrolling.trusted(Server.parse(self._server), self._files, "", b"")
        made, chain = enrolling.obtain(server, self._files, "", lambda: None, present)
        with _written(self._files):
            self._files.keep(made)
        return made, list(chain)

    def _pem(self, made: x509.Certificate, chain: list[x509.Certificate]) -> tuple[bytes, bytes, bytes]:
        with _written(self._files):
            certificate, key = self._files.keep(made)
            return self._authorities(chain), certificate, key

    def _authorities(self, chain: list[x509.Certificate]) -> bytes:
        """Return the CAs to go by, as PEM: those that are there, and those of the server that are new."""
        there = plainfile.read_input(self._files.authorities, _MOST)[0]
        known = set(self._read(there))
        more = [each.public_bytes(Encoding.PEM) for each in chain if each not in known]
        return b"\n".join([there.rstrip(), *more]) + b"\n" if more else there

    def _read(self, pem: bytes) -> list[x509.Certificate]:
        try:
            return x509.load_pem_x509_certificates(pem)
        except X509_UNREADABLE as error:
            raise Misconfigured(
                f"{self._files.authorities} holds no certificates as PEM", "put the CAs of the key managers there"
            ) from error

    def _put(self, made: x509.Certificate, chain: list[x509.Certificate]) -> None:
        with _written(self._files):
            authorities = self._read(self._authorities(chain))
            known = self._read(plainfile.read_input(self._files.authorities, _MOST)[0])
            self._files.put(made, authorities if len(authorities) > len(known) else ())


def _utc(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%F %T} UTC"


def _pause(certificate: x509.Certificate) -> float:
    """Return the seconds until the next try: a twentieth of the time that this certificate has left."""
    left = certificate.not_valid_after_utc.timestamp() - time.time()
    return min(max(left / 20, _AGAIN_LEAST), _AGAIN_MOST)


@contextlib.contextmanager
def _written(files: NodeStore) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Misconfigured(
            f"{error.filename or files.certificate.parent} cannot be read or written: {error.strerror}",
            f"let kmsd write in {files.certificate.parent}, where the new files lie beside the old ones",
        ) from error
