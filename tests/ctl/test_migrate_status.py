"""kmsctl migrate status, against a real etcd: what counts as foreign, and what it says to do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from syrupy.assertion import SnapshotAssertion

import kmsd.etcd.scan  # noqa: F401 - loaded while this process may read it
from tests.ctl.conftest import Result, Run
from tests.ctl.test_etcd import steady
from tests.etcd.server import Server
from tests.etcd.test_scan import EVERY_KIND
from tests.etcd.values import (
    K8S_KMS_PLUGIN_CBC,
    K8S_KMS_PLUGIN_GCM,
    NEW_ID,
    SEALED,
    k8s_kms_plugin_gcm,
    keysealer,
    native,
    v1,
    v2,
)

PLAIN = {f"/registry/events/default/{number}": b"k8s\0" for number in range(7)}
DONE = {"/registry/secrets/a/b": v2(NEW_ID), "/registry/configmaps/a/b": v2(NEW_ID), **PLAIN}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    one = Server(tmp_path_factory.mktemp("etcd"))
    try:
        yield one.start()
    finally:
        one.stop()


@pytest.fixture(autouse=True)
def no_etcdctl(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ETCDCTL_")]:
        monkeypatch.delenv(name)


def holding(server: Server, values: Mapping[str, bytes]) -> str:
    server.clear()
    if values:
        server.put(values)
    return server.url


def status(run: Run, server: Server, values: Mapping[str, bytes], *argv: str) -> Result:
    return run("migrate", "status", "--endpoints", holding(server, values), *argv)


@pytest.mark.parametrize("form", ["table", "json", "yaml"])
def test_every_kind_is_counted_where_it_belongs(
    run: Run, server: Server, snapshot: SnapshotAssertion, form: str
) -> None:
    result = status(run, server, {**EVERY_KIND, **PLAIN}, "-o", form)
    assert result.code == 0
    assert steady(result) == snapshot


def test_the_formats_of_a_document_add_up(run: Run, server: Server) -> None:
    result = status(run, server, {**EVERY_KIND, **PLAIN}, "-o", "json")
    document = json.loads(result.out)
    assert document["formats"] == {
        "native": 5,
        "k8s-kms-plugin aes-gcm": 2,
        "k8s-kms-plugin aes-cbc": 1,
        "keysealer": 1,
        "plaintext": 12,
        "other": 5,
    }
    assert document["objects"] == sum(document["formats"].values()) == sum(e["objects"] for e in document["groups"])
    assert document["foreign"] == sum(each["objects"] for each in document["groups"] if each["foreign"])
    again = yaml.safe_load(run("migrate", "status", "--endpoints", server.url, "-o", "yaml").out)
    for each in (document, again):
        del each["started_at"], each["finished_at"]
    assert document == again


def test_when_all_is_native_the_check_passes_and_says_what_may_go(run: Run, server: Server) -> None:
    result = status(run, server, DONE, "--check")
    assert result.code == 0
    assert "9 objects, 0 in a foreign format" in result.err
    assert "drop the providers that no value names" in result.err
    assert "kubectl" not in result.err


@pytest.mark.parametrize(
    "value",
    [
        v1(k8s_kms_plugin_gcm(), b"thales"),
        v1(K8S_KMS_PLUGIN_GCM[0], b"thales"),
        v1(K8S_KMS_PLUGIN_CBC[0], b"thales"),
        v1(keysealer(b"\x00\xff\x10"), b"keysealer"),
        v2(NEW_ID, k8s_kms_plugin_gcm()),
        v2("arn:aws:kms:1", b"opaque", b"aws"),
        b"k8s:enc:aescbc:v1:key1:" + SEALED,
        b"k8s\0 a plain Secret",
        v2(NEW_ID)[:-3],
    ],
)
def test_one_foreign_object_fails_the_check_and_no_other_run(run: Run, server: Server, value: bytes) -> None:
    holds = {**DONE, "/registry/secrets/a/foreign": value}
    checked = status(run, server, holds, "--check", "-o", "json")
    assert checked.code == 7
    assert json.loads(checked.out)["foreign"] == 1
    assert "`kubectl get secrets --all-namespaces -o json | kubectl replace -f -`" in checked.err
    assert status(run, server, holds).code == 0


def test_plain_objects_of_a_resource_that_others_of_are_encrypted_are_foreign(run: Run, server: Server) -> None:
    plain = {"/registry/configmaps/a/plain": b"k8s\0", "/registry/pods/a/plain": b"k8s\0"}
    document = json.loads(status(run, server, {**DONE, **plain}, "-o", "json").out)
    groups = [(each["resources"], each["foreign"]) for each in document["groups"] if each["format"] == "plaintext"]
    assert groups == [(["configmaps"], True), (["events", "pods"], False)]


def test_what_aes_cbc_wrote_is_told_first(run: Run, server: Server) -> None:
    holds = {"/registry/secrets/a/1": v1(K8S_KMS_PLUGIN_CBC[0]), "/registry/secrets/a/2": v1(k8s_kms_plugin_gcm())}
    result = status(run, server, holds)
    hints = [line for line in result.err.splitlines() if line.startswith("hint: ")]
    assert "1 object was written by k8s-kms-plugin with aes-cbc, which protects nothing" in hints[0]
    assert "not authenticated: rewrite" in result.text


def test_native_values_under_kms_v1_pass_the_check_but_their_provider_may_not_go(run: Run, server: Server) -> None:
    result = status(run, server, {"/registry/secrets/a/1": v1(native(), b"thales")}, "--check")
    assert result.code == 0
    assert "still under KMS v1 (thales): rewrite them before it goes" in result.err
    assert "kubectl get secrets" in result.err
    assert "drop the providers" not in result.err


def test_nothing_at_all_is_no_proof(run: Run, server: Server) -> None:
    result = status(run, server, {}, "--check")
    assert (result.code, result.out) == (7, b"")
    assert "warning: nothing is stored below /registry" in result.err


def test_what_etcd_holds_reaches_neither_a_terminal_nor_a_shell(run: Run, server: Server) -> None:
    escapes = "\x1b]0;owned\x07"
    holds = {
        f"/registry/{escapes}$(reboot)/a/b": v1(k8s_kms_plugin_gcm("x" + escapes), b"p" + escapes.encode()),
        "/registry/a;b.x/$(reboot)/c": v1(k8s_kms_plugin_gcm(), b"`reboot`"),
        "/registry/secrets/a/b": v1(native(), escapes.encode()),
    }
    holding(server, {})
    server.put_many(list(holds.items()))
    for form in ("table", "json", "yaml"):
        result = run("migrate", "status", "--endpoints", server.url, "-o", form)
        assert result.code == 0
        assert all(each.isprintable() or each == "\n" for each in result.text + result.err), form
        assert "reboot" not in result.err


def test_an_etcd_that_is_not_there_is_unreachable(run: Run) -> None:
    result = run("migrate", "status", "--endpoints", "127.0.0.1:1", "--check")
    assert (result.code, result.out) == (3, b"")


@pytest.mark.parametrize("usage", ["--prefix=", "--endpoints ftp://x", "-o wide", "--user root", "extra"])
def test_what_makes_no_sense_is_a_usage_error(run: Run, usage: str, directory: Path) -> None:
    result = run("migrate", "status", *usage.split())
    assert (result.code, result.out) == (2, b"")
