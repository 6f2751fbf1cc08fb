"""Read one TOML file and tell on which line each of its keys stands.

Knows TOML, not which settings there are.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kmsd import plainfile
from kmsd.config.errors import ConfigError

MAX_BYTES = 1 << 20
"""A configuration file has at most 1 MiB, so that a wrong path (a device, a log) is not read to its end."""

_KEY = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_DOTTED = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_ASSIGNMENT = re.compile(rf"\s*({_DOTTED})\s*=")
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_DOTTED})\s*\]")
_WHERE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


@dataclass(frozen=True)
class Document:
    """The content of one TOML file. mode: its permission bits; lines: path of a key or table -> line, from 1; the
    entries of an array of tables are numbered in the path, from 0."""

    path: Path
    mode: int
    data: Mapping[str, object]
    lines: Mapping[tuple[str, ...], int]

    def line(self, loc: tuple[str, ...]) -> int:
        """Return the line of a key, or of the nearest table around it that has one; 0 if none has."""
        while loc and loc not in self.lines:
            loc = loc[:-1]
        return self.lines.get(loc, 0)

    def where(self, loc: tuple[str, ...]) -> str:
        """Return the place of a key as `FILE:LINE`."""
        line = self.line(loc)
        return f"{self.path}:{line}" if line else str(self.path)


def read(path: Path) -> Document | None:
    """Read the document at `path`; None if there is no such file. Raises ConfigError for all else."""
    try:
        raw, found = plainfile.read_input(path, MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise ConfigError(
            f"{path}: {reason}", f"kmsd runs as uid {os.geteuid()}; it must be able to read {path}"
        ) from None
    except ValueError:
        raise ConfigError("the path of the configuration file holds a NUL byte") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: a configuration file must have 1 MiB at most", "name a file with settings of kmsd")
    text, problem = _decode(path, raw)
    if not problem:
        data, problem = _parse(path, text)
        if not problem:
            return Document(path, stat.S_IMODE(found.st_mode), data, _lines(text))
    # Raised here and not where it was met: the first exception holds the file, and with it a PIN.
    raise ConfigError(problem)


def _decode(path: Path, raw: bytes) -> tuple[str, str]:
    try:
        return raw.decode(), ""
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return "", f"{path}:{line}: the file must be UTF-8, and this line is not"


def _parse(path: Path, text: str) -> tuple[dict[str, object], str]:
    try:
        return tomllib.loads(text), ""
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        where = _WHERE.search(message)
        if where is None:
            return {}, f"{path}: not TOML: {message}"
        said = message[: where.start()]
        if where[1] is None:
            return {}, f"{path}:{text.count(chr(10)) + 1}: not TOML: {said}, at the end of the file"
        return {}, f"{path}:{where[1]}:{where[2]}: not TOML: {said}"
    except (ValueError, RecursionError):
        # Neither is a TOMLDecodeError: a number of over 4,300 digits, and arrays nested past all reason.
        return {}, f"{path}: not TOML that kmsd reads: a number is too long, or brackets are nested too deep"


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """Find where the keys and tables of `text`, valid TOML, stand. A scan by lines, as tomllib does not tell."""
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    entries: Counter[tuple[str, ...]] = Counter()
    within = ""  # the quotes of the multi-line string that the line begins in
    for number, line in enumerate(text.split("\n"), start=1):
        if not within:
            if header := _HEADER.match(line):
                table = _split(header[2])
                if header[1] == "[[":
                    entries[table] += 1
                    lines.setdefault(table, number)
                    table = (*table, str(entries[table] - 1))
                lines.setdefault(table, number)
            elif assignment := _ASSIGNMENT.match(line):
                lines.setdefault(table + _split(assignment[1]), number)
        within = _string_left_open(line, within)
    return lines


def _split(dotted: str) -> tuple[str, ...]:
    try:
        value: object = tomllib.loads(f"{dotted} = 0")
    except ValueError:
        return ()  # no key after all: a line of a multi-line array
    parts: list[str] = []
    while isinstance(value, dict):
        ((part, value),) = value.items()
        parts.append(part)
    return tuple(parts)


def _string_left_open(line: str, within: str) -> str:
    """Return the quotes of a multi-line string that is open where `line` ends, or nothing."""
    at = 0
    while at < len(line):
        if within:
            if within == '"""' and line[at] == "\\":
                at += 2
            elif line.startswith(within, at):
                at, within = at + 3, ""
            else:
                at += 1
        elif line[at] == "#":
            return ""
        elif line.startswith(('"""', "'''"), at):
            within, at = line[at : at + 3], at + 3
        elif line[at] in "\"'":
            closed = re.compile(r'"(?:[^"\\]|\\.)*"' if line[at] == '"' else r"'[^']*'").match(line, at)
            at = closed.end() if closed else len(line)
        else:
            at += 1
    return within
