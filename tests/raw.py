"""Calls of gRPC methods as bytes, with no generated code in between: what is sent and what comes back is as it is."""

from __future__ import annotations

import grpc


def unary(channel: grpc.Channel, path: str) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
    """Return the method of this path, "/service/method", that takes one message and gives one."""
    return channel.unary_unary(path)


def stream(channel: grpc.Channel, path: str) -> grpc.UnaryStreamMultiCallable[bytes, bytes]:
    """Return the method of this path, "/service/method", that takes one message and gives many."""
    return channel.unary_stream(path)
