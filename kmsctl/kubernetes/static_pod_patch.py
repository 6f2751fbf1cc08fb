"""Put into kube-apiserver's static pod what it needs to encrypt, and to have service account tokens signed: lines are
added, those of flags that it does not take beside are taken out, and no other byte changes. Pure.

What the new text means is compared with what it should mean: text that is written in a way that `yamllines` does not
know is refused rather than changed by guess.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from posixpath import dirname, normpath
from typing import Any, Final

from kmsctl.diagnostics import UsageError
from kmsctl.kubernetes import kube_apiserver, yamllines
from kmsctl.kubernetes.kube_apiserver import (
    CONFIG_FLAG,
    ENDPOINT_FLAG,
    KEY_FLAG,
    SIGNING_KEY_FLAG,
    KubeApiserver,
    flag_of,
    mapping,
    sequence,
)
from kmsctl.kubernetes.yamllines import Addition, NotInLines, Removal

CONFIG_VOLUME: Final = "kmsd-encryption-config"
SOCKET_VOLUME: Final = "kmsd-socket"
JWT_VOLUME: Final = "kmsd-jwt-socket"
_BY_HAND: Final = (
    "make the change by hand: docs/kubernetes.md shows it, and docs/service-accounts.md that for service account tokens"
)


@dataclass(frozen=True)
class Patch:
    """A manifest as it should be. before, after: its text. changes: what is added, and what is taken out, in words;
    none if nothing is."""

    before: str
    after: str
    changes: tuple[str, ...]

    def diff(self, name: str) -> str:
        """Return the changes as a unified diff, without an end of line; empty if there are none."""
        lines = difflib.unified_diff(
            self.before.splitlines(), self.after.splitlines(), name, f"{name} (patched)", lineterm=""
        )
        return "\n".join(lines)


def patch(text: str, config: str, socket: str, jwt_socket: str = "") -> Patch:
    """Return the manifest with the flag for an EncryptionConfiguration, and with mounts of that and of the folder of a
    socket, as far as it lacks them. config, socket: absolute paths on the node, which are the same in the pod.
    jwt_socket: of service account tokens, in another folder: its flag and mount too, and no flags for files of keys.

    Raises UsageError for a manifest that names another EncryptionConfiguration or another signing endpoint, that has
    something else where the mounts would be, or that is written in a way that cannot be changed line by line.
    """
    if "\r" in text or "\t" in text:
        raise UsageError(f"{kube_apiserver.WHAT} has tabs or carriage returns", _BY_HAND)
    pod = kube_apiserver.document(text)
    found = kube_apiserver.read(text)
    # What is taken out comes first: it is found by its place.
    steps: list[Removal | Addition] = []
    changes: list[str] = []
    for more, words in (
        _key_files(pod, found) if jwt_socket else ([], []),
        _flags(pod, found, normpath(config), jwt_socket and normpath(jwt_socket)),
        _mounts(pod, found, normpath(config), normpath(dirname(socket)), jwt_socket and normpath(dirname(jwt_socket))),
    ):
        steps += more
        changes += words
    if not steps:
        return Patch(text, text, ())
    try:
        after = yamllines.changed(text if text.endswith("\n") else f"{text}\n", steps)
    except NotInLines as error:
        raise UsageError(
            f"the list {error.name} in {kube_apiserver.WHAT} is not written with a line for each item", _BY_HAND
        ) from None
    if not _means(after, yamllines.meant(pod, steps)):
        raise UsageError(f"{kube_apiserver.WHAT} is written in a way that cannot be changed line by line", _BY_HAND)
    return Patch(text, after, tuple(changes))


def _means(text: str, wanted: Mapping[str, Any]) -> bool:
    try:
        return kube_apiserver.document(text) == wanted
    except UsageError:
        return False


def _container(pod: Mapping[str, Any]) -> tuple[str | int, ...]:
    return ("spec", "containers", kube_apiserver.container_at(pod))


def _by_a_shell() -> UsageError:
    return UsageError("kube-apiserver is started by a shell in the manifest", _BY_HAND)


def _key_files(pod: Mapping[str, Any], found: KubeApiserver) -> tuple[list[Removal], list[str]]:
    """Return what takes out the flags that kube-apiserver does not take beside a signing endpoint."""
    if not found.plain and not found.flags.keys().isdisjoint((KEY_FLAG, SIGNING_KEY_FLAG)):
        raise _by_a_shell()
    path, steps, changes = _container(pod), [], []
    body = pod["spec"]["containers"][path[-1]]
    for name in ("command", "args"):
        words = list(map(str, sequence(body.get(name))))
        places: list[int] = []
        for at, word in enumerate(words):
            if flag_of(word) in (KEY_FLAG, SIGNING_KEY_FLAG):
                own = words[at : at + (1 if "=" in word else 2)]
                if "=" not in own[0] and (len(own) == 1 or own[1].startswith("--")):
                    raise UsageError(f"kube-apiserver has {word} without a file behind it", _BY_HAND)
                places += range(at, at + len(own))
                changes.append(f"no flag {' '.join(own)}")
        if places:
            steps.append(Removal((*path, name), tuple(places)))
    return steps, changes


def _flags(
    pod: Mapping[str, Any], found: KubeApiserver, config: str, jwt_socket: str
) -> tuple[list[Addition], list[str]]:
    """Return what adds the flags that are missing."""
    if found.config and normpath(found.config) != config:
        raise UsageError(
            f"kube-apiserver has --{CONFIG_FLAG}={found.config} already, and not {config}",
            f"put the provider into that file, and give --config {found.config}",
        )
    if jwt_socket and found.endpoint and normpath(found.endpoint) != jwt_socket:
        raise UsageError(
            f"kube-apiserver has --{ENDPOINT_FLAG}={found.endpoint} already, and not {jwt_socket}",
            f"give --jwt-socket {found.endpoint} if kmsd signs there; else go back to a file first: "
            "docs/service-accounts.md",
        )
    flags = [] if found.config else [f"--{CONFIG_FLAG}={config}"]
    if jwt_socket and not found.endpoint:
        flags.append(f"--{ENDPOINT_FLAG}={jwt_socket}")
    if not flags:
        return [], []
    if not found.plain:
        raise _by_a_shell()
    path = _container(pod)
    list_of_flags = "args" if sequence(pod["spec"]["containers"][path[-1]].get("args")) else "command"
    return [Addition((*path, list_of_flags), tuple(flags))], [f"the flag {each}" for each in flags]


def _mounts(
    pod: Mapping[str, Any], found: KubeApiserver, config: str, folder: str, jwt_folder: str
) -> tuple[list[Addition], list[str]]:
    """Return what adds the mounts that are missing, and their volumes."""
    changes = []
    names = {str(mapping(each).get("name")) for each in sequence(pod["spec"].get("volumes"))}
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    if jwt_folder == folder:
        raise UsageError(
            f"--jwt-socket must lie in another folder than the KMS socket, got {folder} for both",
            "as /run/kmsd-jwt/jwt.sock: whoever may open it has a token of any service account signed",
        )
    wanted = [(config, CONFIG_VOLUME, "File"), (folder, SOCKET_VOLUME, "Directory")]
    for path, name, kind in (*wanted, *([(jwt_folder, JWT_VOLUME, "Directory")] if jwt_folder else [])):
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
    if not mounts:
        return [], []
    steps = [
        Addition((*_container(pod), "volumeMounts"), tuple(mounts)),
        Addition(("spec", "volumes"), tuple(volumes)),
    ]
    return steps, changes
