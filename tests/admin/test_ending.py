"""Who goes away first: a caller in the middle of a change, or kmsd in the middle of a stream."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from kmsd.api.admin.v1 import admin_pb2 as admin
from tests.admin.calls import SEED, decrypt, encrypt, failure, keys, watching
from tests.chaos import ChaosToken, make_chaos
from tests.daemons import Kmsd, wait_for
from tests.rpc.refusals import told

DRAIN = 5.0
"""Seconds that calls have to end in when kmsd stops; a stream never would."""


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> ChaosToken:
    return make_chaos(tmp_path_factory.mktemp("k") / "hsm")


@pytest.fixture(scope="module")
def kmsd(slow: ChaosToken, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kmsd]:
    """On a token that can be slow; looks at it only when it has to."""
    folder = tmp_path_factory.mktemp("k")
    flags = (*slow.flags, "--auto-create")
    token: Any = slow  # has the shape of a SoftToken
    with Kmsd(folder, token, flags, {"KMSD_KEYS__REFRESH": "3600"}, default_flags=False).start() as kmsd:
        yield kmsd.wait_ok()


def audit(kmsd: Kmsd) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (kmsd.folder / "state" / "audit.jsonl").read_text().splitlines()]


def logged(kmsd: Kmsd, event: str) -> int:
    return sum(line["event"] == event for line in kmsd.log_lines())


@pytest.mark.parametrize("how", ["cancel", "deadline", "disconnect"])
def test_a_rotation_is_carried_through_when_its_caller_goes_away(kmsd: Kmsd, slow: ChaosToken, how: str) -> None:
    before = encrypt(kmsd)
    began, records = logged(kmsd, "rotation began"), len(audit(kmsd))
    channel = kmsd.channel(kmsd.admin_socket)
    rotate: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/kmsd.admin.v1.Admin/RotateKey")
    with slow.told("C_SetAttributeValue delay=1"):
        call = rotate.future(b"", timeout=0.8 if how == "deadline" else 30.0)
        wait_for(lambda: logged(kmsd, "rotation began") > began)
        match how:
            case "cancel":
                call.cancel()
            case "disconnect":
                channel.close()
        assert call.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)
        done = wait_for(lambda: [each for each in audit(kmsd)[records:] if each["action"] == "RotateKey"])
    assert [each["outcome"] for each in done] == ["OK"]
    found = keys(kmsd)
    (write,) = [each for each in found if each.label == "k8s-kek"]
    assert write.state == admin.KEY_STATE_WRITE
    assert write.key_id == kmsd.v2("Status").key_id != before.key_id
    assert not [each for each in found if each.label == "k8s-kek.pending"]
    assert decrypt(kmsd, before) == SEED
    assert not kmsd.status().problems


def test_a_change_waits_for_the_one_before(kmsd: Kmsd, slow: ChaosToken) -> None:
    """Two at once: the second is refused by what the first has made, not by chance."""
    channel = kmsd.channel(kmsd.admin_socket)
    generate: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/kmsd.admin.v1.Admin/GenerateKey")
    body = admin.GenerateKeyRequest(label="twice at once").SerializeToString()
    with slow.told("C_GenerateKey delay=0.2"):
        calls = [generate.future(body, timeout=30.0) for _ in range(4)]
        codes = sorted(call.code().name for call in calls)
    assert codes == ["ALREADY_EXISTS"] * 3 + ["OK"]
    assert [each.label for each in keys(kmsd)].count("twice at once") == 1
    channel.close()


@pytest.mark.parametrize("method", ["WatchStats", "WatchRequests", "WatchAudit"])
def test_a_stream_whose_reader_has_gone_is_over_for_kmsd(served: Kmsd, method: str) -> None:
    for _ in range(20):
        with watching(served, method, **({} if method == "WatchStats" else {"follow": True, "backlog": 1})) as frames:
            frames.next()
    assert served.status().state == admin.SERVING_STATE_SERVING
    encrypt(served)
    assert not [line for line in served.log_lines() if line.get("level") == "error"]


def test_kmsd_stops_at_once_and_tells_whoever_watches(start: Callable[..., Kmsd]) -> None:
    kmsd = start("--auto-create").wait_ok()
    encrypt(kmsd)
    streams = {
        "WatchStats": {"interval_ms": 60_000},
        "WatchRequests": {"follow": True, "backlog": 1},
        "WatchAudit": {"follow": True, "backlog": 1},
    }
    open_streams = {}
    for method, fields in streams.items():
        channel = grpc.insecure_channel(f"unix:{kmsd.admin_socket}")
        request = getattr(admin, f"{method}Request")(**fields).SerializeToString()
        stream: Any = channel.unary_stream(f"/kmsd.admin.v1.Admin/{method}")(request, timeout=60.0)
        next(stream)
        open_streams[method] = (channel, stream)
    seconds = stop(kmsd)
    for method, (channel, stream) in open_streams.items():
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        refusal = told(caught.value)
        assert (refusal.code, refusal.details, refusal.retryable) == ("UNAVAILABLE", "kmsd is stopping", True), method
        assert refusal.hint
        channel.close()
    assert seconds < DRAIN
    assert [line["event"] for line in kmsd.log_lines() if line["level"] == "error"] == []


def test_who_watches_the_health_does_not_hold_up_the_end(start: Callable[..., Kmsd]) -> None:
    kmsd = start("--auto-create").wait_ok()
    channels = [grpc.insecure_channel(f"unix:{path}") for path in (kmsd.socket, kmsd.admin_socket)]
    methods: list[Any] = [channel.unary_stream("/grpc.health.v1.Health/Watch") for channel in channels]
    streams = [method(b"", timeout=60.0) for method in methods]
    statuses = health_pb2.HealthCheckResponse
    assert [statuses.FromString(next(stream)).status for stream in streams] == [statuses.SERVING] * 2
    seconds = stop(kmsd)
    for stream in streams:
        assert statuses.FromString(next(stream)).status == statuses.NOT_SERVING
        assert failure(partial(next, stream)).code == "UNAVAILABLE"
    for channel in channels:
        channel.close()
    assert seconds < DRAIN


def stop(kmsd: Kmsd) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    assert kmsd.stop() == 0
    return time.monotonic() - began
