"""kmsctl k8s check: what is wrong with a control-plane node is found, told with its fix, and worth an exit code."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kmsd.api.admin.v1 import admin_pb2 as pb
from tests.ctl.conftest import Run
from tests.daemons import Kmsd
from tests.etcd import values
from tests.etcd.server import Server
from tests.pages import ROOT, blocks
from tests.strangers import UID, needs_root, open_folder
from tests.tokens import make_token

MANIFEST = Path(__file__).parents[1] / "vectors" / "kube-apiserver.yaml"
Checks = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def open_place() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def kmsd(open_place: Path) -> Iterator[Kmsd]:
    folder = open_place / "cp-1"
    folder.mkdir()
    with Kmsd(folder, make_token(open_place / "hsm-1"), ("--auto-create",)).start().wait_ok() as running:
        yield running


@pytest.fixture(scope="module")
def other(open_place: Path) -> Iterator[Kmsd]:
    """A node with a token of its own, whose key is another."""
    folder = open_place / "cp-2"
    folder.mkdir()
    with Kmsd(folder, make_token(open_place / "hsm-2"), ("--auto-create",)).start().wait_ok() as running:
        yield running


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("e")).start()
    server.put(
        {
            "/registry/secrets/default/kept": values.v2("id"),
            "/registry/secrets/default/renamed": values.v2("id", provider=b"former"),
            "/registry/configmaps/default/plain": b"k8s\x00 not encrypted",
            "/registry/deployments/default/web": values.v2("id"),
        }
    )
    yield server
    server.stop()


@pytest.fixture
def node(tmp_path: Path, kmsd: Kmsd, run: Run) -> Node:
    return Node(tmp_path, kmsd, run)


class Node:
    """A control-plane node: kube-apiserver's manifest and EncryptionConfiguration in a folder, and a kmsd."""

    def __init__(self, folder: Path, kmsd: Kmsd, run: Run) -> None:
        self.kmsd, self.run = kmsd, run
        self.manifests = folder / "manifests"
        self.manifests.mkdir()
        self.manifest = self.manifests / "kube-apiserver.yaml"
        self.config = folder / "encryption-config.yaml"
        made = run("k8s", "manifest", "encryption-config", "--socket", str(kmsd.socket))
        self.config.write_bytes(made.out)
        self.config.chmod(0o600)
        self.manifest.write_text(MANIFEST.read_text())
        paths = ("--config", str(self.config), "--socket", str(kmsd.socket))
        backups = ("--backup-dir", str(folder / "backups"))
        assert run("k8s", "apply-patch", str(self.manifest), *paths, *backups, "--write").code == 0

    def edit(self, change: Callable[[Any], object], path: Path | None = None) -> None:
        """Change a file as its document."""
        path = path or self.config
        document = yaml.safe_load(path.read_text())
        change(document)
        path.write_text(yaml.safe_dump(document, sort_keys=False))

    def check(self, *argv: str, code: int, manifest: bool = True) -> Checks:
        """The checks by their names."""
        where = ("--manifest", str(self.manifest)) if manifest else ("--no-manifest",)
        result = self.run("k8s", "check", *where, *argv, "-o", "json", "--timeout", "5s")
        assert result.code == code, result.text + result.err
        document = json.loads(result.out)
        found: Checks = {}
        for each in document["checks"]:
            assert (each["fix"] is None) <= (each["outcome"] == "ok"), each
            found.setdefault(each["name"], []).append(each)
        failed = [each for checks in found.values() for each in checks if each["outcome"] == "failed"]
        assert document["failed"] == len(failed)
        return found


def outcomes(checks: Checks) -> dict[str, str]:
    return {name: " ".join(each["outcome"] for each in found) for name, found in checks.items()}


def seen(checks: Checks, name: str, outcome: str) -> str:
    (found,) = [each for each in checks[name] if each["outcome"] == outcome]
    return f"{found['seen']} | {found['fix']}"


def test_a_node_that_is_well_is_well(node: Node, etcd: Server) -> None:
    same = ("--node", str(node.kmsd.admin_socket))
    found = node.check(*same, code=0)
    assert set(outcomes(found).values()) == {"ok", "not checked"}
    assert {name for name, outcome in outcomes(found).items() if outcome == "not checked"} == {"stored"}
    assert set(found) == {
        *("manifest", "flag", "encryption-config", "permissions", "writer", "timeout", "mounts"),
        *("socket", "status", "round-trip", "nodes", "stored"),
    }
    table = node.run("k8s", "check", "--manifest", str(node.manifest), *same)
    assert table.code == 0
    assert "round trip by kmsd" in table.text
    assert "hint: what etcd holds: name etcd" in table.err


