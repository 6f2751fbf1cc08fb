"""The configuration file of kmsctl and kmstui: names of the kmsd that are there, and what an operator likes.

It is read when something of it is needed, and not before. Knows no daemon, and nothing of how anything is shown.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from kmsd.client.durations import parse_duration
from kmsd.client.errors import InvalidRequest
from kmsd.client.places import FILES, NAMES, SCHEME, TlsOptions, is_server_name, parse_tls

VARIABLE: Final = "KMSCTL_CONFIG"
"""The environment variable that names the file; empty is as unset."""
MAX_BYTES: Final = 256 * 1024
MOST_TARGETS: Final = 256
NAME_MAX: Final = 63
"""Characters of a target's name."""
OUTPUTS: Final = ("table", "wide", "json", "yaml", "name")

_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]+)?)\s*%")
T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """A kmsd by name. address: as `parse_target` takes it. tls: its own, if it is reached by TLS."""

    name: str
    address: str
    tls: TlsOptions = field(default_factory=TlsOptions)


@dataclass(frozen=True)
class Thresholds:
    """The values from which something is worth a colour; None where the file says nothing. p99: seconds. errors: share
    of the calls that failed, 0 to 1. gcm_budget: share of the encryptions that one AES-GCM key may do, 0 to 1."""

    p99: float | None = None
    errors: float | None = None
    gcm_budget: float | None = None


@dataclass(frozen=True)
class ClientConfig:
    """The content of the file. path: the file that was read; None: there is none. output: one of OUTPUTS, or empty.
    tls: of every target that is reached by TLS, as far as it has none of its own."""

    path: Path | None = None
    output: str = ""
    targets: tuple[Target, ...] = ()
    thresholds: Thresholds = field(default_factory=Thresholds)
    tls: TlsOptions = field(default_factory=TlsOptions)


def config_path() -> Path:
    """Return the path of the file, whether there is one or not."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    import platformdirs

    return platformdirs.user_config_path("kmsctl", appauthor=False) / "config.toml"


def load() -> ClientConfig:
    """Return what the file says, read once in the life of the process.

    Without a file at its usual place there are the defaults; one that KMSCTL_CONFIG names must be there. Raises
    InvalidRequest, whose sentence names the file, the key, what is allowed and what was given.
    """
    return _load(config_path(), bool(os.environ.get(VARIABLE)))


def find(name: str) -> Target:
    """Return the target with this name. Raises InvalidRequest."""
    config = load()
    for each in config.targets:
        if each.name == name:
            return each
    names = [each.name for each in config.targets]
    what = f"no target is named {name!r} in {config_path()}"
    if not names:
        why = "which names no targets" if config.path is not None else "which is not there"
        raise _invalid(
            f"{what}, {why}", "name it as unix:///path/of/the.sock or tls://host:port, or give it a name in that file"
        )
    near = difflib.get_close_matches(name, names, n=1)
    known = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    raise _invalid(what, f"did you mean {near[0]!r}? Its targets: {known}" if near else f"its targets: {known}")


@functools.cache
def _load(path: Path, must_exist: bool) -> ClientConfig:
    import tomllib

    from kmsd import plainfile

    try:
        raw, _ = plainfile.read_input(path, MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        if must_exist:
            raise _invalid(f"{path}: there is no such file", f"{VARIABLE} names it; unset that, or make it") from None
        return ClientConfig()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _invalid(f"{path}: cannot be read: {why}", _ELSEWHERE) from None
    if len(raw) > MAX_BYTES:
        raise _invalid(f"{path}: a configuration of kmsctl must have {MAX_BYTES // 1024} KiB at most", _ELSEWHERE)
    try:
        data = tomllib.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise _invalid(f"{path}: the file must be UTF-8, and is not", "save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise _invalid(f"{path}: not TOML: {error}", "https://toml.io shows how it is written") from None
    return _Reader(path).read(data)


_ELSEWHERE = f"{VARIABLE} names another file"


@dataclass(frozen=True)
class _Reader:
    """A reader that checks one file. Every method raises InvalidRequest."""

    path: Path

    def read(self, data: Mapping[str, Any]) -> ClientConfig:
        self._known("", data, ("output", "targets", "thresholds", "tls"))
        return ClientConfig(
            self.path,
            self._value("", data, "output", _output, "", "one of " + ", ".join(f'"{each}"' for each in OUTPUTS)),
            self._targets(data.get("targets", [])),
            self._thresholds(data.get("thresholds", {})),
            self._default_tls(data.get("tls", {})),
        )

    def _targets(self, entries: object) -> tuple[Target, ...]:
        if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
            self._refuse("targets", "tables, each headed [[targets]]", entries)
        if len(entries) > MOST_TARGETS:
            self._refuse("targets", f"{MOST_TARGETS} at most", len(entries))
        found: dict[str, Target] = {}
        for number, entry in enumerate(entries, 1):
            where = f"targets[{number}]."
            self._known(where, entry, ("name", "address", *(f"tls_{each}" for each in NAMES)))
            for needed in ("name", "address"):
                if needed not in entry:
                    self._refuse(where + needed, "a string; every target has a name and an address", None)
            name = self._value(where, entry, "name", _name, "", _NAMES)
            if name in found:
                self._refuse(f"{where}name", "a name that no other target has", name)
            address = self._value(where, entry, "address", _address, "", _ADDRESSES)
            tls = self._tls(f"{where}tls_", {key[4:]: value for key, value in entry.items() if key[:4] == "tls_"})
            if tls != TlsOptions() and not address.startswith(SCHEME):
                self._refuse(f"{where}address", "tls://host:port where the target has a file for TLS", address)
            found[name] = Target(name, address, tls)
        return tuple(found.values())

    def _thresholds(self, table: object) -> Thresholds:
        if not isinstance(table, dict):
            self._refuse("thresholds", "a table, headed [thresholds]", table)
        where = "thresholds."
        self._known(where, table, ("p99", "errors", "gcm_budget"))
        return Thresholds(
            self._value(where, table, "p99", _seconds, None, 'a duration in quotes, as "5ms" or "1s", at most 24h'),
            self._value(where, table, "errors", _share, None, _SHARES),
            self._value(where, table, "gcm_budget", _share, None, _SHARES),
        )

    def _default_tls(self, table: object) -> TlsOptions:
        if not isinstance(table, dict):
            self._refuse("tls", "a table, headed [tls]", table)
        self._known("tls.", table, NAMES)
        return self._tls("tls.", table)

    def _tls(self, where: str, table: Mapping[str, Any]) -> TlsOptions:
        files = {each: self._value(where, table, each, self._file, "", _FILES) for each in FILES}
        return TlsOptions(
            **files, server_name=self._value(where, table, "server_name", _server_name, "", _SERVER_NAMES)
        )

    def _file(self, text: str) -> str:
        """Return the path of a file, which may be relative to the configuration file's folder."""
        if not text or "\0" in text:
            raise ValueError(text)
        try:
            return str(self.path.parent.absolute() / Path(text).expanduser())
        except RuntimeError:  # there is no such user
            raise ValueError(text) from None

    def _value(
        self, where: str, table: Mapping[str, Any], key: str, read: Callable[[str], T], absent: T, allowed: str
    ) -> T:
        if key not in table:
            return absent
        value = table[key]
        if not isinstance(value, str):
            self._refuse(where + key, allowed, value)
        try:
            return read(value)
        except ValueError:
            self._refuse(where + key, allowed, value)

    def _known(self, where: str, table: Mapping[str, Any], known: Sequence[str]) -> None:
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                what = f"{self.path}: there is no key {where + key!r}"
                raise _invalid(what, f"did you mean {where + near[0]}?" if near else f"the keys: {', '.join(known)}")

    def _refuse(self, key: str, allowed: str, given: object) -> NoReturn:
        what = "nothing" if given is None else repr(given)
        what = what if len(what) <= 100 else what[:97] + "..."
        raise _invalid(f"{self.path}: {key} must be {allowed}, got {what}", "correct the file")


_NAMES = f"1 to {NAME_MAX} printable characters without '/', ':' and blanks, the first none of '-@'"
_ADDRESSES = "the path of kmsd's admin socket, as unix:///run/kmsd-admin/admin.sock, or tls://host:port"
_FILES = "the path of a PEM file"
_SERVER_NAMES = "the name that the other side's certificate has, as keys-1.example.com"
_SHARES = 'a share in quotes, as "1%", from 0% to 100%'


def is_name(text: str) -> bool:
    """Return whether a target is meant by its name: it has neither a slash nor a scheme."""
    return bool(text) and "/" not in text and ":" not in text and text[0] not in "@\0"


def _output(text: str) -> str:
    if text not in OUTPUTS:
        raise ValueError(text)
    return text


def _name(text: str) -> str:
    good = len(text) <= NAME_MAX and text.isprintable() and " " not in text
    if not good or not is_name(text) or text.startswith("-"):
        raise ValueError(text)
    return text


def _address(text: str) -> str:
    from kmsd.client.targets import parse_socket

    if is_name(text):
        raise ValueError(text)
    try:
        if text.startswith(SCHEME):
            parse_tls(text)
        else:
            parse_socket(text)
    except InvalidRequest:
        raise ValueError(text) from None
    return text


def _server_name(text: str) -> str:
    if not is_server_name(text):
        raise ValueError(text)
    return text


def _seconds(text: str) -> float:
    return parse_duration(text)


def _share(text: str) -> float:
    found = _PERCENT.fullmatch(text)
    if not found or float(found[1]) > 100:
        raise ValueError(text)
    return float(found[1]) / 100


def _invalid(message: str, hint: str) -> InvalidRequest:
    return InvalidRequest(message, hint, "INVALID_ARGUMENT")
