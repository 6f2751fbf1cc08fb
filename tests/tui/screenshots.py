"""`make screenshots`: the pictures in docs/screenshots, of the real screens with fixed data.

With --check: fail if those that are committed are not what the screens show any more.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from kmstui.screens.names import ALWAYS
from tests.tui.pictures import picture, settled
from tests.tui.scenes import SCENES, Still

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
SIZE = (120, 40)
OTHERS = {
    "small": ("busy", "Overview", "dark", (80, 24), ()),
    "degraded": ("degraded", "Overview", "dark", SIZE, ()),
    "tenants": ("manager", "Tenants", "dark", SIZE, ()),
    "enrolment": ("enrols", "Enrolment", "dark", SIZE, ()),
    "proxy": ("proxy", "Overview", "dark", SIZE, ()),
    "light": ("busy", "Traffic", "light", SIZE, ()),
    "colour-blind": ("degraded", "Overview", "colour-blind", SIZE, ()),
    "generate": ("busy", "Keys", "dark", (100, 28), ("n", *"payments-2027")),
}


async def draw(name: str, scene: str, screen: str, theme: str, size: tuple[int, int], keys: tuple[str, ...]) -> bool:
    """Write a picture if it is not what is there. Returns whether it was what is there; with --check writes nothing."""
    app = Still(SCENES[scene](), screen, theme)
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        await pilot.press(*keys)
        await settled(pilot)
        # Some programs that draw SVG trim spaces, non-breaking ones too, at the beginning of a text.
        drawn = picture(app).replace('<g class="k-matrix">', '<g class="k-matrix" xml:space="preserve">')
    path = FOLDER / f"{name}.svg"
    if path.exists() and path.read_text(encoding="utf-8") == drawn:
        return True
    if "--check" in sys.argv:
        sys.stderr.write(
            f"docs/screenshots/{name}.svg is not what kmstui shows: run make screenshots, and look at it\n"
        )
        return False
    path.write_text(drawn, encoding="utf-8")
    sys.stdout.write(f"docs/screenshots/{name}.svg\n")
    return False


async def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = {screen.split(" ")[0].lower(): ("busy", screen, "dark", SIZE, ()) for screen in ALWAYS}
    wanted["fleet"] = ("mixed", "Fleet", "dark", SIZE, ())
    same = [await draw(name, *how) for name, how in (wanted | OTHERS).items()]
    return 0 if all(same) or "--check" not in sys.argv else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
