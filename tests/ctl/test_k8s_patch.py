"""kmsctl k8s apply-patch: shows what is missing, and writes it when told, with a backup that no kubelet starts."""

from __future__ import annotations

import ctypes
import json
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ctl.conftest import Run
from tests.strangers import UID, needs_root

MANIFEST = Path(__file__).parents[1] / "vectors" / "kube-apiserver.yaml"


class Node:
    """The files of a node, and kmsctl on it."""

    def __init__(self, folder: Path, run: Run) -> None:
        self.run = run
        self.manifests, self.backups = folder / "manifests", folder / "backups"
        self.manifests.mkdir()
        self.manifest = self.manifests / "kube-apiserver.yaml"
        self.manifest.write_bytes(MANIFEST.read_bytes())
        self.manifest.chmod(0o640)
        self.socket = folder / "run" / "kms.sock"
        self.socket.parent.mkdir()
        self.config = folder / "encryption-config.yaml"
        self.config.write_bytes(run("k8s", "manifest", "encryption-config", "--socket", str(self.socket)).out)
        self.paths = ["--config", str(self.config), "--socket", str(self.socket), "--backup-dir", str(self.backups)]

    def names(self) -> list[str]:
        """The names in the folder of manifests, those with a dot too."""
        return [each.name for each in self.manifests.iterdir()]

    def patch(self, *argv: str, code: int = 0) -> str:
        """What it says on stdout and stderr."""
        result = self.run("k8s", "apply-patch", str(self.manifest), *self.paths, *argv)
        assert result.code == code, result.err
        return result.text + result.err


@pytest.fixture
def node(tmp_path: Path, run: Run) -> Node:
    return Node(tmp_path, run)


def kubelet_sees(folder: Path) -> set[str]:
    """The files that the kubelet starts pods by (kubernetes, pkg/kubelet/config/file.go: extractFromDir)."""
    return {each.name for each in folder.glob("[!.]*") if each.is_file()}


