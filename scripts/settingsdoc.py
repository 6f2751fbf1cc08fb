"""The settings of kmsd as data, out of the models and what is written beside their fields: for a page and a manual."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass

from kmsd import cli
from kmsd.config.kinds import Section
from kmsd.config.reload import reloadable
from kmsd.config.settings import Settings, TokenEntry
from kmsd.config.values import ENTRIES, ENTRY, LEAVES, TABLES, to_toml

USERS_PLACES = {
    "kms.socket": ("/run/kmsd/kms.sock", "$XDG_RUNTIME_DIR/kmsd/kms/kms.sock"),
    "admin.socket": ("/run/kmsd-admin/admin.sock", "$XDG_RUNTIME_DIR/kmsd/admin/admin.sock"),
    "state.dir": ("/var/lib/kmsd", "~/.local/state/kmsd"),
}
"""Defaults that depend on who runs kmsd: root's, and those of others."""


@dataclass(frozen=True)
class Setting:
    """A setting. allowed: what it may hold. default: in words. unit: of a number, or empty.
    reload: whether `systemctl reload` changes it. flags: of `kmsd serve` and `kmsd proxy`."""

    name: str
    allowed: str
    default: str
    unit: str
    reload: bool
    environment: str
    flags: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Group:
    """A section of the file, or the entries of an array of tables."""

    name: str
    heading: str
    text: str
    settings: tuple[Setting, ...]


def groups() -> Iterator[Group]:
    """Yield the sections and arrays of tables in the order of the models. Raises SystemExit if one has no words."""
    for name, field in Settings.model_fields.items():
        if name in TABLES:
            yield _group(name, f"[[{name}]]", TABLES[name])
        elif isinstance(field.annotation, type):
            yield _group(name, f"[{name}]", field.annotation)


def _group(section: str, heading: str, model: type[Section]) -> Group:
    own = ENTRY if model is TokenEntry else tuple(model.model_fields)
    said = _said(model)
    missing = [name for name in own if not said.get(name)]
    if missing:
        raise SystemExit(f"{inspect.getsourcefile(model)} says nothing of {section}.{', '.join(missing)}")
    text = " ".join(inspect.getdoc(model).split()) if model.__doc__ else ""
    if model is TokenEntry:
        text += " An entry has the settings of [token], too."
    return Group(section, heading, text, tuple(_setting(section, name, model, said[name]) for name in own))


def _setting(section: str, name: str, model: type[Section], text: str) -> Setting:
    key = f"{section}.{name}"
    field, leaf = model.model_fields[name], LEAVES.get(key) or ENTRIES[key]
    if key in USERS_PLACES:
        default = "root: `{}`; others: `{}`".format(*USERS_PLACES[key])
    elif field.is_required():
        default = "must be given"
    else:
        default = f"`{to_toml(key, field.default)}`" if field.default is not None else "none"
    flags = dict.fromkeys(flag.name for flag in (*cli.FLAGS, *cli.PROXY_FLAGS) if flag.key == key)
    return Setting(
        name=name,
        allowed=leaf.expected,
        default=default,
        unit=_unit(name, text) if leaf.kind in (int, float) else "",
        reload=reloadable(key if section not in TABLES else f"{section}.0.{name}"),
        environment="" if section in TABLES else f"KMSD_{section.upper()}__{name.upper()}",
        flags=tuple(flags),
        text=text,
    )


def _unit(name: str, text: str) -> str:
    if text.startswith("Seconds"):
        return "seconds"
    if re.search(r"\bbytes\b", text) or name.endswith("bytes"):
        return "bytes"
    return "calls in a second" if text.startswith("Calls in a second") else ""


def _said(model: type[Section]) -> dict[str, str]:
    """Return what stands below each field of a model, and of those that it inherits from."""
    found: dict[str, str] = {}
    for each in reversed(model.__mro__):
        if not issubclass(each, Section) or each is Section:
            continue
        (tree,) = ast.parse(inspect.getsource(each)).body
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                found[field.target.id] = " ".join(ast.literal_eval(below.value).split())
    return found
