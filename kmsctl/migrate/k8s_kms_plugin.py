"""The settings of a k8s-kms-plugin, read from its arguments and its environment as it reads them itself. Pure.

Source: ThalesGroup/k8s-kms-plugin 5a6998a, `cmd/k8s-kms-plugin/cmd/{root,serve}.go`. Unlike in kmsd its environment
wins over its flags, and the label of a token over a slot. Holds no PIN: only whether one was there, and what file has
it. No message repeats a value that may be one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from kmsctl.diagnostics import UsageError

PROGRAM: Final = "k8s-kms-plugin"
KEY_LABEL: Final = "k8s-dek"
"""Its default, which is not kmsd's."""
HMAC_LABEL: Final = "k8s-hmac"
SOCKET: Final = "/tmp/run/hsm-plugin-server.sock"  # noqa: S108 - k8s-kms-plugin's default, told to people, never opened
PORT: Final = "31400"

GCM: Final = "aes-gcm"
CBC: Final = "aes-cbc"
ON_A_TOKEN: Final = ("p11", "softhsm", "luna", "dpod")
"""The providers that are a PKCS#11 module."""

Environment = Mapping[str, str]

_VALUED: Final = frozenset(
    {
        *("socket", "algorithm", "provider", "config", "host", "port", "output", "kek-id", "ca-id", "native-path"),
        *("p11-lib", "p11-label", "p11-slot", "p11-pin", "p11-pin-file", "p11-key-label", "p11-hmac-label"),
        *("p11-key-id", "algorithm-family", "log-format", "log-level"),  # of its successor, KeySealer
        *("tls-ca", "tls-key", "tls-certificate"),
    }
)
_SWITCHES: Final = frozenset({"auto-create", "enable-server", "disable-socket", "allow-any", "debug"})
_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_COMMANDS: Final = frozenset({"test", "generate-kek", "import-ca", "verify-cert", "decrypt-csr", "completion", "help"})
_VARIABLES: Final = {"SOCKET": "socket", "P11_LIB": "p11-lib", "P11_TOKEN": "p11-label", "P11_SLOT": "p11-slot"}
"""Variable -> the flag that it wins over."""
_SUCCESSOR: Final = "K8S_KMS_PLUGIN_SERVE_"
"""Beginnings of the variables of KeySealer, each with the name of a flag behind."""
_PIN: Final = "p11-pin"
UNKNOWN: Final = "\0"
"""Stands in arguments and variables for what is not in what was read."""


@dataclass(frozen=True)
class K8sKmsPlugin:
    """The settings of a k8s-kms-plugin. socket: where it listens, empty if nowhere or unknown. slot: None if the token
    has a label. pin_file: empty if the PIN, or its file, stands elsewhere. left_out: the flags given that kmsd has no
    use for, without dashes."""

    module: str
    provider: str = "p11"
    token_label: str = ""
    slot: int | None = None
    pin_file: str = ""
    pin_given: bool = False
    key_label: str = KEY_LABEL
    hmac_label: str = HMAC_LABEL
    algorithm: str = GCM
    socket: str = SOCKET
    port: str = ""
    """The place where it listens on TCP, empty if it does not."""
    host: str = ""
    """The address where it listens on TCP, empty for all."""
    tls_ca: str = ""
    """The file of --tls-ca. It is given, and k8s-kms-plugin does not use it; tls_certificate and tls_key alike."""
    tls_certificate: str = ""
    tls_key: str = ""
    auto_create: bool = False
    left_out: tuple[str, ...] = ()

    @property
    def cbc(self) -> bool:
        return self.algorithm == CBC


def is_program(word: str) -> bool:
    """Return whether a word of a command is the plugin: its path, or the name of an image with it."""
    return re.fullmatch(rf"{PROGRAM}(?:[:@].*)?", word.rsplit("/", 1)[-1], re.DOTALL) is not None


def serves(arguments: Sequence[str]) -> bool:
    """Return whether these arguments make it serve, rather than do something else once."""
    return not _COMMANDS.intersection(_split(arguments, lambda _: None)[1])


def read(arguments: Sequence[str], environment: Environment, elsewhere: str = "") -> K8sKmsPlugin:
    """Read the settings. arguments: behind the program's name. elsewhere: in words, from where it gets more than is
    given here.

    Raises UsageError for what it would refuse itself, what is no PKCS#11 token, and a setting that is not to be seen.
    """
    given, words = _split(arguments, _refuse_flag)
    _check_words(words)
    for name, flag in _VARIABLES.items():
        if value := environment.get(name):
            given[flag] = value
    for flag in _VALUED | _SWITCHES:
        # Its successor's: there a flag wins.
        if value := environment.get(_SUCCESSOR + flag.upper().replace("-", "_")):
            given.setdefault(flag, value)
    if family := given.pop("algorithm-family", ""):
        given.setdefault("algorithm", family)
    if "p11-key-id" in given and "p11-key-label" not in given:
        raise UsageError(
            "its key is named by its id (--p11-key-id), and kmsd's write key is the one with a label",
            "add --p11-key-label with the label that this key has: pkcs11-tool --list-objects shows it",
        )
    pin_file = environment.get("P11_PIN_FILE") or given.get("p11-pin-file", "")
    seen = _Seen(given, elsewhere)
    listens = _on(given, "enable-server")
    provider = _provider(seen)
    label = seen.text("p11-label")
    return K8sKmsPlugin(
        module=_module(seen),
        provider=provider,
        token_label=label,
        slot=None if label else _slot(seen),
        pin_file="" if UNKNOWN in pin_file else pin_file,
        pin_given=not pin_file and bool(given.get(_PIN) or environment.get("P11_PIN")),
        key_label=seen.text("p11-key-label", KEY_LABEL),
        hmac_label=seen.text("p11-hmac-label", HMAC_LABEL),
        algorithm=_algorithm(seen),
        socket="" if _on(given, "disable-socket") else _socket(given),
        auto_create=_on(given, "auto-create"),
        left_out=tuple(sorted(given.keys() & (_LEFT_OUT if listens else _LEFT_OUT | _OF_TCP))),
        **(_tcp(given) if listens else {}),
    )


