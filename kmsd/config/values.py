"""Convert text to the typed values of settings, and describe what was expected and what was found.

All of it is derived from the models in `kmsd.config.settings`. Knows nothing of files, the environment or flags, and
never puts the PIN's value into words.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Final, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from kmsd.config import pkcs11_uri
from kmsd.config.kinds import SESSIONS, Section
from kmsd.config.remote import AdminEntry, Tenant
from kmsd.config.settings import Settings, TokenEntry

PIN = "token.pin"
TOKEN = "token"  # noqa: S105 - a section of the file
TOKENS = "tokens"
TABLES: Mapping[str, type[Section]] = MappingProxyType({TOKENS: TokenEntry, "tenants": Tenant, "admins": AdminEntry})
"""The arrays of tables, `[[name]]` in the file, and what an entry of each is."""
ENTRY = ("name", "write")
"""The fields of an entry of [[tokens]] beside those of [token]."""
REDACTED = "<redacted>"

GONE: Mapping[str, str] = MappingProxyType(
    {
        "keys.idle_before_destroy": "it is gone, for a key that is idle here may be needed elsewhere: take it out; "
        "destroying wants a retired key, a scan of etcd (--report), or the key's label (--confirm)",
    }
)
"""Settings that kmsd no longer has, each with what to tell somebody who still gives it."""

_TRUE = frozenset({"1", "t", "true", "y", "yes", "on"})
_FALSE = frozenset({"0", "f", "false", "n", "no", "off"})
_SHOWN = 60  # characters of a wrong value that an error repeats


@dataclass(frozen=True)
class Leaf:
    """A setting and what it may hold. kind: its type; optional: whether it may be unset; expected: both, in words."""

    key: str
    kind: type
    optional: bool
    expected: str


def from_text(leaf: Leaf, text: str) -> object:
    """Return the value that `text` (a flag, a variable) stands for. Text that cannot be read stays as it is, for
    validation to refuse. Empty text unsets what may be unset."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="surrogateescape")  # bytes: no setting accepts them
    if leaf.optional and not text:
        return None
    if leaf.kind is tuple:
        return tuple(part for part in (each.strip() for each in text.split(",")) if part)
    word = text.strip()
    if leaf.kind is bool and word.lower() in _TRUE | _FALSE:
        return word.lower() in _TRUE
    if leaf.kind is int and re.fullmatch(r"[+-]?[0-9]{1,18}", word):
        return int(word)
    if leaf.kind is float and re.fullmatch(r"[+-]?[0-9.]{1,30}([eE][+-]?[0-9]{1,3})?", word):
        try:
            return float(word)
        except ValueError:
            return text
    return _path(leaf, text)


def from_toml(leaf: Leaf, value: object) -> object:
    """Return the value of `leaf` for what tomllib read: only strings that are paths or empty change."""
    if not isinstance(value, str):
        return value
    return None if leaf.optional and not value else _path(leaf, value)


def _path(leaf: Leaf, text: str) -> object:
    return Path(text) if leaf.kind is Path and text and "\0" not in text else text


def to_toml(key: str, value: object) -> str:
    """Return `value` as TOML writes it, the PIN redacted. value: not None."""
    match value:
        case _ if key == PIN:
            return json.dumps(REDACTED)
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case tuple():
            return f"[{', '.join(_quoted(str(each)) for each in value)}]"
        case _:
            return _quoted(str(value))


def found(key: str, value: object) -> str:
    """Describe what was found instead of what was expected; of the PIN, of a URL that may have a password in it, and of
    whole tables, only the kind."""
    match value:
        case None:
            return "nothing"
        case bytes():
            return "text that is not UTF-8"
        case dict():
            return "a table"
        case list():
            return "an array"
        case _ if key in (PIN, "store.url") or (key not in LEAVES and key not in ENTRIES):
            return _kind(value)
        case bool():
            return "true" if value else "false"
        case int() if abs(value) >= 10**18:
            return "a number with too many digits"
        case float() if not math.isfinite(value):
            return "a number that is not finite"
        case int() | float():
            return repr(value)
        case str() | Path() if pkcs11_uri.is_uri(str(value)):
            return "a URI"  # in which may be a PIN
        case str() | Path():
            text = str(value)
            return _quoted(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
        case _:
            return _kind(value)


def _kind(value: object) -> str:
    match value:
        case bool():
            return "true or false without quotes"
        case int() | float():
            return "a number without quotes"
        case str() | Path():
            return "a string"
        case _:
            return "a date or time"


def _quoted(text: str) -> str:
    """Return a TOML basic string: JSON's, but TOML also escapes DEL."""
    quoted = json.dumps(text, ensure_ascii=False)
    # As TOML escapes them: a path may hold what turns the direction of a terminal's text.
    return "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in quoted)


def key_text(loc: Sequence[str]) -> str:
    """Return a dotted key as TOML writes it, quoted where it has to be."""
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else _quoted(part[:_SHOWN]) for part in loc)


