"""The only writer of stdout: data, in the format that was asked for. Knows nothing of kmsd.

Tables are for people; json and yaml are a contract with scripts; name is for `xargs`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum

from kmsctl import terminal
from kmsctl.text import width
from kmsd.client import escape

Document = dict[str, object]


class Format(StrEnum):
    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


class Colour(StrEnum):
    GREEN = "\x1b[32m"
    YELLOW = "\x1b[33m"
    RED = "\x1b[31m"


def emit(text: str) -> None:
    """One piece of text and a line end; nothing for empty text."""
    if text:
        emit_bytes((text + "\n").encode(_encoding(), errors="backslashreplace"))


def emit_bytes(data: bytes) -> None:
    """Bytes as they are."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    # Here and not at exit, so that a full disk or a closed pipe is an error like any other.
    sys.stdout.buffer.flush()


def emit_document(document: Document, form: Format) -> None:
    emit(document_text(document, form))


def document_text(document: Document, form: Format) -> str:
    """JSON or YAML, ASCII only: what a label holds reaches no terminal unescaped."""
    if form is Format.YAML:
        import yaml

        text: str = yaml.safe_dump(document, sort_keys=False)
        return text.rstrip("\n")
    import json

    return json.dumps(document, indent=2)


def emit_names(names: Iterable[str]) -> None:
    emit("\n".join(escape(name) for name in names))


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain aligned columns, three spaces apart; the empty cell is a dash."""
    cells = [list(headers), *([escape(cell) or "-" for cell in row] for row in rows)]
    widths = [max(width(row[column]) for row in cells) for column in range(len(headers))]
    return "\n".join(_line(row, widths) for row in cells)


def sheet(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values, one pair a line; no name continues the one above. Values come escaped."""
    left = max(width(name) for name, _ in rows)
    return "\n".join(_line([name, value], [left, 0]) for name, value in rows)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "   ".join(cell + " " * (room - width(cell)) for cell, room in zip(row, widths, strict=True)).rstrip()


def on_terminal() -> bool:
    return sys.stdout.isatty()


def paint(text: str, colour: Colour) -> str:
    """Text in colour, if stdout takes it."""
    return f"{colour}{text}\x1b[0m" if terminal.colourful(sys.stdout) else text


def glyph(beautiful: str, plain: str) -> str:
    """`plain` where stdout's encoding lacks the beautiful one."""
    try:
        beautiful.encode(_encoding())
    except UnicodeEncodeError:
        return plain
    return beautiful


def _encoding() -> str:
    return sys.stdout.encoding or "utf-8"
