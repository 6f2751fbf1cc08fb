"""Finds a k8s-kms-plugin in what it is started by: a command, a pod manifest, a unit of systemd. Pure.

What comes out are the plugin's arguments and environment, with `UNKNOWN` for what is not in the text. Errors name
places, never what stands there: it may be a PIN.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from kmsctl.diagnostics import UsageError
from kmsctl.kubernetes import yamltext
from kmsctl.migrate.k8s_kms_plugin import PROGRAM, UNKNOWN, is_program, serves

ITEMS_MAX: Final = 1000
"""Documents, containers, variables: what is looked at of each."""

_ASSIGNMENT = re.compile(r"(?:--env=)?([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_SHELLS: Final = frozenset({"sh", "bash", "dash", "ash"})
_RUNNERS: Final = frozenset({"docker", "podman", "nerdctl"})
_NAMING: Final = frozenset({"--name", "--hostname", "-h", "--network-alias", "--net-alias", "--label", "-l"})
"""Options of those with a name for a value."""
_ENDS = re.compile(r"[;&|]+\Z|[0-9]*[<>]")
"""Words that end a command in a shell, or the part of it that is the program's."""
_SHELL_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$([A-Za-z_][A-Za-z0-9_]*)|\$\{[^}]*\}")
_SUBSTITUTION = re.compile(r"\$\([^()]*\)|`[^`]*`")
_POD_REFERENCE = re.compile(r"\$\$|\$\(([^()\s]+)\)")
_UNIT_REFERENCE = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$([A-Za-z_][A-Za-z0-9_]*)")
_SPECIFIER = re.compile(r"%(.)", re.DOTALL)
_SPECIFIERS: Final = {"%": "%", "t": "/run", "S": "/var/lib", "E": "/etc", "C": "/var/cache", "L": "/var/log"}
"""systemd.unit(5), for units of the system."""


@dataclass(frozen=True)
class Setup:
    """A set-up of k8s-kms-plugin. kind: what was read. name: of the pod and container in it. elsewhere: in words, what
    else sets variables. mounts: of a container, its path and where that comes from. credentials: of a unit, as
    LoadCredential= has them."""

    kind: str
    arguments: tuple[str, ...] = field(repr=False)
    environment: Mapping[str, str] = field(repr=False)
    name: str = ""
    elsewhere: str = ""
    mounts: tuple[tuple[str, str], ...] = ()
    credentials: tuple[str, ...] = ()


def parse(text: str) -> Setup:
    """Return a manifest or a unit. Raises UsageError."""
    return from_unit(text) if re.search(r"^\[(Service|Unit)\]\s*$", text, re.MULTILINE) else from_manifest(text)


def from_command(text: str) -> Setup:
    """Return a command as a shell is given it, with variables before the program if they matter. Raises UsageError."""
    found = _in_words(_shell_words(text, {}))
    if found is None:
        raise UsageError(f"the command does not run {PROGRAM}", f"give it whole: --command '{PROGRAM} serve ...'")
    arguments, environment = found
    return Setup("command", arguments, environment)


def _shell_words(text: str, environment: Mapping[str, str]) -> list[str]:
    """Split a command with variables in their place, so far as they are known; ends of lines become operators. Raises
    UsageError."""
    lines = _SUBSTITUTION.sub(UNKNOWN, text.strip().replace("\\\n", " ")).replace("\n", " ; ")
    lexer = shlex.shlex(lines, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    lexer.commenters = ""
    known = dict(environment)
    words = []
    try:
        for word in lexer:
            words.append(_expanded(_SHELL_REFERENCE, word, known))
            if assigned := _ASSIGNMENT.fullmatch(words[-1]):
                known[assigned[1]] = assigned[2]
    except ValueError:
        raise UsageError("a quote in the command has no end", "give the command as a shell takes it") from None
    return words


def _in_words(words: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]] | None:
    """Return the plugin's arguments, and the variables that are set for it in words before it."""
    at = next((index for index in range(len(words)) if _runs(words, index)), None)
    if at is None:
        return None
    environment = {found[1]: found[2] for word in words[:at] if (found := _ASSIGNMENT.fullmatch(word))}
    rest = words[at + 1 :]
    end = next((index for index, word in enumerate(rest) if _ENDS.match(word)), len(rest))
    return tuple(rest[:end]), environment


