"""kmsd ends by itself, with a reason, when only a restart can help, and feeds the watchdog only while it is alive."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from kmsd.api.kms.v2 import api_pb2 as v2
from kmsd.daemon.liveness import Liveness
from tests import forkserver
from tests.chaos import ChaosToken, make_chaos
from tests.daemons import KMSCTL, Kmsd, wait_for
from tests.rpc.refusals import refusal
from tests.tokens import SoftToken

SEED = v2.EncryptRequest(plaintext=b"0123456789abcdef0123456789abcdef")
HASTY = {"KMSD_HEALTH__GIVE_UP_AFTER": "1.5", "KMSD_HEALTH__INTERVAL": "0.3", "KMSD_KMS__REQUEST_TIMEOUT": "0.5"}


@pytest.fixture
def chaos(short_tmp: Path) -> ChaosToken:
    token = make_chaos(short_tmp / "chaos")
    token.import_aes("k8s-kek", bytes(32), b"an-id")
    return token


@pytest.fixture
def systemd(short_tmp: Path) -> Iterator[socket.socket]:
    """What systemd listens with (sd_notify(3))."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(short_tmp / "notify"))
        listener.settimeout(0.1)
        yield listener


def _heard(systemd: socket.socket, seconds: float) -> list[str]:
    heard: list[str] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            heard += systemd.recv(4096).decode().splitlines()
        except TimeoutError:
            continue
    return heard


def _ended(kmsd: Kmsd, timeout: float = 25) -> str:
    """That it ends by itself with exit code 1; the reason, which the log and the audit have."""
    assert kmsd.process is not None
    assert kmsd.process.wait(timeout) == 1, kmsd.log_text()
    (line,) = [line for line in kmsd.log_lines() if line["event"].startswith("kmsd gives up")]
    assert line["level"] == "error"
    reason: str = line["reason"]
    records = [json.loads(each) for each in (kmsd.folder / "state" / "audit.jsonl").read_text().splitlines()]
    assert [each["detail"] for each in records if each["action"] == "kmsd gives up"] == [reason]
    assert "Traceback" not in kmsd.log_text()
    return reason


def _live(kmsd: Kmsd) -> int:
    command = [KMSCTL, "--target", str(kmsd.admin_socket), "--timeout", "5s", "health", "--live"]
    return forkserver.run(command, capture_output=True, check=False, timeout=20).returncode


def _chaotic(start_kmsd: Callable[..., Kmsd], chaos: ChaosToken, **more: str) -> Kmsd:
    return start_kmsd(*chaos.flags, default_flags=False, environment={**chaos.environment, **HASTY, **more}).wait_ok()


def test_a_token_that_hangs_or_is_away_does_not_end_it(start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    kmsd = start_kmsd("--auto-create", environment=HASTY).wait_ok()
    for _ in range(2):
        with token.hanging():
            refusal(kmsd.v2, "Encrypt", SEED)
            time.sleep(2)
            assert _live(kmsd) == 0
        kmsd.wait_ok()
    with token.away():
        wait_for(lambda: kmsd.v2("Status").healthz != "ok")
        time.sleep(2)
        assert _live(kmsd) == 0
    kmsd.wait_ok()


def test_a_socket_that_cannot_be_made_again_ends_kmsd(start_kmsd: Callable[..., Kmsd]) -> None:
    kmsd = start_kmsd("--auto-create", environment=HASTY).wait_ok()
    kmsd.socket.unlink()
    kmsd.socket.mkdir()
    reason = _ended(kmsd)
    assert reason.startswith(f"{kmsd.socket} could not be made again for ")
    assert "exists and is no socket" in reason


def test_another_server_in_the_place_of_a_socket_does_not_end_it(start_kmsd: Callable[..., Kmsd]) -> None:
    kmsd = start_kmsd("--auto-create", environment=HASTY).wait_ok()
    assert kmsd.process is not None
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(kmsd.folder / "other"))
        other.listen()
        (kmsd.folder / "other").rename(kmsd.socket)
        time.sleep(3)
        assert kmsd.process.poll() is None
        assert _live(kmsd) == 0
    wait_for(lambda: not kmsd.status().problems)


