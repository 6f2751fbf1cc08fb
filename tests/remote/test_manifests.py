"""Key manager and proxy run with exactly what the manifests and units that ship give them, and serve each other."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from tests.daemons import wait_for
from tests.e2e.probes import PORT, http_get
from tests.e2e.program import Program
from tests.remote.certificates import Authority, Issued
from tests.remote.conftest import Client, free_port
from tests.remote.machine import Machine
from tests.tokens import PIN, SO_PIN

K8S = Path(__file__).parents[2] / "k8s"


def rendered(overlay: str) -> list[dict[str, Any]]:
    done = subprocess.run(["kubectl", "kustomize", K8S / overlay], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


def pod_of(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The specification of the one pod among them."""
    (found,) = [
        each["spec"]["template"]["spec"] if each["kind"] == "Deployment" else each["spec"]
        for each in documents
        if each["kind"] in ("Deployment", "Pod")
    ]
    spec: dict[str, Any] = found
    return spec


@pytest.fixture
def shown(tmp_path: Path) -> tuple[Authority, Issued, Issued]:
    """A CA, and the certificates of a key manager and a node."""
    ca = Authority(tmp_path / "ca")
    return ca, ca.issue("manager", "DNS:localhost", "IP:127.0.0.1", server=True), ca.issue("n", "DNS:n1.cluster-a.test")


def put_tls(place: Path, ca: Authority, own: Issued, *, user: int = 0, mode: int = 0o600) -> None:
    place.mkdir(parents=True, exist_ok=True)
    place.chmod(0o755)
    for name, source in (("ca.crt", ca.file), ("tls.crt", own.certificate), ("tls.key", own.key)):
        shutil.copyfile(source, place / name)
        (place / name).chmod(mode if name == "tls.key" else 0o644)
        os.chown(place / name, 0 if mode & 0o040 else user, user)


def place_volumes(machine: Machine, spec: Mapping[str, Any], given: Mapping[str, Mapping[str, bytes]]) -> None:
    """Make the volumes of a pod as the kubelet does, and have its mounts in all of its containers lead there.

    given: the content of ConfigMaps and Secrets, by name.
    """
    group = spec["securityContext"].get("fsGroup", 0) if machine.user else os.getegid()
    for volume in spec["volumes"]:
        place = machine.root / "volumes" / volume["name"]
        place.mkdir(parents=True)
        os.chown(place, -1, group)
        place.chmod(0o2777 if "emptyDir" in volume else 0o2775 if "persistentVolumeClaim" in volume else 0o755)
    for container in (*spec.get("initContainers", ()), *spec["containers"]):
        for mount in container["volumeMounts"]:
            path = machine.root / "volumes" / mount["name"] / mount.get("subPath", "")
            machine.moved[mount["mountPath"]] = str(path).rstrip("/")
    for volume in spec["volumes"]:
        for source in volume.get("projected", {}).get("sources", ()):
            (kind,) = source.values()
            for item in kind["items"]:
                path = machine.root / "volumes" / volume["name"] / item["path"]
                path.parent.mkdir(exist_ok=True)
                data = given[kind["name"]][item["key"]]
                path.write_bytes(machine.here(data.decode()).encode() if item["path"].count(".") == 1 else data)
                os.chown(path, -1, group)
                path.chmod(volume["projected"]["defaultMode"])


def test_the_deployment_with_softhsm_serves_the_proxys_static_pod(
    make_machine: Callable[..., Machine], shown: tuple[Authority, Issued, Issued]
) -> None:
    ca, server, node = shown
    documents = rendered("key-manager-softhsm")
    spec = pod_of(documents)
    user = spec["securityContext"]["runAsUser"]
    port = free_port()
    manager = make_machine("manager", {"31400": str(port)}, user if os.geteuid() == 0 else None)
    settings = next(each for each in documents if each["kind"] == "ConfigMap")
    tls = {"ca.crt": ca.file, "tls.crt": server.certificate, "tls.key": server.key}
    place_volumes(
        manager,
        spec,
        {
            settings["metadata"]["name"]: {name: text.encode() for name, text in settings["data"].items()},
            "kmsd-pin": {"pin": f"{PIN}\n".encode()},
            "kmsd-tls": {name: path.read_bytes() for name, path in tls.items()},
        },
    )
    container = spec["containers"][0]
    manager.environment |= {each["name"]: manager.here(each["value"]) for each in container["env"]}
    for _ in range(2):  # a pod that is made anew finds the token
        for init in spec["initContainers"]:
            assert manager.run(init["command"]) == 0
    for volume in spec["volumes"]:
        # The mounts of the pod lead below it, past a directory that others may write to.
        (manager.root / "volumes" / volume["name"]).chmod(0o755)
    running = manager.start([*container["command"], *container["args"]])
    running.wait_for(
        lambda: manager.run(container["livenessProbe"]["exec"]["command"]) == 0, seconds=20, what="the pod is alive"
    )
    assert container["readinessProbe"]["tcpSocket"]["port"] == container["ports"][0]["name"]
    wait_for(lambda: _answers(port))
    for label in ("manager-own", "kek-a"):
        assert manager.kmsctl("keygen", label) == 0
    assert manager.kmsctl("health", "--wait", "--timeout", "20s") == 0
    assert manager.kmsctl("status", "--tenant", "cluster-a") == 0

    pod = pod_of(rendered("proxy"))
    proxy = make_machine(
        "node", {"keys-1.ops.test:31400": f"127.0.0.1:{port}", "keys-2.ops.test:31400": f"localhost:{port}"}
    )
    for volume in pod["volumes"]:
        path = volume["hostPath"]["path"]
        proxy.moved[path] = str(proxy.root / path.lstrip("/"))
        Path(proxy.moved[path]).mkdir(parents=True, mode=0o755)
    put_tls(Path(proxy.moved["/etc/kmsd"]) / "tls", ca, node)
    _serves(proxy, pod["containers"][0])


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            return True
    except OSError:
        return False


