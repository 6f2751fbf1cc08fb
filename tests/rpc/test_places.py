"""Another user of the machine tries to come between kmsd and its clients, audit and memory, by way of their paths."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.daemons import Kmsd, wait_for
from tests.strangers import UID, needs_root, open_folder, stranger
from tests.tokens import SoftToken

SEED = v2.EncryptRequest(plaintext=b"0123456789abcdef0123456789abcdef")
pytestmark = needs_root


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where others may pass, as through /run or /srv."""
    with open_folder() as folder:
        yield folder


def _refused(kmsd: Kmsd) -> str:
    assert kmsd.process is not None
    assert kmsd.process.wait(20) == 2
    said = kmsd.log_text()
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("flag", ["--socket", "--admin-socket"])
def test_a_socket_below_a_directory_that_others_may_write_to_is_refused(
    start_kmsd: Callable[..., Kmsd], folder: Path, flag: str
) -> None:
    shared = folder / "shared"
    place = shared / "kms" / "x.sock"
    place.parent.mkdir(parents=True, mode=0o755)
    shared.chmod(0o777)
    # What they could do: the directory of root's goes, theirs comes.
    assert stranger("mv", shared / "kms", shared / "gone").returncode == 0
    assert stranger("mv", shared / "gone", shared / "kms").returncode == 0
    kmsd = start_kmsd(f"{flag}={place}", "--auto-create", wait=False)
    said = _refused(kmsd)
    assert f"others may write to the directory {shared} (mode 0777), and so replace the socket" in said
    assert f"hint: chmod go-w {shared}" in said
    assert not place.exists()
    shared.chmod(0o755)
    kmsd.start(wait=False)
    wait_for(place.exists)
    assert stranger("mv", shared / "kms", shared / "gone").returncode != 0
    assert stranger("mv", place, shared / "kms" / "y").returncode != 0


def test_a_parent_that_is_a_strangers_link_is_refused(start_kmsd: Callable[..., Kmsd], folder: Path) -> None:
    folder.chmod(0o1777)
    real = folder / "real"
    real.mkdir(mode=0o755)
    link = folder / "link"
    assert stranger("ln", "-s", real, link).returncode == 0
    said = _refused(start_kmsd(f"--socket={link}/kms.sock", wait=False))
    assert f"the symbolic link {link} belongs to user {UID}" in said
    assert f"hint: chown -h root {link}" in said
    assert list(real.iterdir()) == []
    # Our own link to our own directory is as good as the directory.
    (folder / "ours").symlink_to(real)
    kmsd = start_kmsd(f"--socket={folder}/ours/kms.sock", wait=False, name="2")
    wait_for((real / "kms.sock").exists)
    assert kmsd.stop() == 0


def test_nothing_is_made_along_a_strangers_path(start_kmsd: Callable[..., Kmsd], folder: Path) -> None:
    folder.chmod(0o1777)
    target = folder / "target"
    target.mkdir(mode=0o755)
    assert stranger("ln", "-s", target, folder / "run").returncode == 0
    _refused(start_kmsd(f"--socket={folder}/run/kmsd/kms/kms.sock", wait=False))
    assert list(target.iterdir()) == []


def test_in_a_sticky_directory_a_socket_serves_and_others_cannot_take_its_place(
    start_kmsd: Callable[..., Kmsd], folder: Path
) -> None:
    folder.chmod(0o1777)
    place = folder / "kms.sock"
    kmsd = start_kmsd(f"--socket={place}", wait=False)
    wait_for(place.exists)
    assert stranger("rm", "-f", place).returncode != 0
    assert stranger("mv", place, folder / "away").returncode != 0
    assert stat.S_ISSOCK(place.stat().st_mode)
    assert kmsd.stop() == 0


