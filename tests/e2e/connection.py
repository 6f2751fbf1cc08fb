"""One gRPC connection to a KMS provider, made as kube-apiserver makes it, and the intervals it works with.

Source: `NewGRPCService` of `k8s.io/apiserver/pkg/storage/value/encrypt/envelope` and of its `kmsv2`.
Knows the wire, not what the calls mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, TypeVar, cast

import grpc


class Message(Protocol):
    """What is needed of a protobuf message."""

    def SerializeToString(self) -> bytes: ...  # noqa: N802

    @classmethod
    def FromString(cls, s: bytes) -> Self: ...  # noqa: N802


MessageT = TypeVar("MessageT", bound=Message)


@dataclass(frozen=True)
class Timing:
    """Intervals in seconds; the defaults are kube-apiserver's own."""

    healthy_poll: float = 60
    unhealthy_poll: float = 10
    healthy_memory: float = 20
    """How long readyz repeats a good answer of a provider without asking again."""
    unhealthy_memory: float = 3
    write_expiry: float = 180
    """v2: how long writes go on after the last Status that was answered."""
    read_cache: float = 86400
    first_reconnect: float = 1
    last_reconnect: float = 120


HASTY = Timing(
    healthy_poll=0.3,
    unhealthy_poll=0.1,
    healthy_memory=0.1,
    unhealthy_memory=0.05,
    first_reconnect=0.1,
    last_reconnect=1,
)
"""The same rules at a test's pace."""


class Connection:
    """One HTTP/2 connection; a call waits for it to be ready, within `timeout` seconds."""

    def __init__(self, socket: Path, authority: str, timeout: float, timing: Timing) -> None:
        self._timeout = timeout
        self._channel = grpc.insecure_channel(
            f"unix:{socket}",
            options=[
                ("grpc.default_authority", authority),
                ("grpc.use_local_subchannel_pool", 1),  # a connection of its own, as each Go client has
                ("grpc.initial_reconnect_backoff_ms", int(timing.first_reconnect * 1000)),
                ("grpc.min_reconnect_backoff_ms", int(timing.first_reconnect * 1000)),
                ("grpc.max_reconnect_backoff_ms", int(timing.last_reconnect * 1000)),
            ],
        )

    def call(self, path: str, request: Message, answer: type[MessageT]) -> MessageT:
        """One unary call. Raises grpc.RpcError."""
        method: grpc.UnaryUnaryMultiCallable[Message, MessageT] = self._channel.unary_unary(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        return method(request, timeout=self._timeout, wait_for_ready=True)

    def close(self) -> None:
        self._channel.close()


class ProviderError(Exception):
    """A provider did not do its part; the text is what kube-apiserver would log."""


def explain(doing: str, error: grpc.RpcError) -> ProviderError:
    """`error` as grpc-go writes it."""
    call = cast("grpc.Call", error)
    code = call.code().name.title().replace("_", "")
    return ProviderError(f"{doing}: rpc error: code = {code} desc = {call.details()}")
