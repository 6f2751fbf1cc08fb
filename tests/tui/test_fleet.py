"""Several kmsd side by side, on real daemons: the odd one first, one that is away keeps its row, Enter opens one."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from kmsd.client import clientconfig
from kmstui import arguments
from tests.daemons import Kmsd
from tests.tui.conftest import Start, app_on
from tests.tui.screen import holds, line_with, until

SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 35), (160, 50)], ids=["80x24", "120x35", "160x50"])


@SIZES
async def test_the_one_that_writes_with_another_key_comes_first(
    start_kmsd: Start, more_kmsd: Start, size: tuple[int, int]
) -> None:
    one = start_kmsd("--auto-create").wait_ok()
    same = start_kmsd(name="e").wait_ok()
    odd = more_kmsd("--auto-create").wait_ok()
    hashes = [kmsd.status().write_key.key_id_sha256[:8] for kmsd in (one, same, odd)]
    assert hashes[0] == hashes[1] != hashes[2]
    app = app_on(one, same, odd)
    async with app.run_test(size=size) as pilot:
        await pilot.press("8")
        screen = await until(pilot, "the write key agrees on 2 of 3", "another write key than the rest")
        rows = [line for line in screen.splitlines() if "SERVING" in line and "│" in line]
        assert len(rows) == 3
        assert hashes[2] in rows[0]
        assert "◐" in rows[0]
        await pilot.press("home", "enter")
        await until(pilot, "(3 of 3)", "Write key", "● SERVING")
        assert app.store.view.target == f"unix://{odd.admin_socket}"


@SIZES
async def test_one_that_is_away_keeps_its_row_with_its_age_and_why(
    kmsd: Kmsd, more_kmsd: Start, size: tuple[int, int]
) -> None:
    other = more_kmsd("--auto-create").wait_ok()
    digest = other.status().write_key.key_id_sha256[:8]
    async with app_on(kmsd, other).run_test(size=size) as pilot:
        await pilot.press("8")
        await until(pilot, "the write key agrees on 1 of 2")
        other.stop()
        screen = await until(pilot, "NO ANSWER", "1 without an answer", "kmsd does not run")
        line = next(line for line in screen.splitlines() if "NO ANSWER" in line)
        assert digest in line
        await pilot.press("home")
        await until(pilot, "start it with `systemctl start kmsd`")


async def test_one_that_hangs_keeps_no_other_waiting(kmsd: Kmsd, more_kmsd: Start) -> None:
    other = more_kmsd("--auto-create").wait_ok()
    assert other.process is not None
    other.process.send_signal(signal.SIGSTOP)
    try:
        async with app_on(kmsd, other).run_test(size=(120, 35)) as pilot:
            await pilot.press("8")
            screen = await until(pilot, "SERVING  ", "1 being asked", timeout=4.0)
            assert "ASKING" in line_with(screen, "… ")
            await until(pilot, "NO ANSWER", timeout=20.0)
    finally:
        other.process.send_signal(signal.SIGCONT)


async def test_it_opens_another_target_while_the_present_one_is_away(kmsd: Kmsd, more_kmsd: Start) -> None:
    other = more_kmsd("--auto-create").wait_ok()
    app = app_on(kmsd, beside=[f"unix://{other.admin_socket}"])
    async with app.run_test() as pilot:
        await until(pilot, "● SERVING")
        kmsd.stop()
        await until(pilot, "✕ NO ANSWER")
        await pilot.press("8")
        await until(pilot, "SERVING  ", "NO ANSWER")
        await pilot.press("/", *"SERVING", "enter", "o")
        await until(pilot, "● SERVING", "(2 of 2)")
        assert app.store.view.nodes == (f"unix://{other.admin_socket}",)
        await holds(lambda: app.store.view.peers == ())


def test_targets_come_from_the_command_line_and_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config.toml"
    entries = "".join(f'[[targets]]\nname = "cp-{number}"\naddress = "/run/cp-{number}.sock"\n' for number in (1, 2, 3))
    file.write_text(f'{entries}[thresholds]\np99 = "5ms"\n')
    monkeypatch.setenv(clientconfig.VARIABLE, str(file))
    found = arguments.parse([])
    assert (found.targets, found.beside) == (("cp-1", "cp-2", "cp-3"), ())
    assert found.thresholds.p99 == pytest.approx(0.005)
    found = arguments.parse(["--target", "/run/cp-2.sock", "--target", "/run/other.sock"])
    assert found.targets == ("/run/cp-2.sock", "/run/other.sock")
    assert found.beside == ("cp-1", "cp-3")


def test_a_bad_file_is_refused_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.toml"
    file.write_text("[[targets]]\nname = 'a/b'\n")
    monkeypatch.setenv(clientconfig.VARIABLE, str(file))
    with pytest.raises(SystemExit) as leaving:
        arguments.parse([])
    assert leaving.value.code == 2
    assert str(file) in capsys.readouterr().err
