"""Ask a socket as a client would, over a connection of its own, whether whoever serves it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import quote

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2

_CHECK: Final = "/grpc.health.v1.Health/Check"
_OPTIONS: Final = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
"""Options that have each question use a fresh connection: the last one may outlive what accepts new ones."""
_NO_ANSWER: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


async def answers(path: Path, timeout: float) -> bool:
    """Return whether grpc.health.v1 on this socket says anything, good or bad, within `timeout` seconds."""
    async with grpc.aio.insecure_channel(f"unix:{quote(str(path))}", options=_OPTIONS) as channel:
        try:
            check: grpc.aio.UnaryUnaryMultiCallable[health_pb2.HealthCheckRequest, bytes] = channel.unary_unary(
                _CHECK, request_serializer=health_pb2.HealthCheckRequest.SerializeToString
            )
            await check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            return error.code() not in _NO_ANSWER
    return True
