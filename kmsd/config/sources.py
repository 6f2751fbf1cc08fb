"""Read files, the environment and flags into `Settings`: the only reader of all three.

Defaults < one TOML file < the environment < flags; every value knows where it came from. Knows nothing of the
token or of the command line's syntax, and never puts a PIN into a message.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType

from kmsd import paths, safepath
from kmsd.config import pins, pkcs11_uri, toml
from kmsd.config.errors import ConfigError, Origin, SettingProblem, refuse, validate
from kmsd.config.settings import Settings
from kmsd.config.values import GONE, LEAVES, PIN, TABLES, TOKEN, TOKENS, from_text, from_toml, leaf
from kmsd.errors import Misconfigured

__all__ = ["ENVIRON", "K8S_KMS_PLUGIN_ENVIRON", "ConfigError", "Loaded", "Origin", "load", "value"]

PREFIX = "KMSD_"
CONFIG_VARIABLE = "KMSD_CONFIG"

ENVIRON: Mapping[str, str] = MappingProxyType({PREFIX + key.replace(".", "__").upper(): key for key in LEAVES})
"""Variable -> setting."""

K8S_KMS_PLUGIN_ENVIRON: Mapping[str, str] = MappingProxyType(
    {
        "SOCKET": "kms.socket",
        "P11_LIB": "token.module",
        "P11_TOKEN": "token.label",
        "P11_SLOT": "token.slot",
        "P11_PIN": "token.pin",
        "P11_PIN_FILE": "token.pin_file",
    }
)
"""The variables of k8s-kms-plugin; those of `ENVIRON` win over them, and empty ones count as unset."""

_SUPERSEDES = {"token.pin": "token.pin_file", "token.pin_file": "token.pin", "token.label": "token.slot"}
"""Settings that answer the same question: the first, given at one level, sets aside the second from below."""

_KUBERNETES = re.compile(r"_SERVICE_(HOST|PORT)|_PORT(_|$)")
"""The variables that Kubernetes itself sets in a pod for a Service whose name begins with kmsd."""


@dataclass(frozen=True)
class Loaded:
    """The valid settings and where they came from. origins: `section.field` -> where its value came from, for every
    setting; file: the configuration file that was read; warnings: sentences for the operator."""

    settings: Settings
    origins: Mapping[str, Origin]
    file: Path | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Level:
    values: dict[str, object] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)

    def put(self, key: str, value: object, origin: Origin) -> None:
        self.values[key] = value
        self.origins[key] = origin


def load(
    flags: Mapping[str, tuple[str, object]],
    *,
    config_file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    defaults: Mapping[str, tuple[str, object]] = MappingProxyType({}),
) -> Loaded:
    """Return the settings of this process.

    flags: `section.field` -> (the flag's name, its value: text or already typed).
    config_file: must exist; None: what KMSD_CONFIG names, which must exist too, else the first there is of
    `paths.config_files()`.
    defaults: `section.field` -> (whose default it is, its value), in place of those of `Settings`.
    Raises ConfigError with every problem found.
    """
    document = _document(config_file, environ)
    problems: list[SettingProblem] = []
    warnings: list[str] = []
    levels = [
        _from_file(document, problems),
        _from_variables(K8S_KMS_PLUGIN_ENVIRON, {name: text for name, text in environ.items() if text}),
        _from_variables(ENVIRON, environ),
        _from_flags(flags),
    ]
    for name, known in _strangers(environ):
        if known:
            problems.append(SettingProblem(f"{name}: no such setting{known}"))
        else:
            warnings.append(f"{name} is not a setting of kmsd, and is ignored")
    merged = _merge(levels, defaults, warnings)
    problems += _both_ways(levels)
    # Each level by itself too, so that a mistake shows before the day when what hides it is removed. The
    # names of k8s-kms-plugin are spared: something else may use a name like SOCKET.
    for level in (levels[2], levels[3], merged):
        checked = validate(_nested(level.values), partial(_origin, level))
        if isinstance(checked, list):
            problems += checked
        else:
            settings = checked
    refuse(problems)
    warnings += _pin_warnings(levels, settings, document, environ)
    file = document.path if document else None
    warnings += _path_warnings(settings, file, environ)
    return Loaded(settings, MappingProxyType(merged.origins), file, tuple(dict.fromkeys(warnings)))


def _both_ways(levels: list[_Level]) -> Iterator[SettingProblem]:
    """Yield a problem if [token] and [[tokens]] are both there: they say the same thing, and one would be ignored."""
    if not any(key.startswith(f"{TOKENS}.") for level in levels for key in level.values):
        return
    for level in levels:
        for key, origin in level.origins.items():
            if key.startswith(f"{TOKEN}."):
                yield SettingProblem(
                    f"{origin.where}: {key}: the file has [[tokens]], which take the place of [token]",
                    "put it into the entry of [[tokens]] that it is meant for",
                )


def _document(config_file: Path | None, environ: Mapping[str, str]) -> toml.Document | None:
    named, by = config_file, "--config"
    if named is None and environ.get(CONFIG_VARIABLE):
        named, by = Path(environ[CONFIG_VARIABLE]), CONFIG_VARIABLE
    if named is not None:
        document = toml.read(named)
        if document is None:
            raise ConfigError(f"{named}: no such file", f"{by} must name a file that exists")
        return document
    for path in paths.config_files():
        if document := toml.read(path):
            return document
    return None


def _from_file(document: toml.Document | None, problems: list[SettingProblem]) -> _Level:
    level = _Level()
    if document is None:
        return level
    nested: dict[str, object] = {}
    for section, body in document.data.items():
        if section in TABLES and isinstance(body, list):
            nested[section] = [
                _entry(document, level, (section, str(number)), each) if isinstance(each, dict) else each
                for number, each in enumerate(body)
            ]
            continue
        if not isinstance(body, dict):
            nested[section] = body
            continue
        inner = nested[section] = dict(body)
        for name in body:
            key = f"{section}.{name}"
            if key in LEAVES:
                inner[name] = from_toml(LEAVES[key], body[name])
                level.put(key, inner[name], Origin("file", document.where((section, name))))
    checked = validate(nested, lambda loc: Origin("file", document.where(loc)))
    if isinstance(checked, list):
        problems += sorted(checked, key=lambda problem: document.line(problem.loc))
    return level


def _entry(
    document: toml.Document, level: _Level, place: tuple[str, str], body: Mapping[str, object]
) -> dict[str, object]:
    """Return the values of one entry of an array of tables. place: name of the array, and number of the entry."""
    inner = dict(body)
    for name in body:
        loc = (*place, name)
        setting = leaf(loc)
        inner[name] = from_toml(setting, body[name]) if setting is not None else body[name]
        level.put(".".join(loc), inner[name], Origin("file", document.where(loc)))
    return inner


def _from_variables(names: Mapping[str, str], environ: Mapping[str, str]) -> _Level:
    level = _Level()
    for name, key in names.items():
        if name in environ:
            level.put(key, from_text(LEAVES[key], environ[name]), Origin("environment", name))
    return level


def _from_flags(flags: Mapping[str, tuple[str, object]]) -> _Level:
    level = _Level()
    for key, (name, value) in flags.items():
        typed = from_text(LEAVES[key], value) if isinstance(value, str) else value
        level.put(key, typed, Origin("flag", name))
    return level


def _strangers(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the variables that begin like ours and are not, with words to refuse them by, or none if harmless."""
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in ENVIRON or name == CONFIG_VARIABLE:
            continue
        if "__" in name:
            near = difflib.get_close_matches(name, ENVIRON, n=1)
            gone = GONE.get(name.removeprefix(PREFIX).replace("__", ".").lower())
            yield (
                name,
                f"; {gone}" if gone else f"; did you mean {near[0]}?" if near else ", though its name has their form",
            )
        elif not _KUBERNETES.search(name):
            yield name, ""


def _merge(levels: list[_Level], defaults: Mapping[str, tuple[str, object]], warnings: list[str]) -> _Level:
    merged = _Level()
    usual = Settings()
    for key in LEAVES:
        whose, default = defaults.get(key) or ("default", value(usual, key))
        merged.put(key, default, Origin("default", whose))
    for level in levels:
        for winner, loser in _SUPERSEDES.items():
            if not level.values.get(winner) or loser in level.values or merged.values[loser] is None:
                continue
            wins = level.origins[winner]
            warnings.append(f"{wins.where} takes the place of {loser} from {merged.origins[loser].where}")
            merged.put(loser, None, wins)
        merged.values.update(level.values)
        merged.origins.update(level.origins)
    return merged


def _nested(values: Mapping[str, object]) -> dict[str, object]:
    nested: dict[str, dict[str, object]] = {}
    arrays: dict[str, dict[str, dict[str, object]]] = {}
    for key, value in values.items():
        section, *number, name = key.split(".")
        entries = arrays.setdefault(section, {}) if number else {}
        table = entries.setdefault(number[0], {}) if number else nested.setdefault(section, {})
        table[name] = value
    return {**nested, **{section: list(entries.values()) for section, entries in arrays.items()}}


def value(settings: Settings, key: str) -> object:
    """Return the value of a setting by its dotted name, as `Loaded.origins` has it."""
    section, *number, name = key.split(".")
    table = getattr(settings, section)
    return getattr(table[int(number[0])] if number else table, name)


def _origin(level: _Level, loc: tuple[str, ...]) -> Origin:
    key = ".".join(loc)
    while key and key not in level.origins:
        key = key.rpartition(".")[0]
    return level.origins.get(key, Origin("default", "default"))


def _pin_warnings(
    levels: list[_Level],
    settings: Settings,
    document: toml.Document | None,
    environ: Mapping[str, str],
) -> Iterator[str]:
    settings_of_pins = [PIN, *(f"{TOKENS}.{number}.pin" for number in range(len(settings.tokens)))]
    for level, key in [(level, key) for level in levels for key in settings_of_pins]:
        if not level.values.get(key):
            continue
        origin = level.origins[key]
        if origin.kind != "file":
            yield f"{origin.where}: others on this machine can read the PIN there: use --p11-pin-file"
        elif document and document.mode & 0o077:
            file = document.path
            yield f"{file}: holds the PIN and has mode {document.mode:04o}: chmod 600 {file}"
    for token in settings.places:
        yield from pins.file_warnings(token, environ)


def _path_warnings(settings: Settings, file: Path | None, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield what others could replace: the code that kmsd loads, where it finds it, and the PIN that it gives to it."""
    paths_of: list[tuple[str, Path | None]] = [("the configuration", file)]
    for token in settings.places:
        paths_of += [("the PIN file", pins.pin_path(token, environ)), ("the PKCS#11 module", Path(token.module or "/"))]
    if pkcs11_uri.is_uri(str(settings.proxy.tls_key)):
        key = pkcs11_uri.parse(str(settings.proxy.tls_key))
        paths_of += [("the PIN file", key.pin_file), ("the PKCS#11 module", Path(key.module or "/"))]
    for what, path in paths_of:
        if path is None or path.is_relative_to("/dev") or path.is_relative_to("/proc"):
            continue  # a descriptor of our own
        try:
            safepath.check(path.parent, what, shared=True)
        except Misconfigured as error:
            yield f"{error.message}: {error.hint}"
