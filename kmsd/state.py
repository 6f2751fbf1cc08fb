"""Keep in the state directory, across restarts: which key wrote last, how far kube-apiserver has followed to it, when
each key was used, which keys kmsd made that were not, and which PINs were refused.

With it, Status names the same key_id after a restart while the token is away, and kmsd knows which keys of a token
cannot have written. Nothing here is needed to serve: a directory that cannot be written is a warning,
and what somebody else may have put there is not believed: then nothing is known. Knows nothing of keys but their ids.
"""

from __future__ import annotations

import json
import os
import shlex
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from kmsd import plainfile, safepath
from kmsd.errors import Misconfigured

_FILE: Final = "write-key.json"
_MOST: Final = 1024 * 1024
_WROTE_MOST: Final = 1000
"""Key ids that are kept of those that were the write key."""
_PINS: Final = "pins-refused.json"
_CANARY: Final = "canary.json"
_FOLLOWING: Final = "following.json"
_FOLLOWING_IDS: Final = ("key_id", "previous")
_FOLLOWING_TIMES: Final = ("since", "first_status", "last_status", "first_encrypt", "last_encrypt")
_LATEST: Final = 253_402_300_800
"""Unix seconds of the year 10000, before which all times are."""
_USES: Final = "uses.json"
_USES_MOST: Final = 16 * 1024 * 1024
"""Bytes of the file of uses, at most: more than the uses of all keys that are counted take."""


_WHAT: Final = "what kmsd keeps across restarts"


def doubt(directory: Path) -> Misconfigured | None:
    """Return why what lies in the directory is not believed: others could replace or write it, or it is not what kmsd
    writes.

    None if all is well, or nothing is there yet.
    """
    try:
        if safepath.check(directory, _WHAT):
            for name, most in ((_FILE, _MOST), (_FOLLOWING, _MOST), (_USES, _USES_MOST), (_PINS, _MOST)):
                with suppress(FileNotFoundError):
                    os.close(_open(directory / name, most))
    except Misconfigured as error:
        return error
    return None


def recall(directory: Path, write_label: str) -> str:
    """Return the key_id of the key that wrote last under this label; empty if that is not known."""
    kept = _believed(directory, _FILE, _MOST)
    key_id = kept.get("key_id") if kept.get("label") == write_label else None
    return key_id if isinstance(key_id, str) else ""


def remember(directory: Path, write_label: str, key_id: str) -> None:
    """Keep the key_id of the key that writes, replacing the file whole. Raises OSError, and Misconfigured if
    others could replace the directory."""
    wrote = [each for each in wrote_here(directory) if each != key_id]
    _write(directory / _FILE, {"label": write_label, "key_id": key_id, "wrote": [*wrote, key_id][-_WROTE_MOST:]})


def wrote_here(directory: Path) -> list[str]:
    """Return the key_ids of the keys that were the write key of this kmsd, under whatever label, the last one last."""
    kept = _believed(directory, _FILE, _MOST)
    wrote = kept.get("wrote", [kept.get("key_id")])
    return [each for each in wrote if isinstance(each, str)] if isinstance(wrote, list) else []


def recall_following(directory: Path) -> dict[str, Any]:
    """Return how far kube-apiserver had followed, by the fields of `service.local.Following`; empty if that is not
    known whole."""
    kept = _believed(directory, _FOLLOWING, _MOST)
    ids = {name: kept.get(name) for name in _FOLLOWING_IDS}
    times = {name: kept.get(name) for name in _FOLLOWING_TIMES}
    whole = all(isinstance(each, str) for each in ids.values()) and all(
        isinstance(each, int | float) and 0 <= each < _LATEST for each in times.values()
    )
    return {**ids, **times} if whole else {}


def remember_following(directory: Path, following: Mapping[str, object]) -> None:
    """Keep how far kube-apiserver has followed, replacing the file whole. Raises as `remember`."""
    _write(directory / _FOLLOWING, following)


def recall_canary(directory: Path) -> dict[str, Any]:
    """Return what a proxy kept to recognise its key by; empty if that is not known."""
    return _believed(directory, _CANARY, _MOST)


def remember_canary(directory: Path, canary: Mapping[str, object]) -> None:
    """Keep what a proxy recognises its key by, replacing the file whole. Raises as `remember`."""
    _write(directory / _CANARY, canary)


@dataclass(frozen=True)
class RememberedUses:
    """The uses of keys as they were written down. last: Unix seconds of the last use, by key_id. since: from when on
    uses have been noted without a gap; 0 if never. complete: whether this is all, as when kmsd ended in order; else the
    last minute's may be missing. made: ids of keys that were made here since then, and never used."""

    since: float
    last: Mapping[str, float]
    complete: bool = False
    made: frozenset[str] = frozenset()


