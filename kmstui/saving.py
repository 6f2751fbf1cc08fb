"""Writes rows of a table to a file, as CSV, JSON or text. Asks no kmsd and knows no widget."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kmsd.client import Conflict, InvalidRequest, escape
from kmstui.text import as_json, pad, width
from kmstui.view import Moment
from kmstui.widgets.columns import ItemKind

MOST_BYTES = 64 << 20
ENDINGS = (".csv", ".json", ".txt")
_FORMULA = ("=", "+", "-", "@")


class Exists(Conflict):
    """Raised where there is a file of this name already."""


def path_of(text: str) -> Path:
    """Return the file that was typed; ~ is the home directory. Raises InvalidRequest if its ending names no format."""
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        path = Path(text)
    if path.suffix.lower() not in ENDINGS:
        allowed = f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
        raise _refused(f"{text} does not end in {allowed}", f"end it in {allowed}")
    return path


def save(path: Path, kind: ItemKind[Any], items: Sequence[Any], moment: Moment, *, overwrite: bool = False) -> int:
    """Write rows to a file that only this user can read, and that is removed if that fails; return its bytes.

    The ending of the path chooses the format. Raises Exists if there is a file and it is not to be overwritten,
    InvalidRequest if it cannot be written or would hold more than MOST_BYTES.
    """
    lines = _WRITERS[path.suffix.lower()](kind, items, moment)
    try:
        if not overwrite and os.path.lexists(path):
            raise _exists(path)
        if overwrite and path.exists() and not stat.S_ISREG(path.stat().st_mode):
            raise _refused(f"{path} is no file", "name another one")
        if overwrite:
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".kmstui-")  # with mode 0600
            return _write(descriptor, Path(name), lines, path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        return _write(descriptor, path, lines, path)
    except FileExistsError:
        raise _exists(path) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _refused(f"{path} cannot be written: {why}", "name a file in a directory that you may write to") from None


def _write(descriptor: int, name: Path, lines: Iterator[str], path: Path) -> int:
    """Write the open file `name` and give it the name `path`; remove it if that fails."""
    try:
        with os.fdopen(descriptor, "wb") as file:
            size = sum(map(file.write, _bounded(lines)))
        if name != path:
            name.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            name.unlink()
        raise
    return size


def _bounded(lines: Iterator[str]) -> Iterator[bytes]:
    size = 0
    for line in lines:
        data = line.encode(errors="backslashreplace")
        size += len(data)
        if size > MOST_BYTES:
            raise _refused(f"the table takes more than {MOST_BYTES >> 20} MiB", "filter it first")
        yield data


def _csv(kind: ItemKind[Any], items: Sequence[Any], moment: Moment) -> Iterator[str]:
    """Yield the fields of the rows, so that nothing is cut or rounded; what a spreadsheet would run begins with a
    quote."""
    rows = [_fields(kind, item) for item in items]
    names = list(dict.fromkeys(name for row in rows for name in row)) or [column.title for column in kind.columns]
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n")
    for cells in (names, *([_cell(row.get(name)) for name in names] for row in rows)):
        writer.writerow(cells)
        yield line.getvalue()
        line.seek(0)
        line.truncate()


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case str():
            text = escape(value)
            return f"'{text}" if text.startswith(_FORMULA) else text
    return json.dumps(value, ensure_ascii=False)


def _json(kind: ItemKind[Any], items: Sequence[Any], moment: Moment) -> Iterator[str]:
    for at, item in enumerate(items):
        yield f"{',' if at else '['}\n  {json.dumps(_fields(kind, item))}"
    yield "\n]\n" if items else "[]\n"


def _text(kind: ItemKind[Any], items: Sequence[Any], moment: Moment) -> Iterator[str]:
    """Return every column of the table, as wide as it needs to be."""
    rows = [[escape(column.text(item, moment)) for column in kind.columns] for item in items]
    rows.insert(0, [column.title for column in kind.columns])
    widths = [max(map(width, cells)) for cells in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            pad(cell, wide, right=column.right) for cell, wide, column in zip(row, widths, kind.columns, strict=True)
        )
        yield "  ".join(cells).rstrip() + "\n"


_WRITERS: dict[str, Callable[[ItemKind[Any], Sequence[Any], Moment], Iterator[str]]] = {
    ".csv": _csv,
    ".json": _json,
    ".txt": _text,
}


def _fields(kind: ItemKind[Any], item: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(as_json(kind.data(item) if kind.data is not None else item))
    return found


def _exists(path: Path) -> Exists:
    hint = "press Overwrite, or name another file"
    return Exists(f"{path} is there already", hint, "ALREADY_EXISTS", retryable=True)


def _refused(message: str, hint: str) -> InvalidRequest:
    return InvalidRequest(message, hint, "INVALID_ARGUMENT")
