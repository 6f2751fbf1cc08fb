"""A rotation from the screen, guided to its end, with two real kmsd on one token."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kmsd.api.admin.v1 import admin_pb2 as admin
from kmsd.api.kms.v2 import api_pb2 as v2
from tests.chaos import make_chaos
from tests.daemons import Kmsd
from tests.tui.conftest import Start, app_on, under_load
from tests.tui.screen import flat, line_with, paste, shown, until

EMPTY_SCAN = """{"kind": "kmsd-etcd-scan", "version": 1, "started_at": "2026-01-01T00:00:00.000Z",
"finished_at": "2026-01-01T00:00:01.000Z", "cluster_id": "00000000000000aa", "prefix": "/registry", "revision": 7,
"objects": 12, "unknown": 0, "uses": []}"""


def encrypt(kmsd: Kmsd) -> v2.EncryptResponse:
    answer: v2.EncryptResponse = kmsd.v2("Encrypt", v2.EncryptRequest(plaintext=b"x" * 32, uid="u"))
    return answer


async def test_a_rotation_is_followed_on_every_node(start_kmsd: Start) -> None:
    environment = {"KMSD_KEYS__REFRESH": "0.2"}
    first = start_kmsd("--auto-create", name="cp-1", environment=environment).wait_ok()
    second = start_kmsd(name="cp-2", environment=environment).wait_ok()
    old = first.status().write_key
    app = app_on(first, second)
    async with app.run_test(size=(120, 44), notifications=True) as pilot:
        await pilot.press("5")
        await until(pilot, "No rotation is under way.", "● write")
        await pilot.press("R")
        await until(pilot, "what would be done", f"rotate k8s-kek --from {old.key_id}")
        await pilot.click("#ok")
        await until(pilot, f"rotated k8s-kek: {old.key_id_sha256[:8]} → ", "✔ 2 labels moved")
        new = first.status().write_key
        assert new.key_id != old.key_id
        await until(pilot, "✔ 3 every node writes with it", "cp-1 ✔", "cp-2 ✔")
        await until(pilot, "▶ 4 kube-apiservers follow", "next poll, ≤ ")
        for kmsd in (first, second):
            kmsd.v2("Status")
            encrypt(kmsd)
        await until(pilot, "✔ 4 kube-apiservers follow", "▶ 5 rewrite stored objects")
        await pilot.press("c")
        await until(pilot, "copied kubectl get secrets")
        assert app.clipboard.endswith("| kubectl replace -f -")
        assert f"{new.key_id_sha256[:8]}" in line_with(shown(app), "✔ 1 new key made")


async def test_a_rotation_begun_elsewhere_shows_too_and_a_dead_node_is_told(start_kmsd: Start) -> None:
    environment = {"KMSD_KEYS__REFRESH": "0.2"}
    first = start_kmsd("--auto-create", name="cp-1", environment=environment).wait_ok()
    second = start_kmsd(name="cp-2", environment=environment).wait_ok()
    async with app_on(first, second).run_test(size=(120, 44)) as pilot:
        await pilot.press("5")
        await until(pilot, "No rotation is under way.")
        await asyncio.to_thread(first.admin, "RotateKey")
        await until(pilot, "✔ 3 every node writes with it")
        second.stop()
        screen = await until(pilot, "◐ 3 every node writes with it", "cp-2 ◐")
        assert "kmsd does not run" in flat(screen)


async def test_the_old_key_is_retired_with_its_label_and_the_rotation_is_done(kmsd: Kmsd, short_tmp: Path) -> None:
    with under_load(kmsd):
        pass
    report = short_tmp / "scan.json"
    report.write_text(EMPTY_SCAN)
    async with app_on(kmsd).run_test(size=(120, 44), notifications=True) as pilot:
        await until(pilot, "● SERVING")
        await asyncio.to_thread(kmsd.admin, "RotateKey")
        await pilot.press("5")
        await until(pilot, "▶ 4 kube-apiservers follow")
        await pilot.press("s")
        await until(pilot, "Report of a scan of etcd", "etcd scan --report scan.json")
        await pilot.press("end", "ctrl+u")
        await paste(pilot, str(short_tmp / "no.json"))
        await pilot.press("enter")
        await until(pilot, "no.json cannot be read: No such file or directory")
        await pilot.press("end", "ctrl+u")
        await paste(pilot, str(report))
        await pilot.press("enter")
        await until(pilot, "read the report: 12 objects, 0 keys")
        await pilot.press("X")
        await until(pilot, "Retire k8s-kek@", "will not help", str(report))
        old = next(key.label for key in kmsd.admin("ListKeys").keys if "@" in key.label)
        await pilot.click("#confirm")
        await paste(pilot, old)
        await until(pilot, f"--confirm {old}")
        await pilot.press("enter")
        await until(pilot, "is retired: it still decrypts", without="Retire k8s-kek@")
        await until(pilot, "No rotation is under way.", "▽ ")


async def test_a_rotation_is_reverted_under_a_new_key(kmsd: Kmsd) -> None:
    with under_load(kmsd):
        pass
    first = kmsd.status().write_key
    async with app_on(kmsd).run_test(size=(120, 44), notifications=True) as pilot:
        await pilot.press("5")
        await until(pilot, "No rotation is under way.")
        await pilot.press("V")
        await until(pilot, "Revert: no key wrote before this one")
        await asyncio.to_thread(kmsd.admin, "RotateKey")
        second = kmsd.status().write_key
        encrypt(kmsd)
        await until(pilot, "✔ 2 labels moved")
        await pilot.press("V")
        await until(pilot, "Revert the last rotation", "what would be done, and what it cannot undo", "keys revert")
        await pilot.click("#ok")
        await until(pilot, "● reverted: k8s-kek (AES-256", "Close")
        await pilot.press("enter")
        await until(pilot, "● write", without="Revert the last")
    third = kmsd.status().write_key
    assert third.key_id not in (first.key_id, second.key_id)


@pytest.mark.parametrize("screen", ["1", "5"], ids=["overview", "rotation"])
async def test_a_key_that_cannot_serve_is_replaced_where_nothing_writes(short_tmp: Path, screen: str) -> None:
    token = make_chaos(short_tmp / "hsm")
    token.tell("gcm refused")
    folder = short_tmp / "d"
    folder.mkdir()
    with Kmsd(folder, token, token.flags, default_flags=False) as kmsd:
        kmsd.admin("GenerateKey", admin.GenerateKeyRequest(label="k8s-kek", type=admin.KEY_TYPE_AES))
        async with app_on(kmsd).run_test(size=(120, 35), notifications=True) as pilot:
            await until(pilot, "○ DOWN", "no write key: k8s-kek cannot serve", "R makes a key that serves ")
            await pilot.press(screen, "R")
            await until(pilot, "Rotate k8s-kek", "◐ this key cannot serve on its token", "what would be done")
            await pilot.click("#ok")
            await until(pilot, "◐ DEGRADED", "rotated k8s-kek: ", without="cannot serve")