def test_the_page_shows_what_a_node_that_is_well_is_checked_for(node: Node) -> None:
    (block,) = [each for each in blocks(ROOT / "docs" / "kubernetes.md") if each.run == "tests/ctl/test_k8s_check.py"]
    typed, *shown = block.text.splitlines()
    assert typed == "$ kmsctl k8s check"
    told = node.run("k8s", "check", "--manifest", str(node.manifest)).text.splitlines()
    assert [re.split(" {3,}", line)[0] for line in told] == [re.split(" {3,}", line)[0] for line in shown]


def test_what_kube_apiserver_refuses_fails_with_its_place(node: Node) -> None:
    node.edit(lambda it: it["resources"][0]["providers"][0]["kms"].update(cachesize=1, timeout="0s"))
    found = node.check(code=7)
    texts = [each["seen"] for each in found["encryption-config"]]
    assert [each.partition(": ")[2] for each in texts] == [
        "resources[0].providers[0].kms.cachesize: v2 has no cachesize",
        "resources[0].providers[0].kms.timeout: it must be more than 0",
    ]


def test_a_file_that_is_no_yaml_or_is_missing_fails(node: Node) -> None:
    node.config.write_text("kind: [\n")
    assert "it is not YAML, line 2" in seen(node.check(code=7), "encryption-config", "failed")
    node.config.unlink()
    assert "No such file" in seen(node.check(code=7), "encryption-config", "failed")
    node.manifest.unlink()
    assert "--no-manifest" in seen(node.check(code=7), "manifest", "failed")


def test_a_first_step_is_a_warning_and_a_plain_secret_too(node: Node) -> None:
    node.edit(lambda it: it["resources"][0]["providers"].reverse())
    assert "nothing encrypts them | right while other" in seen(node.check(code=0), "writer", "warning")
    node.edit(lambda it: it["resources"][0].update(resources=["configmaps"]))
    node.edit(lambda it: it["resources"][0]["providers"].reverse())
    assert "no rule is for secrets" in seen(node.check(code=0), "writer", "warning")


def test_a_manifest_without_flag_and_mounts_fails_and_names_the_patch(node: Node) -> None:
    node.manifest.write_text(MANIFEST.read_text())
    found = node.check("--encryption-config", str(node.config), code=7)
    assert "it encrypts nothing | `kmsctl k8s apply-patch`" in seen(found, "flag", "failed")
    assert f"{node.kmsd.socket} is not mounted" in seen(found, "mounts", "failed")
    assert outcomes(found)["round-trip"] == "ok"


def test_a_socket_that_is_mounted_itself_is_a_warning(node: Node) -> None:
    node.manifest.write_text(node.manifest.read_text().replace(str(node.kmsd.socket.parent), str(node.kmsd.socket)))
    assert "made anew is not seen" in seen(node.check(code=0), "mounts", "warning").replace("makes", "made")


def test_a_file_that_is_to_replace_the_present_one_is_compared_with_it(node: Node, tmp_path: Path) -> None:
    another = tmp_path / "another.yaml"
    another.write_bytes(node.config.read_bytes())
    candidate = ("--encryption-config", str(another))
    found = node.check(*candidate, code=0)
    assert f"kube-apiserver reads {node.config}, and {another} was checked" in seen(found, "flag", "warning")
    assert outcomes(found)["change"] == "ok"

    node.edit(lambda it: it["resources"][0]["providers"][0]["kms"].update(name="renamed"), another)
    found = node.check(*candidate, code=7)
    assert "'kmsd' by KMS v2 of" in seen(found, "change", "failed")
    assert "'renamed' by KMS v2 writes, which kube-apiservers that still have" in seen(found, "change", "warning")

    another.write_bytes(node.config.read_bytes())
    node.edit(lambda it: it["resources"][0]["providers"].pop(), another)
    assert "reads plain values, and this file does not" in seen(node.check(*candidate, code=0), "change", "warning")

    node.edit(lambda it: it["resources"][0].update(resources=["configmaps"]), another)
    found = node.check(*candidate, "--present", str(node.config), code=7, manifest=False)
    assert sorted(each["outcome"] for each in found["change"]) == ["failed", "warning", "warning"]
    told = " ".join(each["seen"] for each in found["change"])
    assert "secrets: 'kmsd' by KMS v2" in told
    assert "configmaps: 'kmsd' by KMS v2 writes" in told
    found = node.check(*candidate, "--present", str(tmp_path / "none.yaml"), code=7, manifest=False)
    assert "No such file" in seen(found, "change", "failed")


