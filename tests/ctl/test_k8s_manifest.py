"""kmsctl k8s manifest: what ships, byte for byte, and with a site's own names in the places that it has for them."""

from __future__ import annotations

import copy
import difflib
import os
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # it has none
import pytest
import yaml

from kmsctl.kubernetes import encryption_rules, manifests
from kmsctl.migrate import encryption_config
from tests.ctl.conftest import Run
from tests.daemons import KMSCTL
from tests.pages import PAGES, Block, blocks

K8S = Path(__file__).parents[2] / "k8s"
DIGEST = f"registry.example/kmsd@sha256:{'0123456789abcdef' * 4}"


def written(run: Run, *argv: str) -> list[dict[str, Any]]:
    result = run("k8s", "manifest", *argv)
    assert result.code == 0, result.err
    return list(yaml.safe_load_all(result.text))


def only(run: Run, *argv: str) -> dict[str, Any]:
    (document,) = written(run, *argv)
    return document


@pytest.mark.parametrize(
    ("argv", "path"),
    [
        (["standalone"], "static-pod/kmsd.yaml"),
        (["standalone", "--socket", "/run/kmsd/kms.sock", "--token-label", "kmsd"], "static-pod/kmsd.yaml"),
        (["proxy"], "proxy/kmsd-proxy.yaml"),
        (["encryption-config"], "encryption-config/v2.yaml"),
        (["encryption-config", "--name", "kmsd", "--resource", "secrets"], "encryption-config/v2.yaml"),
        (["encryption-config", "--api", "v1"], "encryption-config/v1beta1.yaml"),
    ],
    ids=" ".join,
)
def test_without_names_of_ones_own_it_is_what_ships(run: Run, argv: Sequence[str], path: str) -> None:
    assert run("k8s", "manifest", *argv).out == (K8S / path).read_bytes()


def test_the_key_manager_is_what_kustomize_makes_of_what_ships(run: Run) -> None:
    documents = {each["kind"]: each for each in written(run, "key-manager")}
    for part in manifests.KEY_MANAGER_PARTS:
        shipped = yaml.safe_load((K8S / "key-manager" / f"{part}.yaml").read_text())
        ours = documents[shipped["kind"]]
        if shipped["kind"] != "Namespace":
            assert ours["metadata"].pop("namespace") == "kmsd"
        assert ours == shipped
    assert documents["ConfigMap"]["data"] == {"kmsd.toml": (K8S / "key-manager" / "kmsd.toml").read_text()}
    listed = yaml.safe_load((K8S / "key-manager" / "kustomization.yaml").read_text())["resources"]
    assert {f"{part}.yaml" for part in manifests.KEY_MANAGER_PARTS} == set(listed)


def test_a_static_pod_gets_the_names_of_a_site(run: Run) -> None:
    pod = only(
        run,
        *("standalone", "--image", DIGEST, "--socket", "/run/hsm/kms.sock", "--token-label", "pro: d #1"),
        *("--key-label", "kek-1", "--module", "/opt/hsm/lib/p11.so", "--mount", "/opt/hsm", "--mount", "/etc/hsm"),
        *("--user", "10001", "--group", "10002"),
    )["spec"]
    (container,) = pod["containers"]
    assert container["image"] == DIGEST
    assert container["args"] == [
        *("serve", "--p11-lib=/opt/hsm/lib/p11.so", "--p11-label=pro: d #1", "--p11-pin-file=/etc/kmsd/pin"),
        *("--p11-key-label=kek-1", "--socket=/run/hsm/kms.sock", "--admin-socket=/run/kmsd-admin/admin.sock"),
        *("--state-dir=/var/lib/kmsd", "--log-format=json"),
    ]
    mounted = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    assert mounted.keys() == {"/run/hsm", "/run/kmsd-admin", "/var/lib/kmsd", "/etc/kmsd", "/opt/hsm", "/etc/hsm"}
    volumes = {each["name"]: each["hostPath"]["path"] for each in pod["volumes"]}
    assert {path: volumes[name] for path, name in mounted.items()} == {path: path for path in mounted}
    security = pod["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"], security["runAsNonRoot"]) == (10001, 10002, True)


