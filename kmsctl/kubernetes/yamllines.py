"""Change lists in a YAML text: lines are added and taken out, and no other byte changes. Pure.

The places come from a parser of YAML. What the new text means is its caller's to compare with what it should mean.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

_PLAIN = re.compile(r"-*[A-Za-z0-9/][A-Za-z0-9/._=-]*")
"""Text that YAML takes for itself without quotes."""


class NotInLines(Exception):
    """A list is not written with a line for each item. name: of the list."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True)
class Addition:
    """A number of items for a list in the document. path: of the list."""

    path: tuple[str | int, ...]
    items: tuple[Any, ...]


@dataclass(frozen=True)
class Removal:
    """A number of items that a list in the document loses. path: of the list. at: where they are in it, ascending."""

    path: tuple[str | int, ...]
    at: tuple[int, ...]


def changed(text: str, steps: Sequence[Removal | Addition]) -> str:
    """Return the text after each of these steps. Raises NotInLines."""
    for each in steps:
        text = _taken_out(text, each) if isinstance(each, Removal) else _added(text, each)
    return text


def meant(document: Any, steps: Sequence[Removal | Addition]) -> Any:
    """Return what a document should mean after each of these steps."""
    document = copy.deepcopy(document)
    for each in steps:
        *outer, last = each.path
        holder = document
        for step in outer:
            holder = holder[step]
        if isinstance(each, Removal):
            holder[last] = [item for at, item in enumerate(holder[last]) if at not in each.at]
        else:
            holder[last] = [*(holder.get(last) or []), *copy.deepcopy(each.items)]
    return document


def _holder(text: str, path: Sequence[str | int]) -> Any:
    """Return the node of the mapping that has the list at the end of a path. Raises NotInLines if the text is no YAML
    any more, as without a line that others refer to."""
    try:
        node: Any = next(each for each in yaml.compose_all(text, yaml.SafeLoader) if not _is_null(each))
    except yaml.YAMLError:
        raise NotInLines(str(path[-1])) from None
    for step in path[:-1]:
        node = node.value[step] if isinstance(step, int) else _value(node, step)
    return node


def _taken_out(text: str, removal: Removal) -> str:
    """Return the text without the lines of items of a list. Raises NotInLines."""
    items, name = _value(_holder(text, removal.path), str(removal.path[-1])), str(removal.path[-1])
    if not isinstance(items, yaml.SequenceNode) or items.flow_style:
        raise NotInLines(name)
    lines = text.split("\n")
    for at in reversed(removal.at):
        start, end = items.value[at].start_mark, items.value[at].end_mark
        if start.line != end.line or not re.fullmatch(r" *- +", lines[start.line][: start.column]):
            raise NotInLines(name)
        del lines[start.line]
    return "\n".join(lines)


def _added(text: str, addition: Addition) -> str:
    """Return the text with items behind the last one of a list, which is made if it is not there. Raises NotInLines."""
    node, last = _holder(text, addition.path), addition.path[-1]
    lines = text.split("\n")
    items = _value(node, str(last))
    if items is None:
        first = node.value[0][0].start_mark.column
        added = [f"{' ' * first}{last}:", *_lines(addition.items, first)]
        at = _last_line(node)
    else:
        if not isinstance(items, yaml.SequenceNode) or items.flow_style or not items.value:
            raise NotInLines(str(last))
        start = items.value[-1].start_mark
        before = lines[start.line][: start.column]
        if not re.fullmatch(r" *(?:- +)*- +", before):
            raise NotInLines(str(last))
        added = list(_lines(addition.items, before.rindex("-")))
        at = _last_line(items)
    lines[at + 1 : at + 1] = added
    return "\n".join(lines)


def _is_null(node: Any) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _value(node: Any, name: str) -> Any:
    found = (value for key, value in node.value if key.value == name)
    return next((each for each in found if not _is_null(each)), None)


def _last_line(node: Any) -> int:
    """Return the number of the last line in which something of a node stands, from 0."""
    if isinstance(node, yaml.ScalarNode) or node.flow_style or not node.value:
        end = node.end_mark
        # The end of a text in lines of its own is the beginning of the next line.
        return int(end.line - 1 if end.column == 0 and end.line > node.start_mark.line else end.line)
    last = node.value[-1]
    if isinstance(last, tuple):
        key, value = last
        return max(_last_line(key), _last_line(value)) if not _is_null(value) else _last_line(key)
    return _last_line(last)


def _lines(items: Sequence[Any], column: int) -> Iterator[str]:
    for item in items:
        for at, line in enumerate(_written(item)):
            yield f"{' ' * column}{'- ' if at == 0 else '  '}{line}"


def _written(item: Any) -> Iterator[str]:
    if not isinstance(item, dict):
        yield scalar(item)
        return
    for name, value in item.items():
        if isinstance(value, dict):
            yield f"{name}:"
            yield from (f"  {line}" for line in _written(value))
        else:
            yield f"{name}: {scalar(value)}"


def scalar(value: object) -> str:
    """Return a text or a truth as YAML, with quotes if it needs them."""
    plain = isinstance(value, str) and _PLAIN.fullmatch(value) and yaml.safe_load(value) == value
    return str(value) if plain else json.dumps(value)
