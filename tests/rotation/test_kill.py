"""kill -9 at every step of a rotation, of kmsd and of its caller; and a token that refuses a step.

The module in front of SoftHSM (`tests.chaos`) raises SIGKILL just before or just after SoftHSM's own calls, never
inside one: SoftHSM empties an object's file and then writes it, so a process that dies in between loses the key
itself, and no order of steps could bring it back. What is shown is that kmsd may die between any two changes that it
makes to the token.
"""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import time
from collections.abc import Callable

import grpc
import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v2 import api_pb2 as v2
from tests import forkserver
from tests.chaos import ChaosToken
from tests.daemons import KMSCTL, Kmsd, wait_for
from tests.rotation.conftest import assert_at_rest, ciphers, decrypt, encrypt, keys, keys_environment, rests, rotate

NEVER = 3600.0
GENERATE, SET = "C_GenerateKey", "C_SetAttributeValue"
# What a rotation changes, in its order: make, take the label, put the old key aside; of a pair, both keys each time.
SINGLE = [(GENERATE, 0), (SET, 0), (SET, 1)]
PAIR = [(GENERATE, 0), (GENERATE, 1), (SET, 0), (SET, 1), (SET, 2), (SET, 3)]
WRITE_PROTECTED, DEVICE_ERROR = 0xE2, 0x30

single_and_pair = pytest.mark.parametrize(
    ("algorithm", "steps"), [("aes-gcm", SINGLE), ("aes-cbc", PAIR)], ids=["single", "pair"]
)


def make_first(kmsd: Kmsd, algorithm: str) -> None:
    kind = admin.KEY_TYPE_PAIR if algorithm == "aes-cbc" else admin.KEY_TYPE_AES
    kmsd.admin("GenerateKey", admin.GenerateKeyRequest(label="k8s-kek", type=kind))
    kmsd.wait_ok()


def assert_well(kmsd: Kmsd, written: list[v2.EncryptResponse]) -> None:
    """It rests within its refresh and by itself, everything ever written is readable, and Status says so."""
    wait_for(lambda: rests(kmsd))
    write = assert_at_rest(kmsd)
    wait_for(lambda: kmsd.v2("Status").healthz == "ok")
    assert kmsd.v2("Status").key_id == encrypt(kmsd, b"now").key_id == write.key_id
    assert not kmsd.status().problems
    assert {decrypt(kmsd, each) for each in written} == {b"written"}


def assert_rotates_once(kmsd: Kmsd, old: str, before: int) -> None:
    """A repeated call finds the rotation done, or does it; in either case it was one.

    old: key id of the key that wrote; before: AES keys that there were.
    """
    again = rotate(kmsd, from_key_id=old)
    assert again.new_key.key_id == kmsd.v2("Status").key_id != old
    assert rests(kmsd)
    assert len(ciphers(keys(kmsd))) == before + 1


@single_and_pair
@pytest.mark.timeout(240)
def test_a_kmsd_that_died_at_any_step_is_well_when_it_starts_again(
    start_kmsd: Callable[..., Kmsd],
    start_behind: Callable[..., Kmsd],
    chaos: ChaosToken,
    algorithm: str,
    steps: list[tuple[str, int]],
) -> None:
    kmsd = start_behind(algorithm=algorithm)
    make_first(kmsd, algorithm)
    written = []
    deaths = [(function, nth, when) for function, nth in steps for when in ("kill parent", "kill parent done")]
    for number, (function, nth, when) in enumerate(deaths):
        sealed = encrypt(kmsd, b"written")
        written.append(sealed)
        chaos.tell(f"{function} {when} after={nth}")
        with pytest.raises(grpc.RpcError):
            rotate(kmsd)
        assert kmsd.stop() == -signal.SIGKILL
        chaos.tell()
        kmsd = start_behind(algorithm=algorithm)
        assert_well(kmsd, written)
        assert_rotates_once(kmsd, sealed.key_id, number + 1)
    kmsd.stop()
    plain = start_kmsd(environment=keys_environment(0.5, algorithm))
    assert_well(plain, written)
    assert rotate(plain).rotated
    assert_well(plain, written)


