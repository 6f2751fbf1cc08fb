"""What keeps kmsd from listening on TCP is named file by file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kmsd.config.remote import Server
from kmsd.config.tcp import not_served

NOBODY = 65534


def test_nothing_is_said_where_tcp_is_not_asked_for() -> None:
    assert not_served(Server(tls_ca=Path("/absent"))) is None


def test_each_file_that_is_missing_or_unusable_is_named(tmp_path: Path) -> None:
    key = tmp_path / "tls.key"
    server = Server(enabled=True, tls_certificate=tmp_path, tls_key=key)
    wanting = not_served(server)
    assert wanting is not None
    message, hint = wanting
    assert message.partition("asks for it: ")[2].split("; ") == [
        "--tls-ca is not given",
        f"--tls-certificate names {tmp_path}, which is no file",
        f"--tls-key names {key}: no such file or directory",
    ]
    assert "TCP is never served without TLS and client certificates" in hint
    key.touch()
    assert not_served(server) != wanting


def test_nothing_is_said_where_all_files_are_there(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("ca", "crt", "key")]
    for file in files:
        file.touch()
    assert not_served(Server(enabled=True, tls_ca=files[0], tls_certificate=files[1], tls_key=files[2])) is None


@pytest.mark.processes
@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed, and only root can become one")
def test_a_file_that_kmsd_may_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "tls.key").touch(mode=0o600)
    tmp_path.chmod(0o755)
    program = (
        "import os, pathlib, kmsd.config.settings, kmsd.config.tcp\n"
        f"os.setuid({NOBODY})\n"
        "asked = kmsd.config.settings.Server(enabled=True, tls_key=pathlib.Path('tls.key'))\n"
        "print(kmsd.config.tcp.not_served(asked)[0])"
    )
    # From inside, for nobody may come in from above.
    argv = [sys.executable, "-c", program]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    assert "--tls-key names tls.key, which kmsd may not read" in done.stdout
