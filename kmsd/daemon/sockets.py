"""The two Unix sockets that every kmsd has, with tokens or as a proxy, and the one for service account tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final

from kmsd.apis import admin_table, kms_v1beta1, kms_v2
from kmsd.config.settings import Admin, Kms, Settings
from kmsd.errors import Misconfigured
from kmsd.transport.call import Observer, Table
from kmsd.transport.dispatch import Dispatch
from kmsd.transport.grpcio import GrpcioServer
from kmsd.transport.h2corn import H2cornServer
from kmsd.transport.listener import Listener, Server
from kmsd.transport.sockets import SocketPlace

KEPT_REQUESTS: Final = 1000
"""Requests that are kept for whoever asks what went on."""
_SERVERS: Final[dict[str, tuple[Callable[[Dispatch], Server], ...]]] = {
    "grpcio": (GrpcioServer,),
    # grpcio for clients that address their requests to the path of the socket, which h2corn resets.
    "h2corn": (H2cornServer, GrpcioServer),
}

TOLD_SERVERS: Final[dict[str, tuple[Callable[[Dispatch], Server], ...]]] = {
    "grpcio": (GrpcioServer,),
    "h2corn": (partial(H2cornServer, told=True), GrpcioServer),
}
"""The same for a place where handlers are told who calls."""

Remade = Callable[[Path, str], None]
"""A function that is told, in words, what had become of a socket when it was made again."""


def kms_listener(kms: Kms, tables: Iterable[Table], observe: Observer, remade: Remade) -> Listener:
    """Make the socket of the two KMS APIs."""
    return Listener(
        SocketPlace(kms.socket, int(kms.mode, 8), kms.group),
        tables,
        servers=_SERVERS[kms.transport],
        apis=(kms_v2.API, kms_v1beta1.API),
        services=(kms_v2.SERVICE, kms_v1beta1.SERVICE),
        timeout=kms.request_timeout,
        observe=observe,
        remade=remade,
    )


def admin_listener(place: Admin, tables: Iterable[Table], observe: Observer, remade: Remade) -> Listener:
    """Make the socket of the admin API."""
    return Listener(
        SocketPlace(place.socket, 0o660 if place.group else 0o600, place.group),
        tables,
        servers=(GrpcioServer,),
        apis=(admin_table.API,),
        services=(admin_table.SERVICE,),
        timeout=admin_table.SECONDS,
        observe=observe,
        remade=remade,
        proven=True,
    )


def jwt_listener(settings: Settings, tables: Iterable[Table], observe: Observer, remade: Remade) -> Listener:
    """Make the socket on which service account tokens are signed. Raises Misconfigured."""
    from kmsd.apis import jwt_v1  # loads what only that needs

    jwt = settings.jwt
    if jwt.socket is None or jwt.socket in (settings.kms.socket, settings.admin.socket):
        raise Misconfigured(
            "service account tokens are signed on a socket of their own, and jwt.socket is that of another API",
            "give it a path of its own, such as /run/kmsd-jwt/jwt.sock",
        )
    return Listener(
        SocketPlace(jwt.socket, int(jwt.mode, 8), jwt.group),
        tables,
        servers=TOLD_SERVERS[settings.kms.transport],
        apis=(jwt_v1.API,),
        services=(jwt_v1.SERVICE,),
        timeout=jwt.request_timeout,
        observe=observe,
        remade=remade,
        # Who has fetched the published keys is told to operators.
        proven=True,
    )
