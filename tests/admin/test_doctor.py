"""Diagnose: what a token can really do, found out beside what it serves; and why it is away, without a login."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from tests.admin.calls import ask, decrypt, encrypt, failure, keys, refused
from tests.chaos import ChaosToken, make_chaos
from tests.daemons import Kmsd, wait_for
from tests.tokens import MODULE, PIN, SoftToken

QUICK = {"KMSD_KEYS__REFRESH": "0.2", "KMSD_HEALTH__INTERVAL": "0.5"}


def doctor(kmsd: Kmsd, timeout: float = 60.0, **fields: Any) -> admin.DiagnoseResponse:
    answer: admin.DiagnoseResponse = kmsd.admin("Diagnose", admin.DiagnoseRequest(**fields), timeout)
    return answer


def checks(answer: admin.DiagnoseResponse) -> dict[str, admin.DiagnoseResponse.Check]:
    found = {check.name: check for check in answer.checks}
    assert len(found) == len(answer.checks)
    for check in answer.checks:
        assert check.title
        assert check.seen
        assert bool(check.fix) == (check.outcome in ("failed", "warning")), check
    return found


def failed(answer: admin.DiagnoseResponse) -> dict[str, str]:
    return {name: check.seen for name, check in checks(answer).items() if check.outcome == "failed"}


def objects(token: SoftToken) -> set[str]:
    """Files of the objects on the token; its labels are encrypted in them."""
    return {path.name for path in token.tokens.glob("*/*.object")}


def last_audit(kmsd: Kmsd) -> str:
    lines = (kmsd.folder / "state" / "audit.jsonl").read_text().splitlines()
    return next(line for line in reversed(lines) if "Diagnose" in line)


@pytest.fixture
def chaos(short_tmp: Path) -> ChaosToken:
    return make_chaos(short_tmp / "chaos")


@pytest.fixture
def start_chaotic(short_tmp: Path, chaos: ChaosToken) -> Iterator[Callable[..., Kmsd]]:
    running: list[Kmsd] = []

    def start(**environment: str) -> Kmsd:
        folder = short_tmp / "c"
        folder.mkdir()
        running.append(
            Kmsd(
                folder,
                chaos,  # of the same shape
                (*chaos.flags, "--auto-create"),
                {**QUICK, **environment},
                default_flags=False,
            )
        )
        kmsd = running[0].start().wait_ok()
        # A key was made: another host may take over then, and a check would go on in the old one.
        with contextlib.suppress(AssertionError):
            wait_for(lambda: kmsd.status().tokens[0].process.served == 2 and len(kmsd.hosts()) == 1, 5)
        return kmsd

    yield start
    chaos.tell()
    for kmsd in running:
        kmsd.stop()


@pytest.fixture
def another() -> Iterator[Callable[..., Future[Any]]]:
    """Runs a call beside the test's own."""
    with ThreadPoolExecutor(4) as pool:
        yield pool.submit


def test_a_token_is_tried_and_left_as_it_was(served: Kmsd) -> None:
    before = sorted((key.key_id, key.label) for key in keys(served))
    assert served.token is not None
    there = objects(served.soft)
    answer = doctor(served)
    found = checks(answer)
    assert (answer.token, answer.token_label, answer.up) == (served.token.label, served.token.label, True)
    assert (answer.provider, answer.provider_title, answer.outcome) == ("softhsm", "SoftHSM 2", "ok")
    assert Path(answer.module).samefile(MODULE)
    assert (answer.verdict.algorithm, answer.verdict.enc, answer.verdict.hint) == ("aes-gcm", "A256GCM", "")
    assert {"module", "slots", "token", "login", "pin", "gcm_12", "hmac_sha256", "relabel", "sessions"} <= set(found)
    assert found["foreign_changes"].seen == "seen at once"
    assert found["write_key"].seen == "'k8s-kek' writes A256GCM"
    assert answer.checks[-1].name == "verdict"
    assert list(answer.abilities.gcm_iv_sizes) == [12, 16]
    assert [timing.operation for timing in answer.timings] == ["random", "AES-GCM"]
    assert all(timing.ms > 0 and timing.per_second > 0 for timing in answer.timings)
    assert sorted((key.key_id, key.label) for key in keys(served)) == before
    assert objects(served.soft) == there
    assert '"OK"' in last_audit(served)
    assert "A256GCM works" in last_audit(served)


