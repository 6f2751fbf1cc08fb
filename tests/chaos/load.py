"""Calls to a kmsd from several threads, as kube-apiserver makes them, each counted, and each value kept for later."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import grpc

from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.daemons import Kmsd
from tests.rpc.refusals import told

_AGAIN: Final = 10
"""Values that are read again and again."""


class Value(NamedTuple):
    """What was encrypted, and what was answered. key_id: empty for v1beta1."""

    plaintext: bytes
    ciphertext: bytes
    key_id: str


def write(kmsd: Kmsd, *, old: bool = False) -> Value:
    """Encrypt 32 random bytes. old: through v1beta1. Raises grpc.RpcError."""
    plaintext = os.urandom(32)
    if old:
        cipher = kmsd.v1beta1("Encrypt", v1beta1.EncryptRequest(version="v1beta1", plain=plaintext)).cipher
        return Value(plaintext, cipher, "")
    sealed = kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=plaintext, uid="load"))
    return Value(plaintext, sealed.ciphertext, sealed.key_id)


def read(kmsd: Kmsd, value: Value) -> bytes:
    """Decrypt it. Raises grpc.RpcError."""
    if not value.key_id:
        request = v1beta1.DecryptRequest(version="v1beta1", cipher=value.ciphertext)
        plain: bytes = kmsd.v1beta1("Decrypt", request).plain
        return plain
    asked = v2.DecryptRequest(ciphertext=value.ciphertext, key_id=value.key_id, uid="load")
    plaintext: bytes = kmsd.v2("Decrypt", asked).plaintext
    return plaintext


def _code(error: grpc.RpcError) -> str:
    """How a call ended. What is in flight while the test itself closes its channel, to stop kmsd, had no answer."""
    refused = told(error)
    return "UNAVAILABLE" if (refused.code, refused.details) == ("CANCELLED", "Channel closed!") else refused.code


@dataclass
class Load:
    """codes: how many calls ended with each gRPC status code. values: all that was written. wrong: plaintexts that were
    answered and are not those that were encrypted. most: of the values that are kept; 0: all are. Any that could not be
    read at once is kept in any case."""

    kmsd: Kmsd
    pause: float = 0.01
    most: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    values: list[Value] = field(default_factory=list)
    wrong: int = 0
    unread: set[Value] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Event = field(default_factory=threading.Event)

    @property
    def failed(self) -> dict[str, int]:
        return {code: count for code, count in sorted(self.codes.items()) if code != "OK"}

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Write and read through both APIs, and read what was written before."""
        for old in (False, True):
            self.values += [write(self.kmsd, old=old) for _ in range(_AGAIN // 2)]
        threads = [threading.Thread(target=self._run, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in threads:
                thread.join()

    def _run(self, number: int) -> None:
        turn = number
        while not self._ended.wait(self.pause):
            turn += 1
            if number == 2:
                self._read(self.values[turn % _AGAIN])
            else:
                written = self._write(old=bool(number))
                if written is not None:
                    self._read(written)

    def _write(self, *, old: bool) -> Value | None:
        try:
            written = write(self.kmsd, old=old)
        except grpc.RpcError as error:
            self._count(_code(error))
            return None
        with self._lock:
            if self.most and len(self.values) >= self.most:
                # Any of them but those that are read again and again.
                self.values[random.randrange(_AGAIN, self.most)] = written  # noqa: S311  nothing secret is made of it
            else:
                self.values.append(written)
        self._count("OK")
        return written

    def _read(self, value: Value) -> None:
        try:
            right = read(self.kmsd, value) == value.plaintext
        except grpc.RpcError as error:
            self._count(_code(error))
            with self._lock:
                self.unread.add(value)
            return
        self._count("OK")
        if not right:
            with self._lock:
                self.wrong += 1

    def _count(self, code: str) -> None:
        with self._lock:
            self.codes[code] += 1

    def lost(self, seconds: float = 10.0) -> int:
        """Read everything back. Returns how many values cannot be had, or are others than were written."""
        until = time.monotonic() + seconds
        return sum(not self._there(value, until) for value in {*self.values, *self.unread})

    def _there(self, value: Value, until: float) -> bool:
        while True:
            try:
                return read(self.kmsd, value) == value.plaintext
            except grpc.RpcError as error:
                if not told(error).retryable or time.monotonic() > until:
                    return False
                time.sleep(0.05)
