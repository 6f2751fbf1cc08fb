"""A third key on a TPM without a resource manager: named with its fix, while the two that have a place go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v2 import api_pb2 as v2
from kmsd.hsm.vendors.tpm_key_slots import Room
from tests.daemons import Kmsd, wait_for
from tests.rotation.conftest import decrypt, encrypt
from tests.rpc.refusals import refusal
from tests.tpm import TpmToken, make_tpm

_ENVIRONMENT = {"KMSD_KEYS__REFRESH": "0.5", "KMSD_HEALTH__INTERVAL": "0.5", "KMSD_TOKEN__SESSIONS": "2"}
_SENTENCE = "has no resource manager, so one login can use 2 keys; "
_FIX = "TPM2_PKCS11_TCTI=device:/dev/tpmrm0"


@pytest.fixture(params=[False, True], ids=["unmanaged", "managed"])
def token(short_tmp: Path, request: pytest.FixtureRequest) -> Iterator[TpmToken]:
    """Two pairs: one key more than the first would do."""
    made = make_tpm(short_tmp / "hsm", managed=request.param)
    made.add_pair("k8s-kek", "k8s-kek.hmac", "kek-id")
    made.add_pair("other", "other.hmac", "other-id")
    yield made
    made.stop()


@pytest.fixture
def start(short_tmp: Path, token: TpmToken) -> Iterator[Callable[..., Kmsd]]:
    running: list[Kmsd] = []

    def begin(*flags: str) -> Kmsd:
        folder = short_tmp / f"d{len(running)}"
        folder.mkdir()
        running.append(
            Kmsd(
                folder,
                token,  # of the same shape
                (*token.flags, *flags),
                environment=_ENVIRONMENT,
                default_flags=False,
            )
        )
        return running[-1].start().wait_ok(60)

    yield begin
    for kmsd in running:
        kmsd.stop()


def _room(kmsd: Kmsd) -> admin.DiagnoseResponse.Check:
    answer = kmsd.admin("Diagnose", admin.DiagnoseRequest(), 60.0)
    found: admin.DiagnoseResponse.Check = next(check for check in answer.checks if check.name == "room")
    return found


def test_a_third_key_is_named_and_the_pair_goes_on(start: Callable[..., Kmsd], token: TpmToken) -> None:
    first = start("--p11-key-label=other")
    other = encrypt(first, b"by the other pair")
    first.stop()
    kmsd = start()
    own = encrypt(kmsd, b"by the pair")
    room = _room(kmsd)
    if token.managed:
        assert decrypt(kmsd, other) == b"by the other pair"
        assert (room.outcome, room.seen) == ("ok", "a resource manager shares out the memory of the device")
        assert not kmsd.status().problems
        return
    assert room.outcome == "warning"
    assert f"{_SENTENCE}2 are in use" in room.seen
    assert not kmsd.status().problems

    request = v2.DecryptRequest(ciphertext=other.ciphertext, key_id=other.key_id, uid="u")
    for _ in range(3):
        refused = refusal(kmsd.v2, "Decrypt", request)
        assert refused.code == "UNAVAILABLE"
        assert f"{_SENTENCE}3 are in use" in refused.details
        assert _FIX in refused.details
        assert decrypt(kmsd, own) == b"by the pair"
        assert decrypt(kmsd, encrypt(kmsd, b"more")) == b"more"
    assert kmsd.v2("Status").healthz == "ok"
    (problem,) = kmsd.status().problems
    assert (_SENTENCE in problem.message, _FIX in problem.hint, problem.fatal) == (True, True, False)
    room = _room(kmsd)
    assert (room.outcome, _SENTENCE in room.seen, _FIX in room.fix) == ("failed", True, True)
    assert sum(_SENTENCE in line["event"] for line in kmsd.log_lines()) == 1
    assert not [line for line in kmsd.log_lines() if line["event"] == "token is down"]


def test_a_write_key_that_finds_no_place_gets_one(start: Callable[..., Kmsd], token: TpmToken) -> None:
    """The label moves to a pair that was not used yet, while another has the places."""
    kmsd = start()
    own = encrypt(kmsd, b"by the first")
    for key, to in (("k8s-kek", "before"), ("other", "k8s-kek")):
        request = admin.RelabelKeyRequest(key=key, label=to, confirm_label=key)
        kmsd.admin("RelabelKey", request, 60.0)
    wait_for(lambda: kmsd.v2("Status").key_id == "other-id", 60)
    kmsd.wait_ok(60)
    assert decrypt(kmsd, encrypt(kmsd, b"by the second")) == b"by the second"
    if token.managed:
        assert decrypt(kmsd, own) == b"by the first"


def test_a_tpm_that_was_reset_when_it_was_full_is_used_again(start: Callable[..., Kmsd], token: TpmToken) -> None:
    kmsd = start()
    own = encrypt(kmsd, b"before")
    request = admin.TestKeyRequest(key="other", rounds=1)
    if token.managed:
        kmsd.admin("TestKey", request, 60.0)
    else:
        assert _SENTENCE in refusal(kmsd.admin, "TestKey", request).details
    with token.away():
        pass

    def opened() -> bytes:
        try:
            return decrypt(kmsd, own)
        except grpc.RpcError:
            return b""

    assert wait_for(opened, 60) == b"before"
    kmsd.wait_ok(60)


def test_the_keys_that_came_first_have_the_places() -> None:
    room = Room(2, ((b"a", "aes"), (b"a", "hmac"), (b"b", "hmac")))
    assert room.crowded
    assert not Room(2, room.inside).crowded
    assert room.shuts_out(b"b")
    assert room.shuts_out(b"x", b"b")
    assert not room.shuts_out(b"a", None)
    assert "one login can use 2 keys; 3 are in use" in room.error("token 'x'").message


def test_no_rotation_that_would_shut_the_old_keys_out(start: Callable[..., Kmsd], token: TpmToken) -> None:
    kmsd = start()
    own = encrypt(kmsd, b"before")
    if token.managed:
        kmsd.admin("RotateKey", admin.RotateKeyRequest(), 60.0)
        assert encrypt(kmsd, b"after").key_id != own.key_id
    else:
        for dry_run in (True, False):
            refused = refusal(kmsd.admin, "RotateKey", admin.RotateKeyRequest(dry_run=dry_run), 60.0)
            assert refused.code == "FAILED_PRECONDITION"
            assert f"{_SENTENCE[:-2]}, and the old and the new ones are 4" in refused.details
            assert _FIX in refused.hint
        assert encrypt(kmsd, b"after").key_id == own.key_id
    assert decrypt(kmsd, own) == b"before"
