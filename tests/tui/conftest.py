"""kmstui on real daemons, with its memory in a folder of the test's own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from textual._compositor import Compositor

from kmsd.api.kms.v2 import api_pb2 as v2
from kmsd.client import places
from kmstui.app import Kmstui
from tests.daemons import Kmsd
from tests.remote.conftest import ca, make_manager, make_proxy, manager  # noqa: F401 - fixtures
from tests.tokens import make_token

INTERVAL = 0.2
"""Seconds between reads, in tests."""


@pytest.fixture(autouse=True)
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an app without a terminal paints it throws away, at a third of its CPU time: screens are drawn where tests
    look at them (`tests.tui.screen.shown`, pictures), and painted in a terminal of their own."""
    painted = Compositor.render_update

    def render_update(self: Compositor, full: bool = False, *args: Any, **more: Any) -> Any:
        if full:
            return painted(self, full, *args, **more)
        self._dirty_regions.clear()
        return None

    monkeypatch.setattr(Compositor, "render_update", render_update)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is remembered beyond a test, and no taste in colours or targets is inherited."""
    monkeypatch.setenv("KMSCTL_CONFIG", "/dev/null")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("KMSCTL_TARGET", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name in places.NAMES:  # what is typed is put there
        monkeypatch.setenv(places.variable(name), "")


def app_on(*daemons: Kmsd, interval: float = INTERVAL, **fields: Any) -> Kmstui:
    """A kmstui with these targets."""
    return Kmstui([f"unix://{kmsd.admin_socket}" for kmsd in daemons], interval, **fields)


@contextmanager
def under_load(kmsd: Kmsd, pause: float = 0.01) -> Iterator[None]:
    """One Encrypt, and Decrypts until the end; some are wrong on purpose."""
    stop = threading.Event()
    channel = kmsd.channel()
    # Grown here, and not by Kmsd's own shared channels, which are this thread's.
    call = channel.unary_unary
    service = "/v2.KeyManagementService"
    encrypt = call(f"{service}/Encrypt", v2.EncryptRequest.SerializeToString, v2.EncryptResponse.FromString)
    decrypt = call(f"{service}/Decrypt", v2.DecryptRequest.SerializeToString, v2.DecryptResponse.FromString)
    made = encrypt(v2.EncryptRequest(plaintext=b"x" * 32, uid="load-0"), timeout=30)

    def run() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            broken = number % 10 == 0
            ciphertext = b"no such thing" if broken else made.ciphertext
            request = v2.DecryptRequest(ciphertext=ciphertext, uid=f"load-{number}", key_id=made.key_id)
            try:
                decrypt(request, timeout=30)
            except grpc.RpcError:
                assert broken or stop.is_set()
            time.sleep(pause)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)


Start = Callable[..., Kmsd]


@pytest.fixture
def more_kmsd(short_tmp: Path) -> Iterator[Start]:
    """Starts a kmsd on a token of its own; all are stopped at the end."""
    running: list[Kmsd] = []

    def start(*flags: str) -> Kmsd:
        folder = short_tmp / f"m{len(running)}"
        folder.mkdir()
        kmsd = Kmsd(folder, make_token(folder / "hsm"), flags)
        running.append(kmsd)
        return kmsd.start()

    yield start
    for kmsd in running:
        if kmsd.process is not None and kmsd.process.poll() is None:
            kmsd.stop()
