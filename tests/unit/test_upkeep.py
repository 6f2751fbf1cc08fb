"""What kmsd does unasked for its labels: what one of them cannot have done keeps no other waiting."""

from __future__ import annotations

from typing import Any, cast

from kmsd.config.settings import Settings
from kmsd.daemon.background_tasks import LabelUpkeep, Upkeep
from kmsd.errors import Unavailable
from kmsd.keys.judging import Rules
from kmsd.keys.scanner import KeyScanner


class _Label:
    def __init__(self, label: str, *, fails: bool) -> None:
        self.label = label
        self.kept_up = 0
        self._fails = fails

    async def keep_up(self) -> None:
        self.kept_up += 1
        if self._fails:
            raise Unavailable("the token is read-only")


async def test_a_label_that_fails_keeps_no_other_waiting() -> None:
    upkeep = Upkeep(Settings(), {}, KeyScanner({}, Rules()))
    labels: list[Any] = [_Label("a", fails=True), _Label("b", fails=False)]
    upkeep.labels.extend(cast("list[LabelUpkeep]", labels))
    await upkeep._keep_up()
    assert [each.kept_up for each in labels] == [1, 1]
