"""kmsctl and kmsd of different ages: what one does not know of the other is told, and harms nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from syrupy.assertion import SnapshotAssertion

from kmsd.api.admin.v1 import admin_pb2 as pb
from tests.ctl.canned import Canned, serve
from tests.ctl.conftest import Run

FIRST = {"GetStatus", "ListSlots", "ListKeys", "GenerateKey", "AdoptKey"}
"""What the first kmsd had."""
LATER = {method.name for method in pb.DESCRIPTOR.services_by_name["Admin"].methods} - FIRST

COMMANDS = {
    "ListPeers": "peers",
    "GetConfig": "config view",
    "SetLogLevel": "log-level debug",
    "ListMechanisms": "mechanisms",
    "UnlockToken": "unlock",
    "Diagnose": "doctor",
    "GetKey": "keys show k8s-kek",
    "RelabelKey": "keys relabel id-wide another",
    "DestroyKey": "keys destroy id-wide --yes",
    "TestKey": "keys test k8s-kek",
    "RetireKey": "keys retire id-wide",
    "RevertKey": "keys revert --yes",
    "InspectCiphertext": "inspect /dev/null",
    "TryCiphertext": "inspect --try /dev/null",
    "WatchStats": "stats",
    "WatchRequests": "requests",
    "WatchAudit": "audit tail",
    "VerifyAudit": "audit verify",
    "AcknowledgeAudit": "audit acknowledge --yes",
    "CreateEnrolmentToken": "enrol token node-1 --tenant cluster-a",
    "ListEnrolmentTokens": "enrol tokens",
    "RevokeEnrolmentToken": "enrol revoke-token 0123456789abcdef",
    "ListEnrolmentRequests": "enrol pending",
    "DecideEnrolmentRequest": "enrol approve 0123456789abcdef",
    "GetCa": "ca show",
    "InitCa": "ca init",
    "ImportCaCertificate": "ca import /dev/null",
    "IssueCertificate": "ca issue /dev/null --node node-1 --tenant cluster-a",
    "RevokeCertificate": "ca revoke 1f --yes",
    "GetCrl": "ca crl",
    "RollCa": "ca roll --yes",
    "CheckStore": "store check",
    "BackUpStore": "store backup /dev/null/none",
    "GetMetrics": "stats -o prometheus",
    "GetJwt": "jwt keys",
    "PublishJwtKey": "jwt rotate --again --yes",
    "SwitchJwtKey": "jwt revert --yes",
    "RetireJwtKey": "jwt retire T2xkS2V5 --confirm T2xkS2V5",
    "ImportJwtKey": "jwt import --pem /dev/null",
    "TrustJwtKey": "jwt trust --pem /dev/null",
    "UntrustJwtKey": "jwt untrust VHJ1c3Rl --confirm VHJ1c3Rl",
}


@pytest.fixture
def old(directory: Path) -> Iterator[Canned]:
    """A kmsd that has only the first calls."""
    with serve(Canned(directory, missing=LATER)) as running:
        yield running


def test_every_later_call_has_its_command() -> None:
    assert set(COMMANDS) | {"RotateKey"} == LATER


@pytest.mark.parametrize("method", COMMANDS)
def test_a_call_that_an_older_kmsd_lacks_is_one_line_and_a_hint(
    run: Run, directory: Path, snapshot: SnapshotAssertion, method: str
) -> None:
    with serve(Canned(directory, missing={method})) as canned:
        before = [each.label for each in canned.keys]
        result = run(*COMMANDS[method].split())
        assert [each.label for each in canned.keys] == before
    assert (result.code, result.out) == (1, b"")
    assert result.err == snapshot(name="outdated")


@pytest.mark.parametrize("command", ["status", "health", "slots", "keys list", "keygen fresh", "keys adopt k8s-kek"])
def test_what_an_older_kmsd_has_goes_on_working(run: Run, old: Canned, command: str) -> None:
    _forget(old.status)
    for each in (*old.keys, *old.slots):
        _forget(each)
    for form in ("table", "wide", "json", "yaml"):
        if form == "wide" and command == "health":
            continue
        old.keys = [key for key in old.keys if key.label != "fresh"]
        result = run(*command.split(), "-o", form)
        assert result.code == 0, result.err


def _forget(message: Message) -> None:
    """What later fields say of the same thing, as an older kmsd would leave it out."""
    later = {"token", "encrypts", "decrypts", "last_used_unix_ms", "enc", "tokens", "following", "module", "name"}
    for field in message.DESCRIPTOR.fields:
        if field.name in later and field.full_name.startswith(("kmsd.admin.v1.Key.", "kmsd.admin.v1.ListSlots")):
            message.ClearField(field.name)


def test_a_pair_or_token_that_an_older_kmsd_did_not_heed_is_told(
    run: Run, old: Canned, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = old.generate_key

    def heedless(request: pb.GenerateKeyRequest) -> pb.GenerateKeyResponse:
        request.type, request.token = pb.KEY_TYPE_AES, ""
        return generate(request)

    monkeypatch.setattr(old, "generate_key", heedless)
    # The method table was made before: served anew, on another pair of sockets.
    directory = old.directory / "anew"
    directory.mkdir()
    monkeypatch.setenv("KMSCTL_TARGET", str(directory / "admin.sock"))
    old.directory = directory
    with serve(old):
        result = run("keygen", "fresh", "--type", "pair", "--token", "old")
    assert result.code == 0
    assert "warning: no HMAC key is beside it\n" in result.err
    assert "warning: it is on the token 'main', not 'old'\n" in result.err


@pytest.mark.parametrize("form", ["table", "wide", "json", "yaml", "name"])
def test_words_of_a_newer_kmsd_are_unknown_and_no_error(run: Run, canned: Canned, form: str) -> None:
    for message in (canned.status, *canned.keys, canned.status.write_key):
        _renew(message)
    for command in (
        "status",
        "keys list",
        "keys show k8s-kek",
        "keygen k8s-kek --if-not-exists",
        "keys adopt k8s-kek",
        "keys relabel id-wide another",
        "keys destroy another --yes",
    ):
        result = run(*command.split(), "-o", form)
        assert result.code == 0, (command, result.err)
        assert "unknown" in result.text or form == "name" or command == "keys adopt k8s-kek"


def _renew(message: Message) -> None:
    """Every enumeration with a number that this client has no name for, and a field that it does not know."""
    for field in message.DESCRIPTOR.fields:
        if field.type == FieldDescriptor.TYPE_ENUM:
            setattr(message, field.name, 99)
    message.MergeFromString(b"\xfa\x3f\x03new")


def test_a_state_that_a_newer_kmsd_has_is_never_taken_for_health(run: Run, canned: Canned) -> None:
    canned.status.healthz = ""
    canned.status.state = 99  # type: ignore[assignment]
    result = run("health")
    assert (result.code, result.text) == (7, "unknown\n")


def test_the_versions_of_both_are_shown(run: Run, old: Canned) -> None:
    old.status.version = "0.0.1"
    assert run("version").text == "kmsctl   0.1.0\nkmsd     0.0.1\n"
