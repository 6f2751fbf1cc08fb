"""kmsd on a TPM 2.0: k8s-kms-plugin's command line, keys made beside it, and what befalls a TPM."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v1beta1 import api_pb2 as v1beta1
from kmsd.api.kms.v2 import api_pb2 as v2
from kmsd.formats import jwe
from tests.daemons import Kmsd, wait_for
from tests.rotation.conftest import assert_at_rest, decrypt, encrypt, labelled
from tests.rotation.conftest import keys as listed
from tests.rpc.refusals import refusal
from tests.serving.conftest import ENVIRONMENT
from tests.tokens import PIN
from tests.tpm import TpmToken, make_tpm, spies

PATIENT = {**ENVIRONMENT, "KMSD_KMS__REQUEST_TIMEOUT": "60"}
"""Calls wait while tpm2_ptool makes keys, which takes long on a machine that is busy."""
README = ("--p11-key-label=cbc0", "--p11-hmac-label=hmac0", "--algorithm=aes-cbc")


def _tpm(folder: Path) -> Iterator[TpmToken]:
    made = make_tpm(folder, managed=True)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TpmToken]:
    """As k8s-kms-plugin's README makes it: two keys with ids of their own, and one more that is none of the pair's."""
    for made in _tpm(tmp_path_factory.mktemp("t") / "tpm"):
        made.add_pair("cbc0", "hmac0", "enc-id", "mac-id")
        made.add_key("other", "hmac:sha256", "other-id")
        yield made


@pytest.fixture
def spare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TpmToken]:
    """One that a test may spoil."""
    for made in _tpm(tmp_path_factory.mktemp("t") / "tpm"):
        made.add_pair("k8s-kek", "k8s-kek.hmac", "enc-id")
        yield made


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the tpm2 tools were called with, a word a line."""
    return tmp_path_factory.mktemp("s") / "seen"


@pytest.fixture(scope="module")
def kmsd(token: TpmToken, seen: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kmsd]:
    environment = {**PATIENT, "PATH": spies(seen.parent / "bin", seen)}
    with run(tmp_path_factory.mktemp("d"), token, environment, *README).start() as running:
        yield running.wait_ok()


def run(folder: Path, token: TpmToken, environment: dict[str, str], *flags: str) -> Kmsd:
    # The token has the shape that Kmsd needs of one.
    return Kmsd(
        folder,
        token,
        (*token.flags, *flags),
        environment=environment,
        default_flags=False,
    )


def test_the_k8s_kms_plugins_command_line_serves_both_apis(kmsd: Kmsd) -> None:
    sealed = encrypt(kmsd, b"seed")
    parsed = jwe.parse(sealed.ciphertext)
    assert (parsed.kid, parsed.hkid, parsed.enc) == ("enc-id", "mac-id", "A256CBC-HS256")
    assert sealed.key_id == kmsd.v2("Status").key_id == "enc-id"
    assert decrypt(kmsd, sealed) == b"seed"
    cipher = kmsd.v1beta1("Encrypt", v1beta1.EncryptRequest(version="v1beta1", plain=b"ping")).cipher
    assert jwe.parse(cipher).hkid == "mac-id"
    assert kmsd.v1beta1("Decrypt", v1beta1.DecryptRequest(version="v1beta1", cipher=cipher)).plain == b"ping"
    assert not kmsd.status().problems


@pytest.mark.parametrize("hkid", ["other-id", "nobodys-id"])
def test_another_hmac_key_is_not_taken_for_its_own(kmsd: Kmsd, hkid: str) -> None:
    sealed = encrypt(kmsd, b"seed")
    _, *parts = sealed.ciphertext.split(b".")
    head = jwe.header("enc-id", "A256CBC-HS256", hkid=hkid)
    request = v2.DecryptRequest(ciphertext=b".".join([head, *parts]), key_id="enc-id", uid="u")
    refused = refusal(kmsd.v2, "Decrypt", request)
    assert refused.code == "NOT_FOUND"
    assert f"there is no HMAC key with key id {hkid!r}" in refused.details


def test_more_than_a_tpm_can_authenticate_is_refused(kmsd: Kmsd) -> None:
    refused = refusal(kmsd.v1beta1, "Encrypt", v1beta1.EncryptRequest(version="v1beta1", plain=bytes(4096)))
    assert refused.code == "INVALID_ARGUMENT"
    assert "more than this token takes at once (4096)" in refused.details


