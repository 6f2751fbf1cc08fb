"""Every screen as it looks: in four situations, on a small, a middling and a large terminal; dialogs; themes.

Fixed data, a fixed clock. After a change that is meant: `pytest tests/tui/test_pictures.py --snapshot-update`, and look
at the pictures.
"""

from __future__ import annotations

import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

from kmstui.screens.names import ALWAYS
from kmstui.themes import THEMES
from tests.tui.pictures import picture, settled
from tests.tui.scenes import SCENES, Still

SIZES = {"80x24": (80, 24), "120x35": (120, 35), "160x50": (160, 50)}


class Svg(SingleFileSnapshotExtension):
    _write_mode = WriteMode.TEXT
    file_extension = "svg"


@pytest.fixture
def svg(snapshot: SnapshotAssertion) -> SnapshotAssertion:
    return snapshot.use_extension(Svg)


SEVERAL = {
    **dict.fromkeys(("empty", "busy", "degraded", "disconnected"), ALWAYS),
    "manager": ("Overview", "Tenants"),
    "enrols": ("Enrolment",),
    "proxy": ("Overview", "Tokens", "Keys", "Traffic", "Rotation", "Doctor", "Inspect"),
}
"""The screens that are worth a picture, of each scene."""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scene", SEVERAL)
async def test_every_screen_looks_as_it_did(svg: SnapshotAssertion, scene: str, size: str) -> None:
    app = Still(SCENES[scene]())
    async with app.run_test(size=SIZES[size]) as pilot:
        for name in SEVERAL[scene]:
            await app.action_page(name)
            await settled(pilot)
            assert picture(app) == svg(name=name.split(" ")[0].lower())


@pytest.mark.parametrize("size", SIZES)
async def test_a_fleet_of_all_kinds_looks_as_it_did(svg: SnapshotAssertion, size: str) -> None:
    app = Still(SCENES["mixed"](), "Fleet")
    async with app.run_test(size=SIZES[size]) as pilot:
        await settled(pilot)
        assert picture(app) == svg


@pytest.mark.parametrize("size", SIZES)
async def test_one_tenant_looks_as_it_did(svg: SnapshotAssertion, size: str) -> None:
    app = Still(SCENES["manager"](), "Tenants")
    app.animation_level = "none"
    async with app.run_test(size=SIZES[size]) as pilot:
        await settled(pilot)
        await pilot.press("slash", *"cluster-a", "enter", "enter")
        await settled(pilot)
        assert picture(app) == svg


DIALOGS = {
    "marked": ("Keys", "asterisk", "D"),
    "save": ("Keys", "W"),
    "paste": ("Inspect", "v"),
    "generate": ("Keys", "n"),
    "relabel": ("Keys", "l"),
    "destroy": ("Keys", "D"),
    "rotate": ("Rotation", "R"),
    "help": ("Keys", "question_mark"),
    "palette": ("Keys", "ctrl+p"),
    "filter": ("Keys", "slash", *"!@2026"),
}


@pytest.mark.parametrize("dialog", DIALOGS)
async def test_every_dialog_looks_as_it_did(svg: SnapshotAssertion, dialog: str) -> None:
    screen, *keys = DIALOGS[dialog]
    app = Still(SCENES["busy"](), screen)
    app.animation_level = "none"
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press(*keys)
        await settled(pilot)
        assert picture(app) == svg


@pytest.mark.parametrize("theme", [name for name in THEMES if name != "dark"])
async def test_every_theme_looks_as_it_did(svg: SnapshotAssertion, theme: str) -> None:
    app = Still(SCENES["degraded"](), "Overview", theme)
    async with app.run_test(size=(160, 50)) as pilot:
        await settled(pilot)
        assert picture(app) == svg
