"""The changes that kmstui can say that it saw happen, from two answers of kmsd. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from kmsd.client import ClientError, Status, escape
from kmstui import styles
from kmstui.text import duration, short_hash
from kmstui.view import Moment, ObservedChange, View

MOST = 100
"""Sightings that are kept."""

__all__ = ["MOST", "ObservedChange", "changed_token", "compared", "lost"]


def lost(before: View, error: ClientError, moment: Moment) -> tuple[ObservedChange, ...]:
    """Return what is seen when kmsd stops answering. before: the view until kmsd failed to answer."""
    if before.lost or before.status.value is None:
        return ()
    return (ObservedChange(moment.wall, "lost kmsd", escape(error.message), bad=True),)


def compared(before: View, status: Status, moment: Moment) -> tuple[ObservedChange, ...]:
    """Return what is different in an answer, from the one before."""
    return tuple(_differences(before, status, moment))


def changed_token(before: Status | None, status: Status) -> str:
    """Return what the token was before; empty if it is the same, or if either is not known."""
    if before is None or not before.token.serial or not status.token.serial:
        return ""
    old, new = before.token, status.token
    if (old.serial, old.label) == (new.serial, new.label):
        return ""
    return f"{escape(old.label)} (serial {escape(old.serial)})"


def _differences(before: View, status: Status, moment: Moment) -> Iterator[ObservedChange]:
    old = before.status.value
    if old is None:
        return
    if before.lost:
        away = duration(moment.steady - before.status.taken)
        yield ObservedChange(moment.wall, "kmsd is back", f"after {away}")
    if old.started != status.started:
        yield ObservedChange(moment.wall, "kmsd restarted", f"version {escape(status.version)}")
    was = changed_token(old, status)
    if was:
        new = f"{escape(status.token.label)} (serial {escape(status.token.serial)})"
        yield ObservedChange(moment.wall, "another token", f"{new}; it was {was}", bad=True)
    if old.state != status.state:
        reason = "" if status.healthy else f": {escape(status.healthz)}"
        worse = not status.healthy
        text = f"{styles.serving(old.state).word} → {styles.serving(status.state).word}{reason}"
        yield ObservedChange(moment.wall, "state", text, bad=worse)
    ids = [each.write_key.key_id_sha256 if each.write_key is not None else "" for each in (old, status)]
    if ids[0] != ids[1]:
        yield ObservedChange(moment.wall, "write key", f"{short_hash(ids[0])} → {short_hash(ids[1])}")
