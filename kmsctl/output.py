"""The only writer of stdout: data, in the format that was asked for. Knows nothing of kmsd.

Tables are for people; json and yaml are a contract with scripts; name is for `xargs`.
"""

from __future__ import annotations

import errno
import os
import select
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import TextIO

from kmsctl import terminal
from kmsctl.text import cut, width
from kmsd.client import escape

Document = dict[str, object]


class OutputFormat(StrEnum):
    """A format that a command writes."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"
    PROMETHEUS = "prometheus"


class Colour(StrEnum):
    """A colour, or another look, as a terminal's control sequence."""

    GREEN = "\x1b[32m"
    YELLOW = "\x1b[33m"
    RED = "\x1b[31m"
    BOLD = "\x1b[1m"
    DIM = "\x1b[2m"


Span = tuple[str, Colour | None]
"""Escaped text and how it looks: a part of a line on a screen."""


def emit(text: str) -> None:
    """Print a piece of text and a line end; nothing for empty text."""
    if text:
        emit_bytes((text + "\n").encode(_encoding(), errors="backslashreplace"))


def emit_bytes(data: bytes) -> None:
    """Print bytes as they are. Raises OSError, also where stdout was closed before this program began."""
    stdout = _stdout()
    stdout.flush()
    stdout.buffer.write(data)
    # Here and not at exit, so that a full disk or a closed pipe is an error like any other.
    stdout.buffer.flush()


def give_up() -> None:
    """Let go of a stdout that failed: the interpreter flushes it once more at exit, and would complain again."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def emit_raw(text: str) -> None:
    """Print text with its control sequences, for a terminal."""
    emit_bytes(text.encode(_encoding(), errors="replace"))


def emit_line(document: Document) -> None:
    """Print a JSON document on a line of its own, as one of a stream."""
    import json

    emit(json.dumps(document, separators=(",", ":")))


def emit_item(document: Document) -> None:
    """Print one more item of a YAML list that has no end."""
    import yaml

    emit(yaml.safe_dump([document], sort_keys=False).rstrip("\n"))


def emit_document(document: Document, form: OutputFormat) -> None:
    """Print a document as JSON or YAML."""
    emit(document_text(document, form))


def document_text(document: Document, form: OutputFormat) -> str:
    """Return a document as JSON or YAML, ASCII only: what a label holds reaches no terminal unescaped."""
    if form is OutputFormat.YAML:
        import yaml

        text: str = yaml.safe_dump(document, sort_keys=False)
        return text.rstrip("\n")
    import json

    return json.dumps(document, indent=2)


def emit_names(names: Iterable[str]) -> None:
    """Print names, one a line."""
    emit("\n".join(escape(name) for name in names))


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as plain aligned columns, three spaces apart; the empty cell is a dash."""
    room = widths([headers, *rows])
    return "\n".join(row(cells, room) for cells in [headers, *rows])


def widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """Return what each column of a table takes."""
    return [max(width(escape(cell) or "-") for cell in column) for column in zip(*rows, strict=True)]


def sheet(rows: Sequence[tuple[str, str]]) -> str:
    """Return names and values, one pair a line; no name continues the one above. Values come escaped."""
    left = max(width(name) for name, _ in rows)
    return "\n".join(_line([name, value], [left, 0]) for name, value in rows)


def row(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Return one line of a table whose other rows are not known yet."""
    return _line([escape(cell) or "-" for cell in cells], widths)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "   ".join(cell + " " * max(0, room - width(cell)) for cell, room in zip(row, widths, strict=True)).rstrip()


def when_unread(call: Callable[[], None]) -> None:
    """Call a function, on a thread of its own, once nobody reads stdout any more (a pipe's reader has gone, a terminal
    hung up): what writes only now and then would find out late. Never where it cannot be known, as with a file."""

    def wait(descriptor: int) -> None:
        poll = select.poll()
        poll.register(descriptor, 0)  # POLLERR and POLLHUP are told unasked
        poll.poll()
        call()

    if sys.stdout is not None:
        threading.Thread(target=wait, args=(sys.stdout.fileno(),), daemon=True).start()


def columns() -> int:
    """Return the columns of the terminal that stdout is."""
    return terminal.columns(sys.stdout)


def on_terminal() -> bool:
    """Return whether stdout is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def has_screen() -> bool:
    """Return whether stdout is a terminal whose screen can be taken over."""
    return on_terminal() and terminal.movable(sys.stdout)


def size() -> os.terminal_size:
    """Return the columns and lines of the terminal that stdout is."""
    return terminal.size(sys.stdout)


def painted(line: Sequence[Span], columns: int) -> str:
    """Return a line of at most so many columns, in colour if stdout takes it."""
    done = ""
    for text, colour in line:
        text = cut(text, columns)
        columns -= width(text)
        done += text if colour is None else paint(text, colour)
    return done


def paint(text: str, colour: Colour) -> str:
    """Return text in colour, if stdout takes it."""
    return f"{colour}{text}\x1b[0m" if terminal.colourful(sys.stdout) else text


def glyph(beautiful: str, plain: str) -> str:
    """Return the beautiful sign, or `plain` where stdout's encoding lacks it."""
    try:
        beautiful.encode(_encoding())
    except UnicodeEncodeError:
        return plain
    return beautiful


def _encoding() -> str:
    return _stdout().encoding or "utf-8"


def _stdout() -> TextIO:
    if sys.stdout is None:
        raise OSError(errno.EBADF, "stdout is closed")
    return sys.stdout
