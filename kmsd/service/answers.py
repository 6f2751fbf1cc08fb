"""Make sense of what key managers answer.

An empty message is one of every kind, so what must not be empty is looked at: nothing without bytes is ever encrypted.
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2
from kmsd.errors import Unavailable
from kmsd.service.upstream import Upstream, UpstreamError

M = TypeVar("M", bound=Message)


def status(body: bytes, upstream: Upstream) -> v2.StatusResponse:
    """Return the answer to v2 Status. Raises UpstreamError."""
    answer = message(v2.StatusResponse, body, upstream)
    return _whole(answer, answer.version == "v2" and bool(answer.healthz), upstream)


def encrypted(body: bytes, upstream: Upstream) -> v2.EncryptResponse:
    """Return the answer to v2 Encrypt. Raises UpstreamError."""
    answer = message(v2.EncryptResponse, body, upstream)
    return _whole(answer, bool(answer.ciphertext and answer.key_id), upstream)


def decrypted(body: bytes, upstream: Upstream) -> bytes:
    """Return the plaintext in the answer to v2 Decrypt. Raises UpstreamError."""
    answer = message(v2.DecryptResponse, body, upstream)
    return _whole(answer, bool(answer.plaintext), upstream).plaintext


def encrypted_v1beta1(body: bytes, upstream: Upstream) -> bytes:
    """Return the ciphertext in the answer to v1beta1 Encrypt. Raises UpstreamError."""
    answer = message(v1beta1.EncryptResponse, body, upstream)
    return _whole(answer, bool(answer.cipher), upstream).cipher


def decrypted_v1beta1(body: bytes, upstream: Upstream) -> bytes:
    """Return the plaintext in the answer to v1beta1 Decrypt. Raises UpstreamError."""
    answer = message(v1beta1.DecryptResponse, body, upstream)
    return _whole(answer, bool(answer.plain), upstream).plain


def _whole(answer: M, whole: bool, upstream: Upstream) -> M:
    if not whole:
        raise nonsense(type(answer), upstream)
    return answer


def message(kind: type[M], body: bytes, upstream: Upstream) -> M:
    """Return the message. Raises UpstreamError for bytes that are none."""
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise nonsense(kind, upstream) from error


def nonsense(kind: type[Message], upstream: Upstream) -> UpstreamError:
    """Return the error for an answer that cannot be one, and count it."""
    upstream.failed += 1
    return UpstreamError(
        Unavailable(
            f"key manager {upstream.address} answered what is no {kind.DESCRIPTOR.full_name}",
            "it speaks another API, or is broken: see its log, and restart it",
        ),
        its_own=True,
    )
