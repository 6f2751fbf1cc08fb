"""The two sockets: who may call, who may take their place, and that they go when kmsd goes."""

from __future__ import annotations

import grp
import os
import signal
import socket
import stat
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from kmsd.api.kms.v2 import api_pb2 as v2
from tests.admin.calls import stats
from tests.daemons import KMSD, Kmsd, wait_for
from tests.raw import unary
from tests.rpc.refusals import ENCRYPT_V2, STATUS_V2
from tests.rpc.wire import field, fields
from tests.tokens import SoftToken

SEED = b"0123456789abcdef0123456789abcdef"


def _mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):04o}"


def _some_group() -> grp.struct_group:
    """A group that this user may give files to; not its own if it has the choice."""
    mine = [number for number in os.getgroups() if number != os.getegid()]
    if os.geteuid() == 0:
        return next(group for group in grp.getgrall() if group.gr_gid != os.getegid())
    return grp.getgrgid(mine[0] if mine else os.getegid())


def _refused(kmsd: Kmsd, timeout: float = 20) -> str:
    """That this kmsd ends by itself with the exit code of a wrong configuration; what it said."""
    assert kmsd.process is not None
    assert kmsd.process.wait(timeout) == 2
    said = kmsd.log_text()
    assert "kmsd: error: " in said
    assert "hint: " in said
    assert "Traceback" not in said
    return said


def test_by_default_only_the_owner_may_call(start_kmsd: Callable[..., Kmsd]) -> None:
    kmsd = start_kmsd()
    assert (_mode(kmsd.socket), _mode(kmsd.admin_socket)) == ("0600", "0600")
    assert (_mode(kmsd.socket.parent), _mode(kmsd.admin_socket.parent)) == ("0700", "0700")
    assert kmsd.socket.stat().st_uid == os.geteuid()
    # Nothing but the socket and its lock is left beside it.
    assert sorted(path.name for path in kmsd.socket.parent.iterdir()) == [".kms.sock.lock", "kms.sock"]


def test_a_group_may_be_let_in_to_each_socket(start_kmsd: Callable[..., Kmsd]) -> None:
    group = _some_group()
    kmsd = start_kmsd(
        f"--admin-group={group.gr_name}",
        environment={"KMSD_KMS__MODE": "0660", "KMSD_KMS__GROUP": group.gr_name},
    )
    for path in (kmsd.socket, kmsd.admin_socket):
        assert _mode(path) == "0660"
        assert path.stat().st_gid == group.gr_gid
        assert _mode(path.parent) == "0710"
        assert path.parent.stat().st_gid == group.gr_gid


def test_a_umask_of_the_caller_changes_nothing(start_kmsd: Callable[..., Kmsd], short_tmp: Path) -> None:
    (short_tmp / "d").mkdir()
    before = os.umask(0)
    try:
        kmsd = start_kmsd()
    finally:
        os.umask(before)
    assert (_mode(kmsd.socket), _mode(kmsd.admin_socket)) == ("0600", "0600")
    assert (_mode(kmsd.socket.parent), _mode(kmsd.admin_socket.parent)) == ("0700", "0700")


def test_a_group_that_is_not_there_is_said(start_kmsd: Callable[..., Kmsd]) -> None:
    said = _refused(start_kmsd("--admin-group=no-such-group", wait=False))
    assert "there is no group 'no-such-group'" in said
    assert "groupadd" in said


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o722])
def test_a_directory_that_others_may_write_to_is_refused(
    start_kmsd: Callable[..., Kmsd], short_tmp: Path, mode: int
) -> None:
    directory = short_tmp / "d" / "kms"
    directory.mkdir(parents=True)
    directory.chmod(mode)
    kmsd = start_kmsd(wait=False)
    said = _refused(kmsd)
    assert f"others may write to the directory {directory}" in said
    assert f"chmod go-w {directory}" in said
    assert not kmsd.socket.exists()
    assert not kmsd.admin_socket.exists()


