"""What an operator's reload or unlock costs in logins: one, and none in a loop."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v2 import api_pb2 as v2
from tests import forkserver
from tests.daemons import KMSCTL, Kmsd, wait_for
from tests.raw import unary
from tests.rpc.refusals import refusal
from tests.tokens import MODULE, PIN, SO_PIN, SoftToken, make_token

SEED = v2.EncryptRequest(plaintext=b"0123456789abcdef0123456789abcdef")
QUICK = {"KMSD_KEYS__REFRESH": "0.3", "KMSD_HEALTH__INTERVAL": "0.3"}
OTHER = "4321-other"


def _set_pin(token: SoftToken, old: str, new: str) -> None:
    """Change the user PIN on the token, as an operator does with the token's own tool."""
    subprocess.run(
        [
            *("pkcs11-tool", "--module", MODULE, "--token-label", token.label, "--login", "--change-pin"),
            *("--pin", old, "--new-pin", new),
        ],
        env=token.environment,
        check=True,
        capture_output=True,
        timeout=30,
    )


def _hup(kmsd: Kmsd) -> None:
    """SIGHUP, and wait until it has been obeyed."""
    assert kmsd.process is not None
    seen = _reloads(kmsd)
    kmsd.process.send_signal(signal.SIGHUP)
    wait_for(lambda: _reloads(kmsd) > seen)
    # What it has set going, too: what the token says is told each time.
    time.sleep(0.3)


def _reloads(kmsd: Kmsd) -> int:
    return sum(line["event"] == "configuration read again" for line in kmsd.log_lines())


def _storm(kmsd: Kmsd, count: int) -> None:
    assert kmsd.process is not None
    for _ in range(count):
        kmsd.process.send_signal(signal.SIGHUP)
        time.sleep(0.003)