@pytest.mark.timeout(240)
def test_another_kmsd_finishes_what_the_dead_one_began(
    start_kmsd: Callable[..., Kmsd], start_behind: Callable[..., Kmsd], chaos: ChaosToken
) -> None:
    """It has run all the time, on SoftHSM itself. It may come to help while the other is alive still, and take the step
    at which that one was to die: then it dies afterwards."""
    survivor = start_kmsd(name="survivor", environment=keys_environment(0.5, "aes-cbc"))
    make_first(survivor, "aes-cbc")
    written = []
    for number, (function, nth) in enumerate(PAIR):
        victim = start_behind("victim", NEVER, "aes-cbc").wait_ok()
        sealed = encrypt(victim, b"written")
        chaos.tell(f"{function} kill parent done after={nth}")
        with contextlib.suppress(grpc.RpcError):
            rotate(victim)
        written += [sealed, encrypt(survivor, b"written")]
        assert victim.stop(signal.SIGKILL) == -signal.SIGKILL
        chaos.tell()
        assert_well(survivor, written)
        assert_rotates_once(survivor, sealed.key_id, number + 1)


def test_the_hmac_key_of_a_pair_that_never_was_does_no_harm(
    start_behind: Callable[..., Kmsd], chaos: ChaosToken
) -> None:
    """It is made before its AES key, and stays if that is not made. An operator may destroy it."""
    kmsd = start_behind(algorithm="aes-cbc")
    make_first(kmsd, "aes-cbc")
    chaos.tell(f"{GENERATE} rv={DEVICE_ERROR} after=1")
    with pytest.raises(grpc.RpcError):
        rotate(kmsd)
    chaos.tell()
    (alone,) = [key for key in keys(kmsd) if key.label == "k8s-kek.pending.hmac"]
    written = [encrypt(kmsd, b"written")]
    assert_well(kmsd, written)
    assert rotate(kmsd).rotated
    assert_well(kmsd, written)
    kmsd.admin("DestroyKey", admin.DestroyKeyRequest(key=alone.key_id))
    assert len(keys(kmsd)) == 4


@pytest.mark.timeout(240)
def test_a_rotation_goes_on_when_its_caller_is_killed(start_behind: Callable[..., Kmsd], chaos: ChaosToken) -> None:
    """kmsctl, by SIGKILL, at random moments from the first key being made until after the end."""
    kmsd = start_behind(algorithm="aes-cbc")
    make_first(kmsd, "aes-cbc")
    chaos.tell(f"{GENERATE} delay=0.02", f"{SET} delay=0.02")
    written = []
    for number in range(5):
        sealed = encrypt(kmsd, b"written")
        written.append(sealed)
        chaos.forget_calls()
        caller = forkserver.Popen(
            [KMSCTL, "rotate", "--yes", f"--target=unix://{kmsd.admin_socket}"],
            env=chaos.behind.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(lambda: chaos.calls()[GENERATE], pause=0.005)
        time.sleep(random.uniform(0.0, 0.25))  # noqa: S311 - any moment
        caller.kill()
        caller.wait()
        wait_for(lambda: kmsd.v2("Status").key_id != sealed.key_id)  # noqa: B023
        assert_well(kmsd, written)
        assert_rotates_once(kmsd, sealed.key_id, number + 1)


@single_and_pair
@pytest.mark.parametrize("rv", [WRITE_PROTECTED, DEVICE_ERROR], ids=["write protected", "device error"])
def test_a_step_that_the_token_refuses_is_told_and_done_later(
    start_behind: Callable[..., Kmsd], chaos: ChaosToken, algorithm: str, steps: list[tuple[str, int]], rv: int
) -> None:
    """From that step on no label can be set, until all can."""
    kmsd = start_behind(algorithm=algorithm)
    make_first(kmsd, algorithm)
    written = []
    refused = [nth for function, nth in steps if function == SET]
    for number, nth in enumerate(refused):
        sealed = encrypt(kmsd, b"written")
        written.append(sealed)
        chaos.tell(f"{SET} rv={rv:#x} after={nth}")
        if nth == 0:
            with pytest.raises(grpc.RpcError) as caught:
                rotate(kmsd, from_key_id=sealed.key_id)
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert "cannot be relabelled 'k8s-kek'" in (caught.value.details() or "")
        else:
            assert rotate(kmsd, from_key_id=sealed.key_id).rotated
        (stuck,) = [each for each in kmsd.status().problems if "cannot be relabelled" in each.message]
        assert stuck.hint
        during = encrypt(kmsd, b"written")
        assert (during.key_id == sealed.key_id) == (nth == 0), "the old key writes until the new one has its label"
        assert during.key_id == kmsd.v2("Status").key_id
        assert kmsd.v2("Status").healthz == "ok"
        written.append(during)
        assert {decrypt(kmsd, each) for each in written} == {b"written"}
        chaos.tell()
        assert_rotates_once(kmsd, sealed.key_id, number + 1)
        assert_well(kmsd, written)