@pytest.mark.parametrize("what", ["socket", "lock"])
def test_in_a_sticky_directory_what_a_stranger_made_first_is_refused(
    start_kmsd: Callable[..., Kmsd], folder: Path, what: str
) -> None:
    folder.chmod(0o1777)
    place = folder / "kms.sock"
    if what == "socket":
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(place))
        os.chown(place, UID, UID)
    else:
        assert stranger("touch", folder / ".kms.sock.lock").returncode == 0
    said = _refused(start_kmsd(f"--socket={place}", wait=False))
    # Where the kernel protects sticky directories (fs.protected_regular) it says so first.
    assert f"made by user {UID}" in said or "made by another user" in said or "Permission denied" in said


def test_an_audit_whose_path_others_steer_is_not_written_and_said(
    start_kmsd: Callable[..., Kmsd], folder: Path
) -> None:
    shared = folder / "shared"
    (shared / "audit").mkdir(parents=True, mode=0o700)
    shared.chmod(0o775)
    file = shared / "audit" / "audit.jsonl"
    kmsd = start_kmsd("--auto-create", environment={"KMSD_AUDIT__FILE": str(file)}).wait_ok()
    problem = next(each for each in kmsd.status().problems if "audit" in each.message)
    assert f"others may write to the directory {shared} (mode 0775), and so replace the audit" in problem.message
    assert problem.hint == f"chmod go-w {shared}"
    assert list((shared / "audit").iterdir()) == []
    shared.chmod(0o755)
    wait_for(lambda: not kmsd.status().problems, 40)
    assert file.stat().st_size


def test_what_lies_in_a_state_directory_that_others_could_have_replaced_is_not_believed(
    start_kmsd: Callable[..., Kmsd], folder: Path, token: SoftToken
) -> None:
    shared = folder / "shared"
    state = shared / "state"
    environment = {"KMSD_STATE__DIR": str(state)}
    flags = ("--auto-create", f"--state-dir={state}")
    shared.mkdir(mode=0o755)
    kmsd = start_kmsd(*flags, environment=environment).wait_ok()
    key_id = kmsd.v2("Status").key_id
    kmsd.stop()
    remembered = {path.name: path.read_bytes() for path in state.iterdir() if path.suffix == ".json"}
    assert json.loads(remembered["write-key.json"])["key_id"] == key_id
    shared.chmod(0o777)
    with token.away():
        kmsd.start()
        wait_for(lambda: not kmsd.status().token.up)
        # It starts, says why, and knows nothing of before.
        said = [each for each in kmsd.status().problems if str(shared) in each.message]
        (problem,) = [each for each in said if each.message.endswith("and so replace what kmsd keeps across restarts")]
        assert problem.hint == f"chmod go-w {shared}"
        assert not problem.fatal
        assert kmsd.v2("Status").key_id != key_id
    kmsd.wait_ok()
    assert any(line["event"] == problem.message for line in kmsd.log_lines())
    kmsd.stop()
    assert {path.name: path.read_bytes() for path in state.iterdir() if path.suffix == ".json"} == remembered
    # Without a write key it does not make another: one may have written here before.
    token.destroy("k8s-kek")
    kmsd.start()
    wait_for(
        lambda: any("whether a key wrote here before is not known" in each.message for each in kmsd.status().problems)
    )
    assert not kmsd.admin("ListKeys").keys
    kmsd.stop()
    shared.chmod(0o755)
    kmsd.start()
    wait_for(lambda: any("wrote here before and is not on" in each.message for each in kmsd.status().problems))
    assert kmsd.status().state == admin.SERVING_STATE_DOWN


def test_a_state_file_of_another_user_is_not_believed(start_kmsd: Callable[..., Kmsd], short_tmp: Path) -> None:
    state = short_tmp / "d" / "state"
    state.mkdir(parents=True, mode=0o700)
    (state / "write-key.json").write_text('{"label": "k8s-kek", "key_id": "theirs"}')
    os.chown(state / "write-key.json", UID, UID)
    kmsd = start_kmsd()
    assert kmsd.v2("Status").key_id != "theirs"
    said = [line["event"] for line in kmsd.log_lines()]
    assert f"{state / 'write-key.json'} is not believed: it belongs to user {UID}" in said
