"""Kubeconfigs are read as kubectl reads them, and what would give the credentials away is refused in a sentence."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kmsctl.diagnostics import UsageError
from kmsctl.kubeapi import credentials
from kmsctl.kubeapi.credentials import Credential, Credentials
from kmsctl.kubeapi.kubeconfig import KubeAccess, read
from kmsctl.rewrite.plan import RewriteOptions, RewriteWay
from kmsd.client import ClientError

SECRET = "never-in-a-message"
SERVER = "https://10.0.0.1:6443"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes a kubeconfig of one context, `here`, and makes it the one of the environment."""

    def make(cluster: Any = None, user: Any = None, name: str = "config", **top: Any) -> Path:
        document = {
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": SERVER} if cluster is None else cluster}],
            "users": [{"name": "u", "user": {"token": SECRET} if user is None else user}],
        }
        place = tmp_path / name
        place.write_text(yaml.safe_dump(document | top))
        monkeypatch.setenv("KUBECONFIG", str(place))
        return place

    return make


def test_what_stands_in_the_file_and_what_it_names_beside_itself_is_found(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "ca.crt").write_bytes(b"ca")
    inline = {f"client-{each}-data": base64.b64encode(each.encode()).decode() for each in ("certificate", "key")}
    cluster = {"server": f"{SERVER}/", "certificate-authority": "ca.crt", "tls-server-name": "kube"}
    write(cluster, {**inline, "tokenFile": "token"})
    found = read("", "")
    assert (found.server, found.ca, found.server_name) == (SERVER, b"ca", "kube")
    assert (found.certificate, found.key, found.token_file) == (b"certificate", b"key", str(tmp_path / "token"))


def test_of_several_files_the_first_that_has_a_name_decides(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    second = write({"server": "https://second:1"}, name="second")
    first = write({"server": "https://first:1"}, name="first", users=[], **{"current-context": ""})
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/missing:{first}:{second}")
    found = read("", "")
    assert (found.server, found.token) == ("https://first:1", SECRET)


@pytest.mark.parametrize(
    ("cluster", "user", "sentence"),
    [
        ({"server": SERVER, "insecure-skip-tls-verify": True}, None, "whoever answers would get the credentials"),
        ({"server": "http://10.0.0.1:8080"}, None, "credentials would cross the network as they are"),
        ({"server": "https://u:p@h"}, None, "server must be a URL as https://host:6443"),
        ({"server": "https://[::1"}, None, "server must be a URL as https://host:6443"),
        ({"server": SERVER, "proxy-url": "socks5://p:1"}, None, "proxy-url must begin with http:// or https://"),
        ({"server": SERVER, "certificate-authority-data": "%"}, None, "certificate-authority-data is not base64"),
        ({"server": SERVER, "certificate-authority": "gone"}, None, "cannot read"),
        ({"server": 7}, None, "server must be text, got int"),
        (None, {"username": "a", "password": SECRET}, "Kubernetes takes none since 1.19"),
        (None, {"auth-provider": {"name": "gcp"}}, "kubectl has none since 1.26"),
        (None, {"token": SECRET, "as": "admin"}, "impersonation"),
        (None, {"client-certificate-data": "YQ=="}, "client-key is missing"),
        (None, {"exec": {"command": "p", "apiVersion": "client.authentication.k8s.io/v1alpha1"}}, "apiVersion must be"),
        (
            None,
            {"exec": {"command": "p", "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Always"}},
            "wants to ask somebody",
        ),
        (None, {"exec": {"apiVersion": "client.authentication.k8s.io/v1"}}, "command is missing"),
    ],
)
def test_what_is_not_followed_is_refused_with_its_reason(
    write: Callable[..., Path], cluster: Any, user: Any, sentence: str
) -> None:
    write(cluster, user)
    with pytest.raises(UsageError) as caught:
        read("", "")
    assert sentence in caught.value.message + caught.value.hint
    assert SECRET not in caught.value.message + caught.value.hint


def test_http_is_taken_for_this_machine_alone_and_without_a_user(write: Callable[..., Path]) -> None:
    write({"server": "http://127.0.0.1:8001"}, contexts=[{"name": "here", "context": {"cluster": "c"}}])
    assert read("", "").server == "http://127.0.0.1:8001"


@pytest.mark.parametrize("text", ["{", "- a", "kind: Pod", "a: &a [*a]", "[" * 1500], ids=range(5))
def test_what_is_no_kubeconfig_is_told_as_such(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(UsageError, match=r"is no YAML|is no kubeconfig"):
        read(str(tmp_path / "file"), "")


def test_a_context_that_is_missing_is_told_with_those_that_are_there(write: Callable[..., Path]) -> None:
    write()
    with pytest.raises(UsageError, match=r"no context 'there' in .*; there is 'here'"):
        read("", "there")


def test_where_there_is_none_the_place_of_kubeadm_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(UsageError) as caught:
        read("", "")
    assert "/etc/kubernetes/admin.conf" in caught.value.hint


def test_no_secret_is_shown_by_what_holds_it(write: Callable[..., Path]) -> None:
    write(user={"token": SECRET, "client-certificate-data": "YQ==", "client-key-data": base64.b64encode(b"k").decode()})
    assert SECRET not in repr(read("", ""))
    assert SECRET not in repr(Credential(SECRET, b"", SECRET.encode()))


def _plugin(write: Callable[..., Path], tmp_path: Path, script: str) -> KubeAccess:
    program = tmp_path / "plugin"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    environment = [{"name": "ANSWER", "value": SECRET}]
    given = {"command": "./plugin", "apiVersion": "client.authentication.k8s.io/v1", "env": environment}
    write(user={"exec": given | {"args": ["get-token"], "provideClusterInfo": True}})
    return read("", "")


@pytest.mark.processes
def test_a_plugin_is_told_of_the_cluster_and_gives_a_token(write: Callable[..., Path], tmp_path: Path) -> None:
    told = tmp_path / "told"
    status = '{"token": "\'$ANSWER-$1\'", "expirationTimestamp": "2999-01-01T00:00:00Z"}'
    answer = f'{{"kind": "ExecCredential", "status": {status}}}'
    access = _plugin(write, tmp_path, f"echo \"$KUBERNETES_EXEC_INFO\" >> {told}; echo '{answer}'")

    async def twice() -> set[str]:
        source = Credentials(access)
        return {(await source.get()).token, (await source.get()).token}

    assert asyncio.run(twice()) == {f"{SECRET}-get-token"}
    (info,) = map(json.loads, told.read_text().splitlines())  # it was run once
    assert info["spec"] == {"interactive": False, "cluster": {"server": SERVER}}


@pytest.mark.processes
@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("echo $ANSWER >&2; exit 3", "ended with 3"),
        ("echo $ANSWER", "answers no ExecCredential"),
        ('echo \'{"kind": "ExecCredential", "status": {}}\'', "gives neither a token nor a certificate"),
        ('echo \'{"kind": "ExecCredential", "status": {"token": "a b"}}\'', "must be printable ASCII"),
        ("yes", "says more than 1 MiB"),
        ("sleep 60", "has not ended within 0.2 s"),
    ],
    ids=lambda value: value if " " not in value or len(value) < 9 else "",
)
def test_a_plugin_that_fails_is_told_and_what_it_says_is_not(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, sentence: str
) -> None:
    if script.startswith("sleep"):
        monkeypatch.setattr(credentials, "PLUGIN_SECONDS", 0.2)
    access = _plugin(write, tmp_path, script)
    with pytest.raises(ClientError, match=sentence) as caught:
        asyncio.run(Credentials(access).get())
    assert SECRET not in caught.value.message + caught.value.hint


