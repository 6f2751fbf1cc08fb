"""A key manager with a CA on its token and EST, and what nodes and operators do with it by kmsctl."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests import forkserver
from tests.daemons import KMSCTL, Kmsd, wait_for
from tests.remote.certificates import Authority, Issued
from tests.remote.conftest import TENANTS, Manager, free_port


@dataclass
class Whole:
    """A key manager with a CA, which listens for nodes on `port`. trusted: file with all CAs."""

    manager: Manager
    port: int
    trusted: Authority
    folder: Path

    @property
    def kmsd(self) -> Kmsd:
        return self.manager.kmsd

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def wait_est(self) -> None:
        """Wait until it serves nodes and tenants."""
        wait_for(lambda: "serving EST" in self.kmsd.log_text())
        wait_for(lambda: self.kmsd.log_text().count("tenant is healthy") >= 2)

    def ctl(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [KMSCTL, *words]
        environment = {**os.environ, "KMSCTL_TARGET": str(self.kmsd.admin_socket)}
        return forkserver.run(
            command, input=stdin, capture_output=True, text=True, timeout=60, check=False, env=environment
        )

    def done(self, *words: str, stdin: str = "") -> str:
        done = self.ctl(*words, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def document(self, *words: str) -> Any:
        return json.loads(self.done(*words, "-o", "json"))

    @property
    def pin(self) -> str:
        root = x509.load_pem_x509_certificates(self.done("ca", "show", "--pem").encode())[0]
        return "sha256:" + hashlib.sha256(root.public_bytes(Encoding.DER)).hexdigest()

    def enrol(self, node: str, *flags: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
        given = ["--token-file", "-"] if token is not None else []
        return self.ctl(
            "enrol", "--server", self.url, "--ca-fingerprint", self.pin, "--node", node, "--out",
            str(self.folder / node), *given, *flags, stdin=token or "",
        )  # fmt: skip

    def token(self, node: str, tenant: str = "cluster-a") -> str:
        return self.done("enrol", "token", node, "--tenant", tenant).strip()

    def issued(self, node: str) -> Issued:
        return Issued(self.folder / node / "tls.crt", self.folder / node / "tls.key")


def begin(make_manager: Callable[..., Manager], ca: Authority, tmp_path: Path, approval: str = "token") -> Whole:
    """Start a key manager that enrols nodes. ca: of its own certificate, which is not the one on its token."""
    made = begin_without_ca(make_manager, ca, tmp_path, approval)
    made.done("ca", "init")
    made.trusted.file.write_bytes(ca.file.read_bytes() + made.done("ca", "show", "--pem").encode())
    made.wait_est()
    return made


def begin_without_ca(
    make_manager: Callable[..., Manager], ca: Authority, tmp_path: Path, approval: str = "token"
) -> Whole:
    """Start a key manager whose CA has yet to be made."""
    port, folder = free_port(), tmp_path / "nodes"
    folder.mkdir(0o700)
    trusted = Authority.__new__(Authority)
    trusted.file = tmp_path / "trusted.crt"
    trusted.file.write_bytes(ca.file.read_bytes())
    est = f'[est]\nlisten = "127.0.0.1:{port}"\napproval = "{approval}"'
    manager = make_manager(f"--tls-ca={trusted.file}", tenants=f"[ca]\nenabled = true\n{est}\n{TENANTS}")
    made = Whole(manager, port, trusted, folder)
    made.kmsd.wait_ok()
    return made
