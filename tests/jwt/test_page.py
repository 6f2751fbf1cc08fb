"""What docs/service-accounts.md says to type is typed as it stands there."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests import forkserver
from tests.daemons import Kmsd
from tests.jwt.signing import ISSUER, apiserver, settings
from tests.pages import ROOT, blocks
from tests.tokens import make_token

BLOCKS = [each.text for each in blocks(ROOT / "docs" / "service-accounts.md") if each.run == "tests/jwt/test_page.py"]


def test_a_cluster_is_moved_over_as_the_page_says(tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    (tmp_path / "sa.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "sa.pub").write_bytes(public)
    with Kmsd(tmp_path, make_token(tmp_path), environment=settings(tmp_path, issuers=ISSUER)).start() as kmsd:
        moved, rotated, reverted, trusted = BLOCKS
        told = _type(kmsd, moved)
        assert ", imported" in told
        caller = apiserver(kmsd)
        caller.fetch()
        token = caller.token()
        assert "RS256" in told
        assert "waits" in _type(kmsd, rotated).lower()
        assert [each.state for each in kmsd.admin("GetJwt").keys] == ["signing", "pending"]
        _type(kmsd, reverted)
        _type(kmsd, trusted)
        exported = (tmp_path / "sa-hsm.pub").read_bytes()
        assert public in exported
        assert caller.verify(token)


def _type(kmsd: Kmsd, text: str) -> str:
    """Type the lines of a block, which are commands of kmsctl; return what they print."""
    environment = {**os.environ, "KMSCTL_TARGET": str(kmsd.admin_socket)}
    told = ""
    for line in text.replace("/etc/kubernetes/pki", str(kmsd.folder)).splitlines():
        program, *words = shlex.split(line)
        assert program == "kmsctl"
        done = forkserver.run(
            [sys.executable, "-m", "kmsctl", *words], env=environment, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        told += done.stdout.decode()
    return told
