"""The audit of a real kmsd: what was done shows, and a changed line is found."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest

from tests.daemons import Kmsd, wait_for
from tests.tui.conftest import Start, app_on
from tests.tui.screen import flat, line_with, until


def audit_file(kmsd: Kmsd) -> Path:
    (path,) = kmsd.folder.glob("state/**/audit.jsonl")
    return path


async def test_what_is_done_shows_with_who_did_it_and_the_chain_is_proved(kmsd: Kmsd) -> None:
    app = app_on(kmsd)
    async with app.run_test(size=(160, 50), notifications=True) as pilot:
        await pilot.press("6")
        await until(pilot, "write key", "Record ")
        kmsd.keygen("made-meanwhile")
        await until(pilot, "GenerateKey", "made-meanwhile")
        await pilot.press("/", *"^GenerateKey", "enter")
        await until(pilot, "Audit (1 of ", "made-meanwhile")
        await pilot.press("enter")
        screen = await until(pilot, "Esc closes, y copies as JSON", "action")
        assert "prev" in screen  # the line of the file, field by field
        await pilot.press("y")
        await until(pilot, "copied as JSON")
        assert json.loads(json.loads(app.clipboard)["line"])["action"] == "GenerateKey"
        await pilot.press("escape", "v")
        await until(pilot, "● the chain is intact", "calls, 1 to", "audit verify")
        await pilot.press("escape")
        await until(pilot, "● the chain is intact", "ago")


async def test_a_changed_line_is_found_and_told(start_kmsd: Start) -> None:
    kmsd = start_kmsd("--auto-create").wait_ok()
    path = audit_file(kmsd)
    path.write_text(path.read_text().replace("kmsd up", "kmsd UP", 1))
    async with app_on(kmsd).run_test(size=(120, 40)) as pilot:
        await pilot.press("6")
        await until(pilot, "Audit (")
        await pilot.press("v")
        screen = await until(pilot, "Verify the audit", "✕ the chain is broken")
        assert "audit.jsonl" in flat(screen)
        await pilot.press("escape")
        await until(pilot, "✕ the chain is broken")


async def test_what_failed_shows_why_and_what_was_disturbed_is_a_failure(start_kmsd: Start) -> None:
    kmsd = start_kmsd("--auto-create").wait_ok()
    with pytest.raises(grpc.RpcError):
        kmsd.keygen("k8s-kek")
    audit_file(kmsd).unlink()
    kmsd.keygen("made-meanwhile")
    wait_for(lambda: "audit disturbed" in audit_file(kmsd).read_text())
    async with app_on(kmsd).run_test(size=(160, 50)) as pilot:
        await pilot.press("6")
        screen = await until(pilot, "audit disturbed", "DATA_LOSS", "was deleted")
        assert "✕" in line_with(screen, "audit disturbed")
    kmsd.stop()
    kmsd = start_kmsd().wait_ok()
    assert any("tampered" in problem.message for problem in kmsd.status().problems)
    async with app_on(kmsd).run_test(size=(160, 50)) as pilot:
        await pilot.press("6")
        screen = await until(pilot, "audit disturbed")
        assert "✕" in line_with(screen, "audit disturbed")
        with pytest.raises(grpc.RpcError):
            kmsd.keygen("k8s-kek")
        await until(pilot, "ALREADY_EXISTS: ", "has a key labelled")