def recall_uses(directory: Path) -> RememberedUses:
    """Return the uses of keys that the last run wrote down."""
    kept = _believed(directory, _USES, _USES_MOST)
    since, last = kept.get("since"), kept.get("last_used")
    if not isinstance(since, int | float) or not isinstance(last, dict):
        return RememberedUses(0.0, {})
    known = {key: float(at) for key, at in last.items() if isinstance(at, int | float)}
    if kept.get("complete") is not True:
        return RememberedUses(0.0, known)
    made = kept.get("made_unused", [])
    ids = frozenset(each for each in made if isinstance(each, str)) if isinstance(made, list) else frozenset()
    return RememberedUses(float(since), known, True, ids)


def remember_uses(directory: Path, uses: RememberedUses) -> None:
    """Keep the uses, replacing the file whole. Raises as `remember`."""
    kept = {
        "since": uses.since,
        "last_used": dict(uses.last),
        "complete": uses.complete,
        "made_unused": sorted(uses.made),
    }
    _write(directory / _USES, kept)


def withdraw_uses(directory: Path, uses: RememberedUses) -> bool:
    """Take back that the uses which were written down are complete, because there may be more from now on. Return
    whether that could be done: else they prove nothing."""
    try:
        remember_uses(directory, replace(uses, complete=False))
    except Misconfigured:
        return False
    except OSError:
        try:
            (directory / _USES).unlink(missing_ok=True)  # a disk that is full lets a file go
        except OSError:
            return False
    return True


def refused_pins(directory: Path) -> dict[str, Any]:
    """Return what is known of PINs that tokens refused, by the token's name. Raises Misconfigured if that is not
    believed, or damaged."""
    if not safepath.check(directory, _WHAT):
        return {}
    try:
        with os.fdopen(_open(directory / _PINS, _MOST), "rb") as file:
            kept = json.loads(file.read(_MOST))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        kept = None
    if not isinstance(kept, dict):
        raise Misconfigured(f"{directory / _PINS} is damaged", "kmsd writes it anew when a token refuses a PIN")
    return kept


def remember_refused_pins(directory: Path, refused: Mapping[str, object]) -> None:
    """Keep what is known of refused PINs, replacing the file whole. Raises as `remember`."""
    _write(directory / _PINS, refused)


def recall_file(directory: Path, name: str, most: int) -> bytes:
    """Return what a file of this name holds, at most so many bytes; nothing if there is none, or it is not believed."""
    try:
        if not safepath.check(directory, _WHAT):
            return b""
        with os.fdopen(_open(directory / name, most), "rb") as file:
            return file.read(most)
    except (OSError, Misconfigured):
        return b""


def remember_file(directory: Path, name: str, data: bytes) -> None:
    """Keep a file, replacing it whole. Raises as `remember`."""
    _replace(directory / name, data)


def reason(error: OSError | Misconfigured) -> str:
    """Return why something could not be kept."""
    return error.message if isinstance(error, Misconfigured) else error.strerror or str(error)


def _believed(directory: Path, name: str, most: int) -> dict[str, Any]:
    try:
        return _load(directory / name, most) if safepath.check(directory, _WHAT) else {}
    except Misconfigured:
        return {}


def _load(path: Path, most: int) -> dict[str, Any]:
    """Return what a file holds; nothing if it is not there, or damaged. Raises Misconfigured if kmsd did not write
    it."""
    try:
        with os.fdopen(_open(path, most), "rb") as file:
            kept = json.loads(file.read(most))
    except (OSError, ValueError, RecursionError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _open(path: Path, most: int) -> int:
    """Open a file that kmsd wrote. Raises FileNotFoundError, and Misconfigured if kmsd did not write it."""
    quoted = shlex.quote(str(path))
    try:
        file = plainfile.open_regular(path, os.O_RDONLY)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Misconfigured(
            f"{path} is not believed: {error.strerror}", f"move it away, kmsd makes it anew: mv {quoted} {quoted}.old"
        ) from error
    found = os.fstat(file)
    if safepath.stranger(found):
        why, hint = f"it belongs to user {found.st_uid}", f"chown {safepath.owner()} {quoted}, if its content is right"
    elif found.st_mode & 0o022:
        why, hint = "others may write to it", f"chmod 600 {quoted}, if its content is right"
    elif found.st_size > most:
        why, hint = f"it has more than {most} bytes", f"move it away, kmsd makes it anew: mv {quoted} {quoted}.old"
    else:
        return file
    os.close(file)
    raise Misconfigured(f"{path} is not believed: {why}", hint)


def _write(path: Path, kept: Mapping[str, object]) -> None:
    _replace(path, json.dumps(kept).encode())


def _replace(path: Path, data: bytes) -> None:
    safepath.prepare(path.parent, _WHAT)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}", dir=path.parent)  # made with mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise
