"""A real kube-apiserver takes every object that the kustomizations render, where there is one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.encryption_config import document
from tests.e2e.real import RealApiServer

K8S = Path(__file__).parents[2] / "k8s"
ASSETS = os.environ.get("KUBEBUILDER_ASSETS")
FOLDERS = sorted(str(each.parent.relative_to(K8S)) for each in K8S.rglob("kustomization.yaml"))

pytestmark = pytest.mark.skipif(not ASSETS, reason="needs a kube-apiserver (KUBEBUILDER_ASSETS)")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealApiServer]:
    assert ASSETS
    running = RealApiServer(tmp_path_factory.mktemp("kube"), Path(ASSETS))
    running.start(document())
    yield running
    running.stop()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "folder", [each for each in FOLDERS if not each.startswith("components") and "monitor" not in each]
)
def test_a_kube_apiserver_takes_what_is_rendered(server: RealApiServer, folder: str) -> None:
    made = subprocess.run(["kubectl", "kustomize", K8S / folder], capture_output=True, text=True, check=True).stdout
    # A dry run makes no namespace that the next object could be in.
    for name in {each["metadata"].get("namespace", "default") for each in yaml.safe_load_all(made)}:
        subprocess.run([*server.kubectl, "create", "namespace", name], capture_output=True, check=False)
    command = [*server.kubectl, "apply", "--dry-run=server", "-f", "-"]
    done = subprocess.run(command, input=made, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