@contextmanager
def names_in(folder: Path) -> Iterator[set[str]]:
    """Every name that appears in a folder meanwhile, however briefly: by inotify, as the kubelet watches it."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    created = 0x100 | 0x80 | 0x2  # IN_CREATE, IN_MOVED_TO, IN_MODIFY
    assert libc.inotify_add_watch(descriptor, os.fsencode(folder), created) >= 0, ctypes.get_errno()
    names: set[str] = set()
    try:
        yield names
        data = os.read(descriptor, 1 << 20)
    finally:
        os.close(descriptor)
    while data:
        length = struct.unpack("iIII", data[:16])[3]
        names.add(data[16 : 16 + length].rstrip(b"\0").decode())
        data = data[16 + length :]


@pytest.mark.parametrize("argv", [(), ("--dry-run",)])
def test_nothing_is_written_unless_told(node: Node, argv: tuple[str, ...]) -> None:
    said = node.patch(*argv)
    assert f"+    - --encryption-provider-config={node.config}\n" in said
    assert "nothing is written; --write writes it" in said
    assert node.manifest.read_bytes() == MANIFEST.read_bytes()
    assert not node.backups.exists()


def test_the_diff_is_one_that_patch_takes(node: Node, tmp_path: Path) -> None:
    result = node.run("k8s", "apply-patch", str(node.manifest), *node.paths)
    lines = result.text.splitlines()
    assert lines[:2] == [f"--- {node.manifest}", f"+++ {node.manifest} (patched)"]
    document = json.loads(node.run("k8s", "apply-patch", str(node.manifest), *node.paths, "-o", "json").out)
    assert document["diff"] == result.text.rstrip("\n")
    assert document.keys() == {"manifest", "changes", "written", "backup", "diff"}
    assert (document["written"], document["backup"], len(document["changes"])) == (False, None, 3)


def test_it_writes_with_a_backup_elsewhere_and_the_kubelet_never_sees_a_second_file(node: Node) -> None:
    with names_in(node.manifests) as names:
        said = node.patch("--write")
    assert {name for name in names if not name.startswith(".")} == {"kube-apiserver.yaml"}
    assert kubelet_sees(node.manifests) == {"kube-apiserver.yaml"}
    assert node.names() == ["kube-apiserver.yaml"]
    (backup,) = node.backups.iterdir()
    assert backup.read_bytes() == MANIFEST.read_bytes()
    assert str(backup) in said
    assert stat.S_IMODE(node.backups.stat().st_mode) == 0o700
    assert [stat.S_IMODE(each.stat().st_mode) for each in (node.manifest, backup)] == [0o640, 0o640]


def test_a_second_time_changes_nothing(node: Node) -> None:
    node.patch("--write")
    once = node.manifest.read_bytes()
    assert "has all of it already" in node.patch("--write")
    assert node.manifest.read_bytes() == once
    assert len(list(node.backups.iterdir())) == 1


@needs_root
def test_owner_and_group_stay(node: Node) -> None:
    os.chown(node.manifest, UID, UID + 1)
    node.patch("--write")
    found = node.manifest.stat()
    assert (found.st_uid, found.st_gid) == (UID, UID + 1)


def test_a_link_to_a_manifest_stays_one(node: Node, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.yaml"
    node.manifest.rename(target)
    node.manifest.symlink_to(target)
    node.patch("--write")
    assert node.manifest.is_symlink()
    assert b"--encryption-provider-config" in target.read_bytes()


@pytest.mark.parametrize("into", [".", "../manifests", "link"])
def test_a_backup_that_the_kubelet_would_start_is_refused(node: Node, into: str) -> None:
    (node.manifests / ".." / "link").symlink_to(node.manifests)
    folder = node.manifests.parent / "link" if into == "link" else node.manifests / into
    assert "as a second kube-apiserver" in node.patch("--write", "--backup-dir", str(folder), code=2)
    assert node.manifest.read_bytes() == MANIFEST.read_bytes()
    assert node.names() == ["kube-apiserver.yaml"]


def test_what_would_keep_kube_apiserver_from_starting_is_refused(node: Node) -> None:
    text = node.config.read_text()
    node.config.write_text(text.replace("timeout: 3s", "timeout: 0s"))
    assert "kms.timeout: it must be more than 0" in node.patch("--write", code=2)
    node.config.write_text(text.replace(str(node.socket), "/run/other/kms.sock"))
    assert "which kube-apiserver would not see" in node.patch("--write", code=2)
    node.config.unlink()
    assert "No such file" in node.patch("--write", code=2)
    node.config.write_text(text)
    node.socket.parent.rmdir()
    assert "there is no folder" in node.patch("--write", code=2)
    assert node.manifest.read_bytes() == MANIFEST.read_bytes()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--write", "--dry-run"), "--write and --dry-run exclude each other"),
        (("--config", "encryption-config.yaml"), "must be the absolute path of a file"),
        (("--socket", "/run/kmsd/"), "must be the absolute path of a file"),
    ],
)
def test_wrong_usage_is_2(node: Node, argv: tuple[str, ...], said: str) -> None:
    assert said in node.patch(*argv, code=2)


def test_a_folder_that_cannot_be_written_leaves_the_manifest_as_it_was(node: Node) -> None:
    blocked = node.backups
    blocked.write_text("a file")
    assert "cannot write" in node.patch("--write", code=2)
    assert node.manifest.read_bytes() == MANIFEST.read_bytes()
    assert node.names() == ["kube-apiserver.yaml"]


def test_a_manifest_from_stdin_can_be_looked_at_and_not_written(run: Run) -> None:
    shown = run("k8s", "apply-patch", "-", stdin=MANIFEST.read_bytes())
    assert shown.code == 0
    assert "+    - --encryption-provider-config=" in shown.text
    refused = run("k8s", "apply-patch", "-", "--write", stdin=MANIFEST.read_bytes())
    assert (refused.code, "the manifest comes from stdin" in refused.err) == (2, True)
