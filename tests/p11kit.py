"""A token over a socket for tests: `p11-kit server` with SoftHSM behind it, p11-kit's client module before it.

Has the shape of `tests.tokens.SoftToken`. The server is a process, and each program that uses the token gets another
one from it (`p11-kit-remote`): `stop`, `kill` and `start` are the network cable.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.tokens import MODULE as SOFTHSM
from tests.tokens import Fronted, SoftToken, clean_environment, make_token

MODULES = (
    "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so",
    "/usr/lib/aarch64-linux-gnu/pkcs11/p11-kit-client.so",
    "/usr/lib64/pkcs11/p11-kit-client.so",
)
MODULE = next((path for path in MODULES if Path(path).exists()), MODULES[0])


@dataclass
class P11KitToken(Fronted):
    """A SoftHSM reached through p11-kit.

    server: how the server is called. module: the client's; both may be of another p11-kit than the machine's.
    """

    behind: SoftToken
    server: tuple[str, ...] = ("p11-kit", "server")
    module: str = MODULE
    _process: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def socket(self) -> Path:
        return self.folder / "p11.sock"

    @property
    def environment(self) -> dict[str, str]:
        """For child processes: with the server's address, and no way to SoftHSM but through it."""
        return {**clean_environment(), "P11_KIT_SERVER_ADDRESS": f"unix:path={self.socket}"}

    def start(self) -> Self:
        self.socket.unlink(missing_ok=True)
        with (self.folder / "p11-kit.log").open("ab") as log:
            # In a group of its own, so that what it starts for its clients ends with it.
            process = subprocess.Popen(
                [*self.server, "-f", "-n", str(self.socket), "-p", SOFTHSM, "pkcs11:"],
                env=self.behind.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._process.append(process)
        until = time.monotonic() + 20
        while not self._listens():
            assert process.poll() is None, (self.folder / "p11-kit.log").read_text()
            assert time.monotonic() < until, "p11-kit server does not start"
            time.sleep(0.01)
        return self

    def _listens(self) -> bool:
        """A socket is there a moment before anybody listens on it."""
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError), socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.socket))
            return True
        return False

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Cut every connection: the server and all that it started are gone."""
        while self._process:
            process = self._process.pop()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            process.wait(10)
        self.socket.unlink(missing_ok=True)

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """As if the network were down for a while."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """As if the HSM behind the network had stopped answering."""
        with self.behind.hanging():
            yield


def make_p11kit(folder: Path, label: str = "kmsd-test") -> P11KitToken:
    """A fresh SoftHSM with one token behind a running server; `stop` it at the end."""
    return P11KitToken(make_token(folder, label)).start()