@pytest.mark.parametrize(
    ("argv", "path"), [(["standalone"], "static-pod/kmsd.yaml"), (["proxy"], "proxy/kmsd-proxy.yaml")]
)
def test_a_static_pod_gets_the_socket_for_service_account_tokens_and_nothing_else(
    run: Run, argv: Sequence[str], path: str
) -> None:
    made = run("k8s", "manifest", *argv, "--jwt-socket", "/run/kmsd-jwt/jwt.sock").text
    lines = list(difflib.ndiff((K8S / path).read_text().splitlines(), made.splitlines()))
    assert [line[2:].strip() for line in lines if line[0] in "+-?"] == [
        *("- --jwt-socket=/run/kmsd-jwt/jwt.sock", "- name: jwt", "mountPath: /run/kmsd-jwt"),
        *("- name: jwt", "hostPath:", "path: /run/kmsd-jwt", "type: DirectoryOrCreate"),
    ]
    pod = yaml.safe_load(made)
    kubernetes_validate.validate(pod, "1.37", strict=True)
    assert pod["spec"]["containers"][0]["volumeMounts"][2] == {"name": "jwt", "mountPath": "/run/kmsd-jwt"}


def test_a_proxy_gets_its_key_managers(run: Run) -> None:
    shown = run("k8s", "manifest", "proxy", "--upstream", "[2001:db8::1]:31400", "--upstream", "keys.ops.test:31400")
    args = yaml.safe_load(shown.text)["spec"]["containers"][0]["args"]
    assert args[1:3] == ["--upstream=[2001:db8::1]:31400", "--upstream=keys.ops.test:31400"]
    assert not any("keys-1" in each for each in args)
    assert shown.err == ""
    assert "the addresses in it are examples" in run("k8s", "manifest", "proxy").err


def test_a_key_manager_gets_its_tenants(run: Run) -> None:
    argv = ("--tenant", "a=DNS:*.a.test", "--tenant", "b=URI:spiffe://b/node", "--token-label", 'la"bel')
    documents = {
        each["kind"]: each
        for each in written(run, "key-manager", "--namespace", "keys", "--image", DIGEST, *argv, "--module", "/m.so")
    }
    assert documents["Namespace"]["metadata"]["name"] == "keys"
    assert {each["metadata"].get("namespace", "keys") for each in documents.values()} == {"keys"}
    settings = tomllib.loads(documents["ConfigMap"]["data"]["kmsd.toml"])
    assert [(each["name"], each["san"], each["key_label"]) for each in settings["tenants"]] == [
        ("a", ["DNS:*.a.test"], "kek-a"),
        ("b", ["URI:spiffe://b/node"], "kek-b"),
    ]
    assert (settings["token"]["label"], settings["token"]["module"]) == ('la"bel', "/m.so")
    spec = documents["Deployment"]["spec"]["template"]["spec"]
    assert {each["image"] for each in (*spec["initContainers"], *spec["containers"])} == {DIGEST}


def test_an_encryption_configuration_gets_its_names_and_its_first_step(run: Run) -> None:
    argv = ("--name", "hsm", "--resource", "secrets", "--resource", "*.apps", "--socket", "/run/hsm/kms.sock")
    (rule,) = only(run, "encryption-config", *argv)["resources"]
    assert rule["resources"] == ["secrets", "*.apps"]
    assert [next(iter(each)) for each in rule["providers"]] == ["kms", "identity"]
    assert rule["providers"][0]["kms"] == {
        "apiVersion": "v2",
        "name": "hsm",
        "endpoint": "unix:///run/hsm/kms.sock",
        "timeout": "3s",
    }
    (first,) = only(run, "encryption-config", *argv, "--reading")["resources"]
    assert first["providers"] == rule["providers"][::-1]


