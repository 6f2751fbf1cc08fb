"""WatchAudit and VerifyAudit: who did what, with which key, how it ended; and what comes of it when a disk fails."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.admin.calls import ask, ask_as, assert_told, decrypt, encrypt, failure, fresh, key, make, state, watching
from tests.daemons import Kmsd, wait_for
from tests.raw import unary
from tests.tokens import make_token

CALLER = f"kmsctl uid={os.geteuid()} user={pwd.getpwuid(os.geteuid()).pw_name}"


@pytest.fixture(scope="module")
def kmsd(start: Callable[..., Kmsd]) -> Kmsd:
    environment = {"KMSD_AUDIT__KMS": "all", "KMSD_KMS__REQUEST_TIMEOUT": "2"}
    return start("--auto-create", environment=environment).wait_ok()


def audit(kmsd: Kmsd) -> Path:
    return kmsd.folder / "state" / "audit.jsonl"


def written(kmsd: Kmsd) -> list[dict[str, Any]]:
    return [json.loads(line) for line in audit(kmsd).read_text().splitlines()]


def records(kmsd: Kmsd, backlog: int = 1) -> list[admin.WatchAuditResponse.Record]:
    """The last ones."""
    with watching(kmsd, "WatchAudit", backlog=backlog) as frames:
        return [each for frame in frames.all() for each in frame.records]


def verify(kmsd: Kmsd) -> admin.VerifyAuditResponse:
    answer: admin.VerifyAuditResponse = ask(kmsd, "VerifyAudit")
    return answer


def test_an_action_is_on_the_disk_before_it_is_answered_with_who_has_asked(kmsd: Kmsd) -> None:
    label = fresh()
    made = ask_as(kmsd, b"kmsctl", "GenerateKey", label=label).key
    line = written(kmsd)[-1]
    assert (line["kind"], line["action"], line["outcome"]) == ("admin", "GenerateKey", "OK")
    assert line["caller"] == CALLER
    assert line["key_id_sha256"] == made.key_id_sha256
    assert line["detail"] == f"made {label} (aes)"
    (record,) = records(kmsd)
    assert (record.seq, record.kind, record.action, record.outcome) == (line["seq"], "admin", "GenerateKey", "OK")
    assert (record.caller, record.detail) == (line["caller"], line["detail"])
    assert json.loads(record.line) == line
    assert record.latency_ms > 0
    assert abs(record.unix_ms / 1000 - time.time()) < 60


DRY = "dry run, nothing changed"


def test_every_action_that_changes_something_or_uses_a_key_is_recorded(kmsd: Kmsd) -> None:
    label, to = fresh(), fresh()
    made = make(kmsd, label)
    write = kmsd.v2("Status").key_id
    before = records(kmsd)[0].seq
    ask(kmsd, "RelabelKey", key=label, label=to, dry_run=True)
    ask(kmsd, "RelabelKey", key=label, label=to)
    ask(kmsd, "TestKey", key=to)
    ask(kmsd, "SetLogLevel", level="info")
    ask(kmsd, "SetLogLevel")
    ask(kmsd, "RetireKey", key=to, confirm_label=to)
    archived = key(kmsd, made.key_id)
    ask(kmsd, "DestroyKey", key=made.key_id, confirm_label=archived.label, dry_run=True)
    ask(kmsd, "DestroyKey", key=made.key_id, confirm_label=archived.label)
    ask(kmsd, "GenerateKey", label="k8s-kek", if_not_exists=True)
    ask(kmsd, "RotateKey", dry_run=True)
    rotated = ask(kmsd, "RotateKey")
    told = [
        (each.action, each.detail, each.key_id_sha256 == made.key_id_sha256)
        for each in records(kmsd, 100)
        if each.seq > before and each.kind == "admin"
    ]
    old, new = rotated.old_key, rotated.new_key
    assert old.key_id == write
    assert told == [
        ("RelabelKey", f"{DRY}: would relabel {label} -> {to}", True),
        ("RelabelKey", f"relabelled {label} -> {to}", True),
        ("TestKey", f"tested {to}", True),
        ("SetLogLevel", "debug -> info", False),
        ("SetLogLevel", "info -> debug", False),
        ("RetireKey", f"retired {to}", True),
        ("DestroyKey", f"{DRY}: would destroy {archived.label} {made.key_id}", True),
        ("DestroyKey", f"destroyed {archived.label} {made.key_id}", True),
        ("GenerateKey", "found k8s-kek (aes)", False),
        ("RotateKey", f"{DRY}: would move k8s-kek: {old.key_id_sha256[:8]} -> a new key", False),
        ("RotateKey", f"k8s-kek: {old.key_id_sha256[:8]} -> {new.key_id_sha256[:8]}", False),
    ]


@pytest.mark.parametrize(
    ("method", "fields", "outcome", "words"),
    [
        ("GenerateKey", {"label": "k8s-kek"}, "ALREADY_EXISTS", "has a key labelled 'k8s-kek' already"),
        ("DestroyKey", {"key": "k8s-kek"}, "FAILED_PRECONDITION", "'k8s-kek' is the write key"),
        ("RelabelKey", {"key": "nothing", "label": "x"}, "NOT_FOUND", "no key 'nothing'"),
        ("SetLogLevel", {"level": "loud"}, "INVALID_ARGUMENT", "the log level must be one of debug"),
        ("RevertKey", {"label": "other"}, "INVALID_ARGUMENT", "not 'other'"),
    ],
)
def test_an_action_that_was_refused_is_recorded_too(
    kmsd: Kmsd, method: str, fields: dict[str, object], outcome: str, words: str
) -> None:
    if method == "RevertKey":
        ask(kmsd, "RotateKey")
    refusal = failure(lambda: ask_as(kmsd, b"kmsctl", method, **fields))
    (record,) = records(kmsd)
    assert (record.kind, record.action, record.outcome, record.caller) == ("admin", method, outcome, CALLER)
    assert record.outcome == refusal.code
    assert words in record.reason
    assert record.reason == f"{refusal.details}; {refusal.hint}"
    assert not record.detail


@pytest.mark.parametrize("method", ["DestroyKey", "RetireKey", "RelabelKey", "RotateKey", "RevertKey"])
def test_a_dry_run_that_is_refused_is_recorded_as_one(kmsd: Kmsd, method: str) -> None:
    fields = {"label": "nothing"} if method in ("RotateKey", "RevertKey") else {"key": "nothing"}
    failure(lambda: ask(kmsd, method, dry_run=True, **fields))
    (record,) = records(kmsd)
    assert (record.action, record.detail) == (method, DRY)
    assert record.outcome != "OK"
    assert record.reason


def test_why_a_call_failed_is_told_as_its_caller_was_told(kmsd: Kmsd) -> None:
    """In the requests, the audit and the log; what the caller sent is in none of them."""
    uid, body = fresh(), b"no ciphertext \x1b[2J" * 40
    refusal = failure(lambda: kmsd.v2("Decrypt", v2.DecryptRequest(ciphertext=body, uid=uid)))
    with watching(kmsd, "WatchRequests", backlog=1000) as frames:
        (request,) = [each for each in frames.next().requests if each.uid == uid]
    (record,) = [each for each in records(kmsd, 20) if each.detail == uid]
    (line,) = [each for each in kmsd.log_lines() if each.get("uid") == uid]
    assert request.reason == record.reason == line["reason"] == refusal.details
    assert (request.code, record.outcome, line["code"]) == (refusal.code,) * 3
    assert 0 < len(request.reason) <= 256
    assert request.reason.isprintable()
    assert "no ciphertext" not in request.reason
    kmsd.v2("Status", v2.StatusRequest())
    with watching(kmsd, "WatchRequests", backlog=1) as frames:
        assert frames.next().requests[-1].reason == ""


def test_a_reason_is_bounded_and_moves_no_cursor(kmsd: Kmsd) -> None:
    failure(lambda: ask(kmsd, "GenerateKey", label="k8s-kek", key_id="\x1b[2J\n" * 100))
    (record,) = records(kmsd)
    assert 0 < len(record.reason) <= 256
    assert record.reason.isprintable()


def test_to_look_is_not_recorded(kmsd: Kmsd) -> None:
    before = records(kmsd)[0].seq
    for method in ("GetStatus", "GetConfig", "ListSlots", "ListMechanisms", "ListKeys", "VerifyAudit"):
        ask(kmsd, method)
    ask(kmsd, "GetKey", key="k8s-kek")
    ask(kmsd, "InspectCiphertext", data=b"x")
    assert records(kmsd)[0].seq == before


def test_calls_of_the_kms_apis_are_recorded_without_what_they_carry(kmsd: Kmsd) -> None:
    uids = [fresh("uid") for _ in range(3)]
    sealed = encrypt(kmsd, uid=uids[0])
    decrypt(kmsd, sealed, uid=uids[1])
    failure(lambda: kmsd.v2("Decrypt", v2.DecryptRequest(ciphertext=b"x", key_id="y", uid=uids[2])))
    write = key(kmsd, sealed.key_id).key_id_sha256
    told = [(r.kind, r.action, r.detail, r.outcome, r.key_id_sha256) for r in records(kmsd, 3)]
    assert told == [
        ("kms", "v2 Encrypt", uids[0], "OK", write),
        ("kms", "v2 Decrypt", uids[1], "OK", write),
        ("kms", "v2 Decrypt", uids[2], "INVALID_ARGUMENT", hashlib.sha256(b"y").hexdigest()),
    ]


def test_an_encrypt_that_fails_is_recorded_with_the_key_that_it_was_to_use(kmsd: Kmsd) -> None:
    plaintext = b"k" * 32
    with kmsd.soft.hanging():
        failure(lambda: kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=plaintext, uid="late")))
        failure(lambda: kmsd.v1beta1("Encrypt", v1beta1.EncryptRequest(version="v1beta1", plain=plaintext)))
    write = key(kmsd, "k8s-kek").key_id_sha256
    failed = [each for each in records(kmsd, 10) if each.kind == "kms" and each.outcome != "OK"][-2:]
    assert [(each.action, each.outcome, each.key_id_sha256) for each in failed] == [
        ("v2 Encrypt", "DEADLINE_EXCEEDED", write),
        ("v1beta1 Encrypt", "DEADLINE_EXCEEDED", write),
    ]
    kmsd.wait_ok()


def test_what_happens_to_kmsd_is_recorded(kmsd: Kmsd) -> None:
    events = {each.action: each for each in records(kmsd, 10_000) if each.kind == "event"}
    assert {"kmsd up", "token up", "write key", "healthy"} <= set(events)
    assert events["kmsd up"].detail == f"version {kmsd.status().version}"
    assert events["write key"].key_id_sha256 == key(kmsd, "k8s-kek").key_id_sha256
    assert kmsd.v2("Status").key_id in events["write key"].detail


def test_who_follows_gets_the_backlog_and_then_what_comes(kmsd: Kmsd) -> None:
    encrypt(kmsd)
    with watching(kmsd, "WatchAudit", backlog=2, follow=True) as frames:
        told = list(frames.next().records)
        assert len(told) == 2
        uid = fresh("uid")
        encrypt(kmsd, uid=uid)
        ask(kmsd, "TestKey", key="k8s-kek", rounds=1)
        while len(told) < 4:
            frame = frames.next()
            assert not frame.dropped
            told.extend(frame.records)
    assert len({(each.kind == "kms", each.seq) for each in told}) == 4
    assert {each.action: each.detail for each in told[2:]} == {"v2 Encrypt": uid, "TestKey": "tested k8s-kek"}


@pytest.mark.parametrize("backlog", [10_001, 2**32 - 1])
def test_more_records_than_are_told_at_once_are_refused(kmsd: Kmsd, backlog: int) -> None:
    with watching(kmsd, "WatchAudit", backlog=backlog) as frames:
        refusal = frames.failure()
    assert refusal.code == "INVALID_ARGUMENT"
    assert "10000" in refusal.details
    assert str(backlog) in refusal.details
    assert_told(refusal)


def test_a_line_that_was_changed_is_named(kmsd: Kmsd) -> None:
    ask_as(kmsd, b"mallory", "TestKey", key="k8s-kek", rounds=1)
    ask(kmsd, "TestKey", key="k8s-kek", rounds=1)
    before = verify(kmsd)
    assert before.intact
    assert not before.problem
    assert (before.records, before.first_seq) == (before.last_seq, 1)
    assert before.head == written(kmsd)[-1]["hash"]
    assert list(before.files) == [str(audit(kmsd))]
    text = audit(kmsd).read_bytes()
    place = text.index(b"mallory")
    number = text[:place].count(b"\n") + 1
    with audit(kmsd).open("r+b") as file:
        file.seek(place)
        file.write(b"nobody!")
    try:
        after = verify(kmsd)
        assert not after.intact
        assert f"line {number} " in after.problem
        assert "changed" in after.problem
    finally:
        with audit(kmsd).open("r+b") as file:
            file.seek(place)
            file.write(b"mallory")
    assert verify(kmsd).intact


def test_the_chain_goes_on_after_a_restart(kmsd: Kmsd) -> None:
    ask(kmsd, "TestKey", key="k8s-kek", rounds=1)
    before = verify(kmsd)
    kmsd.stop()
    kmsd.start().wait_ok()
    after = verify(kmsd)
    assert after.intact, after.problem
    assert after.first_seq == 1
    assert after.last_seq > before.last_seq
    told = {each.seq: each for each in records(kmsd, 10_000) if each.kind != "kms"}
    assert [told[before.last_seq + n].action for n in (1, 2)] == ["kmsd stopping", "kmsd up"]
    assert told[before.last_seq].line.endswith(f'"hash":"{before.head}"}}')
    assert [chain.first_seq for chain in after.chains] == [1, 1]
    assert after.chains[1].last_seq >= before.chains[1].last_seq


def test_calls_that_fail_push_no_admin_action_out(start: Callable[..., Kmsd]) -> None:
    """Whoever may call the KMS socket can make as many of them as it likes."""
    small = {"KMSD_AUDIT__MAX_BYTES": "65536", "KMSD_AUDIT__KEEP": "1"}
    kmsd = start("--auto-create", environment=small).wait_ok()
    label = fresh()
    ask_as(kmsd, b"kmsctl", "GenerateKey", label=label)
    forged = unary(kmsd.channel(), "/v2.KeyManagementService/Decrypt")
    body = v2.DecryptRequest(ciphertext=b"forged", key_id="y", uid="u").SerializeToString()
    for _ in range(10):
        calls = [forged.future(body, timeout=30) for _ in range(300)]
        assert {call.code().name for call in calls} == {"INVALID_ARGUMENT"}
    found = verify(kmsd)
    assert found.intact, found.problem
    main, kms = found.chains
    assert (main.name, kms.name) == ("main", "kms")
    assert main.first_seq == 1
    assert kms.last_seq > 3000
    assert kms.first_seq > 2000
    told = records(kmsd, 10_000)
    assert f"made {label} (aes)" in {each.detail for each in told}
    assert {each.kind for each in told if each.seq > 2000} == {"kms"}
    kept = sum(file.stat().st_size for file in audit(kmsd).parent.glob("audit*"))
    assert kept < 2 * 2 * (65536 + 256 * 600)


def test_what_another_program_does_to_the_audit_is_a_problem_until_it_is_acknowledged(
    start: Callable[..., Kmsd],
) -> None:
    kmsd = start("--auto-create").wait_ok()
    # In its place: kmsd may be writing a record at that moment, which a new text of the file would lose.
    with audit(kmsd).open("r+b") as file:
        file.seek(file.read().index(b"token up"))
        file.write(b"token UP")
    ask(kmsd, "TestKey", key="k8s-kek", rounds=1)

    def told() -> list[str]:
        status = kmsd.status()
        assert (status.state == admin.SERVING_STATE_DEGRADED) == bool(status.problems)
        return [f"{each.message}; {each.hint}" for each in status.problems]

    (problem,) = wait_for(told)
    assert problem.startswith(f"the audit was tampered with: {audit(kmsd)} was changed by another program: ")
    assert problem.endswith("kmsctl audit acknowledge")
    for record in records(kmsd, 1000):
        assert (record.action == "audit disturbed") == (record.outcome == "DATA_LOSS")
    kmsd.stop()
    kmsd.start().wait_ok()
    assert told() == [problem]
    shown = ask(kmsd, "AcknowledgeAudit", dry_run=True)
    assert not shown.acknowledged
    (seen,) = shown.seen
    assert "was changed by another program" in seen.text
    assert told() == [problem]
    assert not ask(kmsd, "AcknowledgeAudit", up_to_seq=seen.seq - 1).acknowledged
    assert told() == [problem]
    answer = ask_as(kmsd, b"kmsctl", "AcknowledgeAudit", up_to_seq=2**63)
    assert answer.acknowledged
    assert list(answer.seen) == [seen]
    assert told() == []
    (record,) = records(kmsd)
    assert (record.kind, record.action, record.outcome, record.caller) == ("admin", "AcknowledgeAudit", "OK", CALLER)
    assert record.detail == f"up to record {seen.seq}"
    kmsd.stop()
    kmsd.start().wait_ok()
    assert told() == []
    assert not verify(kmsd).intact, "what was done to the file stays to be seen"
    audit(kmsd).unlink()
    ask(kmsd, "TestKey", key="k8s-kek", rounds=1)
    assert wait_for(told), "who acknowledges one thing does not acknowledge the next"


@pytest.fixture
def unwritable(kmsd: Kmsd) -> Iterator[Callable[[], None]]:
    """The audit's file is gone and cannot be made anew. Gives what ends that."""
    aside = audit(kmsd).with_name("aside")
    audit(kmsd).rename(aside)
    audit(kmsd).mkdir()

    def mend() -> None:
        if audit(kmsd).is_dir():
            audit(kmsd).rmdir()
            aside.rename(audit(kmsd))

    yield mend
    mend()


