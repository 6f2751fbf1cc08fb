"""What of the calls and of the audit is told, when only some of it is wanted: kmsd chooses, kmsctl asks."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from kmsctl.filters import Code, Method
from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v2 import api_pb2 as v2
from kmsd.observe.wanted import CODES
from tests import forkserver
from tests.admin.calls import ask, decrypt, encrypt, failure, make, watching
from tests.daemons import KMSCTL, Kmsd

MANY = 1100
"""More calls than kmsd remembers."""


@pytest.fixture(scope="module")
def kmsd(start: Callable[..., Kmsd]) -> Kmsd:
    """One Decrypt has failed, long ago by number; the first key is no longer the write key; one key is gone."""
    kmsd = start("--auto-create", environment={"KMSD_AUDIT__KMS": "all"}).wait_ok()
    failure(lambda: kmsd.v2("Decrypt", v2.DecryptRequest(ciphertext=b"none", uid="the failure")))
    decrypt(kmsd, encrypt(kmsd))
    ask(kmsd, "RotateKey")
    gone = make(kmsd, "gone")
    ask(kmsd, "DestroyKey", key=gone.key_id, confirm_label="gone")
    for _ in range(MANY):
        kmsd.v2("Status")
    for _ in range(MANY):
        encrypt(kmsd)
    return kmsd


def kmsctl(kmsd: Kmsd, *arguments: str) -> subprocess.CompletedProcess[str]:
    return forkserver.run(
        [KMSCTL, *arguments, f"--target={kmsd.admin_socket}"], capture_output=True, text=True, timeout=30, check=False
    )


def requests(kmsd: Kmsd, *arguments: str) -> list[dict[str, str]]:
    done = kmsctl(kmsd, "requests", *arguments, "-o", "json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, str]] = json.loads(done.stdout)["requests"]
    return found


def records(kmsd: Kmsd, *arguments: str) -> list[dict[str, str]]:
    done = kmsctl(kmsd, "audit", "tail", *arguments, "-o", "json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, str]] = json.loads(done.stdout)["records"]
    return found


def test_a_failure_is_found_behind_more_calls_than_are_remembered(kmsd: Kmsd) -> None:
    assert "the failure" not in {each["uid"] for each in requests(kmsd, "-n", "1000")}
    (found,) = requests(kmsd, "--failed", "--method", "Decrypt")
    assert (found["uid"], found["method"]) == ("the failure", "Decrypt")
    assert found["reason"]
    assert requests(kmsd, "--code", found["code"], "-n", "1") == [found]
    assert requests(kmsd, "--failed", "--method", "Encrypt") == []


def test_a_record_is_found_behind_more_records_than_are_asked_for(kmsd: Kmsd) -> None:
    (found,) = records(kmsd, "-n", "5", "--failed", "--method", "Decrypt")
    assert (found["action"], found["detail"]) == ("v2 Decrypt", "the failure")
    (rotated,) = records(kmsd, "-n", "5", "--method", "RotateKey")
    assert rotated["action"] == "RotateKey"
    assert len(records(kmsd, "-n", "7", "--code", "OK")) == 7
    assert records(kmsd, "--code", "DATA_LOSS") == []
    whole = records(kmsd, "-n", "10000")
    chosen = records(kmsd, "-n", "10000", "--method", "Encrypt", "--code", "OK")
    assert chosen == [each for each in whole if each["action"] == "v2 Encrypt" and each["outcome"] == "OK"]
    assert len(chosen) == MANY + 1


def test_a_key_is_named_by_label_id_or_hash_also_when_it_is_gone(kmsd: Kmsd) -> None:
    (gone,) = records(kmsd, "--method", "DestroyKey")
    digest, key_id = gone["key_id_sha256"], gone["detail"].split()[-1]
    for name in (digest, f"sha256:{digest}", f"sha256:{digest[:8]}", digest[:8], key_id):
        assert [each["action"] for each in records(kmsd, "--key", name)] == ["GenerateKey", "DestroyKey"], name
    write = kmsd.status().write_key.key_id_sha256
    assert {each["key_id_sha256"] for each in requests(kmsd, "--key", "k8s-kek")} == {write}
    refused = kmsctl(kmsd, "requests", "--key", "nobody")
    assert (refused.returncode, refused.stdout) == (5, "")
    assert "'nobody'" in refused.stderr


def test_since_leaves_out_what_was_before(kmsd: Kmsd) -> None:
    assert records(kmsd, "--since", "10m", "-n", "3", "--method", "RotateKey")
    assert records(kmsd, "--since", "2999-01-02T03:04:05Z") == []
    assert requests(kmsd, "--since", "2999-01-02T03:04:05+01:00") == []
    whole = records(kmsd, "-n", "50")
    since = whole[20]["time"]
    assert records(kmsd, "-n", "50", "--since", since) == [each for each in whole if each["time"] >= since]


@pytest.mark.parametrize("command", ["requests", "audit tail"])
@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        (("--code", "404"), "NOT_FOUND"),
        (("--method", "Decipher"), "Decrypt"),
        (("--since", "yesterday"), "10m"),
        (("--since", "2026-01-02T03:04:05"), "2026-01-02T03:04:05Z"),
        (("--key", "sha256:xyz"), "8 to 64 hexadecimal digits"),
    ],
)
def test_a_bad_value_is_refused_with_what_is_allowed(
    kmsd: Kmsd, command: str, given: tuple[str, str], allowed: str
) -> None:
    done = kmsctl(kmsd, *command.split(), *given)
    assert (done.returncode, done.stdout) == (2, "")
    assert allowed in done.stderr
    assert given[1] in done.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        {"code": "404"},
        {"method": "x" * 65},
        {"method": 'x","'},
        {"key_id_sha256": "abc"},
        {"key_id_sha256": "ABCD"},
        {"since_unix_ms": -1},
        {"since_unix_ms": 2**62},
    ],
)
@pytest.mark.parametrize("method", ["WatchRequests", "WatchAudit"])
def test_kmsd_refuses_a_filter_that_can_never_match(kmsd: Kmsd, method: str, wrong: dict[str, Any]) -> None:
    with watching(kmsd, method, filter=admin.Filter(**wrong)) as frames, pytest.raises(grpc.RpcError) as raised:
        frames.next()
    assert raised.value.code().name == "INVALID_ARGUMENT"


@pytest.mark.parametrize("method", ["WatchRequests", "WatchAudit"])
def test_who_follows_some_of_it_is_not_starved_by_the_rest(kmsd: Kmsd, method: str) -> None:
    """Nor told of losses that are none of what was asked for."""
    wanted = admin.Filter(failed=True, method="Decrypt")
    with watching(kmsd, method, backlog=1, follow=True, filter=wanted) as frames:
        frames.next()
        for _ in range(300):
            encrypt(kmsd)
        failure(lambda: kmsd.v2("Decrypt", v2.DecryptRequest(ciphertext=b"none", uid="followed")))
        frame = frames.next()
    (found,) = frame.requests if method == "WatchRequests" else frame.records
    assert frame.dropped == 0
    assert (found.uid if method == "WatchRequests" else found.detail) == "followed"


def test_a_failed_decrypt_is_found_by_the_key_that_it_asked_for(kmsd: Kmsd) -> None:
    digest = hashlib.sha256(b"gone-for-good").hexdigest()
    asked = v2.DecryptRequest(ciphertext=encrypt(kmsd).ciphertext, key_id="gone-for-good", uid="asks for another")
    failure(lambda: kmsd.v2("Decrypt", asked))
    (found,) = requests(kmsd, "--failed", "--key", digest)
    assert (found["uid"], found["key_id_sha256"]) == ("asks for another", digest)


def test_the_names_that_kmsctl_offers_are_those_of_kmsd() -> None:
    service = admin.DESCRIPTOR.services_by_name["Admin"]
    answering = {each.name for each in service.methods if not each.server_streaming}
    assert {*Method} == answering | {"Encrypt", "Decrypt", "Status", "Version", "Sign", "FetchKeys", "Metadata"}
    assert tuple(Code) == CODES
    known = {each.name for each in grpc.StatusCode}
    assert {*CODES} == known | {"BEGUN"}
