"""WatchStats and WatchRequests: what is counted is what was called, and no more than that is told."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import grpc
import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.admin.calls import (
    SEED,
    ask,
    assert_told,
    decrypt,
    encrypt,
    failure,
    fresh,
    make,
    stats,
    watching,
)
from tests.daemons import Kmsd
from tests.raw import unary
from tests.rpc.refusals import assert_silent

HISTORY = 900


def calls(frame: admin.WatchStatsResponse) -> Counter[tuple[str, str, str]]:
    return Counter({(each.api, each.method, each.code): each.count for each in frame.calls})


def operations(frame: admin.WatchStatsResponse) -> Counter[str]:
    assert not any(each.api for each in frame.operations)
    return Counter({each.method: each.count for each in frame.operations})


def use(frame: admin.WatchStatsResponse, key_id: str) -> tuple[int, int]:
    return next(((each.encrypts, each.decrypts) for each in frame.keys if each.key_id == key_id), (0, 0))


def test_known_calls_are_counted(served: Kmsd) -> None:
    key_id = served.v2("Status").key_id
    before = stats(served)
    for _ in range(7):
        sealed = encrypt(served)
    for _ in range(3):
        decrypt(served, sealed)
    served.v1beta1("Version", v1beta1.VersionRequest(version="v1beta1"))
    v1 = served.v1beta1("Encrypt", v1beta1.EncryptRequest(version="v1beta1", plain=SEED))
    served.v1beta1("Decrypt", v1beta1.DecryptRequest(version="v1beta1", cipher=v1.cipher))
    failure(lambda: served.v2("Decrypt", v2.DecryptRequest(ciphertext=b"x", key_id="y")))
    failure(lambda: ask(served, "GetKey", key="not there"))
    after = stats(served)
    assert calls(after) - calls(before) == Counter(
        {
            ("v2", "Encrypt", "OK"): 7,
            ("v2", "Decrypt", "OK"): 3,
            ("v2", "Decrypt", "INVALID_ARGUMENT"): 1,
            ("v1beta1", "Version", "OK"): 1,
            ("v1beta1", "Encrypt", "OK"): 1,
            ("v1beta1", "Decrypt", "OK"): 1,
            ("admin", "GetKey", "NOT_FOUND"): 1,
        }
    )
    done = operations(after) - operations(before)
    assert (done["encrypt_gcm"], done["decrypt_gcm"]) == (8, 4)
    encrypts, decrypts = use(before, key_id)
    assert use(after, key_id) == (encrypts + 8, decrypts + 4)
    assert after.in_flight == 0
    assert after.started_unix_ms == before.started_unix_ms
    assert (after.sessions.open, after.sessions.configured) == (4, 4)
    assert 0 < after.quantile_error <= 0.05
    for each in (*after.latencies, *after.operations):
        assert each.count > 0
        assert 0 < each.p50_ms <= each.p90_ms <= each.p99_ms <= each.max_ms
        assert each.sum_ms <= each.max_ms * each.count * 1.001


def test_the_key_that_was_used_last_comes_first(served: Kmsd) -> None:
    sealed = encrypt(served)
    frame = stats(served)
    assert frame.keys[0].key_id == sealed.key_id
    assert len(frame.keys[0].key_id_sha256) == 64
    assert abs(frame.keys[0].last_used_unix_ms - frame.unix_ms) < 10_000


def test_the_first_frame_has_the_history_and_no_second_is_missing_or_told_twice(served: Kmsd) -> None:
    with watching(served, "WatchStats", interval_ms=200) as frames:
        first = frames.next()
        began = int(time.time())
        for _ in range(5):
            encrypt(served)
        seconds = list(first.seconds)
        while not seconds or seconds[-1].unix_s < began + 2:
            seconds.extend(frames.next().seconds)
    numbers = [each.unix_s for each in seconds]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert numbers[0] == max(first.started_unix_ms // 1000, numbers[0]), "not before kmsd started"
    assert len(numbers) <= HISTORY + 10
    if len(first.seconds) < HISTORY:
        assert numbers[0] == first.started_unix_ms // 1000
        counted = calls(stats(served))
        kms = {key: count for key, count in counted.items() if key[0] != "admin"}
        assert sum(each.requests for each in seconds) == sum(kms.values())
        assert sum(each.errors for each in seconds) == sum(n for key, n in kms.items() if key[2] != "OK")
        assert sum(each.encrypts for each in seconds) == sum(n for key, n in kms.items() if key[1] == "Encrypt")
    recent = [each for each in seconds if each.unix_s >= began]
    assert sum(each.encrypts for each in recent) >= 5
    assert all(0 < each.p50_ms <= each.p99_ms <= each.max_ms for each in recent if each.requests)


@pytest.mark.parametrize(("asked", "most"), [(-1, 0), (1, 1), (2, 2)])
def test_as_much_history_as_was_asked_for(served: Kmsd, asked: int, most: int) -> None:
    began = served.status().started_unix_ms / 1000
    while time.time() < began + most + 2:
        time.sleep(0.1)
    now = int(time.time())
    frame = stats(served, history_seconds=asked)
    assert len(frame.seconds) == most
    if most:
        assert now - 1 <= frame.seconds[-1].unix_s <= now


@pytest.mark.parametrize("interval", [1, 199, 60_001, 2**32 - 1])
def test_an_interval_that_is_too_short_or_too_long_is_refused(served: Kmsd, interval: int) -> None:
    with watching(served, "WatchStats", interval_ms=interval) as frames:
        refusal = frames.failure()
    assert refusal.code == "INVALID_ARGUMENT"
    assert f"must be 200 to 60000 ms, got {interval}" in refusal.details
    assert_told(refusal)


@pytest.mark.parametrize("interval", [0, 200, 60_000])
def test_the_longest_and_the_shortest_interval_will_do(served: Kmsd, interval: int) -> None:
    assert stats(served, interval_ms=interval).unix_ms


def test_frames_come_at_the_interval(served: Kmsd) -> None:
    with watching(served, "WatchStats", interval_ms=200, history_seconds=-1) as frames:
        times = [frames.next().unix_ms for _ in range(4)]
    assert all(later - earlier >= 190 for earlier, later in pairwise(times))


def requests(kmsd: Kmsd, **fields: object) -> list[admin.WatchRequestsResponse.Request]:
    with watching(kmsd, "WatchRequests", **fields) as frames:
        return [each for frame in frames.all() for each in frame.requests]


def test_the_calls_that_ended_are_told_oldest_first(served: Kmsd) -> None:
    uids = [fresh("uid") for _ in range(3)]
    sealed = encrypt(served, uid=uids[0])
    decrypt(served, sealed, uid=uids[1])
    failure(lambda: served.v2("Decrypt", v2.DecryptRequest(ciphertext=b"x", key_id="y", uid=uids[2])))
    served.status()  # of the admin API: not asked for
    told = requests(served, backlog=3)
    assert [(each.api, each.method, each.uid, each.code) for each in told] == [
        ("v2", "Encrypt", uids[0], "OK"),
        ("v2", "Decrypt", uids[1], "OK"),
        ("v2", "Decrypt", uids[2], "INVALID_ARGUMENT"),
    ]
    write = served.status().write_key
    asked_for = hashlib.sha256(b"y").hexdigest()
    assert [each.key_id_sha256 for each in told] == [write.key_id_sha256, write.key_id_sha256, asked_for]
    assert all(0 < each.latency_ms < 10_000 for each in told)
    assert [each.unix_ms for each in told] == sorted(each.unix_ms for each in told)
    assert abs(told[-1].unix_ms / 1000 - time.time()) < 60
    assert_silent(str(told), SEED, sealed.ciphertext, *sealed.ciphertext.split(b".")[3:])


def test_the_calls_of_the_admin_api_are_told_to_whoever_asks(served: Kmsd) -> None:
    failure(lambda: ask(served, "GetKey", key="not there"))
    (told,) = requests(served, backlog=1, admin=True)
    assert (told.api, told.method, told.code) == ("admin", "GetKey", "NOT_FOUND")
    assert all(each.api != "admin" for each in requests(served, backlog=1000))


def test_no_backlog_is_none(served: Kmsd) -> None:
    encrypt(served)
    assert requests(served, backlog=0) == []


@pytest.mark.parametrize("admin_too", [False, True])
def test_who_follows_gets_the_backlog_and_then_what_comes(served: Kmsd, admin_too: bool) -> None:
    old, new = fresh("uid"), fresh("uid")
    encrypt(served, uid=old)
    for _ in range(5):
        served.status()
    backlog = 6 if admin_too else 1
    with watching(served, "WatchRequests", backlog=backlog, follow=True, admin=admin_too) as frames:
        told = list(frames.next().requests)
        assert (told[0].method, told[0].uid, len(told)) == ("Encrypt", old, backlog)
        served.status()
        encrypt(served, uid=new)
        while told[-1].uid != new:
            frame = frames.next()
            assert frame.requests, "no empty messages"
            assert not frame.dropped
            told.extend(frame.requests)
    assert [each.uid for each in told if each.api == "v2"] == [old, new]
    assert len([each for each in told if each.api == "admin"]) == (6 if admin_too else 0)


@pytest.mark.parametrize("backlog", [1001, 2**32 - 1])
def test_more_than_is_kept_is_refused(served: Kmsd, backlog: int) -> None:
    for follow in (False, True):
        with watching(served, "WatchRequests", backlog=backlog, follow=follow) as frames:
            refusal = frames.failure()
        assert refusal.code == "INVALID_ARGUMENT"
        assert f"must be 0 to 1000, got {backlog}" in refusal.details
        assert_told(refusal)


@pytest.fixture(scope="module")
def unrecorded(start: Callable[..., Kmsd]) -> Kmsd:
    """Writes no audit, and hardly a log."""
    return start(
        "--auto-create", environment={"KMSD_AUDIT__ENABLED": "false"}, logging=("--log-level=warning",)
    ).wait_ok()


def test_without_an_audit_the_last_records_are_watched_all_the_same(unrecorded: Kmsd) -> None:
    made = make(unrecorded)
    with watching(unrecorded, "WatchAudit", backlog=100) as frames:
        told = [each for frame in frames.all() for each in frame.records]
    assert (told[-1].action, told[-1].key_id_sha256) == ("GenerateKey", made.key_id_sha256)
    assert {"kmsd up", "token up"} <= {each.action for each in told}
    assert not (unrecorded.folder / "state" / "audit.jsonl").exists()
    refusal = failure(lambda: ask(unrecorded, "VerifyAudit"))
    assert refusal.code == "FAILED_PRECONDITION"
    assert "audit.enabled" in refusal.hint
    assert_told(refusal)


def test_a_slow_reader_is_told_how_many_it_missed_and_holds_up_nobody(unrecorded: Kmsd) -> None:
    """One that stops reading: kmsd keeps a bounded number of calls for it, and forgets the oldest."""
    kmsd = unrecorded
    number = 6000
    bad = v2.DecryptRequest(ciphertext=b"x", key_id="y", uid="u" * 64)
    # Without this the client's own window grows to hold all of it.
    small = ("grpc.http2.bdp_probe", 0)
    with watching(kmsd, "WatchRequests", small, backlog=0, follow=True) as frames:
        assert not frames.next().requests
        channel = kmsd.channel()
        method = unary(channel, "/v2.KeyManagementService/Decrypt")
        for _ in range(number // 500):
            pending = [method.future(bad.SerializeToString(), timeout=30.0) for _ in range(500)]
            assert {each.code() for each in pending} == {grpc.StatusCode.INVALID_ARGUMENT}
        told = dropped = 0
        while told + dropped < number:
            frame = frames.next()
            told, dropped = told + len(frame.requests), dropped + frame.dropped
    assert told + dropped == number
    assert dropped > 0
    assert told >= 2000, "what is kept for it is told"
