"""A socket that goes while kmsd serves is made again, and whoever was connected does not notice."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v2 import api_pb2 as v2
from tests import forkserver
from tests.daemons import KMSCTL, Kmsd, wait_for
from tests.raw import unary

SEED = v2.EncryptRequest(plaintext=b"0123456789abcdef0123456789abcdef")
QUICK = {"KMSD_HEALTH__INTERVAL": "0.3"}


@pytest.fixture
def kmsd(start_kmsd: Callable[..., Kmsd]) -> Kmsd:
    return start_kmsd("--auto-create", environment=QUICK).wait_ok()


def _connected(kmsd: Kmsd) -> Callable[[], str]:
    """Somebody who has connected to the KMS socket, and stays; gives the key id of what they encrypt."""
    channel = kmsd.channel(None, ("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1))
    encrypt = channel.unary_unary(
        "/v2.KeyManagementService/Encrypt",
        request_serializer=v2.EncryptRequest.SerializeToString,
        response_deserializer=v2.EncryptResponse.FromString,
    )
    return lambda: encrypt(SEED, timeout=5).key_id


def _anew(path: Path) -> str:
    """The key id that somebody gets who connects now."""
    with grpc.insecure_channel(f"unix:{path}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        body = unary(channel, "/v2.KeyManagementService/Encrypt")(SEED.SerializeToString(), timeout=5)
    return v2.EncryptResponse.FromString(body).key_id


def _health(kmsd: Kmsd) -> subprocess.CompletedProcess[str]:
    return forkserver.run(
        [KMSCTL, "--target", str(kmsd.admin_socket), "health"], capture_output=True, text=True, check=False, timeout=20
    )


def _events(kmsd: Kmsd) -> list[str]:
    return [line["socket"] for line in kmsd.log_lines() if line["event"] == "socket made anew"]


def _audited(kmsd: Kmsd) -> str:
    return (kmsd.folder / "state" / "audit.jsonl").read_text()


@pytest.mark.parametrize("which", ["kms", "admin"])
def test_a_socket_that_was_deleted_is_made_again(kmsd: Kmsd, which: str) -> None:
    path = kmsd.socket if which == "kms" else kmsd.admin_socket
    before, lock = path.stat(), (path.parent / f".{path.name}.lock").stat().st_ino
    encrypt = _connected(kmsd)
    encrypt()
    status = kmsd.status()
    path.unlink()
    wait_for(path.exists, 5)
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert (path.parent / f".{path.name}.lock").stat().st_ino == lock
    assert sorted(each.name for each in path.parent.iterdir()) == [f".{path.name}.lock", path.name]
    assert encrypt() == _anew(kmsd.socket) == status.write_key.key_id
    with grpc.insecure_channel(f"unix:{kmsd.admin_socket}") as channel:
        body = unary(channel, "/kmsd.admin.v1.Admin/GetStatus")(b"", timeout=5)
    assert admin.GetStatusResponse.FromString(body).state == admin.SERVING_STATE_SERVING
    assert _events(kmsd) == [str(path)]
    wait_for(lambda: f"{path}: it was deleted" in _audited(kmsd))
    assert "socket made anew" in _audited(kmsd)
    assert _health(kmsd).returncode == 0


def test_a_directory_that_was_deleted_is_made_again(kmsd: Kmsd) -> None:
    directory = kmsd.socket.parent
    mode = directory.stat().st_mode
    shutil.rmtree(directory)
    wait_for(kmsd.socket.exists, 5)
    assert directory.stat().st_mode == mode
    assert _anew(kmsd.socket)
    # Under the lock that lies there now: nobody else gets the place.
    shutil.rmtree(directory)
    wait_for(kmsd.socket.exists, 5)
    assert kmsd.stop() == 0
    assert not kmsd.socket.exists()


def test_a_second_kmsd_does_not_get_the_place_of_a_directory_made_again(
    kmsd: Kmsd, start_kmsd: Callable[..., Kmsd]
) -> None:
    shutil.rmtree(kmsd.socket.parent)
    wait_for(kmsd.socket.exists, 5)
    second = start_kmsd(f"--socket={kmsd.socket}", name="2", wait=False)
    assert second.process is not None
    assert second.process.wait(20) == 2
    assert "another kmsd serves on " in second.log_text()
    assert _anew(kmsd.socket)


def test_a_dead_socket_in_its_place_is_replaced(kmsd: Kmsd) -> None:
    kmsd.socket.unlink()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(kmsd.socket))
    dead = kmsd.socket.stat().st_ino
    wait_for(lambda: kmsd.socket.exists() and kmsd.socket.stat().st_ino != dead, 5)
    assert _anew(kmsd.socket)


def test_another_server_in_its_place_is_left_alone_and_told(kmsd: Kmsd) -> None:
    encrypt = _connected(kmsd)
    encrypt()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(kmsd.folder / "other"))
        other.listen()
        (kmsd.folder / "other").rename(kmsd.socket)
        theirs = kmsd.socket.stat().st_ino
        wait_for(lambda: _health(kmsd).returncode == 7, 10)
        said = _health(kmsd).stdout
        assert f"nobody can connect to {kmsd.socket} (something else took its place)" in said
        assert "another server answers on" in said
        status = kmsd.status()
        assert status.state == admin.SERVING_STATE_DOWN
        assert status.problems[0].fatal
        assert str(kmsd.socket) in status.problems[0].message
        assert kmsd.socket.stat().st_ino == theirs
        assert encrypt()
    wait_for(lambda: kmsd.socket.stat().st_ino != theirs, 10)
    wait_for(lambda: _health(kmsd).returncode == 0, 10)
    assert _anew(kmsd.socket) == encrypt()


def test_what_is_no_socket_is_not_removed_and_told_until_somebody_does(kmsd: Kmsd) -> None:
    kmsd.socket.unlink()
    kmsd.socket.write_text("precious")
    wait_for(lambda: _health(kmsd).returncode == 7, 10)
    assert "exists and is no socket" in _health(kmsd).stdout
    assert kmsd.socket.read_text() == "precious"
    kmsd.socket.unlink()
    wait_for(lambda: kmsd.socket.exists() and stat.S_ISSOCK(kmsd.socket.stat().st_mode), 5)
    assert _anew(kmsd.socket)


HASTY = "from kmsd.cli import main; from kmsd.transport import sockets; sockets._WATCH_SECONDS = 0.01; main()"


def test_a_socket_deleted_again_and_again_costs_a_bounded_number_of_descriptors(
    start_kmsd: Callable[..., Kmsd],
) -> None:
    kmsd = start_kmsd("--auto-create", command=(sys.executable, "-c", HASTY, "serve")).wait_ok()
    assert kmsd.process is not None
    descriptors = Path(f"/proc/{kmsd.process.pid}/fd")
    counts = []
    for _ in range(24):
        before = kmsd.socket.stat().st_ino
        kmsd.socket.unlink()
        wait_for(lambda before=before: kmsd.socket.exists() and kmsd.socket.stat().st_ino != before, 5)
        assert _anew(kmsd.socket)
        counts.append(len(list(descriptors.iterdir())))
    # A connection that is just ending has some for a moment.
    wait_for(lambda: len(list(descriptors.iterdir())) <= min(counts[:12]) + 2, 5)


def test_what_was_made_again_goes_with_kmsd(kmsd: Kmsd) -> None:
    kmsd.socket.unlink()
    wait_for(kmsd.socket.exists, 5)
    assert kmsd.stop(signal.SIGTERM) == 0
    assert not kmsd.socket.exists()
    assert not kmsd.admin_socket.exists()


@pytest.mark.parametrize("name", ["s", "kms.sock"])
def test_a_socket_of_the_longest_path_serves_whatever_its_name(
    start_kmsd: Callable[..., Kmsd], short_tmp: Path, name: str
) -> None:
    folder = short_tmp / ("d" * (107 - len(os.fsencode(short_tmp)) - len(name) - 2))
    path = folder / name
    assert len(os.fsencode(path)) == 107
    kmsd = start_kmsd(f"--socket={path}", "--auto-create", wait=False)
    wait_for(path.exists)
    wait_for(lambda: any(line["event"] == "healthy" for line in kmsd.log_lines()))
    assert _anew(path)
    assert sorted(each.name for each in folder.iterdir()) == [f".{name}.lock", name]
    path.unlink()
    wait_for(path.exists, 5)
    assert _anew(path)
    assert kmsd.stop() == 0
    assert not path.exists()