@dataclass
class Load:
    """What came of calls that were made all the time."""

    done: int = 0
    failed: list[grpc.RpcError] = field(default_factory=list)
    wrong: int = 0


@contextmanager
def load(kmsd: Kmsd, threads: int = 3) -> Iterator[Load]:
    """Encrypt and decrypt while the block runs, in several threads."""
    counted, ended, lock = Load(), threading.Event(), threading.Lock()
    encrypt_one = kmsd.channel().unary_unary(
        "/v2.KeyManagementService/Encrypt",
        request_serializer=v2.EncryptRequest.SerializeToString,
        response_deserializer=v2.EncryptResponse.FromString,
    )
    decrypt_one = kmsd.channel().unary_unary(
        "/v2.KeyManagementService/Decrypt",
        request_serializer=v2.DecryptRequest.SerializeToString,
        response_deserializer=v2.DecryptResponse.FromString,
    )

    def work() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            plaintext = b"%d" % number
            try:
                sealed = encrypt_one(v2.EncryptRequest(plaintext=plaintext, uid="u"), timeout=60)
                request = v2.DecryptRequest(ciphertext=sealed.ciphertext, key_id=sealed.key_id, uid="u")
                opened = decrypt_one(request, timeout=60).plaintext
            except grpc.RpcError as error:
                with lock:
                    counted.failed.append(error)
                time.sleep(0.02)
            else:
                with lock:
                    counted.done += 1
                    counted.wrong += opened != plaintext

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        wait_for(lambda: counted.done > threads)
        yield counted
    finally:
        ended.set()
        for worker in workers:
            worker.join()


def _descendants(pid: int) -> set[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    found, fresh = set[int](), {pid}
    while fresh:
        found |= fresh
        fresh = {child for child, parent in parents.items() if parent in fresh} - found
    return found


@contextmanager
def process_list(pid: int) -> Iterator[set[str]]:
    """The command lines and environments of a process and all that it starts, as they are seen meanwhile."""
    shown, ended = set[str](), threading.Event()

    def look() -> None:
        while not ended.is_set():
            for each in _descendants(pid):
                for name in ("cmdline", "environ"):
                    try:
                        shown.add(Path(f"/proc/{each}/{name}").read_bytes().replace(b"\0", b" ").decode())
                    except OSError:
                        continue
            time.sleep(0.02)

    looker = threading.Thread(target=look)
    looker.start()
    try:
        yield shown
    finally:
        ended.set()
        looker.join()


def test_keys_are_made_and_rotated_beside_the_module_while_calls_wait(kmsd: Kmsd, seen: Path) -> None:
    before = encrypt(kmsd, b"before")
    assert kmsd.process is not None
    with load(kmsd) as counted, process_list(kmsd.process.pid) as shown:
        request = admin.GenerateKeyRequest(label="more", type=admin.KEY_TYPE_PAIR)
        made = kmsd.admin("GenerateKey", request, timeout=60.0)
        done = kmsd.admin("RotateKey", admin.RotateKeyRequest(), timeout=120.0)
        count = counted.done
        wait_for(lambda: counted.done > count + 5)
    assert not counted.failed, counted.failed[0]
    assert counted.wrong == 0

    assert made.created
    assert (made.key.key_id, made.key.enc) == (made.companion.key_id, "A256CBC-HS512")
    assert (made.key.label, made.companion.label) == ("more", "more.hmac")
    assert done.rotated
    assert assert_at_rest(kmsd, "cbc0").key_id == done.new_key.key_id
    after = encrypt(kmsd, b"after")
    assert jwe.parse(after.ciphertext).hkid == "", "a pair of kmsd's has one id"
    assert (decrypt(kmsd, before), decrypt(kmsd, after)) == (b"before", b"after")
    assert kmsd.admin("TestKey", admin.TestKeyRequest(key="more", rounds=1)).encrypt_ms_min > 0

    assert any("ptool_runner" in line for line in shown), "the tool was seen at work"
    assert not [line for line in shown if PIN in line]
    words = seen.read_text().split()
    assert "-p" in words
    assert PIN not in words


def test_making_a_key_beside_the_module_is_no_outage(kmsd: Kmsd) -> None:
    kmsd.wait_ok(30.0)
    seq = kmsd.audit_records()[-1]["seq"]
    problems: list[str] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.05):
            problems.extend(each.message for each in kmsd.admin("GetStatus", timeout=60.0).problems)

    looker = threading.Thread(target=look)
    before = [each.message for each in kmsd.status().problems]
    looker.start()
    request = admin.GenerateKeyRequest(label="quiet", type=admin.KEY_TYPE_PAIR)
    try:
        kmsd.admin("GenerateKey", request, timeout=60.0)
    finally:
        ended.set()
        looker.join()
    kmsd.wait_ok(30.0)
    records = [each for each in kmsd.audit_records() if each["seq"] > seq]
    assert "GenerateKey" in {each["action"] for each in records}
    assert {each["outcome"] for each in records} == {"OK"}, records
    assert not set(problems) - set(before)