def test_an_unknown_token_is_not_found(served: Kmsd) -> None:
    refused(served, "Diagnose", "NOT_FOUND", "no token called", token="nowhere")


@pytest.mark.parametrize("sessions", ["1", "4"])
def test_calls_are_answered_while_a_check_hangs(
    start_chaotic: Callable[..., Kmsd], chaos: ChaosToken, another: Callable[..., Future[Any]], sessions: str
) -> None:
    kmsd = start_chaotic(KMSD_TOKEN__SESSIONS=sessions)
    sealed = encrypt(kmsd)
    there = objects(chaos.behind)
    # Only the doctor changes a label.
    with chaos.told("C_SetAttributeValue hang"):
        asked = another(doctor, kmsd, 8.0)
        wait_for(lambda: chaos.calls()["C_SetAttributeValue"])
        for _ in range(10):
            assert decrypt(kmsd, encrypt(kmsd))
            assert decrypt(kmsd, sealed)
        assert not asked.done()
        assert kmsd.status().state == admin.SERVING_STATE_SERVING
        assert kmsd.status().sessions.stuck == 0
        second = failure(lambda: doctor(kmsd))
        assert (second.code, second.retryable) == ("RESOURCE_EXHAUSTED", True)
        answer = asked.result()
        assert len(objects(chaos.behind)) == len(there) + 1
    assert "does not answer" in failed(answer)["complete"]
    assert answer.verdict.enc == "A256GCM", "what was tried before counts"
    assert answer.outcome == "failed"
    # Only now can it tidy up.
    wait_for(lambda: objects(chaos.behind) == there)
    assert doctor(kmsd).outcome == "ok"


def test_calls_go_on_at_their_pace_while_the_token_is_tried(served: Kmsd, another: Callable[..., Future[Any]]) -> None:
    stop = threading.Event()
    answered: list[bytes] = []

    def calling() -> None:
        while not stop.is_set():
            answered.append(decrypt(served, encrypt(served)))

    callers = [another(calling) for _ in range(2)]
    try:
        counts = [len(answered)]
        for _ in range(2):
            assert doctor(served).outcome == "ok"
            counts.append(len(answered))
    finally:
        stop.set()
    for caller in callers:
        caller.result()
    assert all(after - before > 20 for before, after in itertools.pairwise(counts)), counts


def test_a_module_for_one_thread_is_tried_between_the_calls(
    start_chaotic: Callable[..., Kmsd], chaos: ChaosToken
) -> None:
    # Its key is there: making one would initialise the module once more.
    chaos.import_aes("k8s-kek", bytes(32), b"an-id")
    chaos.tell("C_Initialize rv=0xa count=1")
    kmsd = start_chaotic()
    answer = doctor(kmsd)
    assert checks(answer)["threads"].outcome == "warning"
    assert (answer.outcome, answer.verdict.enc) == ("warning", "A256GCM")
    assert {timing.threads for timing in answer.timings} == {1}
    assert decrypt(kmsd, encrypt(kmsd))


def test_a_token_that_is_lost_meanwhile_is_told_and_comes_back(
    start_chaotic: Callable[..., Kmsd], chaos: ChaosToken, another: Callable[..., Future[Any]]
) -> None:
    kmsd = start_chaotic()
    chaos.tell("C_SetAttributeValue hang")
    asked = another(doctor, kmsd, 30.0)
    wait_for(lambda: chaos.calls()["C_SetAttributeValue"])
    with chaos.away():
        wait_for(lambda: not kmsd.status().token.up)
        answer = asked.result()
        assert answer.outcome == "failed"
        assert "CKR_DEVICE_REMOVED" in str(answer)
    kmsd.wait_ok()
    assert decrypt(kmsd, encrypt(kmsd))
    assert doctor(kmsd).outcome == "ok"


