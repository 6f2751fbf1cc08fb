"""kmsd runs with exactly what the static pod gives it: its arguments, its environment, its probes."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import forkserver
from tests.daemons import KMSCTL, KMSD, wait_for
from tests.e2e import probes
from tests.e2e.apiserver import ApiServer
from tests.e2e.program import Program, free_port
from tests.tokens import PIN, SO_PIN, clean_environment

K8S = Path(__file__).parents[2] / "k8s"
PROGRAMS = {"kmsd": KMSD, "kmsctl": KMSCTL}
DATA = {"password": b"correct horse battery staple"}


@dataclass(frozen=True)
class Node:
    """A control-plane node of its own below `root`: every hostPath of the pod lies there, under its own name.

    The paths are rewritten in what the pod says, as no mount namespace puts them in place here.
    """

    root: Path
    spec: dict[str, Any]
    port: int

    def here(self, text: str) -> str:
        """`text` with every hostPath in it moved below `root`, and the port of the probes replaced."""
        paths = sorted((volume["hostPath"]["path"] for volume in self.spec["volumes"]), key=len, reverse=True)
        return re.sub(
            rf"(?<![\w.-])({'|'.join(paths)})(?![\w.-])", lambda found: f"{self.root}{found[1]}", text
        ).replace(f":{probes.PORT}", f":{self.port}")

    @property
    def container(self) -> dict[str, Any]:
        only: dict[str, Any] = self.spec["containers"][0]
        return only

    @property
    def environment(self) -> dict[str, str]:
        return {entry["name"]: self.here(entry["value"]) for entry in self.container["env"]}

    def command(self, words: list[str]) -> list[str]:
        program, *arguments = words
        return [PROGRAMS[program], *(self.here(argument) for argument in arguments)]

    def probe(self, name: str) -> int:
        """Status of a probe, asked as the kubelet asks."""
        return probes.http_get(self.container[name], self.port)


@pytest.fixture
def node(short_tmp: Path) -> Node:
    """What docs/kubernetes.md has an operator prepare: the directories, a PIN, softhsm2.conf, a token."""
    spec = yaml.safe_load((K8S / "static-pod" / "kmsd.yaml").read_text())["spec"]
    node = Node(short_tmp, spec, free_port())
    for volume in spec["volumes"]:
        (short_tmp / volume["hostPath"]["path"].lstrip("/")).mkdir(parents=True, mode=0o755)
    config = short_tmp / "etc/kmsd"
    pin = config / "pin"
    pin.touch(0o600)
    pin.write_text(f"{PIN}\n")
    softhsm = (K8S / "static-pod" / "softhsm2.conf").read_text()
    (config / "softhsm2.conf").write_text(node.here(softhsm))
    (short_tmp / "var/lib/kmsd/tokens").mkdir(mode=0o700)
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label=kmsd", f"--so-pin={SO_PIN}", f"--pin={PIN}"],
        env=clean_environment() | node.environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return node


@pytest.fixture
def pod(node: Node) -> Iterator[Program]:
    words = [*node.container["command"], *node.container["args"]]
    program = Program(node.command(words), node.root / "log", clean_environment() | node.environment)
    program.wait_for(lambda: node.probe("livenessProbe") == 200, seconds=20, what="the pod is alive")
    yield program
    assert program.stop() == 0


def test_the_pod_is_alive_without_a_key_and_ready_with_one(node: Node, pod: Program) -> None:
    assert node.probe("readinessProbe") == 503
    assert node.probe("livenessProbe") == 200
    target = f"unix://{node.root}/run/kmsd-admin/admin.sock"
    forkserver.run([KMSCTL, "--target", target, "keygen", "k8s-kek"], check=True, stdout=subprocess.DEVNULL)
    wait_for(lambda: node.probe("readinessProbe") == 200)
    assert pod.running()


@pytest.mark.parametrize("name", ["v2.yaml", "v1beta1.yaml"])
def test_an_apiserver_with_the_encryption_configuration_that_ships_serves_secrets(
    node: Node, pod: Program, apiserver: ApiServer, name: str
) -> None:
    target = f"unix://{node.root}/run/kmsd-admin/admin.sock"
    forkserver.run([KMSCTL, "--target", target, "keygen", "k8s-kek"], check=True, stdout=subprocess.DEVNULL)
    wait_for(lambda: node.probe("readinessProbe") == 200)
    apiserver.start(yaml.safe_load(node.here((K8S / "encryption-config" / name).read_text())))
    wait_for(lambda: apiserver.readyz()[0], 60)
    apiserver.create_secret("one", DATA)
    assert apiserver.raw_stored("one").startswith(b"k8s:enc:kms:v")
    apiserver.restart()
    wait_for(lambda: apiserver.readyz()[0], 60)
    assert apiserver.read_secret("one") == DATA
    assert pod.running()


def test_an_apiserver_moves_from_v1beta1_to_v2_with_the_files_that_ship(
    node: Node, pod: Program, apiserver: ApiServer
) -> None:
    target = f"unix://{node.root}/run/kmsd-admin/admin.sock"
    forkserver.run([KMSCTL, "--target", target, "keygen", "k8s-kek"], check=True, stdout=subprocess.DEVNULL)
    wait_for(lambda: node.probe("readinessProbe") == 200)
    steps = {"v1beta1": b"v1:kmsd-v1:", "v1beta1-to-v2-reading": b"v1:kmsd-v1:", "v1beta1-to-v2": b"v2:kmsd:"}
    for number, (name, prefix) in enumerate(steps.items()):
        config = yaml.safe_load(node.here((K8S / "encryption-config" / f"{name}.yaml").read_text()))
        apiserver.restart(config) if number else apiserver.start(config)
        wait_for(lambda: apiserver.readyz()[0], 60)
        apiserver.create_secret(name, DATA)
        assert apiserver.raw_stored(name).startswith(b"k8s:enc:kms:" + prefix)
        # What was written before is read: on a node that is not so far yet, too, what the next step writes.
        assert [apiserver.read_secret(each) for each in list(steps)[: number + 1]] == [DATA] * (number + 1)
    before = (K8S / "encryption-config" / "v1beta1-to-v2-reading.yaml").read_text()
    apiserver.restart(yaml.safe_load(node.here(before)))
    assert apiserver.read_secret("v1beta1-to-v2") == DATA
    assert pod.running()