def _runs(words: Sequence[str], index: int) -> bool:
    """Return whether this word is the program, or its image, and not only what a container of it is called."""
    return is_program(words[index]) and (not index or words[index - 1] not in _NAMING)


def _in_container(words: Sequence[str]) -> bool:
    return bool(words) and words[0].rsplit("/", 1)[-1] in _RUNNERS and "run" in words[1:]


def from_manifest(text: str) -> Setup:
    """Return a pod, or something with a template of one, in YAML or JSON. Raises UsageError."""
    documents = [each for each in yamltext.load(text, "the manifest") if each is not None]
    if not any(isinstance(each, dict) for each in documents):
        raise UsageError(
            "this is neither a pod manifest nor a unit of systemd",
            f"give one of them, or the command itself: --command '{PROGRAM} serve ...'",
        )
    found = [setup for each in documents for setup in _in_document(each)]
    if not found:
        raise UsageError(
            f"no container in the manifest runs {PROGRAM}",
            f"it is known by the program's name in command, args or image; or give --command '{PROGRAM} serve ...'",
        )
    if len(found) > 1:
        raise UsageError(
            f"{len(found)} containers run {PROGRAM}: {', '.join(each.name for each in found[:5])}",
            "plan for each by itself: leave one in a copy of the manifest",
        )
    return found[0]


def _in_document(document: Any) -> Iterator[Setup]:
    if not isinstance(document, dict):
        return
    for item in _items(document.get("items")):
        yield from _in_document(item)
    spec = _mapping(document.get("spec"))
    pod = _mapping(_mapping(spec.get("template")).get("spec")) or spec
    name = _text(_mapping(document.get("metadata")).get("name")) or _text(document.get("kind")) or "pod"
    sidecars = [each for each in _items(pod.get("initContainers")) if _mapping(each).get("restartPolicy") == "Always"]
    for container in [*_items(pod.get("containers")), *sidecars]:
        if (setup := _container(_mapping(container), name, _sources(pod))) is not None:
            yield setup


def _container(container: Mapping[str, Any], pod: str, sources: Mapping[str, str]) -> Setup | None:
    environment = _container_environment(container)
    words = [*_texts(container.get("command")), *_texts(container.get("args"))]
    words = [_expanded(_POD_REFERENCE, word, environment) for word in words]
    if words and words[0].rsplit("/", 1)[-1] in _SHELLS and "-c" in words[:-1]:
        words = _shell_words(words[words.index("-c") + 1], environment)
    found = _in_words(words)
    if found is None and is_program(_image(_text(container.get("image")))) and not container.get("command"):
        found = tuple(words), {}  # the image's own entry point
    if found is None or not serves(found[0]):
        return None
    mounts = (
        (_text(mount.get("mountPath")), sources.get(_text(mount.get("name")), ""))
        for mount in map(_mapping, _items(container.get("volumeMounts")))
    )
    return Setup(
        kind="pod manifest",
        arguments=found[0],
        environment={**environment, **found[1]},
        name=f"{pod}/{_text(container.get('name'))}",
        elsewhere="envFrom" if container.get("envFrom") else "",
        mounts=tuple(sorted((path, source) for path, source in mounts if path and source)),
    )


def _image(image: str) -> str:
    """Return an image's name with the plugin's at its end: an image may be called k8s-kms-plugin/server, as the
    sample's."""
    return PROGRAM if any(is_program(part) for part in image.split("/")) else image


def _container_environment(container: Mapping[str, Any]) -> dict[str, str]:
    """Return what `env` sets; a value from a Secret or the like is not known."""
    environment: dict[str, str] = {}
    for each in map(_mapping, _items(container.get("env"))):
        value = each.get("value")
        known = UNKNOWN if "valueFrom" in each else "" if value is None else _text(value)
        environment[_text(each.get("name"))] = _expanded(_POD_REFERENCE, known, environment)
    return environment


def _sources(pod: Mapping[str, Any]) -> dict[str, str]:
    """Return where the volumes that outlast a pod come from, by their names."""
    found = {}
    for volume in map(_mapping, _items(pod.get("volumes"))):
        path = _text(_mapping(volume.get("hostPath")).get("path"))
        other = next((kind for kind in ("secret", "configMap", "persistentVolumeClaim") if kind in volume), "")
        if path or other:
            found[_text(volume.get("name"))] = path or f"a {other}"
    return found


