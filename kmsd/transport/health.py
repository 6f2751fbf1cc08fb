"""The methods of grpc.health.v1 (https://github.com/grpc/grpc/blob/master/doc/health-checking.md) as a table."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Final

from grpc_health.v1 import health_pb2 as pb

from kmsd.errors import NotFound, short
from kmsd.transport.call import Call, Method, Role, StreamMethod, Table, parse

API: Final = "health"
_SERVICE: Final = "grpc.health.v1.Health"
_LARGEST: Final = 1024
"""Bytes of a request, which holds the name of a service, at the most."""


class Health:
    """The answers of grpc.health.v1 for these services, and for the socket as a whole. Belongs to one event loop."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(("", *services))
        self._status: int = pb.HealthCheckResponse.NOT_SERVING
        self._changed = asyncio.Event()

    def set_serving(self, serving: bool) -> None:
        """Set what is answered from now on, for every service."""
        self._status = pb.HealthCheckResponse.SERVING if serving else pb.HealthCheckResponse.NOT_SERVING
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

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
        return pb.HealthCheckResponse(status=self._status).SerializeToString()

    async def _watch(self, call: Call, body: bytes) -> AsyncIterator[bytes]:
        known = parse(pb.HealthCheckRequest, body).service in self._services
        told = None
        while True:
            changed = self._changed
            status = self._status if known else pb.HealthCheckResponse.SERVICE_UNKNOWN
            if status != told:
                told = status
                yield pb.HealthCheckResponse(status=status).SerializeToString()
            await changed.wait()
