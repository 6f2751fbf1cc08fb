"""The methods of grpc.health.v1 (https://github.com/grpc/grpc/blob/master/doc/health-checking.md) as a table."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final

from grpc_health.v1 import health_pb2 as pb

from kmsd.errors import NotFound, short
from kmsd.transport.call import Call, Method, Role, StreamMethod, Table, parse

API: Final = "health"
_SERVICE: Final = "grpc.health.v1.Health"
_LARGEST: Final = 1024
"""Bytes of a request, which holds the name of a service, at the most."""


class Health:
    """The answers of grpc.health.v1 for these services, and for the socket as a whole. Belongs to one event loop.

    of_tenant: tells whether a tenant is served; who calls for one hears of nothing else. None: there are no tenants.
    """

    def __init__(self, services: Iterable[str], of_tenant: Callable[[str], bool] | None = None) -> None:
        self._services = frozenset(("", *services))
        self._of_tenant = of_tenant
        self._serving = False
        self._stopping = False
        self._changed = asyncio.Event()

    def set_serving(self, serving: bool) -> None:
        """Set what is answered from now on, for every service, to whoever calls for no tenant."""
        self._serving = serving
        self.changed()

    def stop(self) -> None:
        """Answer everybody from now on that nothing is served."""
        self._stopping = True
        self.changed()

    def changed(self) -> None:
        """Tell those who watch what is answered now: a tenant came, or went, or is served no more."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _status(self, call: Call) -> int:
        """Return what is answered to a call."""
        serving = self._serving
        if call.tenant and self._of_tenant is not None:
            serving = self._of_tenant(call.tenant)
        serves = serving and not self._stopping
        return pb.HealthCheckResponse.SERVING if serves else pb.HealthCheckResponse.NOT_SERVING

    def table(self) -> Table:
        """Return the methods of grpc.health.v1."""
        return {
            f"/{_SERVICE}/Check": Method(API, "Check", self._check, largest=_LARGEST, counted=False, role=Role.KNOWN),
            f"/{_SERVICE}/Watch": StreamMethod(API, "Watch", self._watch, largest=_LARGEST, role=Role.KNOWN),
        }

    async def _check(self, call: Call, body: bytes) -> bytes:
        service = parse(pb.HealthCheckRequest, body).service
        if service not in self._services:
            raise NotFound(f"no service {short(service)} is served here", "leave it out to ask for the whole socket")
        return pb.HealthCheckResponse(status=self._status(call)).SerializeToString()

    async def _watch(self, call: Call, body: bytes) -> AsyncIterator[bytes]:
        known = parse(pb.HealthCheckRequest, body).service in self._services
        told = None
        while True:
            changed = self._changed
            status = self._status(call) if known else pb.HealthCheckResponse.SERVICE_UNKNOWN
            if status != told:
                told = status
                yield pb.HealthCheckResponse(status=status).SerializeToString()
            await changed.wait()
