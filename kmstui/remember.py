"""The memory from one run to the next: screen, theme, and order and filter of each table.

Nothing depends on it: a file that is missing, broken or not ours is as none, and one that cannot be written is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

MOST_BYTES = 64 * 1024
MOST_TABLES = 32
MOST_TEXT = 256
"""Characters of a name or a filter."""


@dataclass(frozen=True)
class RememberedTable:
    """An order and a filter of a table. sort: a column's title; empty: as they come."""

    filter: str = ""
    sort: str = ""
    falling: bool = False


@dataclass(frozen=True)
class Remembered:
    """The screen, the theme and the tables of the last run."""

    screen: str = ""
    theme: str = ""
    tables: Mapping[str, RememberedTable] = field(default_factory=dict)


def place() -> Path:
    """Return the file in which they are kept."""
    return platformdirs.user_state_path("kmstui", appauthor=False) / "state.json"


def load(path: Path) -> Remembered:
    """Read what is remembered; nothing if the file is not there or makes no sense."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            return Remembered()
        return _memory(json.loads(data))
    except (OSError, ValueError, RecursionError):
        return Remembered()


def save(memory: Remembered, path: Path) -> None:
    """Save whole or not at all, for this user alone."""
    document = {
        "screen": memory.screen,
        "theme": memory.theme,
        "tables": {name: vars(table) for name, table in memory.tables.items()},
    }
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # mkstemp makes it with mode 0600.
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".state-")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(document, file)
            Path(name).replace(path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise


def _memory(document: Any) -> Remembered:
    if not isinstance(document, dict):
        return Remembered()
    tables = document.get("tables")
    found = list(tables.items())[:MOST_TABLES] if isinstance(tables, dict) else []
    return Remembered(
        _text(document.get("screen")),
        _text(document.get("theme")),
        {_text(name): _table(value) for name, value in found if isinstance(value, dict)},
    )


def _table(document: dict[str, Any]) -> RememberedTable:
    return RememberedTable(_text(document.get("filter")), _text(document.get("sort")), document.get("falling") is True)


def _text(value: object) -> str:
    return value[:MOST_TEXT] if isinstance(value, str) else ""
