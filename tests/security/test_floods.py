"""One client cannot starve another: whatever some ask for, Status is answered, and memory stays bounded."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from kmsd.api.kms.v2 import api_pb2 as v2
from tests.daemons import KMSD, Kmsd, wait_for
from tests.raw import unary
from tests.rpc.refusals import STATUS_V2
from tests.security.floods import KINDS, PREFACE, SETTINGS, frame, half_open, no_end_of_headers, unfinished
from tests.tokens import make_token

SECONDS = 3.0
STATUS_SECONDS = 4.0
HEALED_SECONDS = 15.0
"""On a busy machine; docs/decisions/0002-two-transports.md says what was measured."""
MOST_MEMORY = 256 * 1024
"""KiB."""


@pytest.fixture(scope="module", params=["grpcio", "h2corn"])
def kmsd(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kmsd]:
    folder = tmp_path_factory.mktemp("k")
    (folder / "d").mkdir()
    environment = {"KMSD_KMS__TRANSPORT": request.param}
    # As many descriptors as systems give that nobody has told otherwise.
    few = ("prlimit", "--nofile=1024:1024", KMSD, "serve")
    kmsd = Kmsd(folder / "d", make_token(folder / "hsm"), ("--auto-create",), environment, command=few)
    with kmsd.start():
        yield kmsd.wait_ok()


def memory(kmsd: Kmsd) -> int:
    """KiB that kmsd holds."""
    assert kmsd.process is not None
    status = Path(f"/proc/{kmsd.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def descriptors(kmsd: Kmsd) -> int:
    assert kmsd.process is not None
    return len(list(Path(f"/proc/{kmsd.process.pid}/fd").iterdir()))


def asked(kmsd: Kmsd, channel: grpc.Channel | None = None) -> float:
    """Seconds that Status takes; on a connection of its own if none is given."""
    own = channel or grpc.insecure_channel(f"unix:{kmsd.socket}", options=[("grpc.use_local_subchannel_pool", 1)])
    began = time.monotonic()
    try:
        answer = unary(own, STATUS_V2)(b"", timeout=10)
    finally:
        if channel is None:
            own.close()
    assert v2.StatusResponse.FromString(answer).healthz == "ok"
    return time.monotonic() - began


@pytest.mark.parametrize("kind", KINDS)
def test_status_is_answered_to_who_asks_for_little(kmsd: Kmsd, kind: str) -> None:
    before = descriptors(kmsd)
    stays = kmsd.channel(None, ("grpc.use_local_subchannel_pool", 1))
    asked(kmsd, stays)
    slowest, largest = 0.0, 0
    with subprocess.Popen(
        [sys.executable, "-m", "tests.security.floods", kind, str(kmsd.socket), str(SECONDS)],
        stdout=subprocess.PIPE,
        text=True,
    ) as flood:
        while flood.poll() is None:
            slowest = max(slowest, asked(kmsd, stays), asked(kmsd))
            largest = max(largest, memory(kmsd))
            time.sleep(0.05)
        assert flood.stdout is not None
        connections = int(flood.stdout.read())
    ended = time.monotonic()
    wait_for(lambda: descriptors(kmsd) <= before + 8, HEALED_SECONDS)
    plaintext = v2.EncryptRequest(plaintext=bytes(32))
    assert kmsd.v2("Encrypt", plaintext).ciphertext
    assert time.monotonic() - ended < HEALED_SECONDS
    print(f"{kind}: Status {slowest:.3f} s, {largest / 1024:.0f} MiB, {connections} connections")  # noqa: T201
    assert slowest < STATUS_SECONDS
    assert largest < MOST_MEMORY


def test_a_request_is_whole_in_time_or_its_connection_ends(kmsd: Kmsd) -> None:
    begun = []
    for write in (half_open, no_end_of_headers, unfinished):
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(20)
        peer.connect(str(kmsd.socket))
        peer.sendall(PREFACE + frame(SETTINGS, 0, 0) + next(write()))
        begun.append(peer)
    began = time.monotonic()
    for peer in begun:
        heard = b""
        while data := peer.recv(65536):
            heard += data
        assert 4 < time.monotonic() - began < 9
        assert heard.endswith(b"a request was not whole after 5 s")
        peer.close()
    assert asked(kmsd) < STATUS_SECONDS