@pytest.mark.processes
def test_a_plugin_that_is_not_there_is_told_with_how_to_install_it(write: Callable[..., Path]) -> None:
    given = {"command": "no-such-plugin", "apiVersion": "client.authentication.k8s.io/v1", "installHint": "apt install"}
    write(user={"exec": given})
    with pytest.raises(ClientError, match="the credential plugin no-such-plugin does not start") as caught:
        asyncio.run(Credentials(read("", "")).get())
    assert caught.value.hint == "apt install"


def test_a_token_file_is_read_anew_after_a_refusal(write: Callable[..., Path], tmp_path: Path) -> None:
    write(user={"tokenFile": "token"})
    (tmp_path / "token").write_text("one\n")

    async def get() -> list[str]:
        source = Credentials(read("", ""))
        first = (await source.get()).token
        (tmp_path / "token").write_text("two\n")
        kept = (await source.get()).token
        assert source.refused()
        return [first, kept, (await source.get()).token]

    assert asyncio.run(get()) == ["one", "one", "two"]


def test_the_options_come_to_a_plan_that_names_them_once_more(write: Callable[..., Path]) -> None:
    place = write()
    given = RewriteOptions(True, str(place), "here", 5.0, RewriteWay.UPDATES, ["secrets", "configmaps"])
    plan = given.plan()
    assert plan is not None
    assert (plan.rate, plan.way, plan.resources) == (5.0, RewriteWay.UPDATES, ("secrets", "configmaps"))
    words = f"--rewrite --kubeconfig {place} --context here --rewrite-rate 5 --rewrite-by updates"
    assert plan.arguments == (*words.split(), *["--rewrite-resource", "secrets", "--rewrite-resource", "configmaps"])
    assert RewriteOptions().plan() is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (RewriteOptions(kubeconfig="x"), "--kubeconfig needs --rewrite"),
        (RewriteOptions(rewrite_resource=["pods"]), "--rewrite-resource needs --rewrite"),
        (RewriteOptions(True, rewrite_rate=0.0), "must be more than 0 and 1000 at most, got 0"),
        (RewriteOptions(True, rewrite_rate=float("nan")), "must be more than 0 and 1000 at most, got nan"),
        (RewriteOptions(True, rewrite_resource=["x"] * 101), "100 times at most, got 101"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: RewriteOptions, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        options.plan()
