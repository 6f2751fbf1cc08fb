"""Make what comes from a token safe to show: both front ends show labels that anybody may have written. Pure."""

from __future__ import annotations


def escape(text: str) -> str:
    """Write control, direction-changing and undecodable characters as \\x1b, \\u202e: labels on a token may hold
    anything, and none of it shall reach the terminal."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
