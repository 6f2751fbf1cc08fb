"""What kmstui takes of Textual beside its promises: with a new version of Textual, this says whether it still holds."""

from __future__ import annotations

from typing import Any

import pytest
from textual.css import parse as css
from textual.css import stylesheet

from tests.tui.pictures import settled
from tests.tui.scenes import SCENES, Still


async def test_css_is_parsed_once_and_once_more_for_another_theme(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[tuple[object, ...]] = []
    parse = css.parse

    def count(scope: str, css: str, read_from: tuple[str, str], *rest: Any, **named: Any) -> Any:
        parsed.append((scope, read_from, named["tie_breaker"]))
        return parse(scope, css, read_from, *rest, **named)

    monkeypatch.setattr(stylesheet, "parse", count)
    app = Still(SCENES["degraded"](), "Overview", "dark")
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("3")
        await pilot.press("4")
        await settled(pilot)
        first = list(parsed)
        assert len(first) > 10
        assert len(set(first)) == len(first)
        before = str(app.screen.styles.background)
        app.theme = "light"
        await settled(pilot)
        again = parsed[len(first) :]
        assert {each[:2] for each in again} == {each[:2] for each in first}
        assert len(set(again)) == len(again)
        assert str(app.screen.styles.background) != before
