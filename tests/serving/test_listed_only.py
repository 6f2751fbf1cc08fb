"""A token that lists AES-GCM and refuses it in use, as p11-kit 0.25 does before a server of 0.24: a real SoftHSM behind
the module that misbehaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.formats import jwe
from tests.chaos import ChaosToken, make_chaos
from tests.daemons import Kmsd, wait_for
from tests.rotation.conftest import decrypt, encrypt
from tests.rpc.refusals import refusal
from tests.serving.conftest import ENVIRONMENT

WHY = "lists AES-GCM, which does not work (C_EncryptInit: CKR_MECHANISM_INVALID)"
PAIR = "--type pair"


@pytest.fixture
def token(short_tmp: Path) -> ChaosToken:
    made = make_chaos(short_tmp / "hsm")
    made.tell("gcm refused")
    return made


@pytest.fixture
def start(short_tmp: Path, token: ChaosToken) -> Iterator[Callable[..., Kmsd]]:
    running: list[Kmsd] = []

    def begin(*flags: str) -> Kmsd:
        folder = short_tmp / f"d{len(running)}"
        folder.mkdir()
        running.append(
            Kmsd(
                folder,
                token,  # of the same shape
                (*token.flags, *flags),
                environment=ENVIRONMENT,
                default_flags=False,
            )
        )
        return running[-1].start()

    yield begin
    for kmsd in running:
        kmsd.stop()


def _fatal(kmsd: Kmsd, message: str) -> str:
    """The hint of the problem that keeps kmsd from serving, which Status tells as well."""
    wait_for(lambda: message in kmsd.v2("Status").healthz)
    (problem,) = [each for each in kmsd.status().problems if each.fatal]
    assert message in problem.message
    assert refusal(encrypt, kmsd, b"seed").code == "FAILED_PRECONDITION"
    hint: str = problem.hint
    return hint


def test_left_to_choose_kmsd_makes_a_pair_serves_with_it_and_says_why(
    start: Callable[..., Kmsd], token: ChaosToken
) -> None:
    kmsd = start("--auto-create").wait_ok()
    sealed = encrypt(kmsd, b"seed")
    # SoftHSM takes no HMAC-SHA-512 key of 256 bits.
    assert jwe.parse(sealed.ciphertext).enc == "A256CBC-HS256"
    assert decrypt(kmsd, sealed) == b"seed"
    (problem,) = kmsd.status().problems
    assert WHY in problem.message
    assert "--algorithm aes-cbc" in problem.hint
    assert not problem.fatal
    found = kmsd.admin("Diagnose", admin.DiagnoseRequest(), 60.0)
    gcm = next(check for check in found.checks if check.name == "gcm_12")
    assert (gcm.outcome, gcm.seen) == ("warning", "C_EncryptInit: CKR_MECHANISM_INVALID")
    assert (found.verdict.enc, found.verdict.text[:35]) == ("A256CBC-HS512", "AES-GCM is listed and does not work")
    # What the token lists is shown as it lists it.
    assert "CKM_AES_GCM" in {
        each.name for each in kmsd.admin("ListMechanisms", admin.ListMechanismsRequest()).mechanisms
    }

    # The token is put right: the pair's AES key writes with GCM then, and reads what it wrote before.
    token.tell()
    kmsd.stop()
    kmsd.start().wait_ok()
    assert jwe.parse(encrypt(kmsd, b"seed").ciphertext).enc == "A256GCM"
    assert decrypt(kmsd, sealed) == b"seed"
    assert not kmsd.status().problems


def test_told_to_use_pairs_there_is_nothing_to_say(start: Callable[..., Kmsd]) -> None:
    kmsd = start("--auto-create", "--algorithm=aes-cbc").wait_ok()
    assert not kmsd.status().problems


def test_told_to_use_gcm_it_says_that_it_does_not_work(start: Callable[..., Kmsd], token: ChaosToken) -> None:
    token.import_aes("k8s-kek", bytes(range(32)), b"an-id")
    kmsd = start("--algorithm=aes-gcm")
    assert PAIR in _fatal(kmsd, f"key 'k8s-kek' on token 'kmsd-test' cannot serve: its token {WHY}")


def test_a_key_for_gcm_alone_is_told_what_it_lacks(start: Callable[..., Kmsd], token: ChaosToken) -> None:
    token.import_aes("k8s-kek", bytes(range(32)), b"an-id")
    kmsd = start()
    hint = _fatal(kmsd, f"its token {WHY}, and AES-CBC needs an HMAC key beside it, and there is none")
    assert PAIR in hint
    token.import_hmac("k8s-kek.hmac", bytes(range(64)), b"an-id")
    kmsd.wait_ok()
    assert jwe.parse(encrypt(kmsd, b"seed").ciphertext).enc == "A256CBC-HS512"
