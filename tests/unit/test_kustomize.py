"""Every kustomization renders, to objects that Kubernetes' own schemas take, with as few rights as they can have."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # it has none
import pytest
import yaml

from kmsd import cli
from tests import forkserver
from tests.daemons import KMSCTL, KMSD
from tests.strangers import needs_root
from tests.tokens import clean_environment

pytestmark = pytest.mark.processes

K8S = Path(__file__).parents[2] / "k8s"
VERSIONS = ("1.29", "1.37")
"""The first with KMS v2 for everybody, and the newest that there are schemas of."""
FOLDERS = sorted(
    str(path.parent.relative_to(K8S))
    for path in K8S.rglob("kustomization.yaml")
    if yaml.safe_load(path.read_text())["kind"] == "Kustomization"
)
OPERATOR = "monitoring.coreos.com/v1"
"""Of Prometheus' operator: its schemas are no part of Kubernetes."""
MANIFESTS = ("standalone", "proxy", "key-manager")


def check_config(*arguments: str, environment: Mapping[str, str]) -> str:
    """What kmsd says of its settings by these arguments and variables."""
    done = forkserver.run(
        [KMSD, "check-config", *arguments],
        capture_output=True,
        timeout=60,
        check=False,
        env=clean_environment() | dict(environment),
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout.decode())


@functools.cache
def rendered(folder: str) -> str:
    done = subprocess.run(
        ["kubectl", "kustomize", K8S / folder], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "nothing that is deprecated"
    return done.stdout


def objects(folder: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(rendered(folder)))


def written(kind: str) -> str:
    done = forkserver.run([KMSCTL, "k8s", "manifest", kind], capture_output=True, check=True, env=clean_environment())
    return str(done.stdout.decode())


def pods(documents: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The specification of each pod."""
    for each in documents:
        spec = each.get("spec", {})
        if each["kind"] == "Pod":
            yield spec
        elif "template" in spec:
            yield spec["template"]["spec"]


def test_there_is_an_overlay_for_each_way_to_run_it() -> None:
    assert {"overlays/standalone", "overlays/proxy", "overlays/key-manager"} <= set(FOLDERS)
    assert {"overlays/standalone-non-root", "overlays/proxy-non-root"} <= set(FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_rendered_is_valid_by_the_schemas_of_kubernetes(folder: str) -> None:
    for document in objects(folder):
        if document["apiVersion"] == OPERATOR:
            continue  # tests/observe/test_alerts.py reads these
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("kind", MANIFESTS)
def test_what_kmsctl_writes_is_valid_by_the_schemas_of_kubernetes(kind: str) -> None:
    for document in yaml.safe_load_all(written(kind)):
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)


def test_the_schemas_refuse_what_kubernetes_does_not_know() -> None:
    (pod,) = objects("static-pod")
    pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFileSystem"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_container_has_no_capability_and_cannot_write_its_image(folder: str) -> None:
    for spec in pods(objects(folder)):
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False)
        for each in (*spec.get("initContainers", ()), *spec["containers"]):
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "privileged": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert each["resources"]["requests"].keys() == {"cpu", "memory"}
            assert each["resources"]["limits"].keys() == {"memory"}


def test_what_is_requested_and_allowed_follows_what_was_measured() -> None:
    figures = json.loads((K8S.parent / "docs" / "performance.json").read_text())["figures"]
    measured = {
        "static-pod": figures["h2corn rss"],
        "proxy": figures["remote proxy rss"],
        "key-manager": figures["remote idle rss"],
    }
    for folder, mebibytes in measured.items():
        (spec,) = pods(objects(folder))
        amounts = spec["containers"][0]["resources"]
        requested, most = (_mebibytes(amounts[name]["memory"]) for name in ("requests", "limits"))
        assert 1.1 * mebibytes <= requested <= 2.5 * mebibytes, folder
        assert most >= 4 * mebibytes, folder


def _mebibytes(text: str) -> int:
    number, unit = text[:-2], text[-2:]
    return int(number) * {"Mi": 1, "Gi": 1024}[unit]


@pytest.mark.parametrize("folder", [each for each in FOLDERS if each.startswith("overlays/")])
def test_an_overlay_names_its_image_by_a_digest(folder: str) -> None:
    for spec in pods(objects(folder)):
        for each in (*spec.get("initContainers", ()), *spec["containers"]):
            assert each["image"].startswith("registry.example/kmsd@sha256:")


@pytest.mark.parametrize("folder", ["overlays/standalone-non-root", "overlays/proxy-non-root", "overlays/key-manager"])
def test_what_is_called_non_root_is_not_root(folder: str) -> None:
    (spec,) = pods(objects(folder))
    security = spec["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"], security["runAsGroup"]) == (True, 10001, 10001)


@pytest.mark.parametrize("folder", FOLDERS)
def test_arguments_are_flags_of_kmsd_and_variables_its_settings(folder: str) -> None:
    """kmsd itself takes them; of a ConfigMap what it has is written where the pod looks for it."""
    for spec in pods(objects(folder)):
        (container,) = spec["containers"]
        command, *flags = container["args"]
        known = cli.PROXY_FLAGS if command == "proxy" else cli.FLAGS
        named = {flag.partition("=")[0] for flag in flags if "=" in flag}
        assert named <= {flag.name for flag in known}
        variables = {each["name"]: each["value"] for each in container["env"] if each["name"].startswith("KMSD_")}
        if command == "serve" and "--config" not in flags:
            mode = variables.get("KMSD_KMS__MODE", "0600")
            assert f'kms.mode = "{mode}"' in check_config(*flags, environment=variables)


def test_the_monitored_key_manager_is_probed_and_scraped_where_it_listens() -> None:
    found = {each["kind"]: each for each in objects("overlays/key-manager-monitored")}
    (spec,) = pods(list(found.values()))
    (container,) = spec["containers"]
    environment = {each["name"]: each.get("value") for each in container["env"]}
    (port,) = [each["containerPort"] for each in container["ports"] if each["name"] == "metrics"]
    assert environment["KMSD_OBSERVE__LISTEN"] == f"0.0.0.0:{port}"
    settings = ("--config", str(K8S / "overlays" / "key-manager" / "kmsd.toml"))
    variables = {name: str(value) for name, value in environment.items() if name.startswith("KMSD_")}
    shown = check_config(*settings, environment=variables)
    assert f'observe.listen = "0.0.0.0:{port}"' in shown
    assert "observe.allow_remote = true" in shown
    for name in ("livenessProbe", "readinessProbe"):
        assert container[name]["httpGet"]["port"] == "metrics"
        assert not {"exec", "tcpSocket"} & container[name].keys()
    assert [each["portNumber"] for each in found["PodMonitor"]["spec"]["podMetricsEndpoints"]] == [port]
    kms, metrics = found["NetworkPolicy"]["spec"]["ingress"]
    assert (kms, metrics["ports"]) == ({"ports": [{"port": "kms"}]}, [{"port": "metrics"}])
    assert metrics["from"]


@pytest.mark.parametrize("folder", ["overlays/key-manager", "key-manager"])
def test_no_cluster_is_told_to_wait_for_itself(folder: str) -> None:
    """A DaemonSet or a Deployment is for other clusters; what is for the own one are files of the kubelet."""
    text = (K8S / folder / "kustomization.yaml").read_text()
    assert "never for the one that it runs in" in text
    kinds = {each["kind"] for name in FOLDERS for each in objects(name)}
    assert "DaemonSet" not in kinds
    assert {each["kind"] for name in FOLDERS if "key-manager" not in name for each in objects(name)} >= {"Pod"}


@needs_root
@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason="needs systemd-tmpfiles")
def test_the_folders_of_a_non_root_pod_are_made_for_its_user(tmp_path: Path) -> None:
    (tmp_path / "etc/kmsd").mkdir(parents=True)
    (tmp_path / "etc/kmsd/pin").write_text("1234\n")
    conf = K8S / "components" / "non-root" / "tmpfiles.conf"
    done = subprocess.run(
        ["systemd-tmpfiles", "--create", f"--root={tmp_path}", conf], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (spec,) = pods(objects("overlays/standalone-non-root"))
    for volume in spec["volumes"]:
        assert volume["hostPath"]["type"] == "Directory"
        found = (tmp_path / volume["hostPath"]["path"].lstrip("/")).stat()
        assert found.st_uid == (0 if volume["name"] == "config" else 10001), volume
    pin = (tmp_path / "etc/kmsd/pin").stat()
    assert (pin.st_uid, pin.st_mode & 0o777) == (10001, 0o400)
