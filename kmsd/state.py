"""What kmsd keeps across restarts, in the state directory: which key wrote last, when each key was used, and which keys
it made that were not.

So that Status names the same key_id after a restart while the token is away, and so that of the keys of a token those
are known that cannot have written. Nothing here is needed to serve: a directory that cannot be written is a warning.
Knows nothing of keys but their ids.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

_FILE: Final = "write-key.json"
_MOST: Final = 1024 * 1024
_WROTE_MOST: Final = 1000
"""Key ids that are kept of those that were the write key."""
_USES: Final = "uses.json"
_USES_MOST: Final = 16 * 1024 * 1024
"""Bytes: more than the keys make of which uses are counted."""


def recall(directory: Path, write_label: str) -> str:
    """key_id of the key that wrote last under this label; empty if that is not known."""
    kept = _read(directory / _FILE, _MOST)
    key_id = kept.get("key_id") if kept.get("label") == write_label else None
    return key_id if isinstance(key_id, str) else ""


def remember(directory: Path, write_label: str, key_id: str) -> None:
    """Keep it, replacing the file whole. Raises OSError."""
    wrote = [each for each in wrote_here(directory) if each != key_id]
    _write(directory / _FILE, {"label": write_label, "key_id": key_id, "wrote": [*wrote, key_id][-_WROTE_MOST:]})


def wrote_here(directory: Path) -> list[str]:
    """key_ids of the keys that were the write key of this kmsd, under whatever label, the last one last."""
    kept = _read(directory / _FILE, _MOST)
    wrote = kept.get("wrote", [kept.get("key_id")])
    return [each for each in wrote if isinstance(each, str)] if isinstance(wrote, list) else []


@dataclass(frozen=True)
class Uses:
    """last: Unix seconds of the last use, by key_id. since: from when on uses have been noted without a gap; 0 if
    never. complete: whether this is all, as when kmsd ended in order; else the last minute's may be missing.
    made: ids of keys that were made here since then, and never used."""

    since: float
    last: Mapping[str, float]
    complete: bool = False
    made: frozenset[str] = frozenset()


def recall_uses(directory: Path) -> Uses:
    kept = _read(directory / _USES, _USES_MOST)
    since, last = kept.get("since"), kept.get("last_used")
    if not isinstance(since, int | float) or not isinstance(last, dict):
        return Uses(0.0, {})
    known = {key: float(at) for key, at in last.items() if isinstance(at, int | float)}
    if kept.get("complete") is not True:
        return Uses(0.0, known)
    made = kept.get("made_unused", [])
    ids = frozenset(each for each in made if isinstance(each, str)) if isinstance(made, list) else frozenset()
    return Uses(float(since), known, True, ids)


def remember_uses(directory: Path, uses: Uses) -> None:
    """Keep them, replacing the file whole. Raises OSError."""
    kept = {
        "since": uses.since,
        "last_used": dict(uses.last),
        "complete": uses.complete,
        "made_unused": sorted(uses.made),
    }
    _write(directory / _USES, kept)


def withdraw_uses(directory: Path, uses: Uses) -> bool:
    """Take back that the uses which were written down are complete, because there may be more from now on. Return
    whether that could be done: else they prove nothing."""
    try:
        remember_uses(directory, replace(uses, complete=False))
    except OSError:
        try:
            (directory / _USES).unlink(missing_ok=True)  # a disk that is full lets a file go
        except OSError:
            return False
    return True


def _read(path: Path, most: int) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            kept = json.loads(file.read(most))
    except (OSError, ValueError, RecursionError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _write(path: Path, kept: Mapping[str, object]) -> None:
    if not path.parent.exists():
        path.parent.mkdir(mode=0o700, parents=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}", dir=path.parent)  # made with mode 0600
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(kept, file)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise
