"""The soak test, for half a minute: `make soak` runs it for half an hour."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.soak import failures, soak


def test_load_rotations_and_faults_leave_nothing_wrong_and_nothing_behind(short_tmp: Path) -> None:
    result = soak(short_tmp, 25.0, 1)
    assert failures(result) == [], result
    assert result.calls["OK"] > 50
