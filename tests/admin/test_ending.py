"""Who goes away first: a caller in the middle of a change, or kmsd in the middle of a stream."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from kmsd.api.admin.v1 import admin_pb2 as admin
from tests import forkserver
from tests.admin.calls import SEED, ask, assert_told, decrypt, encrypt, failure, keys, make, state, watching
from tests.chaos import ChaosToken, make_chaos
from tests.daemons import KMSCTL, Kmsd, wait_for
from tests.raw import stream, unary

DRAIN = 5.0
"""Seconds that calls get to end in when kmsd stops; a stream never does."""
HEALTH = "/grpc.health.v1.Health/Watch"


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
    rotate = unary(channel, "/kmsd.admin.v1.Admin/RotateKey")
    # The deadline is that of a rotation that has begun, and over before its first label has changed.
    deadline, delay = (2.0, 2.5) if how == "deadline" else (30.0, 1.0)
    with slow.told(f"C_SetAttributeValue delay={delay}"):
        call = rotate.future(b"", timeout=deadline)
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


def test_a_rotation_that_moves_nothing_is_never_called_done(kmsd: Kmsd, slow: ChaosToken) -> None:
    """However often it is repeated; and it is finished when the token lets it be."""
    before = encrypt(kmsd)
    rotate = partial(kmsd.admin, "RotateKey", admin.RotateKeyRequest(), timeout=30.0)
    with slow.told("C_SetAttributeValue rv=0xE2"):
        for _ in range(2):
            refusal = failure(rotate)
            assert refusal.code == "FAILED_PRECONDITION"
            assert "could not be finished" in refusal.details
            assert "is read-only" in refusal.details
            assert_told(refusal)
        assert kmsd.v2("Status").key_id == encrypt(kmsd).key_id == before.key_id
        assert [each.label for each in keys(kmsd)].count("k8s-kek.pending") == 1
        (problem,) = kmsd.status().problems
        assert "cannot be relabelled" in problem.message
        assert kmsd.v2("Status").healthz == "ok"
    done = rotate()
    assert done.rotated
    assert done.old_key.key_id == before.key_id
    assert encrypt(kmsd).key_id == done.new_key.key_id != before.key_id
    assert decrypt(kmsd, before) == SEED
    assert not kmsd.status().problems


@pytest.mark.parametrize(
    ("rule", "method", "code", "words"),
    [
        ("C_GenerateKey rv=0xE2", "GenerateKey", "FAILED_PRECONDITION", "is read-only"),
        ("C_OpenSession rv=0xE2", "GenerateKey", "FAILED_PRECONDITION", "is read-only"),
        ("C_GenerateKey rv=0x70", "GenerateKey", "FAILED_PRECONDITION", "cannot do this (C_GenerateKey: "),
        ("C_GenerateKey rv=0x54", "GenerateKey", "FAILED_PRECONDITION", "cannot do this (C_GenerateKey: "),
        ("C_GenerateKey rv=0x31", "GenerateKey", "UNAVAILABLE", "CKR_DEVICE_MEMORY"),
        ("C_SetAttributeValue rv=0x10", "RelabelKey", "FAILED_PRECONDITION", "does not allow this"),
        ("C_SetAttributeValue rv=0xB5", "RelabelKey", "FAILED_PRECONDITION", "is read-only"),
        ("C_DestroyObject rv=0x1B", "DestroyKey", "FAILED_PRECONDITION", "does not allow this"),
        ("C_DestroyObject rv=0xE2", "DestroyKey", "FAILED_PRECONDITION", "is read-only"),
    ],
)
def test_what_the_token_refuses_is_told_in_words_and_changes_nothing(
    kmsd: Kmsd, slow: ChaosToken, rule: str, method: str, code: str, words: str
) -> None:
    made = make(kmsd)
    fields = {
        "GenerateKey": {"label": "never made"},
        "RelabelKey": {"key": made.key_id, "label": "never given"},
        "DestroyKey": {"key": made.key_id, "confirm_label": made.label},
    }[method]
    before = state(kmsd)
    with slow.told(rule):
        refusal = failure(partial(ask, kmsd, method, **fields))
    assert refusal.code == code, refusal
    assert words in refusal.details, refusal
    assert_told(refusal)
    assert state(kmsd) == before
    assert kmsd.v2("Status").healthz == "ok"


def test_a_change_waits_for_the_one_before(kmsd: Kmsd, slow: ChaosToken) -> None:
    """Two at once: the second is refused by what the first has made, not by chance."""
    channel = kmsd.channel(kmsd.admin_socket)
    generate = unary(channel, "/kmsd.admin.v1.Admin/GenerateKey")
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


@pytest.mark.parametrize("how", ["ends", "Ctrl-C", "killed", "unread"])
@pytest.mark.parametrize("command", ["stats --watch", "requests --follow", "audit tail -f"])
def test_a_watcher_that_leaves_is_no_word_in_the_log(start: Callable[..., Kmsd], command: str, how: str) -> None:
    kmsd = start("--auto-create").wait_ok()
    arguments = command.split()[: 1 + command.startswith("audit")] if how == "ends" else command.split()
    program = [KMSCTL, *arguments, f"--target={kmsd.admin_socket}"]
    with forkserver.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        assert watcher.stdout.readline()
        match how:
            case "Ctrl-C":
                watcher.send_signal(signal.SIGINT)
            case "killed":
                watcher.kill()
            case "unread":
                watcher.stdout.close()
        assert watcher.wait(20) == {"ends": 0, "Ctrl-C": 130, "killed": -signal.SIGKILL, "unread": 1}[how]
    kmsd.status()
    kmsd.stop()
    kmsd.check_log()
    assert not [line for line in kmsd.log_lines() if line["level"] == "error"]


def test_kmsd_stops_at_once_and_tells_whoever_watches(start: Callable[..., Kmsd]) -> None:
    kmsd = start("--auto-create").wait_ok()
    encrypt(kmsd)
    requests = {
        "/kmsd.admin.v1.Admin/WatchStats": admin.WatchStatsRequest(interval_ms=60_000),
        "/kmsd.admin.v1.Admin/WatchRequests": admin.WatchRequestsRequest(follow=True),
        "/kmsd.admin.v1.Admin/WatchAudit": admin.WatchAuditRequest(follow=True, backlog=1),
        HEALTH: health_pb2.HealthCheckRequest(),
    }
    channel = grpc.insecure_channel(f"unix:{kmsd.admin_socket}")
    streams: dict[str, Any] = {}
    for path, request in requests.items():
        method = stream(channel, path)
        streams[path] = method(request.SerializeToString(), timeout=60.0)
    first = {path: next(frames) for path, frames in streams.items()}
    statuses = health_pb2.HealthCheckResponse
    assert statuses.FromString(first[HEALTH]).status == statuses.SERVING
    seconds = stop(kmsd)
    assert statuses.FromString(next(streams[HEALTH])).status == statuses.NOT_SERVING
    for path, frames in streams.items():
        refusal = failure(partial(list, frames))
        assert (refusal.code, refusal.retryable) == ("UNAVAILABLE", True), path
        assert refusal.details.startswith("kmsd is stopping")
        assert refusal.hint
    channel.close()
    assert seconds < DRAIN
    assert not [line for line in kmsd.log_lines() if line["level"] == "error"]


def stop(kmsd: Kmsd) -> float:
    """Seconds that its sockets took, by its own clock: a busy machine makes everything else slow."""
    assert kmsd.stop() == 0
    lines = {line["event"]: line["timestamp"] for line in kmsd.log_lines()}
    began, ended = (datetime.fromisoformat(lines[event]) for event in ("kmsd is stopping", "audit closed"))
    return (ended - began).total_seconds()