def test_kmsd_serves_on_while_the_audit_cannot_be_written_and_makes_up_for_it(
    kmsd: Kmsd, unwritable: Callable[[], None]
) -> None:
    label = fresh()
    make(kmsd, label)
    status = kmsd.status()
    assert (status.state, status.healthz) == (admin.SERVING_STATE_DEGRADED, "ok")
    (problem,) = status.problems
    assert str(audit(kmsd)) in problem.message
    assert "cannot be written" in problem.message
    assert problem.hint
    assert not problem.fatal
    sealed = encrypt(kmsd)
    assert decrypt(kmsd, sealed)
    assert kmsd.v2("Status").healthz == "ok"
    refusal = failure(lambda: verify(kmsd))
    assert refusal.code == "UNAVAILABLE"
    assert_told(refusal)
    unwritable()
    make(kmsd)
    assert ask(kmsd, "AcknowledgeAudit").acknowledged, "the file was not kmsd's own for a while"
    assert not kmsd.status().problems
    assert f"made {label} (aes)" in {each.detail for each in records(kmsd, 100)}
    after = verify(kmsd)
    assert after.intact, after.problem


def test_what_must_be_recorded_is_refused_while_it_cannot_be(
    start: Callable[..., Kmsd], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """audit.required: no change, and nothing else, waits for the disk."""
    token = make_token(tmp_path_factory.mktemp("k") / "hsm")
    token.import_aes("k8s-kek", bytes(32), b"01900000-0000-7000-8000-000000000001")
    directory = token.folder / "audit"
    directory.mkdir()
    directory.chmod(0o777)
    file = directory / "audit.jsonl"
    environment = {"KMSD_AUDIT__REQUIRED": "true", "KMSD_AUDIT__FILE": str(file)}
    kmsd = start(token=token, environment=environment).wait_ok()
    before = state(kmsd)
    for method, fields in (
        ("GenerateKey", {"label": "x"}),
        ("RelabelKey", {"key": "k8s-kek", "label": "x", "confirm_label": "k8s-kek"}),
        ("DestroyKey", {"key": "k8s-kek", "confirm_label": "k8s-kek"}),
        ("RotateKey", {}),
        ("SetLogLevel", {"level": "error"}),
    ):
        refusal = failure(lambda method=method, fields=fields: ask(kmsd, method, **fields))
        assert (refusal.code, refusal.retryable) == ("UNAVAILABLE", True)
        assert f"{method} is refused" in refusal.details
        assert f"others may write to the directory {directory}" in refusal.details
        assert "audit.required" in refusal.hint
        assert_told(refusal)
    assert state(kmsd) == before
    assert kmsd.status().state == admin.SERVING_STATE_DEGRADED
    assert decrypt(kmsd, encrypt(kmsd))
    assert not file.exists()
    directory.chmod(0o700)
    made = wait_for(lambda: make(kmsd, "x"))
    assert made.label == "x"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["action"], line["outcome"]) for line in lines if line["kind"] == "admin"][-2:] == [
        ("GenerateKey", "BEGUN"),
        ("GenerateKey", "OK"),
    ]
    assert all(re.fullmatch(r"[0-9a-f]{64}", line["hash"]) for line in lines)
    wait_for(lambda: not kmsd.status().problems)
    assert verify(kmsd).intact
