"""kmsctl etcd scan, against a real etcd: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from syrupy.assertion import SnapshotAssertion

import kmsd.etcd.scan  # noqa: F401 - loaded while this process may read it
from kmsd.client.report import read_report
from tests.ctl.answers import OLD_ID, WRITE_ID
from tests.ctl.canned import Canned
from tests.ctl.conftest import Result, Run
from tests.ctl.test_exit_codes import unprivileged
from tests.etcd.server import Authority, Server
from tests.etcd.test_scan import EVERY_KIND
from tests.etcd.values import SEALED, native, v1, v2

ESCAPES = b"\x1b]0;owned\x07"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An etcd with every kind of value, and objects that are not encrypted."""
    server = Server(tmp_path_factory.mktemp("etcd"))
    try:
        server.start().put(EVERY_KIND)
        server.put({f"/registry/events/default/{number}": b"k8s\0" for number in range(7)})
        yield server
    finally:
        server.stop()


@pytest.fixture(autouse=True)
def no_etcdctl(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ETCDCTL_")]:
        monkeypatch.delenv(name)


def steady(result: Result) -> tuple[str, str]:
    """Without what differs from one etcd to the next."""
    text = re.sub(r'("?cluster_id"?: )("?)[0-9a-f\']+("?)', r"\1\2CLUSTER\3", result.text)
    text = re.sub(r'("?revision"?: )[0-9]+', r"\1REVISION", text)
    text = re.sub(r"[0-9-]{10}T[0-9:.]{12}Z", "TIME", text)
    return text, result.err


@pytest.mark.parametrize("form", ["table", "wide", "json", "yaml", "name"])
def test_a_scan_reads_the_same_forever(
    run: Run, canned: Canned, filled: Server, snapshot: SnapshotAssertion, form: str
) -> None:
    result = run("etcd", "scan", "--endpoints", filled.url, "-o", form)
    assert result.code == 0
    assert steady(result) == snapshot


def test_json_and_yaml_say_the_same(run: Run, canned: Canned, filled: Server) -> None:
    documents = [
        json.loads(run("etcd", "scan", "--endpoints", filled.url, "-o", "json").out),
        yaml.safe_load(run("etcd", "scan", "--endpoints", filled.url, "-o", "yaml").out),
    ]
    for each in documents:
        del each["started_at"], each["finished_at"]
    assert documents[0] == documents[1]
    assert documents[0]["write_key_id"] == WRITE_ID
    assert documents[0]["under_write_key"] == 3
    assert documents[0]["objects"] == sum(each["objects"] for each in documents[0]["counts"])


def test_the_environment_of_etcdctl_names_etcd(
    run: Run, canned: Canned, filled: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETCDCTL_ENDPOINTS", f"127.0.0.1:1,{filled.url}")
    assert run("etcd", "scan", "-o", "name").out.splitlines()[0] == WRITE_ID.encode()
    assert run("etcd", "scan", "--endpoints", "127.0.0.1:1").code == 3  # what is typed wins


def test_the_report_is_what_retiring_reads_and_nobody_else_may(
    run: Run, canned: Canned, filled: Server, directory: Path
) -> None:
    path = directory / "scan.json"
    result = run("etcd", "scan", "--endpoints", filled.url, "--report", str(path), "-o", "json")
    assert result.code == 0
    assert "kmsctl keys retire KEY --report DIR/scan.json" in result.err
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    report = read_report(path.read_bytes())
    document = json.loads(result.out)
    assert (report.objects, report.unknown) == (document["objects"], document["unknown"])
    assert {(each.key_id, each.by_label, each.objects) for each in report.uses} == {
        (WRITE_ID, False, 3),
        (OLD_ID, False, 3),
        ("k8s-dek", True, 2),
        ("arn:aws:kms:1", False, 1),
    }


def test_a_report_that_cannot_be_written_fails_after_the_counts_are_told(
    run: Run, canned: Canned, filled: Server, directory: Path
) -> None:
    result = run("etcd", "scan", "--endpoints", filled.url, "--report", str(directory / "no" / "such"), "-o", "name")
    assert result.code == 2
    assert result.out
    assert "cannot write DIR/no/such" in result.err


def test_without_kmsd_the_scan_still_counts_and_says_what_it_does_not_know(run: Run, filled: Server) -> None:
    result = run("etcd", "scan", "--endpoints", filled.url, "-o", "json")
    assert result.code == 0
    document = json.loads(result.out)
    assert (document["write_key_id"], document["under_write_key"]) == (None, None)
    assert "which key writes at present is not known: kmsd does not run" in result.err
    assert "under the present write key" not in result.err


def test_an_empty_etcd_is_worth_a_warning(run: Run, canned: Canned, filled: Server) -> None:
    result = run("etcd", "scan", "--endpoints", filled.url, "--prefix", "/kubernetes.io")
    assert (result.code, result.out) == (0, b"")
    assert "warning: nothing is stored below /kubernetes.io" in result.err


def test_when_all_is_under_the_write_key_there_is_nothing_to_rewrite(run: Run, canned: Canned, directory: Path) -> None:
    server = Server(directory)
    try:
        server.start().put({"/registry/secrets/a/b": v2(WRITE_ID)})
        result = run("etcd", "scan", "--endpoints", server.url)
    finally:
        server.stop()
    assert result.err == "kmsctl: 1 object, 1 under the present write key, 0 plaintext\n"
    assert "the write key" in result.text


def test_what_etcd_holds_reaches_neither_a_terminal_nor_a_shell(run: Run, canned: Canned, directory: Path) -> None:
    server = Server(directory)
    try:
        server.start().put_many(
            [
                (f"/registry/{ESCAPES.decode()}$(reboot)/a/b", v2("key" + ESCAPES.decode(), provider=b"p" + ESCAPES)),
                ("/registry/secrets/a/b", v1(native("it's\nhere"), ESCAPES)),
                ("/registry/a;b.x/$(reboot)/c", v2(OLD_ID)),
            ]
        )
        for form in ("table", "wide", "json", "yaml", "name"):
            result = run("etcd", "scan", "--endpoints", server.url, "-o", form)
            assert result.code == 0
            for text in (result.text, result.err):
                assert all(each.isprintable() or each == "\n" for each in text), form
            assert "get secrets " in result.err
            assert "reboot" not in result.err
    finally:
        server.stop()


def test_no_value_is_ever_shown(run: Run, canned: Canned, filled: Server, directory: Path) -> None:
    for form in ("table", "wide", "json", "yaml", "name"):
        result = run("--debug", "etcd", "scan", "--endpoints", filled.url, "-o", form, "--report", f"{directory}/r")
        shown = result.out + result.err.encode() + (directory / "r").read_bytes()
        assert SEALED[:8] not in shown
        assert b"ciphertext" not in shown.replace(b"the ciphertext", b"")
        assert native()[:40] not in shown


USAGE = [
    "etcd",
    "etcd scna",
    "etcd scan --endpoints ftp://x",
    "etcd scan --endpoints ,",
    "etcd scan --prefix=",
    "etcd scan --show 1001",
    "etcd scan --cacert /nonexistent",
    "etcd scan --endpoints https://127.0.0.1:1 --cert /dev/null",
    "etcd scan --user root",
    "etcd scan --user root:secret --password-file /dev/null",
    "etcd scan --password-file /dev/null",
    "etcd scan --user root --password-file /dev/null",
    "etcd scan --user root --password-file /nonexistent",
    "etcd scan --endpoints http://127.0.0.1:1 --cacert /dev/null",
]


@pytest.mark.parametrize("line", USAGE)
def test_what_makes_no_sense_is_a_usage_error(run: Run, canned: Canned, line: str) -> None:
    result = run(*line.split())
    assert (result.code, result.out) == (2, b"")
    assert "secret" not in result.err.replace("root:secret", "")
    assert not canned.requests


def test_an_etcd_that_is_not_there_is_unreachable(run: Run, canned: Canned) -> None:
    result = run("etcd", "scan", "--endpoints", "127.0.0.1:1")
    assert (result.code, result.out) == (3, b"")
    assert "cannot reach etcd at 127.0.0.1:1: connection refused" in result.err
    assert "retry: " in result.err


def test_an_etcd_that_refuses_is_denied_and_a_password_over_http_is_warned_about(
    run: Run, canned: Canned, directory: Path
) -> None:
    server = Server(directory)
    password = directory / "password"
    password.write_text("wrong-secret\nsecond line\n")
    try:
        server.start()
        for command in ("user add root:right-secret", "user grant-role root root", "auth enable"):
            server.ctl(*command.split())
        denied = run("etcd", "scan", "--endpoints", server.url)
        wrong = run("etcd", "scan", "--endpoints", server.url, "--user", "root", "--password-file", str(password))
        password.write_text("right-secret\n")
        right = run("etcd", "scan", "--endpoints", server.url, "--user", "root", "--password-file", str(password))
    finally:
        server.stop()
    assert (denied.code, wrong.code, right.code) == (4, 4, 0)
    assert "--password-file" in denied.err
    assert "goes to http://127.0.0.1:" in right.err
    assert "secret" not in wrong.err + right.err


def test_certificates_come_from_options_and_from_the_environment(
    run: Run, canned: Canned, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(directory, "ca")
    certificate, key = authority.issue("server")
    mine = authority.issue("client")
    flags = [f"--cert-file={certificate}", f"--key-file={key}", "--client-cert-auth"]
    server = Server(directory, [*flags, f"--trusted-ca-file={authority.certificate}"], "https")
    monkeypatch.setenv("ETCDCTL_CACERT", str(authority.certificate))
    try:
        server.start()
        without = run("etcd", "scan", "--endpoints", server.url)
        typed = run("etcd", "scan", "--endpoints", server.url, "--cert", str(mine[0]), "--key", str(mine[1]))
        monkeypatch.setenv("ETCDCTL_CERT", str(mine[0]))
        monkeypatch.setenv("ETCDCTL_KEY", str(mine[1]))
        found = run("etcd", "scan", "--endpoints", server.url)
    finally:
        server.stop()
    assert (without.code, typed.code, found.code) == (4, 0, 0)
    assert "wants a client certificate" in without.err


def test_files_that_only_root_may_read_are_denied(run: Run, directory: Path) -> None:
    private = directory / "private"
    private.mkdir(mode=0o700 if os.geteuid() == 0 else 0o300)
    certificate = Authority(private, "ca").certificate
    certificate.chmod(0o000)
    with unprivileged():
        result = run("etcd", "scan", "--cacert", str(certificate))
    assert (result.code, result.out) == (4, b"")
    assert "no permission to read DIR/private/ca.crt" in result.err


def test_the_objects_that_need_looking_at_are_named_and_no_more_than_asked_for(
    run: Run, canned: Canned, filled: Server
) -> None:
    found = json.loads(run("etcd", "scan", "--endpoints", filled.url, "--show", "1000", "-o", "json").text)
    named = {each["key"] for each in found["shown"]}
    needing = [each for each in found["counts"] if each["reason"] or (each["key_id"] or each["label"])]
    under = found["under_write_key"]
    assert len(named) == sum(each["objects"] for each in needing) - under
    assert named < EVERY_KIND.keys()
    few = run("etcd", "scan", "--endpoints", filled.url, "--show", "2")
    assert sum(line.startswith("/registry/") for line in few.text.splitlines()) == 2
    assert json.loads(run("etcd", "scan", "--endpoints", filled.url, "-o", "json").text)["shown"] == []


def test_what_kube_apiserver_keeps_for_itself_is_not_for_kubectl(run: Run, canned: Canned, tmp_path: Path) -> None:
    server = Server(tmp_path)
    try:
        server.start().put(
            {
                "/registry/ranges/serviceips": v2(OLD_ID),
                "/registry/podsecuritypolicy/restricted": v2(OLD_ID),
                "/registry/masterleases/10.0.0.1": v2(OLD_ID),
                "/registry/peerserverleases/x": v1(native(OLD_ID)),
                "/registry/secrets/default/a": v2(OLD_ID),
            }
        )
        for command in (("etcd", "scan"), ("migrate", "status")):
            err = run(*command, "--endpoints", server.url).err
            assert "kubectl get ranges" not in err
            assert "kubectl get podsecuritypolicies" not in err
            assert "leases --all-namespaces" not in err
        err = run("etcd", "scan", "--endpoints", server.url).err
        assert "`kubectl get secrets --all-namespaces" in err
        assert "masterleases, peerserverleases, ranges: kube-apiserver's own records" in err
        assert "podsecuritypolicies: Kubernetes serves them no more since 1.25" in err
        assert "kube-apiserver writes by KMS v1 here" not in err
        server.put({"/registry/secrets/default/b": v1(native(WRITE_ID))})
        assert "kube-apiserver writes by KMS v1 here" in run("etcd", "scan", "--endpoints", server.url).err
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("flags", "variables"),
    [
        ((), {"ETCDCTL_USER": "scan:Sesam-2:x"}),
        ((), {"ETCDCTL_USER": "scan", "ETCDCTL_PASSWORD": "Sesam-2:x"}),
        (("--user", "scan"), {"ETCDCTL_PASSWORD": "Sesam-2:x"}),
        (("--user", "scan"), {"ETCDCTL_USER": "other:wrong", "ETCDCTL_PASSWORD": "Sesam-2:x"}),
        ((), {"ETCDCTL_USER": "other:wrong"}),
    ],
)
def test_etcdctls_own_variables_log_in(
    run: Run,
    canned: Canned,
    guarded: Server,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
    variables: dict[str, str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    result = run("etcd", "scan", "--endpoints", guarded.url, "--prefix", "kubernetes.io", *flags, "-o", "json")
    assert "Sesam" not in result.err
    if result.code == 0:
        assert json.loads(result.text)["objects"] == 1
    assert result.code == (4 if variables == {"ETCDCTL_USER": "other:wrong"} else 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ETCDCTL_INSECURE_SKIP_TLS_VERIFY", "true"),
        ("ETCDCTL_COMMAND_TIMEOUT", "60s"),
        ("ETCDCTL_DIAL_TIMEOUT", "2s"),
    ],
)
def test_a_variable_of_etcdctls_that_is_not_followed_is_said_not_to_be(
    run: Run, canned: Canned, filled: Server, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert f"{name} is not followed" in run("etcd", "scan", "--endpoints", filled.url).err


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An etcd with users, as kube-apiserver's --etcd-prefix without a slash fills it."""
    server = Server(tmp_path_factory.mktemp("guarded"))
    try:
        server.start().put({"/kubernetes.io/secrets/default/a": v2(OLD_ID)})
        server.ctl("role", "add", "r")
        server.ctl("role", "grant-permission", "r", "--prefix=true", "read", "/kubernetes.io/")
        for user, role in (("root:Sesam-1", "root"), ("scan:Sesam-2:x", "r")):
            server.ctl("user", "add", user)
            server.ctl("user", "grant-role", user.partition(":")[0], role)
        server.ctl("auth", "enable")
        yield server
    finally:
        server.stop()