def test_a_key_with_the_label_is_made_once(kmsd: Kmsd) -> None:
    request = admin.GenerateKeyRequest(label="cbc0", type=admin.KEY_TYPE_PAIR)
    refused = refusal(kmsd.admin, "GenerateKey", request)
    assert refused.code == "ALREADY_EXISTS"
    assert len(labelled(listed(kmsd), "cbc0")) == 1


def test_a_tpm_that_is_killed_under_load_serves_again(kmsd: Kmsd, token: TpmToken) -> None:
    sealed = encrypt(kmsd, b"before")
    process = kmsd.process
    with load(kmsd) as counted:
        with token.away():
            wait_for(lambda: kmsd.v2("Status", timeout=10.0).healthz != "ok", 60.0)
        kmsd.wait_ok(90.0)
        count = counted.done
        wait_for(lambda: counted.done > count + 5)
    assert counted.wrong == 0
    codes = {error.code() for error in counted.failed}
    assert codes <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED}
    assert decrypt(kmsd, sealed) == b"before"
    assert kmsd.process is process
    assert process is not None
    assert process.poll() is None


def _named(kmsd: Kmsd, message: str, hint: str) -> None:
    """In Status and in GetStatus, while both sockets answer."""
    wait_for(lambda: message in kmsd.v2("Status", timeout=10.0).healthz, 60.0)
    assert hint in kmsd.v2("Status", timeout=10.0).healthz
    fatal = [problem for problem in kmsd.status().problems if problem.fatal]
    assert [message in problem.message for problem in fatal] == [True]
    assert hint in fatal[0].hint


def _wrong_pin(token: TpmToken) -> None:
    command = ("pkcs11-tool", "--module", token.module, "--token-label", token.label, "--login", "--pin", "wrong", "-O")
    done = subprocess.run(command, env=token.environment, capture_output=True, timeout=60, check=False)
    assert b"CKR_PIN_INCORRECT" in done.stderr


def test_a_locked_tpm_is_named_and_serves_when_it_is_unlocked(spare: TpmToken, short_tmp: Path) -> None:
    with run(short_tmp, spare, PATIENT).start() as kmsd:
        sealed = encrypt(kmsd.wait_ok(), b"before")
        spare.forbid_guessing(1)
        _wrong_pin(spare)
        _named(kmsd, "the TPM behind token 'kmsd-test' is locked after wrong PINs", "tpm2_dictionarylockout")
        kmsd.stop()
        kmsd.start()
        # Nothing is tried again by itself, for each try may count.
        _named(kmsd, "the user PIN of token 'kmsd-test' is locked after wrong PINs", "then reload kmsd")
        assert spare.lockout_counter() == 1
        spare.tool("tpm2_dictionarylockout", "--clear-lockout")
        assert kmsd.process is not None
        kmsd.process.send_signal(signal.SIGHUP)
        kmsd.wait_ok(60.0)
        assert decrypt(kmsd, sealed) == b"before"


def test_a_tpm_that_was_cleared_is_named(spare: TpmToken, short_tmp: Path) -> None:
    with run(short_tmp, spare, PATIENT).start() as kmsd:
        kmsd.wait_ok()
        spare.clear()
        message, hint = (
            "the TPM has no parent key for token 'kmsd-test': it was cleared",
            "make a new store and new keys",
        )
        _named(kmsd, message, hint)
        kmsd.stop()
        kmsd.start()
        _named(kmsd, message, hint)
