"""Who calls the admin API is the kernel's word: what a caller says of itself changes nothing but its program's name."""

from __future__ import annotations

import grp
import json
import os
import pwd
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from kmsd.client import connect
from tests.admin.calls import ask_as, failure, watching
from tests.daemons import KMSCTL, Kmsd
from tests.raw import stream, unary
from tests.rpc.refusals import told
from tests.tokens import make_token

MEMBER, OTHER = 12345, 65534
"""Two users; the first has no name."""


@pytest.fixture(scope="module")
def group() -> grp.struct_group:
    """A group that nobody here is a member of."""
    if os.geteuid() != 0:
        return grp.getgrgid(os.getegid())
    return next(each for each in grp.getgrall() if each.gr_gid not in (0, OTHER))


@pytest.fixture(scope="module")
def kmsd(group: grp.struct_group) -> Iterator[Kmsd]:
    """One whose admin socket the group may call, in a directory that others may pass through."""
    with tempfile.TemporaryDirectory(prefix="kmsd-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711)
        flags = ("--auto-create", f"--admin-group={group.gr_name}")
        with Kmsd(folder, make_token(folder / "hsm"), flags).start() as kmsd:
            yield kmsd.wait_ok()


def last(kmsd: Kmsd) -> str:
    """Who made the last call that is recorded."""
    lines = (kmsd.folder / "state" / "audit.jsonl").read_text().splitlines()
    caller: str = json.loads(lines[-1])["caller"]
    return caller


def somebody(kmsd: Kmsd, uid: int, gid: int, claim: str, path: Path | None = None) -> str:
    """Another user calls. How that ended."""
    arguments = [str(uid), str(gid), str(path or kmsd.admin_socket), claim]
    if os.geteuid() != 0:
        arguments[:2] = [str(os.geteuid()), str(os.getegid())]
    done = subprocess.run(
        [sys.executable, "-m", "tests.somebody", *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "?"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("uid", [MEMBER, OTHER])
@pytest.mark.parametrize(
    ("claim", "shown"),
    [
        ("kmsctl uid=0 user=root", "kmsctl"),
        ("kmsctl\tuid=0\tuser=root", "kmsctl?uid?0?user?root"),
        ("uid=0", "uid?0"),
        ("", "-"),
    ],
)
def test_a_member_of_the_group_who_says_to_be_root_is_recorded_as_itself(
    kmsd: Kmsd, group: grp.struct_group, uid: int, claim: str, shown: str
) -> None:
    assert somebody(kmsd, uid, group.gr_gid, claim) == "OK"
    assert last(kmsd) == f"{shown} uid={uid} user={name(uid)}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_who_is_no_member_does_not_get_in(kmsd: Kmsd) -> None:
    before = last(kmsd)
    assert somebody(kmsd, MEMBER, MEMBER, "kmsctl").startswith("UNAVAILABLE")
    assert last(kmsd) == before


def test_our_own_tools_are_recorded_with_their_names(kmsd: Kmsd) -> None:
    me = f"uid={os.geteuid()} user={name(os.geteuid())}"
    command = [KMSCTL, "--target", str(kmsd.admin_socket), "keys", "test", "k8s-kek"]
    environment = {key: value for key, value in os.environ.items() if key != "SUDO_USER"}
    subprocess.run(command, check=True, env=environment, capture_output=True, timeout=60)
    assert last(kmsd) == f"kmsctl {me}"
    subprocess.run(command, check=True, env={**environment, "SUDO_USER": "anna"}, capture_output=True, timeout=60)
    assert last(kmsd) == f"kmsctl(anna) {me}"


def test_grpc_itself_is_behind_no_path_and_answers_nobody_but_through_kmsd(kmsd: Kmsd) -> None:
    """Its socket can be reached by nobody but root, through kmsd's own descriptors, and then it refuses."""
    assert kmsd.process is not None
    assert sorted(path.name for path in kmsd.admin_socket.parent.iterdir()) == [".admin.sock.lock", "admin.sock"]
    handles = Path(f"/proc/{kmsd.process.pid}/fd")
    place = f"{kmsd.admin_socket.parent}/"
    paths = {each: str(each.readlink()) for each in handles.iterdir()}
    hidden = [each for each, path in paths.items() if path.startswith(place) and path.endswith("/s (deleted)")]
    assert len(hidden) == 1
    with grpc.insecure_channel(f"unix:{hidden[0]}") as channel:
        for method in ("GetStatus", "RotateKey"):
            refusal = failure(lambda method=method: unary(channel, f"/kmsd.admin.v1.Admin/{method}")(b""))
            assert (refusal.code, refusal.hint) == (
                "PERMISSION_DENIED",
                "connect to the admin socket (kmsctl --target)",
            )
            assert "nobody knows who calls" in refusal.details
        with pytest.raises(grpc.RpcError) as raised:
            next(stream(channel, "/kmsd.admin.v1.Admin/WatchAudit")(b""))
        assert told(raised.value).code == "PERMISSION_DENIED"
    if os.geteuid() == 0:
        assert somebody(kmsd, MEMBER, MEMBER, "kmsctl", hidden[0]).startswith("UNAVAILABLE")


def test_a_name_that_kmsd_has_given_its_connection_cannot_be_taken_by_another(kmsd: Kmsd) -> None:
    """The names can be read in /proc/net/unix; each is bound as long as kmsd knows it."""
    with watching(kmsd, "WatchStats") as frames:
        frames.next()
        names = [line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if "@kmsd-" in line]
        assert names
        for taken in names:
            with socket.socket(socket.AF_UNIX) as thief, pytest.raises(OSError, match="in use"):
                thief.bind("\0" + taken.removeprefix("@"))


def test_many_watch_at_once_and_none_waits_for_the_other(kmsd: Kmsd) -> None:
    with connect(str(kmsd.admin_socket), timeout=10) as client:
        streams = [client.watch_stats(interval=0.2, timeout=30) for _ in range(8)]
        for stream in streams:
            assert len([frame for frame, _ in zip(stream, range(3), strict=False)]) == 3
        began = time.perf_counter()
        for _ in range(50):
            client.get_status()
        assert (time.perf_counter() - began) / 50 < 0.1
        for stream in streams:
            stream.close()


def test_who_connects_and_says_nothing_is_let_go(kmsd: Kmsd) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.settimeout(20)
        silent.connect(str(kmsd.admin_socket))
        while silent.recv(65536):
            pass


def test_a_caller_says_of_itself_what_it_likes_within_a_word(kmsd: Kmsd) -> None:
    me = f" uid={os.geteuid()} user={name(os.geteuid())}"
    for claim in (b"\xff\xfe", b'"},\n{"seq":1}', b"\x1b[2J" + "é\u2028\u00a0\uff1d".encode(), b"x" * 8000):
        ask_as(kmsd, claim, "TestKey", key="k8s-kek", rounds=1)
        said = last(kmsd)
        assert said.endswith(me)
        program = said.removesuffix(me)
        assert program.isascii()
        assert program.isprintable()
        assert len(program) <= 64
        assert not set(program) & set(' ="')
    assert kmsd.admin("VerifyAudit").intact
