"""Keys for a token without a working AES-GCM: what is made without a type is what serves there, and a write key that
cannot serve is replaced. Real tokens: SoftHSM behind a module that refuses AES-GCM, and behind p11-kit's client."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.formats import jwe
from tests import forkserver
from tests.chaos import make_chaos
from tests.daemons import Kmsd
from tests.p11kit import P11KitToken
from tests.rotation.conftest import decrypt, encrypt
from tests.serving.conftest import ENVIRONMENT
from tests.tokens import make_token

BOOT = ("keygen", "k8s-kek", "--if-not-exists", "--wait")
"""The README's line."""


@pytest.fixture(params=["gcm refused", "p11-kit"])
def kmsd(request: pytest.FixtureRequest, short_tmp: Path) -> Iterator[Kmsd]:
    folder = short_tmp / "d"
    folder.mkdir()
    token = make_chaos(short_tmp / "hsm") if request.param == "gcm refused" else None
    if token is not None:
        token.tell("gcm refused")
    relay = P11KitToken(make_token(short_tmp / "hsm")).start() if token is None else None
    found = token or relay
    assert found is not None
    try:
        with Kmsd(folder, found, found.flags, environment=ENVIRONMENT, default_flags=False) as running:
            yield running
    finally:
        if relay is not None:
            relay.stop()


def ctl(kmsd: Kmsd, *words: str) -> subprocess.CompletedProcess[str]:
    return forkserver.run(
        [sys.executable, "-m", "kmsctl", *words, "--target", f"unix://{kmsd.admin_socket}"],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_the_line_for_every_boot_makes_what_serves_and_says_so(kmsd: Kmsd) -> None:
    made = ctl(kmsd, *BOOT)
    assert made.returncode == 0, made.stderr
    assert "a pair was made" in made.stderr
    kmsd.wait_ok()
    assert jwe.parse(encrypt(kmsd, b"seed").ciphertext).enc.startswith("A256CBC")
    again = ctl(kmsd, *BOOT, "-o", "json")
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert not found["created"]
    assert found["companion"]["type"] == "hmac"
    spare = ctl(kmsd, "keygen", "spare", "-o", "json")
    assert json.loads(spare.stdout)["companion"]["label"] == "spare.hmac"


def test_a_write_key_that_cannot_serve_is_said_so_of_at_once_and_replaced_by_a_rotation(kmsd: Kmsd) -> None:
    made = ctl(kmsd, "keygen", "k8s-kek", "--type", "aes", "-o", "json", "--wait")
    assert made.returncode == 0, made.stderr
    assert "the key 'k8s-kek' cannot serve" in made.stderr
    old = json.loads(made.stdout)["key"]["key_id"]
    found = ctl(kmsd, *BOOT)
    assert (found.returncode, found.stdout) == (6, "")
    assert "which cannot serve" in found.stderr
    assert "`kmsctl rotate` makes a pair in its place" in found.stderr
    unwell = ctl(kmsd, "health")
    assert unwell.returncode == 7
    assert "`kmsctl rotate` makes a key that serves in its place" in unwell.stdout + unwell.stderr

    planned = ctl(kmsd, "rotate", "--dry-run", "-o", "json")
    assert json.loads(planned.stdout)["old_key"]["key_id"] == old
    assert kmsd.status().write_key.key_id == ""
    rotated = ctl(kmsd, "rotate", "--yes", "-o", "json")
    assert rotated.returncode == 0, rotated.stderr
    kmsd.wait_ok()
    sealed = encrypt(kmsd, b"seed")
    assert sealed.key_id == json.loads(rotated.stdout)["new_key"]["key_id"]
    assert decrypt(kmsd, sealed) == b"seed"
    (kept,) = [key for key in kmsd.admin("ListKeys", admin.ListKeysRequest(page_size=100)).keys if key.key_id == old]
    assert kept.label.startswith("k8s-kek@")
    assert not [each for each in kmsd.status().problems if "cannot serve" in each.message]