def _tcp(given: Mapping[str, str]) -> dict[str, str]:
    """Return what is said of TCP; left out of it is what is not to be seen here."""
    seen = {name: value for name, value in given.items() if name in _OF_TCP and UNKNOWN not in value}
    host = seen.get("host", "")
    return {
        "port": seen.get("port", PORT),
        "host": "" if host in _EVERYWHERE else host,
        **{name.replace("-", "_"): seen.get(name, "") for name in ("tls-ca", "tls-certificate", "tls-key")},
    }


_LEFT_OUT: Final = frozenset(
    {
        "config",
        "output",
        "debug",
        "log-format",
        "log-level",
        "p11-key-id",
        "kek-id",
        "ca-id",
        "native-path",
        "allow-any",
    }
)
_OF_TCP: Final = frozenset({"host", "port", "tls-ca", "tls-key", "tls-certificate"})
_EVERYWHERE: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - told to people, and never bound


def _split(arguments: Sequence[str], unknown: Callable[[str], None]) -> tuple[dict[str, str], list[str]]:
    """Return flags with their values as Go's pflag takes them, the last one winning, and the other words."""
    given: dict[str, str] = {}
    words: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            words += rest
            break
        if not word.startswith("-") or word == "-":
            words.append(word)
            continue
        flag, equals, value = word[2:].partition("=")
        if word[:2] != "--":  # only one has a short name
            flag, equals, value = "native-path" if word[1] == "p" else word[1], word[2:], word[2:].removeprefix("=")
        if flag in _SWITCHES:
            given[flag] = value if equals else "true"
        elif flag in _VALUED and (equals or rest):
            given[flag] = value if equals else rest.pop(0)
        else:
            unknown(flag)
    return given, words


def _refuse_flag(flag: str) -> None:
    if flag in _VALUED:
        raise UsageError(f"--{flag} has no value", "give the command as it is started")
    name = re.sub(r"[^A-Za-z0-9-].*", "", flag, flags=re.DOTALL)[:40]
    raise UsageError(f"{PROGRAM} has no flag {'-' if len(name) == 1 else '--'}{name}", "give the command as it is run")


def _check_words(words: Sequence[str]) -> None:
    if other := _COMMANDS.intersection(words):
        raise UsageError(f"`{PROGRAM} {min(other)}` serves no kube-apiserver", f"give the command of `{PROGRAM} serve`")
    if [word for word in words if word != "serve"]:
        # Not repeated: it may be a PIN.
        raise UsageError(
            f"a word of the command is neither a flag of {PROGRAM} nor the value of one",
            "quote the command as a whole: --command '...'",
        )


@dataclass(frozen=True)
class _Seen:
    given: Mapping[str, str]
    elsewhere: str

    def text(self, flag: str, default: str = "") -> str:
        """Raise UsageError if the value is not to be seen."""
        value = self.given.get(flag, default)
        if UNKNOWN in value:
            more = f", or comes from {self.elsewhere}" if self.elsewhere else ""
            raise UsageError(
                f"what --{flag} is cannot be seen here: it refers to a variable that is not set{more}",
                "write the value itself into a copy",
            )
        return value


def _provider(seen: _Seen) -> str:
    provider = seen.text("provider", "p11")
    if provider not in ON_A_TOKEN:
        raise UsageError(
            f"the keys of --provider {provider[:40]} are on no PKCS#11 token, and kmsd uses no others",
            "to move over, keep that provider for reading, let kmsd write with a key of its own, and rewrite",
        )
    return provider


def _module(seen: _Seen) -> str:
    module = seen.text("p11-lib")
    if not module:
        raise UsageError(
            "no PKCS#11 module is named: neither --p11-lib nor P11_LIB is given",
            f"it may come from {seen.elsewhere}, which is not read: write it into a copy"
            if seen.elsewhere
            else "give the whole command, and what is set in its environment before it: P11_LIB=... k8s-kms-plugin ...",
        )
    return module


def _slot(seen: _Seen) -> int:
    text = seen.text("p11-slot", "0")
    if not re.fullmatch(r"\+?[0-9]{1,18}", text):
        raise UsageError(
            f"the slot (--p11-slot, P11_SLOT) must be a number, got {text[:40]!r}", "give the command as it is run"
        )
    return int(text)


def _algorithm(seen: _Seen) -> str:
    algorithm = seen.text("algorithm", GCM)
    if algorithm not in (GCM, CBC):
        raise UsageError(f"{PROGRAM} has no --algorithm {algorithm[:40]}", f"it has {GCM} and {CBC}")
    return algorithm


def _socket(given: Mapping[str, str]) -> str:
    # Its README writes it as a URL, its code takes both.
    socket = given.get("socket", SOCKET).removeprefix("unix://")
    return "" if UNKNOWN in socket else socket


def _on(given: Mapping[str, str], switch: str) -> bool:
    value = given.get(switch, "false")
    if value not in _TRUE | _FALSE:
        raise UsageError(f"--{switch} must be true or false, got {value[:40]!r}", "give the command as it is run")
    return value in _TRUE
