"""Nothing that is still needed is lost: two kmsd on one token, and a key that wrote through the one, while the other is
asked to let it go. Through the API, kmsctl and kmstui alike, on both nodes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v2 import api_pb2 as v2
from kmstui.app import Kmstui
from tests import forkserver, keysealer
from tests.admin.calls import ask, failure, fresh, key, make, state
from tests.daemons import KMSCTL, Kmsd, wait_for
from tests.etcd.server import Server
from tests.etcd.values import jwe
from tests.etcd.values import v2 as stored
from tests.rotation.conftest import decrypt, encrypt
from tests.tokens import SoftToken, make_token
from tests.tui.screen import paste, until

UNKNOWN = "nothing shows that no stored object needs"
QUICK = {"KMSD_KEYS__REFRESH": "0.2"}
SIX_MINUTES = timedelta(minutes=6)


@dataclass(frozen=True)
class Old:
    """A key that has lost the write label, and what it wrote."""

    key_id: str
    label: str
    sealed: v2.EncryptResponse


@dataclass(frozen=True)
class Nodes:
    """first rotates, second wrote."""

    token: SoftToken
    first: Kmsd
    second: Kmsd

    @property
    def both(self) -> tuple[Kmsd, Kmsd]:
        return self.first, self.second

    def rotate(self, *, long_ago: bool = False) -> Old:
        """Encrypt through the second node, then rotate through the first. long_ago: the labels say that it was."""
        wait_for(lambda: self.second.v2("Status").key_id == self.first.v2("Status").key_id)
        sealed = encrypt(self.second, b"needed")
        assert ctl(self.first, "rotate", "--yes").returncode == 0
        label = key(self.first, sealed.key_id).label
        if long_ago:
            stamp = (datetime.now(UTC) - SIX_MINUTES).strftime("k8s-kek@%Y%m%dT%H%M%SZ")
            self.token.relabel(label, stamp)
            label = stamp
        for node in self.both:
            wait_for(lambda node=node: key(node, sealed.key_id).label == label)
        return Old(sealed.key_id, label, sealed)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("k")
    token = make_token(folder / "hsm")
    for name in "ab":
        (folder / name).mkdir()
    with Kmsd(folder / "a", token, ("--auto-create",), QUICK) as first:
        first.wait_ok()
        with Kmsd(folder / "b", token, (), QUICK) as second:
            second.wait_ok()
            yield Nodes(token, first, second)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("etcd"))
    try:
        yield server.start()
    finally:
        server.stop()


def ctl(kmsd: Kmsd, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KMSCTL_TARGET": str(kmsd.admin_socket), "KMSCTL_SOCKET": str(kmsd.socket)}
    return forkserver.run(
        [KMSCTL, *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_refused(kmsd: Kmsd, which: str) -> None:
    """By the API and by kmsctl, to be destroyed and to be retired, with the reason and what to do; nothing changes."""
    before, label = state(kmsd), key(kmsd, which).label
    for method in ("DestroyKey", "RetireKey"):
        refusal = failure(partial(ask, kmsd, method, key=which))
        assert refusal.code == "FAILED_PRECONDITION"
        assert UNKNOWN in refusal.details
        hint = refusal.hint
        assert "kmsctl etcd scan --report FILE" in hint
        assert f"kmsctl keys retire {label} --report FILE" in hint
        assert f"--confirm {label}" in hint
    for deed in (("destroy", which, "--yes"), ("retire", which)):
        done = ctl(kmsd, "keys", *deed)
        assert (done.returncode, done.stdout) == (6, "")
        assert UNKNOWN in done.stderr
        assert hint in done.stderr
    assert state(kmsd) == before


def assert_lost(kmsd: Kmsd, old: Old) -> None:
    """The key is gone, as this node sees soon."""
    wait_for(lambda: failure(partial(decrypt, kmsd, old.sealed)).code == "NOT_FOUND")


def test_a_key_that_wrote_through_another_node_is_let_go_by_none(nodes: Nodes) -> None:
    """Encrypt through B, rotate and destroy through A: the very next call."""
    old = nodes.rotate()
    for node in nodes.both:
        assert_refused(node, old.key_id)
    for node in nodes.both:
        assert decrypt(node, old.sealed) == b"needed"
    assert_refused(nodes.second, old.label)


@pytest.mark.parametrize("on", ["first", "second"])
async def test_kmstui_says_why_not_and_what_to_do(
    nodes: Nodes, on: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    old = nodes.rotate()
    kmsd: Kmsd = getattr(nodes, on)
    app = Kmstui([f"unix://{kmsd.admin_socket}"], 0.2)
    async with app.run_test(size=(120, 44), notifications=True) as pilot:
        await pilot.press("3")
        await until(pilot, "● write")
        await pilot.press("/")
        # Not by its label: two keys that lost theirs in one second have the same.
        await paste(pilot, old.key_id)
        await pilot.press("enter")
        await until(pilot, "Keys (1 of ")
        for deed in "RD":
            await pilot.press(deed)
            await until(
                pilot,
                f"{UNKNOWN} '{old.label}'",
                "kmsctl etcd scan --report FILE, then name that file as the report above",
            )
            if deed == "R":
                await pilot.click("#ok")
                await until(pilot, "✕ nothing shows that no stored object needs")
                await pilot.press("escape")
                await until(pilot, without="Retire k8s-kek@")
        await until(pilot, "type the label to confirm")
        assert decrypt(nodes.second, old.sealed) == b"needed"
        await pilot.click("#confirm")
        await paste(pilot, old.label)
        await until(pilot, f"keys destroy {old.key_id} --confirm {old.label}")
        await pilot.press("enter")
        await until(pilot, f"destroyed {old.label}")
    assert_lost(nodes.second, old)


def test_a_fresh_report_shows_when_it_may_go(nodes: Nodes, etcd: Server, tmp_path: Path) -> None:
    etcd.clear()
    old = nodes.rotate(long_ago=True)
    report = str(tmp_path / "scan.json")
    with_report = ("--report", report)

    def scan() -> None:
        time.sleep(0.01)
        assert ctl(nodes.first, "etcd", "scan", "--endpoints", etcd.url, *with_report).returncode == 0

    etcd.put({"/registry/secrets/default/s": stored(old.key_id, old.sealed.ciphertext)})
    scan()
    for node in nodes.both:
        for deed in (("destroy", old.key_id, "--yes"), ("retire", old.key_id)):
            done = ctl(node, "keys", *deed, *with_report)
            assert done.returncode == 6
            assert f"1 stored object needs '{old.label}'" in done.stderr
    sealed = encrypt(nodes.first, b"rewritten")
    etcd.put({"/registry/secrets/default/s": stored(sealed.key_id, sealed.ciphertext)})
    scan()
    done = ctl(nodes.first, "keys", "destroy", old.key_id, "--yes", *with_report)
    assert done.returncode == 0, done.stderr
    assert_lost(nodes.second, old)
    assert decrypt(nodes.second, sealed) == b"rewritten"


def test_the_label_once_more_lets_it_go(nodes: Nodes) -> None:
    old = nodes.rotate()
    assert ctl(nodes.first, "keys", "destroy", old.key_id, "--confirm", "k8s-kek").returncode == 2
    assert ctl(nodes.first, "keys", "destroy", old.key_id, "--confirm", old.label).returncode == 0


def test_a_retired_key_goes_from_every_node_that_has_not_used_it_since(nodes: Nodes) -> None:
    """Retired through one, destroyed through the other."""
    old = nodes.rotate()
    assert ctl(nodes.first, "keys", "retire", old.key_id, "--confirm", old.label).returncode == 0
    label = key(nodes.second, old.key_id).label
    assert ask(nodes.first, "DestroyKey", key=old.key_id, dry_run=True).key.label == label
    time.sleep(1.0)  # its label tells the second
    assert decrypt(nodes.second, old.sealed) == b"needed"
    refusal = failure(partial(ask, nodes.second, "DestroyKey", key=old.key_id))
    assert "after it was retired" in refusal.details
    assert f"kmsctl keys destroy {label} --report FILE" in refusal.hint
    assert ctl(nodes.first, "keys", "destroy", old.key_id, "--yes").returncode == 0


def test_a_spare_key_goes_with_a_yes_from_the_node_that_made_it_and_from_no_other(nodes: Nodes) -> None:
    spare = make(nodes.first)
    assert_refused(nodes.second, spare.key_id)
    nodes.first.stop()
    nodes.first.start().wait_ok()
    assert ctl(nodes.first, "keys", "destroy", spare.key_id, "--yes").returncode == 0


@pytest.mark.parametrize("how", ["in order", "killed", "with a fresh state directory"])
def test_what_a_node_has_forgotten_it_does_not_take_for_unused(nodes: Nodes, how: str) -> None:
    old, spare = nodes.rotate(), make(nodes.second)
    nodes.second.stop(signal.SIGKILL if how == "killed" else signal.SIGTERM)
    if how == "with a fresh state directory":
        shutil.rmtree(nodes.second.folder / "state")
    nodes.second.start().wait_ok()
    assert_refused(nodes.second, old.key_id)
    if how != "in order":
        assert_refused(nodes.second, spare.key_id)


def test_a_key_that_was_adopted_or_imported_is_let_go_by_none(nodes: Nodes) -> None:
    adopted, imported = fresh("adopted"), fresh("imported")
    nodes.token.import_aes(adopted, bytes(32), None)
    nodes.token.import_aes(imported, bytes(32), b"01900000-0000-7000-8000-00000000000f")
    assert ctl(nodes.first, "keys", "adopt", adopted).returncode == 0
    for label in (adopted, imported):
        assert_refused(nodes.first, label)


def test_what_keysealer_stored_keeps_its_keys_however_it_spells_them(
    nodes: Nodes, etcd: Server, tmp_path: Path
) -> None:
    """Hexadecimal digits of CKA_ID in the envelope; in the ciphertext the same, or a label."""
    etcd.clear()
    keys = {"kek-256": bytes.fromhex("d73f87d08873be56"), "kek-ascii": b"kek1", "by-label": b"\x07"}
    for label, cka_id in keys.items():
        nodes.token.import_aes(label, bytes(32), cka_id)
    foreign = keysealer.VECTORS[0]
    nodes.token.import_aes(foreign.key.label, foreign.key.value, foreign.key.cka_id)
    gcm = [jwe({"alg": "dir", "kid": label, "enc": "A256GCM"}, iv=16) for label in keys]
    values = [
        stored("d73f87d08873be56", gcm[0], b"kms-server"),
        stored("6B656B31", gcm[1], b"kms-server"),
        stored("0a0b0c", gcm[2], b"kms-server"),
        stored(foreign.key.cka_id.hex(), foreign.ciphertext, b"kms-server"),
    ]
    etcd.put({f"/registry/secrets/default/s{number}": value for number, value in enumerate(values)})
    report = str(tmp_path / "scan.json")
    time.sleep(0.01)
    assert ctl(nodes.first, "etcd", "scan", "--endpoints", etcd.url, "--report", report).returncode == 0
    for label in (*keys, foreign.key.label):
        for deed in (("retire", label), ("destroy", label, "--yes")):
            done = ctl(nodes.first, "keys", *deed, "--report", report)
            assert (done.returncode, done.stdout) == (6, "")
            assert f"1 stored object needs '{label}'" in done.stderr


def test_what_is_stored_under_a_name_that_no_key_has_keeps_every_key(
    nodes: Nodes, etcd: Server, tmp_path: Path
) -> None:
    etcd.clear()
    old = nodes.rotate(long_ago=True)
    etcd.put({"/registry/secrets/default/s": stored("deadbeef", b"opaque", b"other")})
    report = str(tmp_path / "scan.json")
    time.sleep(0.01)
    scanned = ctl(nodes.first, "etcd", "scan", "--endpoints", etcd.url, "--report", report)
    assert "no key has this id" in scanned.stdout
    assert "stored under a name that no key has: 'deadbeef'" in scanned.stderr
    done = ctl(nodes.first, "keys", "retire", old.key_id, "--report", report)
    assert done.returncode == 6
    assert "1 stored object names 'deadbeef', which no key is called, and may need any key" in done.stderr


def test_times_that_nobody_knows_are_not_shown(nodes: Nodes) -> None:
    """An id that is no version 7 UUID tells no time."""
    label = fresh("timeless")
    nodes.token.import_aes(label, bytes(32), b"timeless")
    found: Any = key(nodes.first, label)
    assert found.created_unix_ms == 0
    assert "unknown" in ctl(nodes.first, "keys", "show", label).stdout
    assert key(nodes.first, "k8s-kek").created_unix_ms > 0
    assert isinstance(found, admin.Key)