def _unlock(kmsd: Kmsd, *arguments: str) -> subprocess.CompletedProcess[str]:
    return forkserver.run(
        [KMSCTL, "--target", str(kmsd.admin_socket), "unlock", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def _down(kmsd: Kmsd) -> str:
    wait_for(lambda: not kmsd.status().token.up)
    reason: str = kmsd.status().tokens[0].reason
    return reason


def test_a_storm_of_reloads_while_the_token_is_away_costs_one_login_when_it_returns(
    start_kmsd: Callable[..., Kmsd], token: SoftToken
) -> None:
    token.import_aes("k8s-kek", bytes(32), b"an-id")
    kmsd = start_kmsd(environment=QUICK).wait_ok()
    with token.away():
        _down(kmsd)
        _storm(kmsd, 300)
        assert kmsd.v2("Status").key_id == "an-id"
    before = token.logins()
    kmsd.wait_ok()
    # Nothing is left to be obeyed, however long one looks.
    reloads = _reloads(kmsd)
    time.sleep(1)
    assert _reloads(kmsd) <= reloads + 1
    assert token.logins() == before + 1
    assert kmsd.v2("Encrypt", SEED).key_id == "an-id"
    # Nor does it cost one while the token is up.
    _storm(kmsd, 50)
    wait_for(lambda: _reloads(kmsd) > reloads)
    kmsd.wait_ok()
    assert token.logins() == before + 1


def test_a_reload_finds_a_token_that_has_returned_at_once(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    token.import_aes("k8s-kek", bytes(32), b"an-id")
    kmsd = start_kmsd(environment=QUICK).wait_ok()
    with token.away():
        _down(kmsd)
        time.sleep(4)  # by now it looks again after 4 s, and then less often
    assert kmsd.process is not None
    began = time.monotonic()
    kmsd.process.send_signal(signal.SIGHUP)
    wait_for(lambda: kmsd.status().token.up)
    assert time.monotonic() - began < 2.5


@pytest.fixture
def refused(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> Kmsd:
    """A kmsd whose PIN was good, then changed on the token, then refused once."""
    token.import_aes("k8s-kek", bytes(32), b"an-id")
    kmsd = start_kmsd(environment=QUICK).wait_ok()
    _set_pin(token, PIN, OTHER)
    with token.away():
        _down(kmsd)
    wait_for(lambda: "refused the PIN (CKR_PIN_INCORRECT)" in _down(kmsd))
    return kmsd


def test_a_pin_that_is_right_again_wants_a_reload_and_no_restart(refused: Kmsd, token: SoftToken) -> None:
    _set_pin(token, OTHER, PIN)
    before = token.logins()
    time.sleep(1)
    assert token.logins() == before, "not by itself"
    _hup(refused)
    refused.wait_ok()
    assert token.logins() == before + 1
    assert refused.v2("Encrypt", SEED).key_id == "an-id"


def test_reloads_try_a_refused_pin_that_was_good_once_more_and_then_never(refused: Kmsd, token: SoftToken) -> None:
    before = token.logins()
    for _ in range(3):
        _hup(refused)
        _storm(refused, 30)
    _hup(refused)
    wait_for(lambda: "refused the PIN (as before)" in _down(refused))
    assert token.logins() == before + 1
    # Another one in the file is tried, as ever.
    token.pin_file.write_text(OTHER + "\n")
    _hup(refused)
    refused.wait_ok()
    assert token.logins() == before + 2


def test_unlock_is_one_attempt_with_whatever_pin_each_time_it_is_said(
    start_kmsd: Callable[..., Kmsd], token: SoftToken
) -> None:
    """The PIN was never accepted: reloads do not try it, and unlock does, once."""
    token.import_aes("k8s-kek", bytes(32), b"an-id")
    token.pin_file.write_text(OTHER + "\n")
    before = token.logins()
    kmsd = start_kmsd(environment=QUICK)
    wait_for(lambda: "refused the PIN (CKR_PIN_INCORRECT)" in _down(kmsd))
    assert "kmsctl unlock" in kmsd.status().tokens[0].hint
    _hup(kmsd)
    _storm(kmsd, 50)
    assert token.logins() == before + 1
    done = _unlock(kmsd)
    assert (done.returncode, done.stdout) == (4, "")
    assert "refused the PIN (CKR_PIN_INCORRECT)" in done.stderr
    assert token.logins() == before + 2
    time.sleep(1)
    _hup(kmsd)
    assert token.logins() == before + 2, "its word was for one attempt"
    _set_pin(token, PIN, OTHER)
    logins = token.logins()
    done = _unlock(kmsd, token.label)
    assert (done.returncode, done.stdout) == (0, f"{token.label}\n")
    kmsd.wait_ok()
    assert token.logins() == logins + 1
    # Up already: nothing is tried.
    done = _unlock(kmsd)
    assert (done.returncode, done.stderr) == (0, f"kmsctl: the token '{token.label}' is up already\n")
    assert token.logins() == logins + 1
    records = [json.loads(line) for line in (kmsd.folder / "state" / "audit.jsonl").read_text().splitlines()]
    told = [(each["outcome"], each["detail"]) for each in records if each["action"] == "UnlockToken"]
    assert told[0][0] == "PERMISSION_DENIED"
    assert told[0][1] == f"token {token.label}"
    assert told[1:] == [("OK", f"token {token.label}: logged in"), ("OK", f"token {token.label}: was up already")]
    assert PIN not in kmsd.log_text()
    assert OTHER not in kmsd.log_text()


def test_those_who_unlock_at_the_same_time_share_one_attempt(refused: Kmsd, token: SoftToken) -> None:
    before = token.logins()
    channel = refused.channel(refused.admin_socket)
    call = unary(channel, "/kmsd.admin.v1.Admin/UnlockToken")
    asked = [call.future(b"", timeout=10) for _ in range(5)]
    errors = [each.exception() for each in asked]
    assert {isinstance(each, grpc.RpcError) and each.code() for each in errors} == {grpc.StatusCode.PERMISSION_DENIED}
    assert token.logins() <= before + 3


def test_unlock_says_why_a_token_that_is_away_is_not_up(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    kmsd = start_kmsd("--auto-create", environment=QUICK).wait_ok()
    with token.away():
        _down(kmsd)
        refused = refusal(kmsd.admin, "UnlockToken", admin.UnlockTokenRequest())
        assert refused.code in ("UNAVAILABLE", "FAILED_PRECONDITION")
        assert refused.hint
    assert refusal(kmsd.admin, "UnlockToken", admin.UnlockTokenRequest(token="nowhere")).code == "NOT_FOUND"


def test_a_pin_that_was_missing_wants_a_reload_and_no_restart(
    start_kmsd: Callable[..., Kmsd], token: SoftToken, short_tmp: Path
) -> None:
    token.import_aes("k8s-kek", bytes(32), b"an-id")
    config = short_tmp / "kmsd.toml"
    config.write_text(f'[token]\nprovider = "softhsm"\nlabel = "{token.label}"\n')
    kmsd = start_kmsd(f"--config={config}", default_flags=False)
    wait_for(lambda: "needs a PIN and none is configured" in _down(kmsd))
    assert "reload kmsd (SIGHUP)" in kmsd.status().tokens[0].hint
    config.write_text(config.read_text() + f'pin_file = "{token.pin_file}"\n')
    _hup(kmsd)
    kmsd.wait_ok()


def test_a_reload_does_not_stop_the_neighbours_of_a_token_that_is_away_again_and_again(
    start_kmsd: Callable[..., Kmsd], short_tmp: Path
) -> None:
    here = make_token(short_tmp / "two", "here")
    config = short_tmp / "kmsd.toml"
    config.write_text(
        "".join(
            f'[[tokens]]\nprovider = "softhsm"\nlabel = "{label}"\npin_file = "{here.pin_file}"\n'
            for label in ("here", "gone")
        )
    )
    here.import_aes("k8s-kek", bytes(32), b"an-id")
    kmsd = start_kmsd(f"--config={config}", default_flags=False, environment={**here.environment, **QUICK}).wait_ok()
    before = here.logins()
    _storm(kmsd, 200)
    kmsd.wait_ok()
    time.sleep(0.5)
    assert here.logins() == before
    assert SO_PIN not in kmsd.log_text()