def test_a_backup_beside_the_manifest_is_a_second_kube_apiserver(node: Node) -> None:
    (node.manifests / ".kube-apiserver.yaml.swp").write_bytes(node.manifest.read_bytes())  # the kubelet passes it over
    (node.manifests / "etcd.yaml").write_text("kind: Pod\n")
    node.check(code=0)
    (node.manifests / "kube-apiserver.yaml.bak").write_bytes(node.manifest.read_bytes())
    assert "starts a second kube-apiserver" in seen(node.check(code=7), "manifest", "failed")


def test_keys_in_a_file_that_others_may_read_are_a_warning(node: Node) -> None:
    secret = base64.b64encode(b"33 bytes are one more than it has").decode()
    keys = {"aescbc": {"keys": [{"name": "k", "secret": secret}]}}
    node.edit(lambda it: it["resources"][0]["providers"].append(keys))
    node.config.chmod(0o644)
    result = node.run("k8s", "check", "--manifest", str(node.manifest))
    assert secret not in result.text + result.err
    found = node.check(code=7)
    assert "must have 16 or 24 or 32 bytes" in seen(found, "encryption-config", "failed")
    keys["aescbc"]["keys"][0]["secret"] = base64.b64encode(bytes(32)).decode()
    node.edit(lambda it: it["resources"][0]["providers"].__setitem__(-1, keys))
    assert "keys stand in it | chmod 600" in seen(node.check(code=0), "permissions", "warning")


def test_a_socket_without_kmsd_fails(node: Node, tmp_path: Path) -> None:
    node.edit(lambda it: it["resources"][0]["providers"][0]["kms"].update(endpoint=f"unix://{tmp_path}/gone.sock"))
    found = node.check("--encryption-config", str(node.config), code=7, manifest=False)
    assert "No such file or directory | start kmsd" in seen(found, "socket", "failed")
    node.edit(lambda it: it["resources"][0]["providers"][0]["kms"].update(endpoint=f"unix://{node.kmsd.admin_socket}"))
    found = node.check("--encryption-config", str(node.config), code=7, manifest=False)
    assert "has no KMS API" in seen(found, "status", "failed")


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [("unix://run/kmsd/kms.sock", "dials '/kmsd/kms.sock'"), ("unix:///@kmsd", "abstract socket")],
)
def test_an_endpoint_that_means_another_path_fails(node: Node, endpoint: str, said: str) -> None:
    node.edit(lambda it: it["resources"][0]["providers"][0]["kms"].update(endpoint=endpoint))
    assert said in seen(node.check(code=7), "endpoint", "failed")


def test_v1beta1_is_asked_as_kube_apiserver_asks_it_and_wants_its_gate(node: Node) -> None:
    made = node.run("k8s", "manifest", "encryption-config", "--api", "v1", "--socket", str(node.kmsd.socket))
    node.config.write_bytes(made.out)
    found = node.check(code=0)
    assert (outcomes(found)["status"], outcomes(found)["round-trip"]) == ("ok", "ok")
    assert "its feature gate is on, and it is not" in seen(found, "provider", "warning")
    node.manifest.write_text(
        node.manifest.read_text().replace("    - --profiling=false\n", "    - --feature-gates=A=false,KMSv1=true\n")
    )
    assert outcomes(node.check(code=0))["provider"] == "ok"


def test_a_timeout_that_is_too_short_is_a_warning(node: Node) -> None:
    node.edit(lambda it: it["resources"][0]["providers"][0]["kms"].update(timeout="900ms"))
    assert "0.9 s" in seen(node.check(code=0), "timeout", "warning")


def test_a_node_that_writes_with_another_key_fails_and_one_that_is_away_is_not_checked(
    node: Node, other: Kmsd, tmp_path: Path
) -> None:
    away = str(tmp_path / "away.sock")
    found = node.check("--node", str(node.kmsd.admin_socket), "--node", str(other.admin_socket), "--node", away, code=7)
    assert outcomes(found)["nodes"] == "failed not checked ok"
    assert "what one node writes another cannot read" in seen(found, "nodes", "failed")
    assert away in seen(found, "nodes", "not checked")


