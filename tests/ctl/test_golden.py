"""What people and scripts read, to the letter. A change here changes a contract or manners."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from syrupy.assertion import SnapshotAssertion

from kmsd.api.admin.v1 import admin_pb2 as pb
from tests.ctl import answers
from tests.ctl.answers import CREATED, degraded, diagnosis, down, serving, sick, two_tokens
from tests.ctl.canned import Canned
from tests.ctl.conftest import Run

FORMATS = ("table", "wide", "json", "yaml", "name")
STATES = {"serving": serving, "degraded": degraded, "down": down, "two tokens": two_tokens}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("state", STATES)
def test_status_reads_the_same_forever(
    run: Run, canned: Canned, snapshot: SnapshotAssertion, state: str, form: str
) -> None:
    canned.status = STATES[state]()
    result = run("status", "-o", form)
    assert result.code == 0  # whatever the state: health is the one that judges
    assert result.err == ""
    assert result.text == snapshot


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "command",
    [
        "keys list",
        "slots",
        "mechanisms",
        "mechanisms main",
        "config view",
        "requests",
        "audit tail -n 1",
        "peers",
        "enrol tokens",
        "enrol pending",
    ],
)
def test_lists_read_the_same_forever(
    run: Run, canned: Canned, snapshot: SnapshotAssertion, command: str, form: str
) -> None:
    result = run(*command.split(), "-o", form)
    assert result.code == 0
    assert (result.text, result.err) == snapshot


@pytest.mark.parametrize("form", FORMATS)
def test_tenants_read_the_same_forever(run: Run, canned: Canned, snapshot: SnapshotAssertion, form: str) -> None:
    canned.status.tenants.extend(answers.tenants())
    result = run("tenants", "-o", form)
    assert result.code == 0
    assert (result.text, result.err) == snapshot


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "command",
    [
        "keygen fresh",
        "keygen k8s-kek --if-not-exists",
        "keygen k8s-kek --if-not-exists --bits 128 --id another",
        "keys adopt k8s-kek --id mine",
        "keygen cbc-kek --type pair",
        "keygen k8s-kek --type pair --if-not-exists",
        "keygen fresh --token old",
        "keygen mac --type hmac",
        "keys show k8s-kek",
        "keys show sha256:5371cf88",
        "keys show id-wide",
        "keys test k8s-kek",
        "keys test 0x00ff10 --rounds 3",
    ],
)
def test_key_commands_read_the_same_forever(
    run: Run, canned: Canned, snapshot: SnapshotAssertion, command: str, form: str
) -> None:
    result = run(*command.split(), "-o", form)
    assert result.code == 0
    assert (result.text, result.err) == snapshot


@pytest.mark.parametrize("form", ["table", "json", "yaml"])
@pytest.mark.parametrize(
    "command",
    [
        "health",
        "version",
        "version --client",
        "help exit-codes",
        "audit verify",
        "log-level",
        "health --live",
        "unlock",
        "store check",
    ],
)
def test_small_commands_read_the_same_forever(
    run: Run, canned: Canned, snapshot: SnapshotAssertion, command: str, form: str
) -> None:
    result = run(*command.split(), "-o", form)
    assert result.code == 0
    assert result.err == ""
    assert result.text == snapshot


@pytest.mark.parametrize("form", ["table", "json", "yaml"])
@pytest.mark.parametrize(
    "command",
    [
        "enrol token node-7 --tenant cluster-b --uses 2",
        "enrol revoke-token 0123456789abcdef",
        "enrol approve 89abcdef01234567 --node node-9",
        "enrol deny 89abcdef01234567 --reason why",
    ],
)
def test_what_is_said_of_enrolment_reads_the_same_forever(
    run: Run, canned: Canned, snapshot: SnapshotAssertion, command: str, form: str
) -> None:
    result = run(*command.split(), "-o", form)
    assert result.code == 0
    assert (result.text, result.err) == snapshot


def test_a_backup_of_the_store_is_a_file_for_its_owner_alone(run: Run, canned: Canned, tmp_path: Path) -> None:
    result = run("store", "backup", str(tmp_path / "copy"))
    assert (result.code, result.text) == (0, "")
    assert (tmp_path / "copy").read_bytes() == b"SQLite format 3\0"
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o600


@pytest.mark.parametrize("form", ["table", "wide", "json", "yaml"])
@pytest.mark.parametrize("command", ["stats", "stats --since 3s"])
def test_statistics_read_the_same_forever(
    run: Run, canned: Canned, snapshot: SnapshotAssertion, command: str, form: str
) -> None:
    result = run(*command.split(), "-o", form)
    assert (result.code, result.err) == (0, "")
    assert result.text == snapshot


def test_statistics_without_any_traffic_read_well(run: Run, canned: Canned, snapshot: SnapshotAssertion) -> None:
    canned.frame = pb.WatchStatsResponse(unix_ms=CREATED, started_unix_ms=CREATED)
    assert [run("stats", "-o", form).text for form in ("table", "json")] == snapshot


@pytest.mark.parametrize("form", ["table", "json", "yaml"])
@pytest.mark.parametrize(("found", "code"), [(diagnosis, 0), (sick, 7)])
def test_what_the_doctor_says_reads_the_same_forever(
    run: Run,
    canned: Canned,
    snapshot: SnapshotAssertion,
    found: Callable[[], pb.DiagnoseResponse],
    code: int,
    form: str,
) -> None:
    canned.diagnosis = found()
    result = run("doctor", "main", "-o", form)
    assert result.code == code
    assert (result.text, result.err) == snapshot


@pytest.mark.parametrize("form", FORMATS)
def test_what_a_ciphertext_is_reads_the_same_forever(
    run: Run, canned: Canned, snapshot: SnapshotAssertion, form: str
) -> None:
    result = run("inspect", "-o", form, stdin=b"x")
    assert result.code == 0
    assert (result.text, result.err) == snapshot


@pytest.mark.parametrize("form", FORMATS)
def test_what_nothing_is_known_of_reads_well(run: Run, canned: Canned, snapshot: SnapshotAssertion, form: str) -> None:
    canned.inspection = pb.InspectCiphertextResponse(format="unknown", summary="no ciphertext of any known format")
    assert run("inspect", "-o", form, stdin=b"x").text == snapshot


@pytest.mark.parametrize("form", ["table", "json", "yaml", "name"])
def test_a_broken_audit_trail_is_1_and_says_which_line(
    run: Run, canned: Canned, snapshot: SnapshotAssertion, form: str
) -> None:
    canned.verdict = pb.VerifyAuditResponse(
        intact=False,
        records=41,
        first_seq=1,
        last_seq=41,
        head="ab" * 32,
        files=["/var/log/kmsd/audit.jsonl"],
        problem="/var/log/kmsd/audit.jsonl line 17 (seq 17): its hash does not fit its text; changed",
    )
    result = run("audit", "verify", "-o", form)
    assert result.code == 1
    assert (result.text, result.err) == snapshot


def test_the_log_level_is_asked_for_set_and_given_back(run: Run, canned: Canned) -> None:
    assert run("log-level").text == "info\n"
    assert run("log-level", "debug").text == "debug\n"
    assert run("log-level").text == "debug\n"
    result = run("log-level", "configured")
    assert (result.text, result.err) == ("info\n", "kmsctl: the log level was debug\n")
    assert [(each.level, each.dry_run) for each in canned.requests] == [  # type: ignore[attr-defined]
        ("", True),
        ("debug", False),
        ("", True),
        ("", False),
    ]


@pytest.mark.parametrize(
    "command",
    [
        "status",
        "keys list",
        "keys show k8s-kek",
        "keys test k8s-kek",
        "keys revert --yes",
        "slots",
        "tenants",
        "peers",
        "mechanisms",
        "doctor",
        "config view",
        "requests",
        "audit tail",
        "audit verify",
        "stats",
        "inspect /dev/null",
        "log-level",
        "unlock",
        "health --live",
        "keygen fresh",
        "health",
        "version",
    ],
)
def test_json_and_yaml_say_the_same(run: Run, canned: Canned, command: str) -> None:
    as_json = json.loads(run(*command.split(), "-o", "json").out)
    canned.keys = [key for key in canned.keys if key.label != "fresh"]
    assert as_json == yaml.safe_load(run(*command.split(), "-o", "yaml").out)


def test_what_a_token_holds_reaches_no_terminal_unescaped(run: Run, canned: Canned) -> None:
    canned.status.healthz = "bad\x1b]0;owned\x07\x9b"
    canned.status.token.label = "\x1b[31mred"
    evil = "\x1b[2J\u202e\n"
    canned.status.tenants.extend(answers.tenants())
    for each in (
        *canned.calls,
        *canned.audit,
        *canned.mechanisms,
        *canned.diagnosis.checks,
        canned.diagnosis,
        canned.diagnosis.verdict,
        canned.diagnosis.timings[0],
        *canned.config.settings,
        *canned.slots,
        *canned.keys,
        *canned.peers,
        *canned.status.tenants,
        canned.status.tenants[1].problems[0],
    ):
        for field in each.DESCRIPTOR.fields:
            if field.type == field.TYPE_STRING and not field.is_repeated:
                setattr(each, field.name, getattr(each, field.name) + evil)
    for answer in (canned.inspection, canned.inspection.envelope, canned.inspection.jwe, canned.verdict):
        for field in answer.DESCRIPTOR.fields:
            if field.type == field.TYPE_STRING and not field.is_repeated:
                setattr(answer, field.name, getattr(answer, field.name) + evil)
    canned.inspection.findings[0].message += evil
    canned.frame.calls[0].method += evil
    canned.frame.keys[0].key_id += evil
    canned.frame.operations[0].method += evil
    for command in (
        ["keys", "list"],
        ["keys", "show", canned.keys[0].label],
        ["keys", "test", canned.keys[0].label],
        ["status"],
        ["slots"],
        ["tenants"],
        ["peers"],
        ["health"],
        ["mechanisms"],
        ["doctor"],
        ["config", "view"],
        ["requests"],
        ["audit", "tail"],
        ["audit", "verify"],
        ["stats"],
        ["inspect", "/dev/null"],
    ):
        for form in ("table", "wide", "json", "yaml", "name"):
            result = run(*command, "-o", form)
            for text in (result.text, result.err):
                assert all(each.isprintable() or each == "\n" for each in text), (command, form)


def test_columns_line_up_under_wide_characters(run: Run, canned: Canned) -> None:
    lines = run("keys", "list").text.splitlines()
    column = lines[0].index("STATE")
    wide = next(line for line in lines if line.startswith("鍵"))
    assert wide.index("pending") == column - 1  # one character that takes two columns


def test_an_empty_list_is_empty_on_stdout_and_says_what_next(run: Run, canned: Canned) -> None:
    canned.keys.clear()
    result = run("keys", "list")
    assert result.out == b""
    assert "kmsctl keygen LABEL" in result.err
    assert json.loads(run("keys", "list", "-o", "json").out) == {"keys": []}
    assert run("keys", "list", "-o", "name").out == b""


def test_options_work_before_the_command_and_after_it_the_later_wins(run: Run, canned: Canned) -> None:
    target = f"unix://{canned.admin}"
    before = run("--target", target, "--timeout", "5s", "-o", "name", "keys", "list")
    after = run("keys", "list", "--target", target, "--timeout", "5s", "-o", "name")
    both = run("--target", "/nowhere", "-o", "json", "keys", "list", "-o", "name", "--target", target)
    assert before.code == after.code == both.code == 0
    assert before.out == after.out == both.out
    assert before.out.startswith(b"k8s-kek\n")


@pytest.mark.parametrize("form", ["table", "json", "yaml", "name"])
@pytest.mark.parametrize(
    "command",
    [
        "ca show",
        "ca show --node node-2",
        "ca init --subject CN=x",
        "ca init --if-not-exists",
        "ca import -",
        "ca revoke 1a2b --reason keyCompromise --yes",
        "ca revoke --node node-1 --dry-run",
        "ca roll --yes",
    ],
)
def test_what_is_said_of_the_ca_reads_the_same_forever(
    run: Run, canned: Canned, snapshot: SnapshotAssertion, command: str, form: str
) -> None:
    result = run(*command.split(), "-o", form, stdin=b"x")
    assert result.code == 0
    assert (result.text, result.err) == snapshot


@pytest.mark.parametrize(
    "command",
    [
        "ca show --pem",
        "ca issue - --node node-1 --tenant cluster-a",
        "ca issue - --node node-1 --tenant cluster-a --chain",
        "ca issue - --node node-1 --tenant cluster-a -o json",
        "ca crl",
        "ca crl -o yaml",
        "ca init --csr -",
    ],
)
def test_what_the_ca_signs_reads_the_same_forever(
    run: Run, canned: Canned, snapshot: SnapshotAssertion, command: str
) -> None:
    result = run(*command.split(), stdin=b"x")
    assert result.code == 0
    assert (result.text, result.err) == snapshot


@pytest.mark.parametrize("state", ["none", "waiting"])
def test_a_ca_that_is_not_ready_says_what_next(
    run: Run, canned: Canned, snapshot: SnapshotAssertion, state: str
) -> None:
    canned.ca_state = state
    result = run("ca", "show")
    assert (result.code, result.text, result.err) == snapshot


@pytest.mark.parametrize("form", ["table", "json", "yaml"])
def test_a_check_of_a_node_reads_the_same_forever(
    run: Run, snapshot: SnapshotAssertion, directory: Path, form: str
) -> None:
    config = directory / "encryption-config.yaml"
    made = run("k8s", "manifest", "encryption-config", "--socket", str(directory / "kmsd" / "kms.sock"))
    config.write_text(made.text.replace("DIR", str(directory)))
    config.chmod(0o600)
    result = run("k8s", "check", "--no-manifest", "--encryption-config", str(config), "-o", form)
    assert (result.code, result.text, result.err) == snapshot


@pytest.mark.parametrize("form", ["table", "json", "yaml"])
def test_a_patch_reads_the_same_forever(run: Run, snapshot: SnapshotAssertion, directory: Path, form: str) -> None:
    manifest = directory / "kube-apiserver.yaml"
    manifest.write_bytes((Path(__file__).parents[1] / "vectors" / "kube-apiserver.yaml").read_bytes())
    result = run("k8s", "apply-patch", str(manifest), "-o", form)
    assert (result.code, result.text, result.err) == snapshot
    result = run("k8s", "apply-patch", str(manifest), "--jwt-socket", "/run/kmsd-jwt/jwt.sock", "-o", form)
    assert (result.code, result.text, result.err) == snapshot(name="service account tokens")


@pytest.mark.parametrize("form", ["table", "json", "yaml", "name"])
@pytest.mark.parametrize(
    "command",
    [
        "jwt keys",
        "jwt keys --tenant cluster-a",
        "jwt show sa-signer",
        "jwt show VHJ1c3Rl",
        "jwt import --pem - --pending",
        "jwt trust --pem - --exclude-from-discovery",
        "jwt untrust VHJ1c3Rl --confirm VHJ1c3Rl",
        "jwt retire T2xkS2V5 --dry-run",
    ],
)
def test_what_is_said_of_token_keys_reads_the_same_forever(
    run: Run, canned: Canned, snapshot: SnapshotAssertion, command: str, form: str
) -> None:
    result = run(*command.split(), "-o", form, stdin=b"x")
    assert result.code == 0
    assert (result.text, result.err) == snapshot


@pytest.mark.parametrize(
    "command",
    [
        "jwt keys -o wide",
        "jwt export",
        "jwt export --all -o yaml",
        "jwt export --pem --all",
        "jwt import --pem - --dry-run",
        "jwt rotate --again --yes",
        "jwt rotate",
        "jwt rotate --again --dry-run -o json",
        "jwt revert --yes",
        "jwt revert --dry-run -o yaml",
    ],
)
def test_what_a_rotation_of_token_keys_says_reads_the_same_forever(
    run: Run, canned: Canned, snapshot: SnapshotAssertion, command: str
) -> None:
    result = run(*command.split(), stdin=b"x")
    assert result.code == 0
    assert (result.text, result.err) == snapshot


def test_a_signer_without_a_key_says_what_next(run: Run, canned: Canned, snapshot: SnapshotAssertion) -> None:
    canned.jwt_state = "no-key"
    result = run("jwt", "keys")
    assert (result.code, result.text, result.err) == snapshot
