"""The peer API, kmsd.peer.v1: what callers from other machines are told of themselves. Protobuf to domain and back."""

from __future__ import annotations

import socket
import time
from typing import Final

from kmsd import __version__
from kmsd.api.peer.v1 import peer_pb2 as pb
from kmsd.transport.call import Call, Method, Role, Table, parse
from kmsd.transport.peers import Peer

API: Final = "peer"
SERVICE: Final = "kmsd.peer.v1.Peer"


def table() -> Table:
    """Return the methods of the peer API, by path."""
    return {f"/{SERVICE}/WhoAmI": Method(API, "WhoAmI", _who_am_i, largest=0, role=Role.KNOWN, hinted=True)}


async def _who_am_i(call: Call, body: bytes) -> bytes:
    parse(pb.WhoAmIRequest, body)
    answer = pb.WhoAmIResponse(
        version=__version__, host=socket.gethostname(), now_unix_ms=time.time_ns() // 1_000_000, tenant=call.tenant
    )
    peer = call.identity
    if isinstance(peer, Peer):
        answer.name, answer.serial = peer.name, peer.serial
        answer.tls_version, answer.cipher, answer.group = peer.version, peer.cipher, peer.group
    return answer.SerializeToString()
