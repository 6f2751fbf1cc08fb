"""What all screens and dialogs have in common: j and k in whatever has rows, filters, hints, signs of failure."""

from __future__ import annotations

from dataclasses import replace

import pytest
from textual.widgets import Select

from kmsd.audit.tampering import SeenTampering, Tampering
from kmsd.client import About, AuditVerdict, Problem
from kmstui import problem_list, styles
from kmstui.dialogs.hints import in_a_dialog
from kmstui.view import Reading
from tests.daemons import Kmsd
from tests.tui.conftest import app_on
from tests.tui.pictures import settled
from tests.tui.scenes import SCENES, Still, daemon
from tests.tui.scenes.when import MOMENT, STEADY
from tests.tui.screen import flat, line_with, shown, until

SIZES = {"80x24": (80, 24), "120x35": (120, 35), "160x50": (160, 50)}


@pytest.mark.parametrize("size", SIZES)
async def test_j_and_k_move_in_the_list_of_targets(size: str) -> None:
    app = Still(SCENES["busy"]())
    async with app.run_test(size=SIZES[size]) as pilot:
        await pilot.press("t")
        await settled(pilot)
        rows = app.screen.query_one("Rows")
        for key, at in (("j", 1), ("j", 2), ("k", 1), ("G", 2), ("g", 0)):
            await pilot.press(key)
            assert rows.highlighted == at  # type: ignore[attr-defined]
        assert "Enter goes there" in shown(app)


async def test_j_and_k_scroll_help_and_move_in_a_choice() -> None:
    app = Still(SCENES["busy"](), "Keys")
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("question_mark")
        await settled(pilot)
        box = app.screen.query_one("Text")
        await pilot.press("G")
        await settled(pilot)
        assert box.scroll_offset.y == box.max_scroll_y > 0
        await pilot.press("g", "escape", "n", "tab", "enter")
        await settled(pilot)
        await pilot.press("j", "enter")
        await settled(pilot)
        assert app.screen.query_one("#type", Select).value == "pair"


@pytest.mark.parametrize("size", SIZES)
async def test_a_bad_filter_says_what_is_wrong_and_is_not_kept(size: str) -> None:
    app = Still(SCENES["busy"](), "Keys")
    async with app.run_test(size=SIZES[size]) as pilot:
        await settled(pilot)
        await pilot.press("slash", *"a[b")
        await settled(pilot)
        told = "not a regular expression: unterminated character set at character 2"
        assert told in shown(app)
        await pilot.press("enter")
        await settled(pilot)
        assert app.screen.query_one("Listing Input").has_focus
        assert any(told in each.message for each in app._notifications)
        await pilot.press("]", "enter")
        await settled(pilot)
        assert not app.screen.query_one("Listing Input").has_focus
        assert "/a[b]" in shown(app)


def test_hints_name_no_flag_that_a_dialog_does_not_have() -> None:
    told = in_a_dialog("rotate first; to do it in spite of that, give the label once more: --confirm k8s kek")
    assert told == "rotate first; to do it in spite of that, type the label into confirm above"
    told = in_a_dialog(
        "count what etcd holds: kmsctl etcd scan --report FILE, then kmsctl keys retire 'a b' --report FILE; to do it "
        "in spite of that, give the key id once more: --confirm 01"
    )
    assert told == (
        "count what etcd holds: kmsctl etcd scan --report FILE, then name that file as the report above; to do it in "
        "spite of that, type the key id into confirm above"
    )


async def test_the_refusal_of_a_real_kmsd_speaks_of_the_dialog(kmsd: Kmsd) -> None:
    kmsd.keygen("spare")
    async with app_on(kmsd).run_test(size=(120, 40)) as pilot:
        await pilot.press("3")
        await until(pilot, "Keys (2)", "spare")
        await pilot.press("D")
        screen = await until(pilot, "into confirm above")
        assert "once more: --confirm" not in flat(screen)


BROKEN = AuditVerdict(
    intact=False,
    records=6,
    first_seq=1,
    last_seq=6,
    head="",
    files=(),
    problem="audit.jsonl line 7: its hash is another",
    chains=(),
)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("screen", ["Overview", "Audit"])
async def test_a_broken_chain_has_the_sign_of_failure_everywhere(screen: str, size: str) -> None:
    view = replace(SCENES["busy"](), verdict=Reading(BROKEN, STEADY - 4))
    app = Still(view, screen)
    async with app.run_test(size=SIZES[size]) as pilot:
        await settled(pilot)
        assert "✕ the audit's chain is broken" in line_with(shown(app), "the audit's chain")
        if screen == "Audit":
            assert "✕ the chain is broken" in line_with(shown(app), " the chain is broken")


def test_an_audit_that_was_tampered_with_has_the_sign_of_failure() -> None:
    tampering = Tampering()
    tampering.seen.append(SeenTampering(0, 1, "audit.jsonl was cut short"))
    tampering.times = 1
    trouble = tampering.trouble
    assert trouble is not None
    found = Problem(trouble.message, trouble.hint, fatal=False, about=About(audit=True, tampered=True))
    status = replace(daemon.BUSY, problems=(found,))
    (told,) = problem_list.troubles(replace(SCENES["busy"](), status=Reading(status, STEADY)), MOMENT)
    assert (told.glyph, told.colour) == ("✕", styles.Colour.BAD)
