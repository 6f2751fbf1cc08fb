"""Read the static pod of kube-apiserver: its flags, its user, and where its paths lie on the node. Pure.

Errors name places, never what stands there.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from posixpath import normpath
from typing import Any, Final

from kmsctl.diagnostics import UsageError
from kmsctl.kubernetes import yamltext

PROGRAM: Final = "kube-apiserver"
CONFIG_FLAG: Final = "encryption-provider-config"
RELOAD_FLAG: Final = "encryption-provider-config-automatic-reload"
ENDPOINT_FLAG: Final = "service-account-signing-endpoint"
KEY_FLAG: Final = "service-account-key-file"
SIGNING_KEY_FLAG: Final = "service-account-signing-key-file"
EXPIRATION_FLAG: Final = "service-account-max-token-expiration"
WHAT: Final = "kube-apiserver's manifest"


@dataclass(frozen=True)
class Mount:
    """A directory or file of a volume in the container. path: in the container. source: on the node; empty for a volume
    that is no hostPath. file: whether it is the mount of one file by the volume's type."""

    path: str
    source: str = ""
    read_only: bool = False
    file: bool = False

    def holds(self, path: str) -> bool:
        """Return whether a path in the container lies in this mount, or is it."""
        return path == self.path or path.startswith(self.path.rstrip("/") + "/")


@dataclass(frozen=True)
class KubeApiserver:
    """A kube-apiserver by its static pod. user, group: numbers that it runs as. groups: others that it is in. plain:
    whether its command is a list of words rather than a line for a shell. powerless: whether its container drops all
    capabilities, with which root is a user like any other. key_files: all that --service-account-key-file names."""

    flags: Mapping[str, str]
    mounts: tuple[Mount, ...]
    user: int = 0
    group: int = 0
    groups: tuple[int, ...] = ()
    plain: bool = True
    powerless: bool = False
    key_files: tuple[str, ...] = ()

    def mount_of(self, path: str) -> Mount | None:
        """Return the mount that a path in the container lies in; None if it lies in the image."""
        holding = [each for each in self.mounts if each.holds(normpath(path))]
        return max(holding, key=lambda each: len(each.path), default=None)

    def on_node(self, path: str) -> str:
        """Return the path on the node of a path in the container; empty if it is none of the node's."""
        mount = self.mount_of(path)
        if mount is None or not mount.source:
            return ""
        return normpath(mount.source + normpath(path)[len(mount.path.rstrip("/")) :])

    @property
    def config(self) -> str:
        """The EncryptionConfiguration, as kube-apiserver calls it; empty if it has none."""
        return self.flags.get(CONFIG_FLAG, "")

    @property
    def endpoint(self) -> str:
        """The socket on which service account tokens are signed, as kube-apiserver calls it; empty if it has none."""
        return self.flags.get(ENDPOINT_FLAG, "")

    @property
    def reloads(self) -> bool:
        """Whether kube-apiserver reads the EncryptionConfiguration anew when that changes."""
        return self.flags.get(RELOAD_FLAG, "false").lower() in ("true", "1", "t")

    @property
    def kms_v1(self) -> bool:
        """Whether kube-apiserver is told to serve KMS v1, which is off by default since Kubernetes 1.29."""
        gates = dict(each.strip().partition("=")[::2] for each in self.flags.get("feature-gates", "").split(","))
        return gates.get("KMSv1", "").lower() in ("true", "1", "t")


def read(text: str) -> KubeApiserver:
    """Read the manifest of one static pod with kube-apiserver in it. Raises UsageError."""
    pod = document(text)
    spec = mapping(pod.get("spec"))
    container = sequence(spec.get("containers"))[container_at(pod)]
    words = [str(each) for name in ("command", "args") for each in sequence(container.get(name))]
    plain = _is_program(words[0]) if words else True
    flags = tuple(_flags(words if plain else shlex.split(" ".join(words))))
    key_files = tuple(value for name, value in flags if name == KEY_FLAG)
    pods, own = mapping(spec.get("securityContext")), mapping(container.get("securityContext"))
    user = own.get("runAsUser", pods.get("runAsUser", 0))
    group = own.get("runAsGroup", pods.get("runAsGroup", 0))
    others = sequence(pods.get("supplementalGroups"))
    if not all(isinstance(each, int) and 0 <= each < 2**32 for each in (user, group, *others)):
        raise UsageError(f"{WHAT} names a user or group that is no number", "correct its securityContext")
    dropped = {str(each).upper() for each in sequence(mapping(own.get("capabilities")).get("drop"))}
    powerless = bool(dropped & {"ALL", "DAC_OVERRIDE", "CAP_DAC_OVERRIDE"})
    mounts = tuple(_mounts(spec, container))
    return KubeApiserver(dict(flags), mounts, user, group, tuple(others), plain, powerless, key_files)


def document(text: str) -> Mapping[str, Any]:
    """Return the one document of a manifest. Raises UsageError."""
    found = [each for each in yamltext.load(text, WHAT, strict=True) if each is not None]
    if len(found) != 1 or not isinstance(found[0], dict) or found[0].get("kind") != "Pod":
        raise UsageError(f"{WHAT} is not one Pod", "give the file that the kubelet starts kube-apiserver by")
    return found[0]


def container_at(pod: Mapping[str, Any]) -> int:
    """Return which container of a pod runs kube-apiserver. Raises UsageError."""
    found = [
        at
        for at, each in enumerate(map(mapping, sequence(mapping(pod.get("spec")).get("containers"))))
        if each.get("name") == PROGRAM or any(_is_program(str(word)) for word in sequence(each.get("command"))[:1])
    ]
    if len(found) != 1:
        raise UsageError(
            f"one container of the pod must run {PROGRAM}, and {len(found) or 'none'} does",
            "give the file that the kubelet starts kube-apiserver by",
        )
    return found[0]


def _is_program(word: str) -> bool:
    return word.rsplit("/", 1)[-1] == PROGRAM


def _flags(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield names and values of flags, as pflag reads `--name=value`, `--name value` and `--name`."""
    for at, word in enumerate(words):
        if not word.startswith("--"):
            continue
        _, equals, value = word.partition("=")
        following = words[at + 1] if at + 1 < len(words) else "--"
        yield flag_of(word), value if equals else "true" if following.startswith("--") else following


def flag_of(word: str) -> str:
    """Return the name of the flag in a word of the command line; empty if there is none. kube-apiserver takes
    underscores for hyphens."""
    return word[2:].partition("=")[0].replace("_", "-") if word.startswith("--") else ""


def _mounts(spec: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[Mount]:
    volumes = {str(each.get("name")): each for each in map(mapping, sequence(spec.get("volumes")))}
    for each in map(mapping, sequence(container.get("volumeMounts"))):
        path, inner = str(each.get("mountPath") or ""), str(each.get("subPath") or "")
        host = mapping(mapping(volumes.get(str(each.get("name")))).get("hostPath"))
        source = str(host.get("path") or "")
        if source and inner:
            source = f"{source.rstrip('/')}/{inner}"
        if path:
            file = str(host.get("type") or "") in ("File", "FileOrCreate", "Socket")
            yield Mount(normpath(path), source, each.get("readOnly") is True, file)


def mapping(found: Any) -> Mapping[str, Any]:
    """Return a mapping, or an empty one in the place of anything else."""
    return found if isinstance(found, dict) else {}


def sequence(found: Any) -> list[Any]:
    """Return a list, or an empty one in the place of anything else."""
    return found if isinstance(found, list) else []
