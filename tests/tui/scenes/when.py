"""The clock of the pictures, and identities made from its times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from kmstui.view import Moment

NOW = datetime(2026, 11, 23, 12, 6, 30, tzinfo=UTC)
STEADY = 5000.0
MOMENT = Moment(NOW, STEADY)
TARGET = "unix:///run/kmsd/cp-1.sock"
TARGETS = (TARGET, "unix:///run/kmsd/cp-2.sock", "unix:///run/kmsd/cp-3.sock")
STARTED = NOW - timedelta(hours=30)


def before(**span: float) -> datetime:
    return NOW - timedelta(**span)


def key_id(number: int, made: datetime) -> str:
    """Like a version 7 UUID of that moment."""
    stamp = f"{int(made.timestamp() * 1000):012x}"
    return f"{stamp[:8]}-{stamp[8:]}-7b1e-9c55-{number:04x}{number * 7919:08x}"