def _serves(proxy: Machine, container: Mapping[str, Any]) -> None:
    proxy.moved[str(PORT)] = str(free_port())
    proxy.environment |= {each["name"]: proxy.here(each["value"]) for each in container["env"]}
    running = proxy.start([*container["command"], *container["args"]])
    port = int(proxy.moved[str(PORT)])
    alive, ready = (container[name] for name in ("livenessProbe", "readinessProbe"))
    running.wait_for(lambda: http_get(alive, port) == 200, seconds=20, what="the pod is alive")
    wait_for(lambda: http_get(ready, port) == 200)
    _round_trip(proxy)


def _round_trip(proxy: Machine) -> None:
    with grpc.insecure_channel(f"unix:{proxy.here('/run/kmsd/kms.sock')}") as channel:
        client = Client(channel)
        assert client.decrypt(client.encrypt(bytes(32))) == bytes(32)


@pytest.mark.parametrize("user", [None, 10001], ids=["root", "a user of its own"])
def test_the_units_serve_with_the_files_that_ship(
    make_machine: Callable[..., Machine], shown: tuple[Authority, Issued, Issued], user: int | None
) -> None:
    ca, server, node = shown
    if user and os.geteuid() != 0:
        pytest.skip("only root can act as another user")
    port = free_port()
    made = {"31400": str(port), "/etc/kmsd/softhsm2.conf": "/nonexistent"}
    manager = make_machine("manager", made, user)
    for path in ("/etc/kmsd", "/run/kmsd", "/run/kmsd-admin", "/var/lib/kmsd"):
        place = manager.root / path.lstrip("/")
        place.mkdir(parents=True, mode=0o711 if "run" in path else 0o755)
        os.chown(place, user if user and path != "/etc/kmsd" else -1, -1)
        manager.moved[path] = str(place)
    put_tls(manager.root / "etc/kmsd/tls", ca, server, user=user or 0, mode=0o640 if user else 0o600)
    (manager.root / "etc/kmsd/tls/revoked").touch()
    tokens = manager.root / "var/lib/kmsd/tokens"
    tokens.mkdir(mode=0o700)
    conf = manager.root / "etc/kmsd/softhsm2.conf"
    manager.moved["/etc/kmsd/softhsm2.conf"] = str(conf)
    conf.write_text(manager.here((K8S / "static-pod" / "softhsm2.conf").read_text()))
    credentials = manager.root / "credentials"
    credentials.mkdir()
    (credentials / "pin").write_text(f"{PIN}\n")
    (credentials / "pin").chmod(0o440)
    for each in (tokens, credentials, credentials / "pin"):
        os.chown(each, user or -1, user or -1)
    manager.environment |= {"SOFTHSM2_CONF": str(conf), "CREDENTIALS_DIRECTORY": str(credentials)}
    init = ["softhsm2-util", "--init-token", "--free", "--label=kmsd", f"--so-pin={SO_PIN}", f"--pin={PIN}"]
    assert manager.run(init) == 0
    running = _start_unit(manager, "kmsd-key-manager.service", "key-manager.toml")
    running.wait_for(lambda: manager.kmsctl("health", "--live") == 0, seconds=20, what="it is alive")
    for label in ("manager-own", "kek-a"):
        assert manager.kmsctl("keygen", label) == 0
    assert manager.kmsctl("health", "--wait", "--timeout", "20s") == 0
    wait_for(lambda: _answers(port))

    proxy = make_machine(
        "node", {"keys-1.ops.test:31400": f"127.0.0.1:{port}", "keys-2.ops.test:31400": f"localhost:{port}"}
    )
    for path in ("/etc/kmsd", "/run/kmsd", "/run/kmsd-admin", "/var/lib/kmsd"):
        (proxy.root / path.lstrip("/")).mkdir(parents=True, mode=0o711 if "run" in path else 0o755)
        proxy.moved[path] = str(proxy.root / path.lstrip("/"))
    put_tls(proxy.root / "etc/kmsd/tls", ca, node)
    running = _start_unit(proxy, "kmsd-proxy.service", "proxy.toml")
    running.wait_for(lambda: proxy.kmsctl("health", "--live") == 0, seconds=20, what="it is alive")
    assert proxy.kmsctl("health", "--wait", "--timeout", "20s") == 0
    _round_trip(proxy)


def _start_unit(machine: Machine, unit: str, config: str) -> Program:
    """Start what a unit starts, with its configuration where the unit looks for it."""
    (Path(machine.moved["/etc/kmsd"]) / config).write_text(machine.here((K8S / "systemd" / config).read_text()))
    (line,) = re.findall(r"^ExecStart=/usr/bin/(.*)$", (K8S / "systemd" / unit).read_text(), re.MULTILINE)
    return machine.start(line.split())
