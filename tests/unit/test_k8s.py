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
UNITS = (UNIT, *(K8S / "systemd" / f"kmsd-{name}.service" for name in ("key-manager", "proxy")))
NOTHING = {
    "allowPrivilegeEscalation": False,
    "privileged": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
"""The privileges of every container."""


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


def rendered(overlay: str) -> dict[str, dict[str, Any]]:
    """The objects of an overlay, by kind."""
    done = run("kubectl", "kustomize", K8S / overlay)
    assert done.returncode == 0, done.stderr
    documents = list(yaml.safe_load_all(done.stdout))
    found = {each["kind"]: each for each in documents}
    assert len(found) == len(documents)
    return found


def test_the_proxys_pod_is_kmsds_but_for_its_arguments_and_the_token() -> None:
    ours, proxys = load(POD)["spec"], rendered("proxy")["Pod"]["spec"]
    (mine,), (its,) = ours.pop("containers"), proxys.pop("containers")
    assert ours == proxys
    assert {name for name in mine if mine[name] != its[name]} == {"args", "env"}
    command, *flags = its["args"]
    assert command == "proxy"
    assert {flag.partition("=")[0] for flag in flags} <= {flag.name for flag in cli.PROXY_FLAGS}
    named = {flag.partition("=")[2] for flag in flags}
    assert {"/run/kmsd/kms.sock", "/run/kmsd-admin/admin.sock", "/var/lib/kmsd", "/etc/kmsd/tls/tls.key"} <= named


@pytest.mark.parametrize("overlay", ["key-manager", "key-manager-softhsm"])
def test_a_key_manager_in_a_cluster_may_do_nothing_and_outlives_a_drain(overlay: str) -> None:
    objects = rendered(overlay)
    assert {each["metadata"].get("namespace", "kmsd") for each in objects.values()} == {"kmsd"}
    deployment = objects["Deployment"]
    labels = deployment["spec"]["selector"]["matchLabels"]
    pod = deployment["spec"]["template"]
    assert pod["metadata"]["labels"] == labels == objects["Service"]["spec"]["selector"]
    assert objects["PodDisruptionBudget"]["spec"] == {"maxUnavailable": 1, "selector": {"matchLabels": labels}}
    assert objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    assert deployment["spec"]["replicas"] == (2 if overlay == "key-manager" else 1)
    spec = pod["spec"]
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "fsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False)
    volumes = {each["name"] for each in spec["volumes"]}
    for each in (*spec["initContainers"], *spec["containers"]):
        assert each["securityContext"] == NOTHING
        assert each["image"] == f"localhost/kmsd:{__version__}"
        assert each["resources"]["limits"].keys() == {"memory"}
        assert {mount["name"] for mount in each["volumeMounts"]} <= volumes


@pytest.mark.parametrize("overlay", ["key-manager", "key-manager-softhsm"])
def test_a_key_manager_in_a_cluster_finds_what_its_configuration_names(overlay: str) -> None:
    objects = rendered(overlay)
    spec = objects["Deployment"]["spec"]["template"]["spec"]
    only = spec["containers"][0]
    (volume,) = [each for each in spec["volumes"] if "projected" in each]
    sources = [kind for source in volume["projected"]["sources"] for kind in source.values()]
    assert objects["ConfigMap"]["metadata"]["name"] in [each["name"] for each in sources], "with its hash"
    files = {f"/etc/kmsd/{item['path']}" for each in sources for item in each["items"]}
    assert only["args"] == ["serve", "--config", "/etc/kmsd/kmsd.toml"]
    shown = check_config("--config", str(K8S / overlay / "kmsd.toml"))
    named = [shown[f"server.tls_{name}"] for name in ("ca", "certificate", "key")]
    assert {*named, shown["token.pin_file"], "/etc/kmsd/kmsd.toml"} <= files
    assert shown["server.enabled"] == "true"
    assert int(shown["server.port"]) == only["ports"][0]["containerPort"]
    assert objects["Service"]["spec"]["ports"][0] == {"name": "kms", "port": 31400, "targetPort": "kms"}
    mounted = {mount["mountPath"] for mount in only["volumeMounts"]}
    assert {"/run/kmsd", "/run/kmsd-admin", "/var/lib/kmsd", "/etc/kmsd"} <= mounted
    for key in ("kms.socket", "admin.socket"):
        assert str(Path(shown[key]).parent) in mounted
    text = (K8S / "key-manager" / "deployment.yaml").read_text() + (K8S / overlay / "kustomization.yaml").read_text()
    assert re.search(r"never in|never for|NEVER", text), "a cluster must not wait for itself"


def test_the_configurations_of_both_ends_are_ones_that_kmsd_takes() -> None:
    manager = check_config("--config", str(K8S / "systemd" / "key-manager.toml"))
    in_cluster = check_config("--config", str(K8S / "key-manager-softhsm" / "kmsd.toml"))
    differs = {key for key in manager.keys() | in_cluster.keys() if manager.get(key) != in_cluster.get(key)}
    assert differs == {"token.pin_file", "server.tls_revoked"}
    proxy = check_config("--config", str(K8S / "systemd" / "proxy.toml"))
    flags = dict(
        flag.removeprefix("--").split("=") for flag in rendered("proxy")["Pod"]["spec"]["containers"][0]["args"][3:]
    )
    assert {proxy[f"proxy.tls_{name.removeprefix('tls-')}"] for name in flags if name.startswith("tls-")} == {
        path for name, path in flags.items() if name.startswith("tls-")
    }
    assert (proxy["kms.socket"], proxy["state.dir"]) == (flags["socket"], flags["state-dir"])


@pytest.mark.parametrize("path", sorted(K8S.rglob("*.yaml")), ids=lambda path: path.name)
def test_every_yaml_file_is_one_document(path: Path) -> None:
    (document,) = yaml.safe_load_all(path.read_text())
    assert {"apiVersion", "kind"} <= document.keys()


def test_the_pod_has_no_privileges_but_its_user() -> None:
    spec, only = load(POD)["spec"], container()
    assert only["securityContext"] == NOTHING
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
    assert unit["RuntimeDirectory"] == ["kmsd kmsd-admin kmsd-jwt"]
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
    alive, ready = (container()[name]["httpGet"] for name in ("livenessProbe", "readinessProbe"))
    assert (alive["path"], ready["path"]) == ("/livez", "/readyz")
    for probe in (alive, ready):
        assert {"name": "KMSD_OBSERVE__LISTEN", "value": f"{probe['host']}:{probe['port']}"} in container()["env"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_systemd_finds_no_fault_in_a_unit_and_no_more_exposure_than_it_needs(tmp_path: Path, unit: Path) -> None:
    """By systemd's own checks where there are some, else by the rules that a unit file must keep."""
    here = tmp_path / unit.name
    here.write_text(unit.read_text().replace("/usr/bin/kmsd", KMSD))
    if shutil.which("systemd-analyze"):
        done = run("systemd-analyze", "verify", "--man=no", here)
        complaints = [line for line in done.stderr.splitlines() if "kmsd" in line]
        assert (done.returncode, complaints) == (0, [])
        done = run("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=19", here)
        assert done.returncode == 0, done.stdout[-300:]
    sections = re.findall(r"^\[(\w+)\]$", here.read_text(), re.MULTILINE)
    assert sections == ["Unit", "Service", "Install"]
    assert all(values != [] for values in unit_lines(unit).values())


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_the_drop_ins_that_a_unit_speaks_of_are_ones_that_systemd_takes(tmp_path: Path, unit: Path) -> None:
    text = unit.read_text()
    named = re.findall(
        r"\b(?:PrivateDevices|DeviceAllow|RestrictAddressFamilies|IPAddress\w+|ProtectHome)=[^,\n(]*[^,\n( .]", text
    )
    spoken = [each for each in named if each not in text.splitlines()]
    assert {each.partition("=")[0] for each in spoken} >= {"PrivateDevices", "DeviceAllow"}
    here = tmp_path / unit.name
    here.write_text(text.replace("/usr/bin/kmsd", KMSD))
    (tmp_path / f"{unit.name}.d").mkdir()
    (tmp_path / f"{unit.name}.d" / "hsm.conf").write_text("\n".join(["[Service]", *spoken, ""]))
    done = run("systemd-analyze", "verify", "--man=no", here)
    complaints = [line for line in done.stderr.splitlines() if "kmsd" in line or "hsm.conf" in line]
    assert (done.returncode, complaints) == (0, [])


def test_the_units_of_remote_mode_differ_from_kmsds_where_they_must() -> None:
    """What hardens kmsd's unit, bounds it and keeps it running is in the others, too."""
    usual, manager, proxy = (unit_lines(unit) for unit in (UNIT, *UNITS[1:]))
    own = {"Description", "ExecStart", "Wants", "After", "Before", "MemoryMax", "TasksMax", "User", "Conflicts"}
    left_out = {"LoadCredential", "Environment"}, {"Before", "RuntimeDirectoryPreserve"}
    assert proxy.keys() ^ usual.keys() == left_out[0] | {"Conflicts"}
    assert manager.keys() ^ usual.keys() == left_out[1] | {"User"}
    for unit in (manager, proxy):
        assert {name for name in unit.keys() & usual.keys() if unit[name] != usual[name]} <= own
    assert manager["User"] == ["kmsd"]
    assert proxy["Before"] == ["kubelet.service"]


def unit_lines(unit: Path = UNIT) -> dict[str, list[str]]:
    """Directive -> its values. Raises on a line that is none."""
    lines: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
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
