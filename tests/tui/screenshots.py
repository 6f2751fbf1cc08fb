"""`make screenshots`: the pictures in docs/screenshots, of the real screens with fixed data."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kmstui.screens.page import NAMES
from tests.tui.pictures import picture, settled
from tests.tui.scenes import SCENES, Still

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
SIZE = (120, 40)
OTHERS = {
    "small": ("busy", "Overview", "dark", (80, 24), ()),
    "degraded": ("degraded", "Overview", "dark", SIZE, ()),
    "light": ("busy", "Traffic", "light", SIZE, ()),
    "colour-blind": ("degraded", "Overview", "colour-blind", SIZE, ()),
    "generate": ("busy", "Keys", "dark", (100, 28), ("n", *"payments-2027")),
}


async def draw(name: str, scene: str, screen: str, theme: str, size: tuple[int, int], keys: tuple[str, ...]) -> None:
    app = Still(SCENES[scene](), screen, theme)
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        await pilot.press(*keys)
        await settled(pilot)
        # Some programs that draw SVG trim spaces, non-breaking ones too, at the beginning of a text.
        drawn = picture(app).replace('<g class="k-matrix">', '<g class="k-matrix" xml:space="preserve">')
        (FOLDER / f"{name}.svg").write_text(drawn, encoding="utf-8")
    print(f"docs/screenshots/{name}.svg")  # noqa: T201 - what it is run for


async def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for screen in NAMES:
        scene = "degraded" if screen == "Fleet" else "busy"
        await draw(screen.split(" ")[0].lower(), scene, screen, "dark", SIZE, ())
    for name, wanted in OTHERS.items():
        await draw(name, *wanted)


if __name__ == "__main__":
    asyncio.run(main())
