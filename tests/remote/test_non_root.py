"""The static pod as a user of its own: kmsd runs with exactly what the overlay and its tmpfiles.d file give it."""

from __future__ import annotations

import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from kmsctl.kubernetes import reach
from tests.daemons import wait_for
from tests.e2e.probes import PORT, http_get
from tests.remote.conftest import free_port
from tests.remote.machine import Machine
from tests.strangers import UID, needs_root
from tests.tokens import PIN, SO_PIN

K8S = Path(__file__).parents[2] / "k8s"
USER = 10001


@needs_root
@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason="needs systemd-tmpfiles")
def test_the_non_root_pod_serves_its_group_and_root_and_nobody_else(make_machine: Callable[..., Machine]) -> None:
    rendered = subprocess.run(
        ["kubectl", "kustomize", K8S / "overlays/standalone-non-root"], capture_output=True, text=True, check=True
    )
    spec = yaml.safe_load(rendered.stdout)["spec"]
    port = free_port()
    node = make_machine("node", {str(PORT): str(port)}, USER)
    for volume in spec["volumes"]:
        path = volume["hostPath"]["path"]
        node.moved[path] = str(node.root / path.lstrip("/"))
    config = node.root / "etc/kmsd"
    config.mkdir(parents=True)
    (config / "pin").write_text(f"{PIN}\n")
    (config / "softhsm2.conf").write_text(node.here((K8S / "static-pod" / "softhsm2.conf").read_text()))
    conf = K8S / "components" / "non-root" / "tmpfiles.conf"
    subprocess.run(["systemd-tmpfiles", "--create", f"--root={node.root}", conf], check=True)
    (container,) = spec["containers"]
    node.environment |= {each["name"]: node.here(each["value"]) for each in container["env"]}
    init = ["softhsm2-util", "--init-token", "--free", "--label=kmsd", f"--so-pin={SO_PIN}", f"--pin={PIN}"]
    assert node.run(init) == 0
    running = node.start([*container["command"], *container["args"]])
    alive, ready = (container[name] for name in ("livenessProbe", "readinessProbe"))
    running.wait_for(lambda: http_get(alive, port) == 200, seconds=20, what="the pod is alive")
    assert node.kmsctl("keygen", "k8s-kek") == 0
    wait_for(lambda: http_get(ready, port) == 200)
    socket = node.root / "run/kmsd/kms.sock"
    found = socket.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (USER, USER, 0o660)
    assert reach.connect_as(str(socket), 0, 0, ()) is None, "kubeadm's kube-apiserver is root"
    assert reach.connect_as(str(socket), UID, USER, ()) is None, "one of its own, in kmsd's group"
    assert reach.connect_as(str(socket), UID, UID, (USER,)) is None
    refused = reach.connect_as(str(socket), UID, UID, ())
    assert isinstance(refused, PermissionError)
