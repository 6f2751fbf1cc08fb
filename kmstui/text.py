"""Text cut to display widths, ages and filters. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from rich.cells import cell_len
from textual.content import Content

from kmsd.client import Key, KeyType, escape

_TYPES = {KeyType.AES: "AES", KeyType.HMAC: "HMAC"}


def shorten(text: str, width: int) -> str:
    """At most `width` columns; what is left out at the end is an ellipsis."""
    if cell_len(text) <= width:
        return text
    while text and cell_len(text) > width - 1:
        text = text[:-1]
    return f"{text}…" if width > 0 else ""


def shorten_left(text: str, width: int) -> str:
    """As `shorten`, but keeps the end: of paths that is the part that tells."""
    if cell_len(text) <= width:
        return text
    while text and cell_len(text) > width - 1:
        text = text[1:]
    return f"…{text}" if width > 0 else ""


def hang(text: str, width: int, indent: int) -> str:
    """Wrapped into `width` columns, each line after the first set in by `indent`, as the first already is."""
    lines = Content(text).wrap(max(1, width - indent))
    return f"\n{' ' * indent}".join(line.plain.rstrip() for line in lines)


def duration(seconds: float) -> str:
    """In its largest unit: 4 s, 12 min, 3 h, 41 days."""
    whole = max(0, int(seconds))
    if whole < 120:
        return f"{whole} s"
    if whole < 2 * 3600:
        return f"{whole // 60} min"
    if whole < 2 * 86400:
        return f"{whole // 3600} h"
    return f"{whole // 86400} days"


def ago(then: datetime | None, now: datetime) -> str:
    return f"{duration((now - then).total_seconds())} ago" if then is not None else "at an unknown time"


def absolute(then: datetime | None) -> str:
    """To the second, in UTC; empty if unknown."""
    return then.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if then is not None else ""


def key_type(key: Key) -> str:
    return f"{_TYPES.get(key.type, 'other')}-{key.bits}"


def short_hash(key: Key) -> str:
    """The first 8 digits of the hash that kube-apiserver logs; a dash if there is no key id."""
    return escape(key.key_id_sha256[:8]) or "-"


def matches(pattern: re.Pattern[str], fields: tuple[str, ...]) -> bool:
    """Whether any of the fields holds the pattern; each by itself, so that ^ and $ mean its ends."""
    return any(pattern.search(each) for each in fields)
