"""Put into kube-apiserver's static pod what it needs to encrypt: lines are added, and no other byte changes. Pure.

The places come from a parser of YAML, and what the new text means is compared with what it should mean: text that is
written in a way that this does not know is refused rather than changed by guess.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from posixpath import dirname, normpath
from typing import Any, Final

import yaml

from kmsctl.diagnostics import UsageError
from kmsctl.kubernetes import kube_apiserver
from kmsctl.kubernetes.kube_apiserver import CONFIG_FLAG, KubeApiserver, mapping, sequence

CONFIG_VOLUME: Final = "kmsd-encryption-config"
SOCKET_VOLUME: Final = "kmsd-socket"
_PLAIN = re.compile(r"-*[A-Za-z0-9/][A-Za-z0-9/._=-]*")
"""Text that YAML takes for itself without quotes."""
_BY_HAND: Final = "add the flag, the two mounts and the two volumes by hand: docs/kubernetes.md shows them"


@dataclass(frozen=True)
class Patch:
    """A manifest as it should be. before, after: its text. changes: what is added, in words; none if nothing is."""

    before: str
    after: str
    changes: tuple[str, ...]

    def diff(self, name: str) -> str:
        """Return the changes as a unified diff, without an end of line; empty if there are none."""
        lines = difflib.unified_diff(
            self.before.splitlines(), self.after.splitlines(), name, f"{name} (patched)", lineterm=""
        )
        return "\n".join(lines)


@dataclass(frozen=True)
class _Addition:
    """A number of items for a list in the document. path: of the list."""

    path: tuple[str | int, ...]
    items: tuple[Any, ...]


def patch(text: str, config: str, socket: str) -> Patch:
    """Return the manifest with the flag for an EncryptionConfiguration, and with mounts of that and of the folder of a
    socket, as far as it lacks them. config, socket: absolute paths on the node, which are the same in the pod.

    Raises UsageError for a manifest that names another EncryptionConfiguration, that has something else where the
    mounts would be, or that is written in a way that cannot be added to.
    """
    if "\r" in text or "\t" in text:
        raise UsageError(f"{kube_apiserver.WHAT} has tabs or carriage returns", _BY_HAND)
    pod = kube_apiserver.document(text)
    found = kube_apiserver.read(text)
    additions, changes = _wanted(pod, found, normpath(config), normpath(dirname(socket)))
    if not additions:
        return Patch(text, text, ())
    wanted = copy.deepcopy(pod)
    after = text if text.endswith("\n") else f"{text}\n"
    for each in additions:
        after = _added(after, each)
        _add(wanted, each)
    if kube_apiserver.document(after) != wanted:
        raise UsageError(f"{kube_apiserver.WHAT} is written in a way that cannot be added to", _BY_HAND)
    return Patch(text, after, changes)


def _wanted(
    pod: Mapping[str, Any], found: KubeApiserver, config: str, folder: str
) -> tuple[list[_Addition], tuple[str, ...]]:
    at = kube_apiserver.container_at(pod)
    container: tuple[str | int, ...] = ("spec", "containers", at)
    additions, changes = [], []
    if found.config and normpath(found.config) != config:
        raise UsageError(
            f"kube-apiserver has --{CONFIG_FLAG}={found.config} already, and not {config}",
            f"put the provider into that file, and give --config {found.config}",
        )
    if not found.config:
        if not found.plain:
            raise UsageError("kube-apiserver is started by a shell in the manifest", _BY_HAND)
        body = sequence(pod["spec"]["containers"])[at]
        list_of_flags = "args" if sequence(body.get("args")) else "command"
        additions.append(_Addition((*container, list_of_flags), (f"--{CONFIG_FLAG}={config}",)))
        changes.append(f"the flag --{CONFIG_FLAG}={config}")
    names = {str(mapping(each).get("name")) for each in sequence(pod["spec"].get("volumes"))}
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    for path, name, kind in ((config, CONFIG_VOLUME, "File"), (folder, SOCKET_VOLUME, "Directory")):
        mount = found.mount_of(path)
        if mount is not None and mount.source:
            continue
        if mount is not None:
            raise UsageError(f"{path} lies in a volume of kube-apiserver's pod that is no hostPath", _BY_HAND)
        if name in names:
            raise UsageError(f"the pod has a volume {name} that is mounted elsewhere", "take it out, or mount it there")
        volumes.append({"hostPath": {"path": path, "type": kind}, "name": name})
        mounts.append({"mountPath": path, "name": name} | ({"readOnly": True} if kind == "File" else {}))
        changes.append(f"the {kind.lower()} {path} of the node")
    if mounts:
        additions.append(_Addition((*container, "volumeMounts"), tuple(mounts)))
        additions.append(_Addition(("spec", "volumes"), tuple(volumes)))
    return additions, tuple(changes)


def _add(document: Any, addition: _Addition) -> None:
    *outer, last = addition.path
    for step in outer:
        document = document[step]
    document[last] = [*(document.get(last) or []), *copy.deepcopy(addition.items)]


def _added(text: str, addition: _Addition) -> str:
    """Return the text with items behind the last one of a list, which is made if it is not there. Raises UsageError."""
    node: Any = next(each for each in yaml.compose_all(text, yaml.SafeLoader) if not _is_null(each))
    *outer, last = addition.path
    for step in outer:
        node = node.value[step] if isinstance(step, int) else _value(node, step)
    lines = text.split("\n")
    items = _value(node, str(last))
    if items is None:
        first = node.value[0][0].start_mark.column
        added = [f"{' ' * first}{last}:", *_lines(addition.items, first)]
        at = _last_line(node)
    else:
        if not isinstance(items, yaml.SequenceNode) or items.flow_style or not items.value:
            raise _not_in_lines(str(last))
        start = items.value[-1].start_mark
        before = lines[start.line][: start.column]
        if not re.fullmatch(r" *(?:- +)*- +", before):
            raise _not_in_lines(str(last))
        added = list(_lines(addition.items, before.rindex("-")))
        at = _last_line(items)
    lines[at + 1 : at + 1] = added
    return "\n".join(lines)


def _not_in_lines(name: str) -> UsageError:
    return UsageError(f"the list {name} in {kube_apiserver.WHAT} is not written with a line for each item", _BY_HAND)


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
