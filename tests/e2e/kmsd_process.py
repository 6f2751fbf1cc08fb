"""kmsd as a control-plane node runs it: a real process over a real SoftHSM token of its own.

Knows command lines and files, nothing of what kmsd does inside.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.e2e.waiting import Program

BIN = Path(sys.executable).parent
STARTING = 20.0
"""Seconds until kmsd's sockets must be there on a busy machine."""


class SoftHsm:
    """A SoftHSM token with no keys, in `home`."""

    label = "kube"

    def __init__(self, home: Path) -> None:
        tokens = home / "tokens"
        tokens.mkdir(parents=True)
        self.config = home / "softhsm2.conf"
        self.config.write_text(f"directories.tokendir = {tokens}\nlog.level = ERROR\n")
        self.pin_file = home / "pin"
        self.pin_file.touch(0o600)
        self.pin_file.write_text("246810\n")
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", f"--label={self.label}", "--so-pin=135790"]
            + ["--pin=246810"],
            env=os.environ | self.environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    @property
    def environment(self) -> Mapping[str, str]:
        return {"SOFTHSM2_CONF": str(self.config)}


class Kmsd:
    """One kmsd; `start` returns when both sockets are there, with or without a key."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        socket: Path,
        admin_socket: Path,
        environment: Mapping[str, str],
        log: Path,
    ) -> None:
        self.socket = socket
        self.admin_socket = admin_socket
        self._arguments = arguments
        self._environment = environment
        self._log = log
        self._program: Program | None = None

    def start(self) -> None:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("KMSD_", "P11_"))}
        self._program = Program([BIN / "kmsd", *self._arguments], self._log, own | dict(self._environment))
        self._program.wait_for(
            lambda: self.socket.exists() and self.admin_socket.exists(),
            seconds=STARTING,
            what="kmsd's sockets are there",
        )

    def stop(self) -> None:
        """Ask it to end, and expect it to do so cleanly."""
        if self._program:
            code = self._program.stop()
            assert code == 0, f"kmsd ended with {code}:\n{self._program.output()[-3000:]}"
            self._program = None

    def keygen(self, label: str = "k8s-kek") -> None:
        """Make a key, and wait until it serves."""
        self.kmsctl("keygen", label)
        self.kmsctl("health", "--wait", "--timeout", "20s")

    def kmsctl(self, *arguments: str) -> str:
        """stdout of a kmsctl command that must succeed."""
        done = subprocess.run(
            [BIN / "kmsctl", "--target", f"unix://{self.admin_socket}", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"kmsctl {arguments}: {done.returncode}\n{done.stderr}"
        return done.stdout


def kmsd_with(token: SoftHsm, home: Path) -> Kmsd:
    """A kmsd that serves `token` on sockets below `home`, by flags alone."""
    socket, admin_socket = home / "kms" / "kms.sock", home / "admin" / "admin.sock"
    arguments = [
        "serve",
        "--provider=softhsm",
        f"--p11-label={token.label}",
        f"--p11-pin-file={token.pin_file}",
        f"--socket={socket}",
        f"--admin-socket={admin_socket}",
        f"--state-dir={home / 'state'}",
        "--log-format=json",
        "--log-level=debug",
    ]
    return Kmsd(
        arguments,
        socket=socket,
        admin_socket=admin_socket,
        environment=token.environment,
        log=home / "kmsd.log",
    )
