"""`kmsctl doctor` on a real kmsd, and on a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.ctl.answers import sick
from tests.ctl.canned import Canned
from tests.ctl.conftest import Run
from tests.ctl.terminal import Terminal
from tests.daemons import Kmsd
from tests.tokens import PIN, SoftToken


def test_a_good_token_is_0_and_says_what_kmsd_writes_with(run: Run, kmsd: Kmsd) -> None:
    result = run("doctor", "--target", str(kmsd.admin_socket))
    assert (result.code, result.err) == (0, "")
    lines = result.text.splitlines()
    assert lines[0] == "Token kmsd-test as SoftHSM 2"
    assert lines[-1].startswith("✔ Verdict")
    assert lines[-1].endswith("A256GCM: AES-GCM works, with an IV of 12 bytes")
    assert any(line.startswith("✔ Relabelling") for line in lines)
    named = json.loads(run("doctor", "kmsd-test", "-o", "json", "--target", str(kmsd.admin_socket)).out)
    assert (named["outcome"], named["verdict"]["enc"], named["up"]) == ("ok", "A256GCM", True)
    assert {each["name"]: each["outcome"] for each in named["checks"]}["write_key"] == "ok"
    assert named["abilities"]["gcm_iv_sizes"] == [12, 16]
    assert [each["operation"] for each in named["speeds"]] == ["random", "AES-GCM"]


def test_a_wrong_pin_is_7_and_the_fix_is_a_hint(run: Run, start_kmsd: Callable[..., Kmsd], token: SoftToken) -> None:
    token.pin_file.write_text("4321-wrong\n")
    kmsd = start_kmsd()
    result = run("doctor", "--target", str(kmsd.admin_socket))
    assert result.code == 7
    assert "✘ Connection" in result.text
    assert "refused the PIN" in result.text
    assert "hint: Connection: correct the PIN in the file named by --p11-pin-file" in result.err
    assert PIN not in result.text + result.err
    assert "4321-wrong" not in result.text + result.err


def test_an_unknown_token_is_5(run: Run, canned: Canned) -> None:
    result = run("doctor", "nowhere")
    assert (result.code, result.out) == (5, b"")


def test_on_a_terminal_what_is_wrong_stands_out(canned: Canned, open_terminal: Callable[..., Terminal]) -> None:
    canned.diagnosis = sick()
    terminal = open_terminal("kmsctl", "doctor")
    terminal.shows("✘ Connection", "! User PIN", "hint: Connection: correct the PIN")
    assert "\x1b[31m✘" in terminal.raw()
    assert terminal.exit_code() == 7