def leaf_key(loc: Sequence[str]) -> str:
    """Return the name in LEAVES or ENTRIES of the setting at `loc`; for a field that an entry of [[tokens]] shares with
    [token], that of [token]."""
    if len(loc) < 3 or loc[0] not in TABLES:
        return ".".join(loc)
    return f"{TOKEN if loc[0] == TOKENS and loc[2] not in ENTRY else loc[0]}.{loc[2]}"


def leaf(loc: Sequence[str]) -> Leaf | None:
    """Return the setting at `loc`; None if there is none."""
    key = leaf_key(loc)
    return LEAVES.get(key) or ENTRIES.get(key)


def suggestion(loc: Sequence[str]) -> str:
    """Return a sentence for an unknown key or section: what may have been meant, else what there is."""
    if gone := GONE.get(".".join(loc)):
        return gone
    if loc[0] == TOKENS and len(loc) == 3:
        return f"[[{TOKENS}]] has {', '.join((*ENTRY, *SECTIONS[TOKEN]))}"
    if loc[0] in TABLES and len(loc) == 3:
        return f"[[{loc[0]}]] has {', '.join(TABLES[loc[0]].model_fields)}"
    section, name = loc[0], loc[-1].replace("-", "_")
    meant = [key for key in LEAVES if key.split(".")[1] == name]
    if len(loc) > 1:
        near = difflib.get_close_matches(name, SECTIONS[section], n=1)
        fallback = f"[{section}] has {', '.join(SECTIONS[section])}"
        own = [key for key in meant if key.startswith(f"{section}.")]
        meant = own or meant or [f"{section}.{near[0]}" for _ in near]
    else:
        near = difflib.get_close_matches(name, SECTIONS, n=1)
        fallback = "the sections are " + ", ".join(f"[{known}]" for known in SECTIONS)
        meant = meant or [f"[{near[0]}]" for _ in near]
    return f"did you mean {' or '.join(meant)}?" if meant else fallback


def _leaf(key: str, field: FieldInfo) -> Leaf:
    annotation = field.annotation
    arms = [arm for arm in get_args(annotation) if arm is not NoneType]
    optional = NoneType in get_args(annotation)
    if optional:
        (annotation,) = arms
    elif int in arms:
        return Leaf(key, int, optional, SESSIONS)  # or a word in place of the number
    if get_origin(annotation) is tuple:
        annotation = tuple
    kind = annotation if isinstance(annotation, type) else str  # a Literal of strings is no type
    return Leaf(key, kind, optional, _expected(key, field, annotation))


def _expected(key: str, field: FieldInfo, annotation: object) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(_quoted(str(choice)) for choice in get_args(annotation))
    if annotation is bool:
        return "true or false"
    if annotation is tuple:
        return 'an array of strings such as ["0x01", "kek-1"]'
    if annotation is Path:
        return "a path in quotes"
    if annotation is SecretStr:
        return "the PIN as a string in quotes"
    if annotation is str:
        return "a string in quotes"
    number = "a whole number" if annotation is int else "a number"
    bounds = {
        name: getattr(mark, name) for mark in field.metadata for name in ("gt", "ge", "le") if hasattr(mark, name)
    }
    match bounds:
        case {"ge": low, "le": high}:
            return f"{number} from {low} to {high}"
        case {"gt": low, "le": high}:
            return f"{number} above {low}, at most {high}"
        case {"ge": low}:
            return f"{number} from {low} up"
        case _:
            raise TypeError(f"{key}: no words for {annotation}")


def _leaves() -> dict[str, Leaf]:
    leaves = {}
    for section, outer in Settings.model_fields.items():
        model = outer.annotation
        for name, field in getattr(model, "model_fields", {}).items():
            key = f"{section}.{name}"
            leaves[key] = _leaf(key, field)
    return leaves


LEAVES: Mapping[str, Leaf] = MappingProxyType(_leaves())
"""Every setting by its dotted name, in the order of the models."""

_NAME: Final = "1 to 64 letters, digits, dots, dashes or underscores"
_NAMES: Final = 'an array of names in certificates such as ["DNS:*.cluster-a.test", "URI:spiffe://cluster-a/kms/*"]'
_ENTRY_WORDS: Final = {"tokens.name": _NAME, "tenants.name": _NAME, "tenants.san": _NAMES, "admins.san": _NAMES}

ENTRIES: Mapping[str, Leaf] = MappingProxyType(
    {
        key: replace(made, expected=_ENTRY_WORDS.get(key, made.expected))
        for table, model in TABLES.items()
        for name, field in model.model_fields.items()
        if (key := f"{table}.{name}") and (table != TOKENS or name in ENTRY) and (made := _leaf(key, field))
    }
)
"""Every setting of an entry of the arrays of tables, but those that [[tokens]] shares with [token]."""

SECTIONS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        section: tuple(key.split(".")[1] for key in LEAVES if key.startswith(f"{section}."))
        for section in Settings.model_fields
    }
)
