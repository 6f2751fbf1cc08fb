"""A key manager with one tenant and a proxy in front of it, to be used as if both were one kmsd."""

from __future__ import annotations

import signal
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.daemons import KMSD, Kmsd, wait_for
from tests.remote.certificates import Authority
from tests.remote.conftest import free_port

TENANT = """
[[tenants]]
name = "cluster-a"
san = ["DNS:*.cluster-a.test"]
key_label = "k8s-kek"
"""


@dataclass(eq=False)
class ThroughProxy(Kmsd):
    """A key manager whose KMS socket is a proxy's; its admin socket, its log and its token are its own."""

    proxy: Kmsd = field(init=False)

    def __post_init__(self) -> None:
        port, folder = free_port(), Path(tempfile.mkdtemp(prefix="p", dir=self.folder.parent))
        ca = Authority(folder)
        shown = ca.issue("manager", "DNS:manager.test", "IP:127.0.0.1", server=True)
        caller = ca.issue("node", "DNS:node-1.cluster-a.test")
        config = folder / "tenants.toml"
        config.write_text(TENANT)
        self.flags = (
            *self.flags, f"--config={config}", "--enable-server", "--host=127.0.0.1", f"--port={port}",
            f"--tls-ca={ca.file}", f"--tls-certificate={shown.certificate}", f"--tls-key={shown.key}",
        )  # fmt: skip
        self.proxy = Kmsd(
            folder, self.token,
            (
                f"--upstream=127.0.0.1:{port}", f"--tls-ca={ca.file}", f"--tls-certificate={caller.certificate}",
                f"--tls-key={caller.key}",
            ),
            environment={"KMSD_HEALTH__INTERVAL": "0.5"}, command=(KMSD, "proxy"), default_flags=False,
        )  # fmt: skip

    @property
    def socket(self) -> Path:
        return self.proxy.socket

    @property
    def own_socket(self) -> Path:
        return super().socket

    def start(self, *, wait: bool = True) -> Self:
        """Start both."""
        super().start(wait=False)
        self.proxy.start(wait=wait)
        if wait:
            wait_for(self._answers)
        return self

    def stop(self, number: int = signal.SIGTERM, timeout: float = 15.0) -> int:
        """Stop both; returns the exit code of the key manager."""
        self.proxy.stop(number, timeout)
        return super().stop(number, timeout)
