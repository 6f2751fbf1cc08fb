"""One TCP port that serves tables of methods to callers with certificates. It opens when its TLS files can be used."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from kmsd.errors import KmsdError, Unavailable
from kmsd.transport.admission import PeerAdmission
from kmsd.transport.call import Observer, Table
from kmsd.transport.dispatch import Dispatch
from kmsd.transport.listener import Server, Serving
from kmsd.transport.peers import Peer
from kmsd.transport.tls import OwnCertificate, TlsFiles, TlsMaterial
from kmsd.transport.tls_entrance import TlsEntrance

_AGAIN: Final = 1.0
"""Seconds between two looks at the files, and between two tries to open a port that is taken."""


class TlsListener:
    """A listener on one TCP port.

    host, port: where it listens; for port 0 one is chosen. files: read anew when they change. apis: short names for
    people. admission: decides who may call what. refused: called with the address of a caller that TLS did not let in,
    and why. changed: called with None when the port has been opened, and with the problem when one of another kind
    arises. taken: called with the certificate that is shown from now on. The rest is as of `Serving`.

    problem: why nobody is served here, or not by the files that lie there now; None if all is well.
    """

    def __init__(
        self,
        host: str,
        port: int,
        files: TlsFiles,
        tables: Iterable[Table],
        *,
        servers: Sequence[Callable[[Dispatch], Server]],
        apis: Sequence[str],
        services: Sequence[str],
        timeout: float,
        observe: Observer,
        admission: PeerAdmission,
        of_tenant: Callable[[str], bool],
        connections: int,
        refused: Callable[[str, str], None],
        changed: Callable[[KmsdError | None], None],
        taken: Callable[[OwnCertificate], None],
    ) -> None:
        self.apis = tuple(apis)
        self.problem: KmsdError | None = None
        self.material = TlsMaterial(files, server=True, changed=self._take)
        self._host, self._port = host, port
        self._open = False
        self._admission = admission
        self._changed = changed
        self._taken = taken
        self._serving = Serving(
            TlsEntrance(self.material, refused),
            tables,
            servers=servers,
            services=services,
            timeout=timeout,
            observe=observe,
            proven=True,
            admission=admission,
            of_tenant=of_tenant,
            connections=connections,
        )
        self._keeping: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        return self._open

    @property
    def where(self) -> str:
        """The address of the port in words."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"tls://{host}:{self._port}"

    async def start(self, directory: Path) -> None:
        """Begin to listen as soon as that can be done. directory: a place where a folder can be made for a moment."""
        await self._serving.start(directory)
        await self._look()
        self._keeping = asyncio.create_task(self._keep(), name="tls-listener")

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_AGAIN)
            await self._look()

    async def _look(self) -> None:
        await self.material.look()
        problem = self.material.problem
        if not self._open and self.material.loaded is not None:
            try:
                self._listen()
            except OSError as error:
                why = (error.strerror or str(error)).lower()
                problem = Unavailable(
                    f"nothing listens on {self.where}: {why}",
                    "free the port, or choose another with --port and --host; kmsd tries again every second",
                )
            else:
                self._changed(None)
        if problem is not None and (self.problem is None or problem.kind != self.problem.kind):
            self._changed(problem)
        self.problem = problem

    def _listen(self) -> None:
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except socket.gaierror as error:
            raise OSError(error.errno, f"{self._host} is no address of this machine") from error
        family, _, _, _, address = found[0]
        _, self._port = self._serving.relay.listen_on(family, (str(address[0]), int(address[1])))
        self._open = True

    def _take(self, own: OwnCertificate) -> None:
        if self.material.loaded is not None:
            self._admission.revocations = self.material.loaded.revocations
        self._taken(own)

    def set_serving(self, serving: bool) -> None:
        """Set what grpc.health.v1 answers from now on to admins, for every service."""
        self._serving.health.set_serving(serving)

    def tenants_changed(self) -> None:
        """Tell tenants that watch grpc.health.v1 what `of_tenant` says now."""
        self._serving.health.changed()

    @property
    def connected(self) -> Counter[tuple[bytes, str]]:
        """The number of open connections of each certificate, by its issuer (DER) and its serial number."""
        return Counter((each.issuer, each.serial) for each in self._serving.relay.callers if isinstance(each, Peer))

    async def stop(self, grace: float) -> None:
        """Stop as `Serving.stop` does."""
        if self._keeping is not None:
            self._keeping.cancel()
        await self._serving.stop(grace)
