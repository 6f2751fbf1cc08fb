"""Living under a supervisor: SIGHUP, sd_notify, and a state directory that is not what it was."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kmsd.api.kms.v2 import api_pb2 as v2
from tests.daemons import Kmsd, wait_for
from tests.tokens import SoftToken

SEED = v2.EncryptRequest(plaintext=b"0123456789abcdef0123456789abcdef")


@pytest.fixture
def config(short_tmp: Path) -> Path:
    path = short_tmp / "kmsd.toml"
    path.write_text('[log]\nlevel = "info"\nformat = "json"\n[keys]\nauto_create = true\n')
    return path


@pytest.fixture
def configured(start_kmsd: Callable[..., Kmsd], config: Path) -> Kmsd:
    """A kmsd whose log settings come from a file, where they can be changed."""
    return start_kmsd(f"--config={config}", logging=()).wait_ok()


def _reload(kmsd: Kmsd, *, says: str = "configuration read again") -> dict[str, object]:
    """SIGHUP, and the new log line that tells of it."""
    assert kmsd.process is not None
    seen = len(kmsd.log_lines())
    kmsd.process.send_signal(signal.SIGHUP)
    lines: list[dict[str, object]] = wait_for(
        lambda: [line for line in kmsd.log_lines()[seen:] if line["event"].startswith(says)]
    )
    return lines[0]


def _calls(kmsd: Kmsd) -> int:
    """How many lines about calls the log has, after one more call."""
    kmsd.v2("Encrypt", SEED)
    return sum(line["event"] == "call" for line in kmsd.log_lines())


def test_sighup_changes_the_log_level(configured: Kmsd, config: Path) -> None:
    assert _calls(configured) == 0
    before = config.read_text()
    config.write_text(before.replace('"info"', '"debug"'))
    assert _reload(configured)["needs_restart"] == []
    wait_for(lambda: _calls(configured) > 0)
    config.write_text(before)
    _reload(configured)
    quiet = _calls(configured)
    assert _calls(configured) == quiet


@pytest.mark.parametrize(
    ("broken", "names"),
    [
        ('[log]\nlevel = "loud"\n', "level"),
        ("[log\n", "kmsd.toml"),
        ("[keys]\nlabl = 'x'\n", "labl"),
        (None, "kmsd.toml"),
    ],
    ids=["wrong-value", "no-toml", "wrong-key", "gone"],
)
def test_a_broken_file_keeps_the_old_configuration(
    configured: Kmsd, config: Path, broken: str | None, names: str
) -> None:
    before = config.read_text()
    if broken is None:
        config.unlink()
    else:
        config.write_text(broken)
    line = _reload(configured, says="reload refused, the old configuration stays")
    assert line["level"] == "error"
    assert names in str(line["reason"])
    assert _calls(configured) == 0
    assert configured.v2("Status").healthz == "ok"
    config.write_text(before)
    assert _reload(configured)["needs_restart"] == []


def test_what_sighup_cannot_change_is_named(configured: Kmsd, config: Path) -> None:
    config.write_text(config.read_text() + 'label = "another"\nrefresh = 5\n[kms]\non_hsm_loss = "fail-closed"\n')
    assert _reload(configured)["needs_restart"] == ["keys.label", "keys.refresh", "kms.on_hsm_loss"]
    assert configured.status().write_label == "k8s-kek"
    assert configured.v2("Status").healthz == "ok"
    # It is still to be done, and so still said.
    assert _reload(configured)["needs_restart"] == ["keys.label", "keys.refresh", "kms.on_hsm_loss"]


def test_sighup_while_serving_loses_no_call(configured: Kmsd) -> None:
    for _ in range(10):
        assert configured.process is not None
        configured.process.send_signal(signal.SIGHUP)
        for _ in range(20):
            written = configured.v2("Encrypt", SEED)
            request = v2.DecryptRequest(ciphertext=written.ciphertext, key_id=written.key_id)
            assert configured.v2("Decrypt", request).plaintext == SEED.plaintext


@pytest.fixture
def systemd(short_tmp: Path) -> Iterator[socket.socket]:
    """What systemd listens with (sd_notify(3))."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(short_tmp / "notify"))
        listener.settimeout(10)
        yield listener


def _hear(systemd: socket.socket, until: str) -> list[str]:
    """The lines that come, up to one that begins so."""
    heard: list[str] = []
    while not any(line.startswith(until) for line in heard):
        heard += systemd.recv(4096).decode().splitlines()
    return heard


def test_systemd_is_told_how_it_goes(
    start_kmsd: Callable[..., Kmsd], systemd: socket.socket, short_tmp: Path, token: SoftToken
) -> None:
    kmsd = start_kmsd(environment={"NOTIFY_SOCKET": str(short_tmp / "notify"), "KMSD_KEYS__REFRESH": "0.2"}, wait=False)
    _hear(systemd, "READY=1")
    # READY means that both sockets answer.
    assert kmsd.status().version
    _hear(systemd, "STATUS=not healthy: there is no key labelled 'k8s-kek'")
    token.import_aes("k8s-kek", bytes(32), b"an-id")
    _hear(systemd, "STATUS=serving")
    assert kmsd.process is not None
    kmsd.process.send_signal(signal.SIGHUP)
    heard = _hear(systemd, "READY=1")
    assert heard[0] == "RELOADING=1"
    assert heard[1].startswith("MONOTONIC_USEC=")
    assert kmsd.stop() == 0
    assert "STOPPING=1" in _hear(systemd, "STOPPING=1")


def test_a_notify_socket_that_is_not_there_is_no_harm(start_kmsd: Callable[..., Kmsd], short_tmp: Path) -> None:
    kmsd = start_kmsd("--auto-create", environment={"NOTIFY_SOCKET": str(short_tmp / "nobody")}).wait_ok()
    assert kmsd.stop() == 0


@pytest.mark.parametrize("kept", [b"", b"\xff\xfe", b"[" * 4096, b'{"label": "k8s-kek", "key_id": 7}', b"null"])
def test_a_damaged_state_directory_is_no_harm(start_kmsd: Callable[..., Kmsd], short_tmp: Path, kept: bytes) -> None:
    state = short_tmp / "d" / "state"
    state.mkdir(parents=True)
    (state / "write-key.json").write_bytes(kept)
    kmsd = start_kmsd("--auto-create").wait_ok()
    assert kmsd.v2("Encrypt", SEED).key_id == kmsd.v2("Status").key_id


def test_a_state_directory_that_cannot_be_written_is_a_warning(
    start_kmsd: Callable[..., Kmsd], short_tmp: Path
) -> None:
    (short_tmp / "d").mkdir()
    (short_tmp / "d" / "state").write_text("no directory")
    kmsd = start_kmsd("--auto-create").wait_ok()
    lines = [line for line in kmsd.log_lines() if line["event"] == "the state directory cannot be written"]
    assert [line["level"] for line in lines] == ["warning"]
