"""A gRPC server with ten thousand keys and 2,000 calls a second, both written down: making as many keys on SoftHSM
takes longer than the benchmark.

usage: python -m tests.bench.crowd DIRECTORY

Every reading of the keys finds other uses, and the streams carry what kmsd's would.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from kmsd.api.admin.v1 import admin_pb2 as pb
from tests.ctl.canned import Canned, serve

KEYS = 10_000
RATE = 2000
_BUSY = 100
"""Keys that are used."""
_TICK = 0.02
"""Seconds between two messages about calls."""


def label(number: int) -> str:
    return f"key-{number:05}"


def key(number: int) -> pb.Key:
    identity = f"0192c3a1-77f0-7b1e-9c55-{number:012}"
    return pb.Key(
        label=label(number),
        key_id=identity,
        key_id_sha256=hashlib.sha256(identity.encode()).hexdigest(),
        state=pb.KEY_STATE_READABLE,
        type=pb.KEY_TYPE_AES,
        bits=256,
        can_encrypt=True,
        can_decrypt=True,
        private=True,
        sensitive=True,
        created_unix_ms=1_728_900_000_000 + number,
        token_label="bench",
        token="bench",
        enc="A256GCM",
    )


class Crowd(Canned):
    def list_keys(self, request: pb.ListKeysRequest) -> pb.ListKeysResponse:
        if not request.page_token:
            now = int(time.time() * 1000)
            for each in self.keys[:_BUSY]:
                each.decrypts += 20
                each.last_used_unix_ms = now
        return super().list_keys(request)

    def watch_stats(self, request: pb.WatchStatsRequest) -> pb.WatchStatsResponse:
        now = int(time.time())
        return _frame(self.keys, range(now - 900, now))


def main(directory: Path) -> None:
    crowd = Crowd(directory, keys=[key(number) for number in range(KEYS)], page=500)
    crowd.status.started_unix_ms = int(time.time() * 1000) - 3_600_000
    with serve(crowd):
        told, number = int(time.time()), 0
        while True:
            time.sleep(_TICK)
            calls = [_call(number + at) for at in range(round(RATE * _TICK))]
            number += len(calls)
            crowd.feed("WatchRequests", pb.WatchRequestsResponse(requests=calls))
            now = int(time.time())
            if now >= told + 2:
                crowd.feed("WatchStats", _frame(crowd.keys, range(told, now)))
                told = now


def _frame(keys: Sequence[pb.Key], seconds: range) -> pb.WatchStatsResponse:
    frame = pb.WatchStatsResponse
    count = seconds.stop * RATE % 10**9
    return frame(
        unix_ms=seconds.stop * 1000,
        started_unix_ms=(seconds.stop - 3600) * 1000,
        seconds=[
            frame.Second(
                unix_s=each, requests=RATE + each % 97, decrypts=RATE, p50_ms=0.5, p99_ms=2 + each % 7, max_ms=9
            )
            for each in seconds
        ],
        calls=[frame.Calls(api="v2", method="Decrypt", code="OK", count=count)],
        latencies=[frame.Latency(api="v2", method="Decrypt", count=count, p50_ms=0.5, p90_ms=0.9, p99_ms=2, max_ms=9)],
        operations=[frame.Latency(method="decrypt", count=count, p50_ms=0.1, p90_ms=0.2, p99_ms=0.3, max_ms=4)],
        keys=[
            frame.KeyUse(
                key_id=each.key_id,
                key_id_sha256=each.key_id_sha256,
                decrypts=count // _BUSY,
                last_used_unix_ms=seconds.stop * 1000,
            )
            for each in keys[:_BUSY]
        ],
    )


def _call(number: int) -> pb.WatchRequestsResponse.Request:
    return pb.WatchRequestsResponse.Request(
        unix_ms=int(time.time() * 1000),
        api="v2",
        method="Decrypt",
        uid=f"load-{number}",
        key_id_sha256=hashlib.sha256(str(number % _BUSY).encode()).hexdigest(),
        code="OK",
        latency_ms=0.4 + number % 10 / 10,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