def from_unit(text: str) -> Setup:
    """Return a service of systemd. Raises UsageError."""
    lines = list(_unit_lines(text))
    environment: dict[str, str] = {}
    for words in _lists(lines, "Environment"):
        for word in _unit_words(words):
            if assigned := _ASSIGNMENT.fullmatch(_specified(word)):
                environment[assigned[1]] = assigned[2]
    commands = [words.lstrip("-@:+!|") for words in _lists(lines, "ExecStart")]
    lists = [_command_words(each, environment) for each in commands]
    ours = [(found, each) for each in lists if (found := _in_words(each)) is not None]
    if not ours:
        raise UsageError(
            f"no ExecStart of the unit runs {PROGRAM}", f"or give the command: --command '{PROGRAM} serve ...'"
        )
    (arguments, own), run = ours[-1]
    contained = _in_container(run)
    files = any(word.startswith("--env-file") for word in run) if contained else _lists(lines, "EnvironmentFile")
    return Setup(
        kind="systemd unit",
        arguments=arguments,
        # What the unit sets is the container program's own, and goes no further.
        environment=own if contained else {**environment, **own},
        elsewhere=("--env-file" if contained else "EnvironmentFile") if files else "",
        mounts=_mounted(run) if contained else (),
        credentials=tuple(_lists(lines, "LoadCredential")),
    )


def _mounted(words: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the path in the container and where it comes from, of `-v FROM:TO`."""
    given = [words[at + 1] for at, word in enumerate(words[:-1]) if word in ("-v", "--volume")]
    given += [word.partition("=")[2] for word in words if word.startswith("--volume=")]
    parts = [each.split(":") for each in given if each.count(":")]
    return tuple(sorted((each[1], each[0]) for each in parts))


def _command_words(line: str, environment: Mapping[str, str]) -> list[str]:
    words = [_expanded(_UNIT_REFERENCE, _specified(word), environment) for word in _unit_words(line)]
    if words and words[0].rsplit("/", 1)[-1] in _SHELLS and "-c" in words[:-1]:
        words = _shell_words(words[words.index("-c") + 1], environment)
    return words


def _unit_lines(text: str) -> Iterator[tuple[str, str]]:
    """Yield the assignments of [Service] (systemd.syntax(7))."""
    section = ""
    joined = re.sub(r"\\\n(?:[ \t]*[#;][^\n]*\n)*", " ", text)
    for line in joined.splitlines():
        stripped = line.strip()
        if stripped.startswith("[") and stripped.endswith("]"):
            section = stripped
        elif section == "[Service]" and stripped and stripped[0] not in "#;":
            name, _, value = stripped.partition("=")
            yield name.strip(), value.strip()


def _lists(lines: Sequence[tuple[str, str]], wanted: str) -> list[str]:
    """Return the values of an assignment that adds to a list; an empty one begins it anew."""
    found: list[str] = []
    for name, value in lines:
        if name == wanted:
            found = [*found, value] if value else []
    return found


def _unit_words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        raise UsageError("a quote in the unit has no end", "mend the unit, or give the command: --command") from None


def _specified(word: str) -> str:
    # The directory of the credentials, which kmsd looks into for a relative path.
    word = re.sub(r"^(?:%d|\$\{?CREDENTIALS_DIRECTORY\}?)/", "", word) if "=" not in word else word
    word = re.sub(r"=(?:%d|\$\{?CREDENTIALS_DIRECTORY\}?)/", "=", word)
    return _SPECIFIER.sub(lambda found: _SPECIFIERS.get(found[1], UNKNOWN), word)


def _expanded(references: re.Pattern[str], text: str, environment: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        return environment.get(next(filter(None, found.groups()), ""), UNKNOWN)

    return references.sub(value, text)


def _mapping(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, dict) else {}


def _items(found: Any) -> list[Any]:
    return found[:ITEMS_MAX] if isinstance(found, list) else []


def _text(found: Any) -> str:
    """Return what the kubelet would take for text; anything else is none."""
    return found if isinstance(found, str) else str(found) if isinstance(found, int | float) else ""


def _texts(found: Any) -> list[str]:
    return [_text(each) for each in _items(found)]