def test_kmsd_ends_while_a_check_hangs(
    start_chaotic: Callable[..., Kmsd], chaos: ChaosToken, another: Callable[..., Future[Any]]
) -> None:
    kmsd = start_chaotic()
    with chaos.told("C_SetAttributeValue hang"):
        asked = another(failure, lambda: doctor(kmsd, 30.0))
        wait_for(lambda: chaos.calls()["C_SetAttributeValue"])
        assert kmsd.process is not None
        kmsd.process.terminate()
        assert kmsd.process.wait(30) == 0
        asked.result()


def test_a_refused_pin_is_told_and_not_tried_again(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    token.pin_file.write_text("4321-wrong\n")
    kmsd = start_kmsd(environment=QUICK)
    wait_for(lambda: "refused the PIN" in kmsd.v2("Status").healthz)
    logins = token.logins()
    for _ in range(3):
        answer = doctor(kmsd)
    assert token.logins() == logins
    assert not answer.up
    found = checks(answer)
    assert {"login", "connection", "write_key", "verdict"} == set(failed(answer))
    assert found["login"].seen == "a PIN that was refused is not tried again"
    assert "refused the PIN" in found["connection"].seen
    assert "--p11-pin-file" in found["connection"].fix
    assert found["pin"].outcome == "warning"
    assert "a wrong user PIN was given" in found["pin"].seen
    assert token.label in found["slots"].seen
    assert (answer.provider, answer.verdict.algorithm) == ("softhsm", "none")
    assert Path(answer.module).samefile(MODULE)


def test_a_token_that_is_away_and_a_module_that_is_missing_are_told(
    start_kmsd: Callable[..., Kmsd], token: SoftToken
) -> None:
    lost = start_kmsd("--p11-label=nowhere", name="lost", environment=QUICK)
    answer = doctor(lost)
    assert "no token labelled 'nowhere'" in failed(answer)["connection"]
    assert token.label in checks(answer)["slots"].seen
    assert (answer.up, answer.token_label) == (False, "nowhere")
    bare = start_kmsd("--p11-lib=/nowhere.so", name="bare", environment=QUICK)
    answer = doctor(bare)
    assert "/nowhere.so cannot be loaded" in failed(answer)["module"]
    assert answer.module == "/nowhere.so"
    assert answer.verdict.hint


def test_a_pin_that_is_only_configured_or_was_changed_on_the_token_is_never_tried_twice(
    start_kmsd: Callable[..., Kmsd], token: SoftToken
) -> None:
    kmsd = start_kmsd("--auto-create", environment=QUICK).wait_ok()
    logins = token.logins()
    assert checks(doctor(kmsd))["foreign_changes"].outcome == "ok"
    used = token.logins() - logins
    assert used, "another program logs in with the PIN that kmsd uses"
    change = ("pkcs11-tool", "--module", MODULE, "--token-label", token.label, "--login", "--change-pin")
    changed = (*change, "--pin", PIN, "--new-pin", "4321-user")
    subprocess.run(changed, env=token.environment, check=True, capture_output=True)
    logins = token.logins()
    answer = doctor(kmsd)
    assert checks(answer)["foreign_changes"].outcome == "warning"
    assert "CKR_PIN_INCORRECT" in checks(answer)["foreign_changes"].seen
    assert token.logins() == logins + 1
    # The warning of the token's is gone after a right login, and the PIN is remembered to be wrong.
    right = (*change[:5], "--login", "--pin", "4321-user", "-O")
    subprocess.run(right, env=token.environment, check=True, capture_output=True)
    logins = token.logins()
    answer = doctor(kmsd)
    assert checks(answer)["foreign_changes"].outcome == "not applicable"
    assert checks(answer)["pin"].outcome == "ok"
    assert token.logins() == logins
    assert decrypt(kmsd, encrypt(kmsd)), "the login that there is goes on"


def test_a_request_of_many_tokens_looks_at_the_one_that_is_named(served: Kmsd) -> None:
    assert served.token is not None
    assert ask(served, "Diagnose", token=served.token.label).token == served.token.label
