"""The private key of a proxy that lies elsewhere than in a file, as the proxy knows it: it can be asked to sign."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kmsd.apis.admin_proxy import Check
from kmsd.errors import KmsdError
from kmsd.transport.tls import Loaded

if TYPE_CHECKING:
    from kmsd.est.files import NodeStore
    from kmsd.service.signer import Sign


class OwnKey(Protocol):
    """A private key that signs TLS handshakes."""

    @property
    def where(self) -> str:
        """Return where it is, in words and without secrets."""

    @property
    def problem(self) -> KmsdError | None:
        """Return why it cannot sign now, as far as is known; None if it can."""

    async def start(self, changed: Callable[[], None]) -> None:
        """Start, and try again what cannot be had now. changed: called when the key came or went."""

    async def prove(self, loaded: Loaded) -> None:
        """Try whether it is the key of the certificate. Raises KmsdError."""

    def signer(self, certificate: bytes) -> Sign:
        """Return what signs the handshakes in which this certificate (PEM) is shown."""

    def store(self, certificate: Path, authorities: Path) -> NodeStore:
        """Return the certificate and its keys for a renewal. Raises Misconfigured if it cannot be renewed."""

    async def check(self, loaded: Loaded | None) -> Check:
        """Try whether it signs. loaded: the certificate; None if there is none that can be used."""

    async def reload(self) -> None:
        """Try at once what is away, because an operator has reloaded kmsd."""

    async def unlock(self, seconds: float) -> tuple[str, bool]:
        """Log in at an operator's word, whatever was refused before. Returns the token's label, and whether that was
        needed. Raises KmsdError."""

    async def close(self) -> None:
        """Let go of it."""