def test_what_etcd_holds_wants_the_names_of_all_that_wrote_it(node: Node, etcd: Server) -> None:
    named = ("--endpoints", etcd.url)
    found = node.check(*named, code=7)
    lost = sorted(each["seen"] for each in found["stored"])
    assert [each.partition(", and")[0] for each in lost] == [
        "1 of deployments begin with k8s:enc:kms:v2:kmsd:",
        "1 of secrets begin with k8s:enc:kms:v2:former:",
    ]
    former = {"kms": {"apiVersion": "v2", "name": "former", "endpoint": f"unix://{node.kmsd.socket}"}}
    node.edit(lambda it: it["resources"][0]["providers"].insert(1, former))
    node.edit(lambda it: it["resources"][0]["resources"].extend(["deployments.apps", "configmaps"]))
    assert outcomes(node.check(*named, code=0))["stored"] == "ok"
    node.edit(lambda it: it["resources"][0]["providers"].pop())
    assert "are plain, and the file has no `identity`" in seen(node.check(*named, code=7), "stored", "failed")


def test_a_check_is_not_taken_for_a_kube_apiserver_that_has_followed_a_rotation(node: Node) -> None:
    node.kmsd.admin("RotateKey", pb.RotateKeyRequest())
    assert outcomes(node.check(code=0))["round-trip"] == "ok"
    following = node.kmsd.status().following
    assert (following.first_status_unix_ms, following.first_encrypt_unix_ms) == (0, 0)
    node.kmsd.v2("Status")
    assert node.kmsd.status().following.first_status_unix_ms > 0


@needs_root
def test_the_socket_is_tried_as_kube_apiservers_own_user(node: Node) -> None:
    found = node.check("--as-user", str(UID), code=7)
    assert f"the user {UID} of kube-apiserver may not connect" in seen(found, "socket", "failed")
    assert outcomes(found)["round-trip"] == "ok"  # root itself may
    node.edit(lambda it: it["spec"].update(securityContext={"runAsUser": UID, "runAsGroup": UID}), node.manifest)
    found = node.check(code=7)
    assert outcomes(found)["socket"] == "failed"
    assert f"the user {UID} of kube-apiserver may not read it" in seen(found, "permissions", "failed")
    mode = node.kmsd.socket.stat()
    try:
        node.kmsd.socket.parent.chmod(0o711)
        os.chown(node.kmsd.socket, -1, UID)
        node.kmsd.socket.chmod(0o660)
        os.chown(node.config, UID, UID)
        assert outcomes(node.check(code=0))["socket"] == "ok"
    finally:
        node.kmsd.socket.chmod(mode.st_mode & 0o777)
        os.chown(node.kmsd.socket, -1, mode.st_gid)


@needs_root
def test_a_kube_apiserver_that_is_root_without_capabilities_is_a_user_like_any_other(node: Node) -> None:
    owner = node.kmsd.socket.stat()
    try:
        os.chown(node.kmsd.socket, UID, UID)
        assert outcomes(node.check(code=0))["socket"] == "ok"
        drop = {"securityContext": {"capabilities": {"drop": ["ALL"]}}}
        node.edit(lambda it: it["spec"]["containers"][0].update(drop), node.manifest)
        assert "the user 0 of kube-apiserver may not connect" in seen(node.check(code=7), "socket", "failed")
    finally:
        os.chown(node.kmsd.socket, owner.st_uid, owner.st_gid)
    assert outcomes(node.check(code=0))["socket"] == "ok"


@needs_root
def test_what_needs_rights_is_not_ok_and_has_an_exit_code_of_its_own(
    node: Node, open_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = open_place / "encryption-config.yaml"
    config.write_bytes(node.config.read_bytes())
    config.chmod(0o644)
    # Only the effective user: files and sockets are opened as that one.
    monkeypatch.chdir("/")
    os.setegid(UID)
    os.seteuid(UID)
    try:
        found = node.check("--encryption-config", str(config), code=4, manifest=False)
    finally:
        os.seteuid(0)
        os.setegid(0)
    told = {name: each[0]["denied"] for name, each in found.items() if each[0]["outcome"] == "not checked"}
    assert told == {"manifest": False, "socket": True, "status": True, "nodes": False, "stored": False}
    assert "run this as root" in seen(found, "socket", "not checked")
