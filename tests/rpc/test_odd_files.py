"""kmsd starts, and reloads, although one of its files is a pipe that nobody writes to, or a directory, or huge."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from kmsd.api.kms.v2 import api_pb2 as v2
from tests.daemons import Kmsd, wait_for
from tests.tokens import SoftToken

SEED = v2.EncryptRequest(plaintext=b"0123456789abcdef0123456789abcdef")
STATE = ("write-key.json", "following.json", "uses.json", "audit.jsonl", "audit-7.jsonl", "audit.jsonl.lock")


def _make(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    match kind:
        case "fifo":
            os.mkfifo(path, 0o600)
        case "directory":
            path.mkdir()
        case "huge":
            with path.open("wb") as file:
                file.truncate(1 << 40)
            path.chmod(0o600)


@pytest.mark.parametrize("kind", ["fifo", "directory", "huge"])
@pytest.mark.parametrize("name", STATE)
def test_what_is_in_the_place_of_a_state_file_is_said_and_hangs_nothing(
    start_kmsd: Callable[..., Kmsd], short_tmp: Path, token: SoftToken, name: str, kind: str
) -> None:
    token.import_aes("k8s-kek", bytes(32), b"an-id")
    _make(short_tmp / "d" / "state" / name, kind)
    kmsd = start_kmsd().wait_ok()
    assert kmsd.v2("Encrypt", SEED).key_id == "an-id"
    said = [line for line in kmsd.log_lines() if name in f"{line['event']} {line.get('reason', '')}"]
    if (name, kind) != ("audit.jsonl.lock", "huge"):  # nothing is read of it
        assert said, kmsd.log_text()
        assert all(line["level"] in ("warning", "error") for line in said)
    assert kmsd.stop() == 0


@pytest.mark.parametrize("name", [".kms.sock.lock", "kms.sock"])
def test_a_pipe_in_the_place_of_a_lock_or_a_socket_is_refused_at_once(
    start_kmsd: Callable[..., Kmsd], short_tmp: Path, name: str
) -> None:
    _make(short_tmp / "d" / "kms" / name, "fifo")
    (short_tmp / "d" / "kms").chmod(0o700)
    kmsd = start_kmsd(wait=False)
    assert kmsd.process is not None
    assert kmsd.process.wait(10) == 2
    assert "not a regular file" in kmsd.log_text() or "is no socket" in kmsd.log_text()


def test_a_reload_that_waits_for_a_pipe_keeps_nobody_waiting(start_kmsd: Callable[..., Kmsd], short_tmp: Path) -> None:
    config = short_tmp / "kmsd.toml"
    config.write_text('[log]\nlevel = "info"\nformat = "json"\n[keys]\nauto_create = true\n')
    kmsd = start_kmsd(f"--config={config}", logging=()).wait_ok()
    config.unlink()
    os.mkfifo(config)
    assert kmsd.process is not None
    kmsd.process.send_signal(signal.SIGHUP)
    for _ in range(20):
        assert kmsd.v2("Encrypt", SEED, timeout=1).key_id
    # Somebody writes to it after all.
    with config.open("w") as pipe:
        pipe.write('[log]\nlevel = "debug"\nformat = "json"\n[keys]\nauto_create = true\n')
    wait_for(lambda: any(line["event"] == "configuration read again" for line in kmsd.log_lines()))
    kmsd.v2("Status")
    wait_for(lambda: any(line["event"] == "call" for line in kmsd.log_lines()))