def test_the_steps_that_ship_are_those_that_the_commands_make(run: Run) -> None:
    folder = K8S / "encryption-config"
    found = {each.stem: yaml.safe_load(each.read_text()) for each in folder.glob("*.yaml")}
    assert only(run, "encryption-config", "--reading") == found["v2-reading"]
    present = copy.deepcopy(found["from-k8s-kms-plugin-reading"])
    del present["resources"][0]["providers"][1]
    plan = encryption_config.between(present, "/var/run/kms/plugin.sock", "/run/kmsd/kms.sock")
    assert plan.reading == found["from-k8s-kms-plugin-reading"]
    assert plan.writing == found["from-k8s-kms-plugin"]
    first, second = (found[f"v1beta1-to-v2{step}"]["resources"][0]["providers"] for step in ("-reading", ""))
    assert second == [first[1], first[0], first[2]]
    assert first[::2] == found["v1beta1"]["resources"][0]["providers"]
    assert second[::2] == found["v2"]["resources"][0]["providers"]


OWN = "tests/ctl/test_k8s_manifest.py"
BLOCKS = [each for page in PAGES for each in blocks(page) if each.run == OWN]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_what_the_pages_say_to_type_writes_what_kubernetes_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: Block
) -> None:
    """The paths of the node are below a folder."""
    node = tmp_path / "etc/kubernetes"
    (node / "manifests").mkdir(parents=True)
    manifest = Path(__file__).parents[1] / "vectors" / "kube-apiserver.yaml"
    (node / "manifests" / "kube-apiserver.yaml").write_bytes(manifest.read_bytes())
    monkeypatch.setenv("PATH", f"{Path(KMSCTL).parent}:{os.environ['PATH']}")
    text = block.text.replace("/etc/kubernetes/", f"{node}/")
    text = text.replace("apply-patch --dry-run", f"apply-patch {node}/manifests/kube-apiserver.yaml --dry-run")
    done = subprocess.run(["bash", "-euc", text], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = tmp_path.glob("*.yaml")
    document = yaml.safe_load(made.read_text())
    if document["kind"] == "Pod":
        kubernetes_validate.validate(document, "1.37", strict=True)
    else:
        assert encryption_rules.read(document).faults == ()
        assert "+    - --encryption-provider-config=" in done.stdout


def test_an_image_by_a_tag_is_told_of(run: Run) -> None:
    assert "name@sha256:... cannot" in run("k8s", "manifest", "standalone", "--image", "registry.example/kmsd:1").err
    assert run("k8s", "manifest", "standalone", "--image", DIGEST).err == ""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("standalone --socket kms.sock", "--socket must be an absolute path"),
        ("standalone --socket /run/kms.sock", "in a folder of its own"),
        ("standalone --socket /run/a\nb/kms.sock", "--socket must be an absolute path"),
        ('standalone --image a"b', "--image must be"),
        ("standalone --jwt-socket jwt.sock", "--jwt-socket must be an absolute path"),
        ("standalone --jwt-socket /run/jwt.sock", "in a folder of its own"),
        ("proxy --jwt-socket /run/kmsd/jwt.sock", "/run/kmsd is mounted already"),
        ("standalone --socket /run/a/k.sock --jwt-socket /run/a/jwt.sock", "/run/a is mounted already"),
        ("standalone --jwt-socket /run/kmsd-admin/jwt.sock", "/run/kmsd-admin is mounted already"),
        ("standalone --mount /opt/hsm --jwt-socket /opt/hsm/jwt.sock", "/opt/hsm is mounted already"),
        ("standalone --module lib.so", "--module must be an absolute path"),
        ("standalone --mount opt", "--mount must be an absolute path"),
        ("standalone --token-label a\x1bb", "--token-label must be printable"),
        ("proxy --upstream keys", "--upstream must be host:port"),
        ("key-manager --tenant a", "--tenant must be NAME=SAN"),
        ("key-manager --tenant a=a.test", "--tenant must be NAME=SAN"),
        ("key-manager --namespace A", "--namespace must be a DNS label"),
        ("encryption-config --name a:b", "must have no colon"),
        ("encryption-config --resource Secrets", "--resource must be"),
        ("standalone -o json", "a manifest is YAML, and has no format json"),
    ],
)
def test_what_cannot_stand_in_a_manifest_is_refused(run: Run, line: str, said: str) -> None:
    result = run("k8s", "manifest", *line.split(" "))
    assert (result.code, result.out) == (2, b"")
    assert said in result.err
    assert "hint: " in result.err
