"""Keep the EST server's own certificate, which the CA here issues, where the configuration names none."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from kmsd.ca import server_tls
from kmsd.ca.authority import Authority
from kmsd.config.enrolment import Est
from kmsd.errors import KmsdError, Misconfigured
from kmsd.est.files import NodeFiles, due, in_force
from kmsd.observe import logs

log = logs.get_logger("kmsd.est")

_LOOK: Final = 2.0
_LOOK_SELDOM: Final = 60.0
_ANY: Final = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - what nobody connects to
_KEY: Final = "ec-p256"


class EstCertificate:
    """The certificate. directory: where it and its key are kept. authority: the CA, asked on a thread; raises
    KmsdError. problem: why there is none that is good. made: set when there is one to show."""

    def __init__(self, est: Est, directory: Path, authority: Callable[[], Authority]) -> None:
        self.problem: KmsdError | None = None
        self.files = NodeFiles(directory / "est.key", directory / "est.crt", directory / "est-ca.crt")
        self._names = est.names or _usual(est.listen)
        self._authority = authority
        self.made = asyncio.Event()
        self._soon = asyncio.Event()

    def look_soon(self) -> None:
        """Have another certificate at once if the CA's key is another one now. On the event loop's thread."""
        self._soon.set()

    async def keep(self) -> None:
        """Make the certificate, and the next one after two thirds of its time, for ever."""
        if await asyncio.to_thread(self.files.present) is not None:
            self.made.set()  # it is shown whether or not the token is there by now
        while True:
            try:
                await asyncio.to_thread(self.look)
                self.problem = None
                self.made.set()
            except KmsdError as error:
                self.problem = error.again()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK if self.problem is not None else _LOOK_SELDOM):
                    await self._soon.wait()
            self._soon.clear()

    def look(self) -> None:
        """Make the certificate if it is missing, due, of another CA or of other names. Raises KmsdError."""
        try:
            self.files.settle()
            authority = self._authority()
            present = self.files.present()
            if present is not None and self._good(present, authority):
                return
            key = self.files.next_key(_KEY)
            made = server_tls.issue(authority, key.public_key(), self._names)
            self.files.put(made, chain=server_tls.shown_with(authority))
        except OSError as error:
            raise Misconfigured(
                f"{error.filename or self.files.certificate} cannot be written: {error.strerror}",
                "let kmsd write in state.dir, or give est.tls_certificate and est.tls_key",
            ) from error
        log.info("the EST server has a certificate", names=",".join(self._names), serial=f"{made.serial_number:x}")

    def _good(self, present: x509.Certificate, authority: Authority) -> bool:
        try:
            present.verify_directly_issued_by(authority.signer.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        fresh = in_force(present) and datetime.now(UTC) < due(present)
        return fresh and server_tls.names_in(present) == tuple(self._names)


def _usual(listen: str) -> tuple[str, ...]:
    """Return the names by which this machine is called, and the address that the server listens on."""
    host = listen.rpartition(":")[0].strip("[]").partition("%")[0]
    found = (socket.gethostname().lower(), socket.getfqdn().lower(), *((host,) if host not in _ANY else ()))
    return tuple(dict.fromkeys(each for each in found if each))