def test_a_shared_directory_with_the_sticky_bit_will_do(start_kmsd: Callable[..., Kmsd], short_tmp: Path) -> None:
    directory = short_tmp / "d" / "kms"
    directory.mkdir(parents=True)
    directory.chmod(0o1777)
    assert _mode(start_kmsd().socket) == "0600"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(start_kmsd: Callable[..., Kmsd], short_tmp: Path) -> None:
    directory = short_tmp / "d" / "admin"
    directory.mkdir(parents=True)
    os.chown(directory, 65534, -1)
    kmsd = start_kmsd(wait=False)
    assert f"the directory {directory} belongs to user 65534, who could replace the socket" in _refused(kmsd)
    assert not kmsd.socket.exists()


def test_a_path_through_a_file_is_refused(start_kmsd: Callable[..., Kmsd], short_tmp: Path) -> None:
    (short_tmp / "d").mkdir()
    (short_tmp / "d" / "kms").write_text("")
    assert "is no directory" in _refused(start_kmsd(wait=False))


def test_a_second_kmsd_refuses_and_the_first_goes_on(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    first = start_kmsd("--auto-create").wait_ok()
    for flags in (
        (f"--socket={first.socket}",),
        (f"--admin-socket={first.admin_socket}",),
        (f"--socket={first.socket}", f"--admin-socket={first.admin_socket}"),
    ):
        second = start_kmsd(*flags, name="2", wait=False)
        said = _refused(second)
        assert "another kmsd serves on " in said
        assert "stop it first, or give this one another socket" in said
        assert not second.socket.exists()
        assert not second.admin_socket.exists()
        assert first.v2("Encrypt", v2.EncryptRequest(plaintext=SEED)).ciphertext
        assert first.status().healthz == "ok"
        second.log_file.unlink()


def test_the_socket_of_another_server_is_not_stolen(start_kmsd: Callable[..., Kmsd], short_tmp: Path) -> None:
    path = short_tmp / "d" / "kms" / "kms.sock"
    path.parent.mkdir(parents=True, mode=0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(path))
        other.listen()
        assert f"another server answers on {path}" in _refused(start_kmsd(wait=False))
        assert stat.S_ISSOCK(path.stat().st_mode)


def test_a_stale_socket_is_replaced(start_kmsd: Callable[..., Kmsd]) -> None:
    kmsd = start_kmsd("--auto-create").wait_ok()
    kmsd.stop(signal.SIGKILL)
    assert kmsd.socket.exists()
    assert kmsd.admin_socket.exists()
    stale = kmsd.socket.stat().st_ino
    kmsd.start().wait_ok()
    assert kmsd.socket.stat().st_ino != stale
    assert _mode(kmsd.socket) == "0600"


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_is_left_alone(start_kmsd: Callable[..., Kmsd], short_tmp: Path, kind: str) -> None:
    path = short_tmp / "d" / "kms" / "kms.sock"
    path.parent.mkdir(parents=True, mode=0o700)
    target = short_tmp / "precious"
    target.write_text("precious")
    match kind:
        case "file":
            path.write_text("precious")
        case "directory":
            path.mkdir()
        case _:
            path.symlink_to(target)
    before = path.lstat()
    refused = _refused(start_kmsd(wait=False))
    assert f"{path} exists and is no socket" in refused
    assert ("kubelet and docker make one" in refused) == (kind == "directory")
    assert path.lstat().st_ino == before.st_ino
    assert target.read_text() == "precious"


@pytest.mark.parametrize("flag", ["--socket", "--admin-socket"])
@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("@kmsd", "an abstract one has no permissions"),
        ("kms.sock", "must be absolute"),
        ("/tmp/" + "x" * 110, "107 bytes at most"),
    ],
)
def test_a_path_that_cannot_be_is_refused(token: SoftToken, flag: str, path: str, says: str) -> None:
    done = subprocess.run(
        [KMSD, "serve", f"{flag}={path}", "--provider=softhsm"],
        env=token.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_sockets_go_with_kmsd(start_kmsd: Callable[..., Kmsd], number: signal.Signals) -> None:
    kmsd = start_kmsd("--auto-create").wait_ok()
    began = time.monotonic()
    assert kmsd.stop(number) == 0
    assert time.monotonic() - began < 5
    assert not kmsd.socket.exists()
    assert not kmsd.admin_socket.exists()
    assert [line["event"] for line in kmsd.log_lines()[-3:]] == ["kmsd is stopping", "audit closed", "audit closed"]


def _begin_encrypt(kmsd: Kmsd) -> grpc.Future[bytes]:
    """An Encrypt that kmsd has begun: that a later call on the same connection is answered would not show it."""
    before = stats(kmsd).in_flight
    begun: grpc.Future[bytes] = unary(kmsd.channel(), ENCRYPT_V2).future(field(1, SEED), timeout=30)
    wait_for(lambda: stats(kmsd).in_flight > before)
    return begun


def test_sigterm_lets_a_call_in_flight_finish(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    kmsd = start_kmsd("--auto-create", environment={"KMSD_KMS__REQUEST_TIMEOUT": "20"}).wait_ok()
    assert kmsd.process is not None
    with token.hanging():
        begun = _begin_encrypt(kmsd)
        kmsd.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "kmsd is stopping" in kmsd.log_text())
        assert not begun.done()
    assert fields(begun.result())[1]
    assert kmsd.process.wait(10) == 0
    assert not kmsd.socket.exists()


def _storm(kmsd: Kmsd, ended: threading.Event) -> Counter[str]:
    """How Status ends, called on one connection without a pause until kmsd has gone."""
    codes: Counter[str] = Counter()
    status = unary(kmsd.channel(None, ("grpc.use_local_subchannel_pool", 1)), STATUS_V2)
    while not ended.is_set():
        try:
            status(b"", timeout=20)
            codes["OK"] += 1
        except grpc.RpcError as error:
            codes[error.code().name] += 1
    return codes


def test_sigterm_answers_every_call_when_the_token_never_does(
    start_kmsd: Callable[..., Kmsd], token: SoftToken
) -> None:
    """What had begun is told that kmsd stops, in bounded time; what comes meanwhile and after finds nobody."""
    kmsd = start_kmsd("--auto-create", environment={"KMSD_KMS__REQUEST_TIMEOUT": "20"}).wait_ok()
    assert kmsd.process is not None
    ended = threading.Event()
    with token.hanging(), ThreadPoolExecutor(6) as clients:
        storms = [clients.submit(_storm, kmsd, ended) for _ in range(6)]
        begun = [_begin_encrypt(kmsd) for _ in range(12)]
        retired = unary(kmsd.channel(kmsd.admin_socket), "/kmsd.admin.v1.Admin/TestKey")
        tested = retired.future(field(1, b"k8s-kek"), timeout=30)
        time.sleep(0.2)
        began = time.monotonic()
        kmsd.process.send_signal(signal.SIGTERM)
        for each in (*begun, tested):
            error = each.exception()
            assert isinstance(error, grpc.RpcError)
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            assert (error.details() or "").startswith("kmsd is stopping")
        assert kmsd.process.wait(20) == 0
        # 5 s for the calls, 7 s for the token.
        assert time.monotonic() - began < 15
        ended.set()
        codes = sum((storm.result() for storm in storms), Counter())
    assert set(codes) == {"OK", "UNAVAILABLE"}
    assert not kmsd.socket.exists()
    assert not kmsd.admin_socket.exists()
    seen = [line["code"] for line in kmsd.log_lines() if line.get("event") == "call" and line["method"] == "Encrypt"]
    assert "CANCELLED" not in seen


def test_sigterm_under_load_ends_at_once_and_nobody_sees_cancelled(start_kmsd: Callable[..., Kmsd]) -> None:
    kmsd = start_kmsd("--auto-create").wait_ok()
    assert kmsd.process is not None
    ended = threading.Event()
    with ThreadPoolExecutor(8) as clients:
        storms = [clients.submit(_storm, kmsd, ended) for _ in range(8)]
        time.sleep(0.5)
        began = time.monotonic()
        kmsd.process.send_signal(signal.SIGTERM)
        assert kmsd.process.wait(20) == 0
        assert time.monotonic() - began < 3
        ended.set()
        codes = sum((storm.result() for storm in storms), Counter())
    assert set(codes) == {"OK", "UNAVAILABLE"}
