"""What kmsd keeps across restarts, in the state directory: which key wrote last.

So that Status names the same key_id after a restart while the token is away. Nothing here is needed to serve: a
directory that cannot be written is a warning. Knows nothing of keys but their ids.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

_FILE: Final = "write-key.json"
_MOST: Final = 4096


def recall(directory: Path, write_label: str) -> str:
    """key_id of the key that wrote last under this label; empty if that is not known."""
    try:
        with (directory / _FILE).open("rb") as file:
            kept = json.loads(file.read(_MOST))
    except (OSError, ValueError, RecursionError):
        return ""
    key_id = kept.get("key_id") if isinstance(kept, dict) and kept.get("label") == write_label else None
    return key_id if isinstance(key_id, str) else ""


def remember(directory: Path, write_label: str, key_id: str) -> None:
    """Keep it, replacing the file whole. Raises OSError."""
    if not directory.exists():
        directory.mkdir(mode=0o700, parents=True)
    handle, name = tempfile.mkstemp(prefix=".write-key", dir=directory)  # made with mode 0600
    try:
        with os.fdopen(handle, "w") as file:
            json.dump({"label": write_label, "key_id": key_id}, file)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(directory / _FILE)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise
