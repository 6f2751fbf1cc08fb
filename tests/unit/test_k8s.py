"""What ships for Kubernetes and systemd is what programs and clusters take, and the pages say the same."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from kmsd import __version__, cli
from kmsd.config.settings import MAX_TOKENS, Settings
from kmsd.config.sources import K8S_KMS_PLUGIN_ENVIRON
from kmsd.config.values import LEAVES, to_toml
from tests.daemons import KMSD
from tests.e2e.encryption_config import Identity, Kms, providers_of_secrets
from tests.tokens import clean_environment

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
POD = K8S / "static-pod" / "kmsd.yaml"
UNIT = K8S / "systemd" / "kmsd.service"


def load(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    return document


def container() -> dict[str, Any]:
    (only,) = load(POD)["spec"]["containers"]
    found: dict[str, Any] = only
    return found


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment(),
    )


def check_config(*arguments: str) -> dict[str, str]:
    """The settings that kmsd takes from these arguments, as `check-config` shows them."""
    done = run(KMSD, "check-config", *arguments)
    assert done.returncode == 0, done.stderr
    shown = re.findall(r"^(\S+) = (.*?)\s+# (.*)$", done.stdout, re.MULTILINE)
    return {key: value.strip('"') for key, value, _ in shown}


def test_kustomize_renders_the_pod_with_the_image_of_this_version() -> None:
    done = run("kubectl", "kustomize", K8S)
    assert done.returncode == 0, done.stderr
    (rendered,) = yaml.safe_load_all(done.stdout)
    assert rendered["kind"] == "Pod"
    assert rendered["spec"]["containers"][0]["image"] == f"localhost/kmsd:{__version__}"
    assert rendered["spec"]["volumes"] == load(POD)["spec"]["volumes"]


@pytest.mark.parametrize("path", sorted(K8S.rglob("*.yaml")), ids=lambda path: path.name)
def test_every_yaml_file_is_one_document(path: Path) -> None:
    (document,) = yaml.safe_load_all(path.read_text())
    assert {"apiVersion", "kind"} <= document.keys()


def test_the_pod_has_no_privileges_but_its_user() -> None:
    spec, only = load(POD)["spec"], container()
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["priorityClassName"] == "system-node-critical"


def test_the_pod_mounts_every_path_that_its_arguments_name() -> None:
    only = container()
    mounted = {mount["mountPath"]: mount for mount in only["volumeMounts"]}
    volumes = {volume["name"]: volume["hostPath"]["path"] for volume in load(POD)["spec"]["volumes"]}
    named = [argument.partition("=")[2] for argument in only["args"]]
    named += [variable["value"] for variable in only["env"]]
    paths = [Path(text) for text in named if text.startswith("/")]
    assert len(paths) == 5
    for path in paths:
        assert str(path) in mounted or str(path.parent) in mounted, path
    for path in mounted:
        assert volumes[mounted[path]["name"]] == path, "on the node a path has the same name"


def test_the_pods_arguments_are_flags_of_kmsd_and_say_what_they_seem_to() -> None:
    command, *flags = container()["args"]
    assert command == "serve"
    assert {flag.partition("=")[0] for flag in flags} <= {flag.name for flag in cli.FLAGS}
    shown = check_config(*flags)
    assert shown["kms.socket"] == "/run/kmsd/kms.sock"
    assert shown["admin.socket"] == "/run/kmsd-admin/admin.sock"
    assert shown["token.provider"] == "softhsm"
    assert shown["token.label"] == "kmsd"
    assert shown["token.pin_file"] == "/etc/kmsd/pin"
    assert shown["keys.label"] == "k8s-kek"
    assert shown["state.dir"] == "/var/lib/kmsd"


def test_the_containerfile_copies_what_is_there_and_builds_the_image_that_the_pod_names() -> None:
    text = (K8S / "Containerfile").read_text()
    sources = [
        source for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE) for source in line.split()[:-1]
    ]
    assert {"pyproject.toml", "scripts", "requirements", "kmsd", "kmsctl", "kmstui"} <= set(sources)
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert f"-t {container()['image']} " in text
    assert "ln -s /opt/kmsd/.venv/bin/k8s-kms-plugin /k8s-kms-plugin" in text


@pytest.mark.parametrize(("name", "api", "provider"), [("v2.yaml", "v2", "kmsd"), ("v1beta1.yaml", "v1", "kmsd-v1")])
def test_an_encryption_configuration_is_what_kube_apiserver_takes(name: str, api: str, provider: str) -> None:
    kms, identity = providers_of_secrets(load(K8S / "encryption-config" / name))
    assert isinstance(kms, Kms)
    assert (kms.name, kms.api, kms.timeout) == (provider, api, 3.0)
    assert identity == Identity(), "plain values stay readable"
    assert f"--socket={kms.socket}" in container()["args"]


def test_the_units_configuration_is_one_that_kmsd_takes() -> None:
    shown = check_config("--config", str(K8S / "systemd" / "kmsd.toml"))
    pod = check_config(*container()["args"][1:])
    for key in ("kms.socket", "admin.socket", "token.provider", "token.label", "keys.label", "state.dir"):
        assert shown[key] == pod[key], f"the unit and the pod mean the same {key}"
    assert shown["token.pin_file"] == "pin"


def test_the_unit_says_what_the_service_needs() -> None:
    unit = unit_lines()
    assert unit["ExecStart"] == ["/usr/bin/kmsd serve --config /etc/kmsd/kmsd.toml"]
    assert unit["Type"] == ["notify"]
    assert unit["LoadCredential"] == ["pin:/etc/kmsd/pin"]
    assert unit["RuntimeDirectory"] == ["kmsd kmsd-admin"]
    assert unit["RuntimeDirectoryPreserve"] == ["yes"], "a pod that has the directory mounted would lose it"
    assert unit["CapabilityBoundingSet"] == [""]
    assert unit["NoNewPrivileges"] == ["yes"]
    assert unit["LimitCORE"] == ["0"]
    assert unit["Before"] == ["kubelet.service"]


def test_the_unit_and_the_pod_bound_what_kmsd_may_take_and_restart_what_is_not_alive() -> None:
    unit = unit_lines()
    assert unit["Restart"] == ["always"]
    # What ends by itself has had the time to say why.
    assert float(unit["WatchdogSec"][0]) > Settings().health.give_up_after
    assert int(unit["LimitNOFILE"][0]) >= 4096
    assert int(unit["TasksMax"][0]) > 64 * MAX_TOKENS
    assert unit["MemoryMax"] == ["512M"]
    assert unit["MemorySwapMax"] == ["0"]
    limits = container()["resources"]["limits"]
    assert limits == {"memory": "512Mi"}
    probe = container()["livenessProbe"]["exec"]["command"]
    assert probe[-4:] == ["health", "--live", "--timeout", "10s"]
    assert "--live" not in container()["readinessProbe"]["exec"]["command"]


def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    """By systemd's own check where there is one, else by the rules that a unit file must keep."""
    here = tmp_path / "kmsd.service"
    here.write_text(UNIT.read_text().replace("/usr/bin/kmsd", KMSD))
    if shutil.which("systemd-analyze"):
        done = run("systemd-analyze", "verify", "--man=no", here)
        complaints = [line for line in done.stderr.splitlines() if "kmsd" in line]
        assert (done.returncode, complaints) == (0, [])
    sections = re.findall(r"^\[(\w+)\]$", here.read_text(), re.MULTILINE)
    assert sections == ["Unit", "Service", "Install"]
    assert all(values != [] for values in unit_lines().values())


def unit_lines() -> dict[str, list[str]]:
    """Directive -> its values. Raises on a line that is none."""
    lines: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if not line or line.startswith(("#", "[")):
            continue
        name, equals, value = line.partition("=")
        assert equals, line
        assert re.fullmatch(r"[A-Z][A-Za-z]+", name), line
        lines.setdefault(name, []).append(value)
    return lines


def test_the_configuration_page_lists_every_setting_flag_and_variable() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    rows = [
        [cell.strip() for cell in line.split("|")[1:4]]
        for line in text.splitlines()
        if re.match(r"\| `[a-z]+\.[a-z_]+` \|", line)
    ]
    assert {key.strip("`") for key, _, _ in rows} == set(LEAVES)
    flags_of = (*cli.FLAGS, *cli.PROXY_FLAGS)
    for cell, flags, default in rows:
        key = cell.strip("`")
        named = {name for flag in flags_of if flag.key == key for name in (flag.name, flag.off) if name}
        assert set(re.findall(r"`(--.*?)`", flags)) == named, key
        section, name = key.split(".")
        field = type(getattr(Settings(), section)).model_fields[name]
        if field.default_factory is None:  # paths depend on the user
            expected = "none" if field.default is None else f"`{to_toml(key, field.default)}`"
            assert default == expected, key
    for flag in flags_of:
        assert f"`{flag.name}" in text, flag.name
    for variable in K8S_KMS_PLUGIN_ENVIRON:
        assert f"`{variable}`" in text, variable


def test_the_libraries_page_names_every_dependency() -> None:
    text = (ROOT / "docs" / "libraries.md").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    names = set(re.findall(r'^\s+"([a-z0-9-]+)[>=<]', project, re.MULTILINE))
    assert {"grpcio", "pytest"} <= names
    assert {name for name in names if f"**{name}**" not in text} == set()
