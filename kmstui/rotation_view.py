"""The rotation that is under way, as a timeline, from what a View holds. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kmsd.client import Key, KeyState, ScanReport, Status, clientconfig, parse_target
from kmsd.client.places import TlsPlace, UnixPlace
from kmsd.client.rotation import KeyTurnover, NodeSighting, Stored, Timeline, unfinished
from kmsd.client.timeline import timeline
from kmstui.memoize import once
from kmstui.view import Moment, Reading, View


def present(view: View) -> KeyTurnover | None:
    """Return the rotation to be shown: that begun from here while its key writes, else one that is not finished."""
    status = view.status.value
    if status is None or status.write_key is None:
        return None
    begun = view.turn
    if begun is not None and begun.new.key_id == status.write_key.key_id:
        return begun
    return _unfinished(status, view.keys.value or ())


_unfinished = once(unfinished)


def current(view: View, moment: Moment) -> Timeline | None:
    turn = present(view)
    if turn is None:
        return None
    stored = _stored(view.report[1], view.keys.value or ()) if view.report is not None else None
    return timeline(turn, sightings(view), moment.wall, stored=stored, retired=_retired(turn, view))


@once
def _stored(report: ScanReport, keys: tuple[Key, ...]) -> Stored:
    return Stored(report, keys=keys)


def sightings(view: View) -> tuple[NodeSighting, ...]:
    """Return what each target says, in the order they were named. A node is its host; one that has not said its host,
    or shares it with another, is what differs in the sockets."""
    names = node_names(view.nodes or view.targets or (view.target,))
    known = {peer.target: peer.status for peer in view.peers} | {view.target: view.status}
    readings = {target: known.get(target, Reading()) for target in names}
    hosts = [each.value.host for each in readings.values() if each.value is not None]
    return tuple(_sighting(_host(reading, hosts) or names[target], reading) for target, reading in readings.items())


def _host(reading: Reading[Status], hosts: Sequence[str]) -> str:
    host = reading.value.host if reading.value is not None else ""
    return host if hosts.count(host) == 1 else ""


def _sighting(name: str, reading: Reading[Status]) -> NodeSighting:
    if reading.error is not None:
        return NodeSighting(name, None, reading.error.message)
    return NodeSighting(name, reading.value, "" if reading.value is not None else "has not answered yet")


def node_names(targets: Sequence[str]) -> dict[str, str]:
    """Return a short name for each target: its own, or its host and port, or the last part of the paths of sockets in
    which they differ."""
    named = {target: target for target in targets if clientconfig.is_name(target)}
    places = {target: parse_target(target) for target in targets if target not in named}
    ports = {target: place.host_and_port for target, place in places.items() if isinstance(place, TlsPlace)}
    paths = {target: place.path for target, place in places.items() if isinstance(place, UnixPlace)}
    return named | ports | (_short(paths) if paths else {})


def _short(sockets: Mapping[str, Path]) -> dict[str, str]:
    targets, paths = list(sockets), [path.with_suffix("").parts for path in sockets.values()]
    depth = max(len(parts) for parts in paths)
    for back in range(1, depth + 1):
        found = [parts[-back] if back <= len(parts) else "" for parts in paths]
        if len(set(found)) == len(targets):
            return dict(zip(targets, found, strict=True))
    return dict(zip(targets, targets, strict=True))


def _retired(turn: KeyTurnover, view: View) -> bool:
    if turn.old is None or view.keys.value is None:
        return False
    found = key_now(turn.old, view)
    return found is None or found.state == KeyState.ARCHIVED


def key_now(key: Key, view: View) -> Key | None:
    """Return the same key as it is listed now; None if it is gone."""
    return _by_id(view.keys.value or ()).get(key.key_id)


_BESIDE = (KeyState.COMPANION, KeyState.SIGNING)
"""The states of keys that encrypt nothing."""


@once
def _by_id(keys: Sequence[Key]) -> Mapping[str, Key]:
    """Return the first of each identity."""
    return {key.key_id: key for key in reversed(keys) if key.state not in _BESIDE}


def earlier(view: View) -> tuple[Key, ...]:
    """Return keys that have held the write label, the last one first."""
    status = view.status.value
    return _earlier(status.write_label if status is not None else "", view.keys.value or ())


@once
def _earlier(label: str, keys: Sequence[Key]) -> tuple[Key, ...]:
    stamped = (f"{label}@", f"{label}.retired@")
    found = [key for key in keys if key.label.startswith(stamped) and key.state not in _BESIDE]
    return tuple(sorted(found, key=lambda key: key.label.partition("@")[2], reverse=True))
