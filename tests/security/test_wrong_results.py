"""A token that gives wrong results and no error: nothing of it is believed, and what it may have spoiled is told."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from kmsd.api.kms.v2 import api_pb2 as v2
from tests.chaos import ChaosToken, make_chaos
from tests.daemons import Kmsd, wait_for
from tests.rpc.refusals import refusal

SOON = {"KMSD_HEALTH__INTERVAL": "0.3"}
SELDOM = {"KMSD_HEALTH__INTERVAL": "300"}
REQUEST = v2.EncryptRequest(plaintext=b"seed", uid="1")


@pytest.fixture
def chaos(short_tmp: Path) -> ChaosToken:
    return make_chaos(short_tmp / "chaos")


@pytest.fixture
def start(short_tmp: Path, chaos: ChaosToken) -> Iterator[Callable[..., Kmsd]]:
    running: list[Kmsd] = []

    def begin(environment: dict[str, str], *flags: str) -> Kmsd:
        folder = short_tmp / f"d{len(running)}"
        folder.mkdir()
        flags = (*chaos.flags, "--auto-create", *flags)
        running.append(Kmsd(folder, chaos, flags, environment, default_flags=False).start())
        running[-1].wait_ok()
        if len(running) == 1:
            # A login follows the making, and looks at what works.
            wait_for(lambda: "key made by auto_create" in running[-1].log_text())
        return running[-1]

    yield begin
    chaos.tell()
    for kmsd in running:
        kmsd.stop()


def audited(kmsd: Kmsd, action: str) -> list[dict[str, Any]]:
    lines = (kmsd.folder / "state" / "audit.jsonl").read_text().splitlines()
    return [each for each in map(json.loads, lines) if each["action"] == action]


@pytest.mark.parametrize("algorithm", ["aes-gcm", "aes-cbc"])
@pytest.mark.parametrize("function", ["C_Encrypt", "C_Decrypt"])
def test_encrypt_is_refused_while_the_last_round_trip_was_wrong(
    start: Callable[..., Kmsd], chaos: ChaosToken, algorithm: str, function: str
) -> None:
    kmsd = start(SOON, f"--algorithm={algorithm}")
    with chaos.told(f"{function} flip"):
        wait_for(lambda: kmsd.v2("Status").healthz != "ok")
        for _ in range(20):
            refused = refusal(kmsd.v2, "Encrypt", REQUEST)
            assert refused.code == "UNAVAILABLE"
            assert "does not decrypt what it has just encrypted" in refused.details
            assert refused.retryable
    kmsd.wait_ok()
    answer = kmsd.v2("Encrypt", REQUEST)
    request = v2.DecryptRequest(ciphertext=answer.ciphertext, key_id=answer.key_id, uid="1")
    assert kmsd.v2("Decrypt", request).plaintext == b"seed"


@pytest.mark.parametrize("algorithm", ["aes-gcm", "aes-cbc"])
def test_nothing_is_decrypted_while_the_token_gives_other_bytes_and_no_error(
    start: Callable[..., Kmsd], chaos: ChaosToken, algorithm: str
) -> None:
    kmsd = start(SOON, f"--algorithm={algorithm}")
    answer = kmsd.v2("Encrypt", REQUEST)
    request = v2.DecryptRequest(ciphertext=answer.ciphertext, key_id=answer.key_id, uid="1")
    with chaos.told("C_Decrypt flip"):
        wait_for(lambda: "nor decrypted" in kmsd.v2("Status").healthz)
        for _ in range(20):
            refused = refusal(kmsd.v2, "Decrypt", request)
            assert (refused.code, refused.retryable) == ("UNAVAILABLE", True)
            assert "it gives other bytes" in refused.details
    kmsd.wait_ok()
    assert kmsd.v2("Decrypt", request).plaintext == b"seed"


def test_what_was_written_since_the_last_good_round_trip_is_named_by_count_and_key(
    start: Callable[..., Kmsd], chaos: ChaosToken
) -> None:
    kmsd = start({"KMSD_HEALTH__INTERVAL": "2"})
    key = kmsd.status().write_key
    for _ in range(3):
        kmsd.v2("Encrypt", REQUEST)
    # What was written before a round trip that is right is proven by it.
    proven = kmsd.status().probe.last_success_unix_ms
    wait_for(lambda: kmsd.status().probe.last_success_unix_ms > proven)
    with chaos.told("C_Encrypt flip"):
        for _ in range(5):
            kmsd.v2("Encrypt", REQUEST)
        (record,) = wait_for(lambda: audited(kmsd, "values in doubt"))
    assert record["outcome"] == "DATA_LOSS"
    assert record["detail"].startswith(f"5 values encrypted under {key.key_id} since ")
    assert record["key_id_sha256"] == key.key_id_sha256
    (line,) = [each for each in kmsd.log_lines() if each["event"] == "values may not decrypt"]
    assert (line["values"], line["key_id"]) == (5, key.key_id)
    # And stays to be read when the token is well again, with what to do.
    kmsd.wait_ok()
    (problem,) = kmsd.status().problems
    assert problem.message.startswith(f"5 values encrypted under {key.key_id}")
    assert problem.hint.startswith("do not restart kube-apiserver")


def test_a_random_generator_that_is_stuck_stops_encryption_and_spoils_nothing(
    start: Callable[..., Kmsd], chaos: ChaosToken
) -> None:
    kmsd = start(SOON)
    given: list[bytes] = []
    with chaos.told("C_GenerateRandom zero"):
        said = _until_refused(kmsd, given)
        assert said.code() is grpc.StatusCode.UNAVAILABLE
        assert "the same 16 bytes twice" in str(said.details())
        wait_for(lambda: "random generator" in kmsd.v2("Status").healthz)
        for _ in range(20):
            assert refusal(kmsd.v2, "Encrypt", REQUEST).code == "UNAVAILABLE"
    kmsd.wait_ok()
    given += [kmsd.v2("Encrypt", REQUEST).ciphertext for _ in range(200)]
    ivs = [base64.urlsafe_b64decode(each.split(b".")[2] + b"==") for each in given]
    assert len(set(ivs)) == len(ivs)
    assert bytes(12) not in ivs


def _until_refused(kmsd: Kmsd, given: list[bytes]) -> grpc.RpcError:
    """Encrypt until that is refused, at most some thousand times; what was given until then is kept."""
    for _ in range(2000):
        try:
            given.append(kmsd.v2("Encrypt", REQUEST).ciphertext)
        except grpc.RpcError as error:
            return error
    raise AssertionError("never refused")


def test_ivs_of_a_token_of_its_own_choice_are_watched_as_well(start: Callable[..., Kmsd], chaos: ChaosToken) -> None:
    chaos.tell("gcm-iv appended")
    kmsd = start(SELDOM, "--provider=luna")
    assert kmsd.v2("Encrypt", REQUEST).ciphertext
    # The module behind draws them; what repeats is seen in what it gives back.
    chaos.tell("gcm-iv stuck")
    answers = [refusal(kmsd.v2, "Encrypt", REQUEST) if number else kmsd.v2("Encrypt", REQUEST) for number in range(3)]
    assert all("the same 16 bytes twice" in each.details for each in answers[1:])


def test_calls_in_flight_when_the_token_turns_out_wrong_are_not_answered(
    start: Callable[..., Kmsd], chaos: ChaosToken
) -> None:
    kmsd = start({**SOON, "KMSD_KMS__REQUEST_TIMEOUT": "10"})
    outcomes: list[str] = []

    def call() -> None:
        for _ in range(15):
            try:
                kmsd.v2("Encrypt", REQUEST, 10.0)
                outcomes.append("OK")
            except grpc.RpcError as error:
                outcomes.append(error.code().name)

    with chaos.told("C_Encrypt flip delay=0.05"):
        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        wait_for(lambda: kmsd.v2("Status").healthz != "ok")
        for caller in callers:
            caller.join()
    answered = outcomes.count("OK")

    def told() -> int:
        return sum(int(each["detail"].split()[0]) for each in audited(kmsd, "values in doubt"))

    wait_for(lambda: told() == answered)
    assert outcomes.count("UNAVAILABLE") == len(outcomes) - answered > 0
