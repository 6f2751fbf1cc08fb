"""A host process that is killed under many callers costs no answer and gives no wrong one; `make kills` measures how
long it is missed."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.kills import kill


def test_every_call_is_answered_and_none_wrongly_however_often_the_host_is_killed(short_tmp: Path) -> None:
    result = kill(short_tmp, 4)
    assert len(result.outages) == 4
    assert (result.wrong, result.unanswered) == (0, 0)
    assert set(result.codes) <= {"OK", "UNAVAILABLE"}
    assert result.codes["OK"] > 100
