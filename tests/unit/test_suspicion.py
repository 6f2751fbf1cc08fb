"""How often a login is made anew that does not help: by the clock, without a token."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from kmsd.hsm.suspicion import Suspicion


def _logins(monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[float]:
    """When a host is replaced whose login seems lost from its beginning, four times a second looked at."""
    now = 1000.0
    monkeypatch.setattr("kmsd.hsm.suspicion.monotonic", lambda: now)
    nothing: Any = None
    suspicion = Suspicion(nothing, nothing, nothing, lambda _: None, lambda _: None)
    since, made = now, []
    while now < 1000.0 + seconds:
        connected: Any = SimpleNamespace(since=since)
        if suspicion._is_time(connected):
            made.append(now - 1000.0)
            since = now
        now += 0.25
    return made


def test_logins_that_do_not_help_are_made_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    made = _logins(monkeypatch, 600.0)
    assert made[0] == 0.0
    assert made[1] < 2.0
    gaps = [later - earlier for earlier, later in pairwise(made)]
    assert 20.0 < gaps[-1] <= 37.0
    assert len(made) <= 30
