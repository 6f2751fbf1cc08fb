"""How a call was refused: the one status that a client sees, and that it is fit to be seen."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from tests.daemons import Kmsd
from tests.raw import unary

ENCRYPT_V2 = "/v2.KeyManagementService/Encrypt"
DECRYPT_V2 = "/v2.KeyManagementService/Decrypt"
STATUS_V2 = "/v2.KeyManagementService/Status"
ENCRYPT_V1 = "/v1beta1.KeyManagementService/Encrypt"
DECRYPT_V1 = "/v1beta1.KeyManagementService/Decrypt"
VERSION_V1 = "/v1beta1.KeyManagementService/Version"
_IN_FLIGHT = 200
"""Fewer than the streams that kmsd allows on one connection."""


@dataclass(frozen=True)
class Refusal:
    """code: name of the gRPC status code. details: the sentence. hint: what to do, as our own tools read it."""

    code: str
    details: str
    hint: str
    retryable: bool


def told(error: grpc.RpcError) -> Refusal:
    # The stubs know values of bytes alone; those whose name does not end in -bin are text.
    trailing: dict[str, object] = {each.key: each.value for each in error.trailing_metadata() or ()}
    hint = trailing.get("kmsd-hint-bin", b"")
    return Refusal(
        error.code().name,
        error.details() or "",
        hint.decode() if isinstance(hint, bytes) else str(hint),
        trailing.get("kmsd-retryable") == "true",
    )


def refusal(call: Callable[..., Any], *args: Any) -> Refusal:
    """What the call is refused with; every refusal of ours is one line that ends with what to do."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*args)
    refused = told(caught.value)
    assert refused.hint, refused
    assert "\n" not in refused.details
    return refused


def answers(kmsd: Kmsd, calls: Sequence[tuple[str, bytes]], timeout: float = 20.0) -> list[bytes | Refusal]:
    """Raw calls of (method path, request) to the KMS socket, many in flight; answers in their order."""
    channel = kmsd.channel()
    given: list[bytes | Refusal] = []
    try:
        for begin in range(0, len(calls), _IN_FLIGHT):
            futures = [
                unary(channel, path).future(body, timeout=timeout) for path, body in calls[begin : begin + _IN_FLIGHT]
            ]
            given.extend(map(_answer, futures))
    finally:
        channel.close()
    return given


def _answer(future: Any) -> bytes | Refusal:
    error = future.exception()
    if error is None:
        answer: bytes = future.result()
        return answer
    return told(error)


def assert_silent(text: str, *secrets: bytes) -> None:
    """None of the secrets is in the text: not as it is, nor in a usual encoding."""
    for secret in secrets:
        for shown in (
            secret.decode("latin-1"),
            repr(secret)[2:-1],
            secret.hex(),
            base64.b64encode(secret).decode().rstrip("="),
            base64.urlsafe_b64encode(secret).decode().rstrip("="),
        ):
            assert shown not in text, f"a secret of {len(secret)} bytes is shown"
