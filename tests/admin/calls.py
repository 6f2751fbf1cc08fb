"""Calls of the admin API, and what every refusal of it must be: a code, a sentence, a hint, and nothing changed."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.daemons import Kmsd
from tests.rpc.refusals import Refusal, told

SEED = b"0123456789abcdef0123456789abcdef"
SENTENCE_MOST = 1000
"""Characters. Whatever a caller sends, an answer stays a sentence: gRPC drops the metadata of longer ones."""
STREAM_SECONDS = 30.0
"""A stream that goes on for longer fails its test."""
_number = itertools.count()


def fresh(begin: str = "key") -> str:
    """A label that no other test uses."""
    return f"{begin}-{next(_number)}"


def ask(kmsd: Kmsd, method: str, **fields: object) -> Any:
    """Call a unary method with these fields in its request."""
    return kmsd.admin(method, getattr(admin, f"{method}Request")(**fields), timeout=30.0)


def ask_as(kmsd: Kmsd, caller: bytes, method: str, **fields: object) -> Any:
    """The same, with something said about who calls."""
    channel = kmsd.channel(kmsd.admin_socket)
    try:
        return channel.unary_unary(
            f"/kmsd.admin.v1.Admin/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=getattr(admin, f"{method}Response").FromString,
        )(getattr(admin, f"{method}Request")(**fields), timeout=30.0, metadata=(("kmsd-caller-bin", caller),))
    finally:
        channel.close()


def keys(kmsd: Kmsd) -> list[admin.Key]:
    """All keys, after a look at the token."""
    return list(ask(kmsd, "ListKeys", page_size=1000).keys)


def key(kmsd: Kmsd, which: str) -> admin.Key:
    found: admin.Key = ask(kmsd, "GetKey", key=which).key
    return found


def make(kmsd: Kmsd, label: str = "", type: admin.KeyType = admin.KEY_TYPE_AES, **fields: object) -> admin.Key:  # noqa: A002
    """A new key, under a new label unless one is given."""
    made: admin.Key = ask(kmsd, "GenerateKey", label=label or fresh(), type=type, **fields).key
    return made


def encrypt(kmsd: Kmsd, plaintext: bytes = SEED, uid: str = "u") -> v2.EncryptResponse:
    answer: v2.EncryptResponse = kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=plaintext, uid=uid))
    return answer


def decrypt(kmsd: Kmsd, sealed: v2.EncryptResponse, uid: str = "u") -> bytes:
    request = v2.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id, uid=uid)
    plaintext: bytes = kmsd.v2("Decrypt", request).plaintext
    return plaintext


def refused(kmsd: Kmsd, method: str, code: str, words: str, **fields: object) -> Refusal:
    """The call is refused with this code, in a sentence with these words and a hint, and no key has changed."""
    before = state(kmsd)
    refusal = failure(lambda: ask(kmsd, method, **fields))
    assert refusal.code == code, refusal
    assert words in refusal.details, refusal
    assert_told(refusal)
    assert state(kmsd) == before
    return refusal


def failure(call: Any) -> Refusal:
    """How the call failed."""
    try:
        answer = call()
    except grpc.RpcError as error:
        return told(error)
    raise AssertionError(f"answered {answer!r}")


def assert_told(refusal: Refusal) -> None:
    assert refusal.hint, refusal
    for text in (refusal.details, refusal.hint):
        assert text.isprintable(), text
        assert len(text) < SENTENCE_MOST, text[:80]
        assert not text.endswith("."), text
    assert refusal.hint not in refusal.details, "our own tools show both"


def state(kmsd: Kmsd) -> list[tuple[object, ...]]:
    """What the token holds, without what mere use changes."""
    return [
        (key.token, key.label, key.key_id, key.type, key.bits, key.state, key.can_encrypt, key.can_decrypt)
        for key in keys(kmsd)
    ]


@dataclass(frozen=True)
class Frames:
    """The messages of one streaming call."""

    call: Any

    def next(self) -> Any:
        return next(self.call)

    def all(self) -> list[Any]:
        """Up to the end that the server makes."""
        return list(self.call)

    def failure(self) -> Refusal:
        """How it ends, whatever comes before."""
        return failure(lambda: list(self.call))


@contextlib.contextmanager
def watching(kmsd: Kmsd, method: str, *options: tuple[str, object], **fields: object) -> Iterator[Frames]:
    """A call of a streaming method, cancelled at the end."""
    channel = kmsd.channel(kmsd.admin_socket, *options)
    call = channel.unary_stream(
        f"/kmsd.admin.v1.Admin/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=getattr(admin, f"{method}Response").FromString,
    )(getattr(admin, f"{method}Request")(**fields), timeout=STREAM_SECONDS)
    try:
        yield Frames(call)
    finally:
        call.cancel()
        channel.close()


def stats(kmsd: Kmsd, **fields: object) -> admin.WatchStatsResponse:
    """One frame, now."""
    with watching(kmsd, "WatchStats", **fields) as frames:
        frame: admin.WatchStatsResponse = frames.next()
        return frame