def _leave_no_descriptor(kmsd: Kmsd) -> tuple[int, int]:
    """Whoever connects from now on is not heard. Returns the limits of before."""
    assert kmsd.process is not None
    before = resource.prlimit(kmsd.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(kmsd.process.pid, resource.RLIMIT_NOFILE, (3, before[1]))
    return before


def test_the_watchdog_is_fed_while_the_sockets_answer_and_only_then(
    start_kmsd: Callable[..., Kmsd], systemd: socket.socket, short_tmp: Path
) -> None:
    environment = {"NOTIFY_SOCKET": str(short_tmp / "notify"), "WATCHDOG_USEC": "800000"}
    kmsd = start_kmsd("--auto-create", environment=environment).wait_ok()
    assert kmsd.process is not None
    _heard(systemd, 0.2)
    # Twice as often as it has to be, whenever the machine lets it.
    wait_for(lambda: 4 <= _heard(systemd, 2).count("WATCHDOG=1") <= 7)
    before = _leave_no_descriptor(kmsd)
    _heard(systemd, 0.5)
    assert "WATCHDOG=1" not in _heard(systemd, 1.5)
    resource.prlimit(kmsd.process.pid, resource.RLIMIT_NOFILE, before)
    assert "WATCHDOG=1" in _heard(systemd, 1.5)


@dataclass
class Place:
    """A socket as Liveness sees it."""

    problem: Exception | None = None

    def lost(self) -> float:
        return 0.0


async def test_one_socket_that_does_not_answer_starves_the_watchdog_unless_it_is_known_to_be_gone(
    systemd: socket.socket, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(short_tmp / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    silent: set[str] = set()

    async def answers(path: Path, timeout: float) -> bool:
        return path.name not in silent

    async def fed() -> bool:
        _heard(systemd, 0.02)
        await asyncio.sleep(0.1)
        return "WATCHDOG=1" in _heard(systemd, 0.05)

    places = {"kms": Place(), "admin": Place()}
    liveness = Liveness([(Path(name), place) for name, place in places.items()], 0, answers, print)
    feeding = asyncio.create_task(liveness.feed())
    assert await fed()
    silent.add("admin")
    assert not await fed()
    # It has a clock of its own then, `health.give_up_after`, and another server may stand there.
    places["admin"].problem = RuntimeError("gone")
    assert await fed()
    silent.clear()
    places["admin"].problem = None
    assert await fed()
    feeding.cancel()


def test_a_watchdog_of_another_process_is_not_fed(
    start_kmsd: Callable[..., Kmsd], systemd: socket.socket, short_tmp: Path
) -> None:
    environment = {"NOTIFY_SOCKET": str(short_tmp / "notify"), "WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"}
    start_kmsd("--auto-create", environment=environment).wait_ok()
    heard = _heard(systemd, 0.6)
    assert "READY=1" in heard
    assert "WATCHDOG=1" not in heard


def test_a_socket_that_does_not_answer_ends_kmsd(start_kmsd: Callable[..., Kmsd]) -> None:
    environment = {**HASTY, "KMSD_HEALTH__GIVE_UP_AFTER": "3", "WATCHDOG_USEC": "400000"}
    kmsd = start_kmsd("--auto-create", environment=environment).wait_ok()
    before = _leave_no_descriptor(kmsd)
    assert kmsd.process is not None
    with pytest.raises(subprocess.TimeoutExpired):
        kmsd.process.wait(1)
    resource.prlimit(kmsd.process.pid, resource.RLIMIT_NOFILE, before)
    time.sleep(2.5)
    assert kmsd.process.poll() is None, "it answers again"
    _leave_no_descriptor(kmsd)
    assert " has not answered for " in _ended(kmsd)


def test_many_descriptors_are_allowed_from_the_start(start_kmsd: Callable[..., Kmsd]) -> None:
    kmsd = start_kmsd(command=("prlimit", "--nofile=100:5000", *Kmsd.command))
    assert kmsd.process is not None
    assert resource.prlimit(kmsd.process.pid, resource.RLIMIT_NOFILE) == (5000, 5000)


LOOP = """
import asyncio, time
from kmsd.daemon.liveness import Liveness
async def main():
    async def answers(path, timeout): return True
    asyncio.ensure_future(Liveness((), 0.4, answers, print).run())
    await asyncio.sleep(1)
    print("turning", flush=True)
    time.sleep(20)
asyncio.run(main())
"""


def test_a_loop_that_does_not_turn_ends_the_process_with_a_reason() -> None:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", LOOP], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert time.monotonic() - began < 10
    said = done.stdout + done.stderr
    assert "turning" in said
    assert "kmsd gives up: only a restart can help" in said
    assert "the event loop has not turned for 0 s" in said


def _ask_on(kmsd: Kmsd) -> None:
    for _ in range(5000):
        kmsd.v2("Status", timeout=2)


def test_a_kmsd_whose_log_nobody_reads_any_more_ends_although_it_cannot_say_so(
    start_kmsd: Callable[..., Kmsd], token: SoftToken, short_tmp: Path
) -> None:
    """Its event loop waits for the pipe to take the next line, for ever."""
    kmsd = Kmsd(short_tmp / "d", token, ("--auto-create",))
    kmsd.folder.mkdir()
    reader, writer = os.pipe()
    kmsd.process = subprocess.Popen(
        kmsd.arguments, env={**token.environment, **HASTY}, stdin=subprocess.DEVNULL, stderr=writer
    )
    os.close(writer)
    try:
        wait_for(lambda: kmsd.socket.exists())
        with pytest.raises(grpc.RpcError):
            _ask_on(kmsd)
        assert kmsd.process.wait(20) == 1
    finally:
        os.close(reader)
        if kmsd.process.poll() is None:
            kmsd.process.send_signal(signal.SIGKILL)
            kmsd.process.wait()


def test_a_process_that_was_stopped_for_a_while_is_not_taken_for_one_that_hangs(
    start_kmsd: Callable[..., Kmsd],
) -> None:
    kmsd = start_kmsd("--auto-create", environment=HASTY).wait_ok()
    assert kmsd.process is not None
    kmsd.process.send_signal(signal.SIGSTOP)
    time.sleep(2.5)
    kmsd.process.send_signal(signal.SIGCONT)
    time.sleep(0.5)
    assert kmsd.process.poll() is None
    kmsd.wait_ok()
