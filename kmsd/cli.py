"""The command line of kmsd: parses, loads the configuration, hands over.

Knows nothing of tokens and sockets: what serves is imported inside the command that serves, so that `--help`
and `check-config` load neither grpc nor pkcs11.
"""

from __future__ import annotations

import dataclasses
import getpass
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from pydantic import SecretStr

from kmsd import __version__, paths
from kmsd.config import k8s_kms_plugin, pins, sources, tcp
from kmsd.config.errors import valid
from kmsd.config.settings import Settings, Token
from kmsd.config.values import found, leaf_key, to_toml
from kmsd.errors import on_stderr

USAGE = 2
"""Exit code for a wrong command line and a wrong configuration."""


@dataclass(frozen=True)
class Flag:
    """A flag of `serve` and `check-config`.

    key: the setting it sets, empty if none. off: the name that says no, for a flag without a value. short: another
    name. means: what its values are called by the setting, if not as they are. idle: why it changes nothing, a
    sentence after its name. refused: why it is refused, and what to do. many: whether it may be given several times.
    """

    name: str
    key: str
    metavar: str
    help: str
    off: str = ""
    short: str = ""
    means: Mapping[str | bool, str] | None = None
    idle: str = ""
    refused: tuple[str, str] | None = None
    many: bool = False

    @property
    def parameter(self) -> str:
        return self.name.removeprefix("--").replace("-", "_")


_TCP = "the TCP listener that --enable-server asks for."
_NOTHING = "Accepted with a warning, and changes nothing, as in k8s-kms-plugin."
_IDLE = "does nothing in k8s-kms-plugin serve, and nothing here"

FLAGS = (
    Flag(
        "--config",
        "",
        "FILE",
        "TOML file with the settings. Default: $KMSD_CONFIG, else the first of the usual places.",
    ),
    Flag("--socket", "kms.socket", "PATH", "Unix socket of the KMS APIs, which kube-apiserver calls."),
    Flag("--admin-socket", "admin.socket", "PATH", "Unix socket of the admin API, which kmsctl calls."),
    Flag("--jwt-socket", "jwt.socket", "PATH", "Unix socket on which service account tokens are signed; none without."),
    Flag("--admin-group", "admin.group", "GROUP", "Group that may call the admin API."),
    Flag("--state-dir", "state.dir", "DIR", "Directory for what kmsd keeps across restarts."),
    Flag(
        "--provider",
        "token.provider",
        "NAME",
        "Vendor of the token: auto, softhsm, tpm2, p11-kit, luna, cloudhsm, opencryptoki or generic.",
    ),
    Flag("--p11-lib", "token.module", "PATH", "Path of the PKCS#11 module."),
    Flag("--p11-label", "token.label", "LABEL", "Label of the token."),
    Flag("--p11-slot", "token.slot", "ID", "Id of the token's slot; wins over the label."),
    Flag("--p11-pin", "token.pin", "PIN", "PIN of the token; others can read it here: use --p11-pin-file."),
    Flag("--p11-pin-file", "token.pin_file", "FILE", "File with the PIN on its first line."),
    Flag("--p11-key-label", "keys.label", "LABEL", "Label of the key that encrypts."),
    Flag("--p11-hmac-label", "keys.hmac_label", "LABEL", "Label of the HMAC key of an AES-CBC pair."),
    Flag(
        "--algorithm",
        "keys.algorithm",
        "auto|aes-gcm|aes-cbc|rsa-oaep",
        "Algorithm to encrypt with; auto: the best that the token can do.",
    ),
    Flag("--auto-create", "keys.auto_create", "", "Make the key at start if it is missing.", off="--no-auto-create"),
    Flag(
        "--output",
        "log.format",
        "text|json",
        "Format of the log, as k8s-kms-plugin names it; text: console.",
        means={"text": "console", "json": "json"},
    ),
    Flag(
        "--debug",
        "log.level",
        "",
        "Log from level debug on, as --log-level debug does.",
        off="--no-debug",
        means={True: "debug"},
    ),
    Flag(
        "--log-format", "log.format", "auto|json|console", "Format of the log; auto: console on a terminal, else json."
    ),
    Flag("--log-level", "log.level", "debug|info|warning|error", "Level to log from."),
    Flag(
        "--enable-server",
        "server.enabled",
        "",
        "Serve [[tenants]] and [[admins]] on TCP, too, with TLS 1.3 and client certificates.",
        off="--no-enable-server",
    ),
    Flag("--host", "server.host", "HOST", f"Address of {_TCP}"),
    Flag("--port", "server.port", "PORT", f"Port of {_TCP}"),
    Flag("--tls-ca", "server.tls_ca", "FILE", f"PEM file with the CA of callers for {_TCP}"),
    Flag("--tls-certificate", "server.tls_certificate", "FILE", f"PEM file with the certificate of {_TCP}"),
    Flag("--tls-key", "server.tls_key", "FILE", f"PEM file with the private key of {_TCP}"),
    Flag("--tls-revoked", "server.tls_revoked", "FILE", f"CRLs or serial numbers that are refused by {_TCP}"),
    Flag(
        "--disable-socket",
        "",
        "",
        "Refused: kmsd always serves its Unix sockets.",
        off="--no-disable-socket",
        refused=(
            "--disable-socket is not taken: kmsd always serves its Unix sockets, where kmsctl reaches it",
            "drop --disable-socket; --enable-server serves callers from other machines besides",
        ),
    ),
    Flag(
        "--allow-any",
        "",
        "",
        _NOTHING,
        off="--no-allow-any",
        idle=f"{_IDLE}: whoever may open a socket of kmsd's may call it (kms.mode, kms.group)",
    ),
    Flag("--kek-id", "", "ID", _NOTHING, idle=_IDLE),
    Flag("--ca-id", "", "ID", _NOTHING, idle=_IDLE),
    Flag("--native-path", "", "DIR", _NOTHING, short="-p", idle=_IDLE),
)
_DEV_FLAGS = ("--log-format", "--log-level")
_KEY_MANAGERS = "key managers"
PROXY_FLAGS = (
    Flag(
        "--upstream",
        "proxy.upstreams",
        "HOST:PORT",
        "A key manager to ask; may be given several times.",
        many=True,
    ),
    Flag("--prefer", "proxy.prefer", "order|spread", "Which is asked: the first that is well, or one after the other."),
    Flag("--server-name", "proxy.server_name", "NAME", f"Name that the certificates of {_KEY_MANAGERS} must have."),
    Flag("--tls-ca", "proxy.tls_ca", "FILE", f"PEM file with the CA of the {_KEY_MANAGERS}."),
    Flag("--tls-certificate", "proxy.tls_certificate", "FILE", "PEM file with the certificate of this proxy."),
    Flag(
        "--tls-key",
        "proxy.tls_key",
        "FILE|URI",
        "PEM file with the private key of that certificate; or, experimental, pkcs11: and which key of a token it is.",
    ),
    *(
        flag
        for flag in FLAGS
        if flag.name
        in (
            *("--config", "--socket", "--admin-socket", "--jwt-socket", "--admin-group", "--state-dir"),
            *("--output", "--debug", "--log-format", "--log-level"),
        )
    ),
)

Given = dict[str, str | bool | list[str]]
"""Flag -> what the command line says; only flags that it has."""

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="A KMS provider for Kubernetes whose keys never leave a PKCS#11 token.",
    epilog="The flags of a command may also stand before it, as k8s-kms-plugin allowed.",
)

Command = TypeVar("Command", bound=Callable[..., Any])


def _takes(flags: Sequence[Flag], *, hidden: bool = False) -> Callable[[Command], Command]:
    """Give a command the flags, after the parameters it has: it gets them as keywords, None if not given."""

    def apply(command: Command) -> Command:
        own = [
            each
            for each in inspect.signature(command, eval_str=True).parameters.values()
            if each.kind is not each.VAR_KEYWORD
        ]
        for flag in flags:
            names = [f"{flag.name}/{flag.off}" if flag.off else flag.name, *filter(None, [flag.short])]
            option = typer.Option(*names, metavar=flag.metavar or None, help=flag.help, hidden=hidden)
            kind: Any = list[str] if flag.many else str if flag.metavar else bool
            own.append(
                inspect.Parameter(
                    flag.parameter,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=None,
                    annotation=Annotated[kind | None, option],
                )
            )
        command.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in own}
        return command

    return apply


@app.callback(invoke_without_command=True)
@_takes(FLAGS, hidden=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    **values: str | bool | None,
) -> None:
    """Show the version, or show the help and exit with 2 if no command was given."""
    if version:
        _show_version()
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(USAGE)
    context.obj = _given(values)


@app.command(short_help="Serve the KMS APIs and the admin API.")
@_takes(FLAGS)
def serve(context: typer.Context, **values: str | bool | None) -> None:
    """Serve the KMS APIs and the admin API on their Unix sockets until SIGTERM."""
    given = {**context.obj, **_given(values)}
    name = context.find_root().info_name
    loaded = _load(given, name)
    token = loaded.settings.token
    pin = None
    if loaded.settings.tokens:
        pass  # each names where its PIN is; nobody could tell which one is asked for
    elif token.pin is None and token.pin_file is None and sys.stdin is not None and sys.stdin.isatty():
        pin = getpass.getpass("PIN of the token: ") or None

    from kmsd import daemon

    raise typer.Exit(daemon.serve(_with_pin(loaded, pin), reload=lambda: _with_pin(_load(given, name), pin)))


@app.command(short_help="Serve the same sockets from key managers on other machines.")
@_takes(PROXY_FLAGS)
def proxy(context: typer.Context, **values: str | bool | list[str] | None) -> None:
    """Serve the KMS APIs on a Unix socket by asking key managers on other machines (kmsd serve --enable-server), until
    SIGTERM. Needs no token, but may have its TLS key on one."""
    _only(context.obj, [flag.name for flag in PROXY_FLAGS], "proxy")
    given = {**context.obj, **_given(values, PROXY_FLAGS)}
    name = context.find_root().info_name

    from kmsd import daemon

    def load() -> sources.Loaded:
        return _load(given, name, PROXY_FLAGS)

    raise typer.Exit(daemon.serve_proxy(load(), reload=load))


@app.command("check-config", short_help="Show the settings, or what is wrong with them.")
@_takes(FLAGS)
def check_config(context: typer.Context, **values: str | bool | None) -> None:
    """Show every setting and where it comes from; exit 2 if the configuration is wrong. Starts nothing."""
    loaded = _load({**context.obj, **_given(values)}, context.find_root().info_name)
    for warning in (*loaded.warnings, *_missing(loaded.settings)):
        typer.echo(f"kmsd: warning: {warning}", err=True)
    places = " or ".join(str(path) for path in paths.config_files())
    typer.echo(f"# configuration file: {loaded.file or f'none, looked for {places}'}")
    rows: list[tuple[str, str]] = []
    for key, origin in loaded.origins.items():
        if loaded.settings.tokens and key.startswith("token."):
            continue  # [[tokens]] take its place
        value = sources.value(loaded.settings, key)
        shown = f"# {key} is not set" if value is None else f"{key} = {to_toml(leaf_key(key.split('.')), value)}"
        rows.append((shown, origin.where))
    width = max(len(shown) for shown, _ in rows)
    for shown, where in rows:
        typer.echo(f"{shown:{width}}   # {where}")


@app.command(short_help="Serve from a SoftHSM token of its own.")
@_takes([flag for flag in FLAGS if flag.name in _DEV_FLAGS])
def dev(context: typer.Context, **values: str | bool | None) -> None:
    """Serve from a SoftHSM token of its own in the user's data directory, to try things out."""
    given = {**context.obj, **_given(values)}
    _only(given, _DEV_FLAGS, "dev")
    settings = _settings(given)
    nested = {"log": {key.removeprefix("log."): value for key, (_, value) in settings.items()}}
    log = valid(nested, lambda loc: sources.Origin("flag", settings[".".join(loc)][0])).log

    from kmsd import dev as development

    raise typer.Exit(development.run(log_level=log.level, log_format=log.format))


@app.command()
def version(context: typer.Context) -> None:
    """Show the version."""
    _only(context.obj, (), "version")
    _show_version()


def _show_version() -> None:
    typer.echo(f"kmsd {__version__}")


def _given(values: Mapping[str, str | bool | list[str] | None], flags: Sequence[Flag] = FLAGS) -> Given:
    by_parameter = {flag.parameter: flag.name for flag in flags}
    return {by_parameter[name]: value for name, value in values.items() if value is not None and value != []}


def _only(given: Given, allowed: Sequence[str], command: str) -> None:
    for name in given:
        if name not in allowed:
            raise sources.ConfigError(f"{name} is not a flag of {command}", f"try `kmsd {command} --help`")


def _load(given: Given, program: str | None, known: Sequence[Flag] = FLAGS) -> sources.Loaded:
    """Return the settings. program: the name that kmsd is run by. known: the flags of its command."""
    for flag in known:
        if flag.refused is not None and given.get(flag.name):
            raise sources.ConfigError(*flag.refused)
    idle = [f"{flag.name} {flag.idle}" for flag in known if flag.idle and given.get(flag.name)]
    flags, file = _settings(given, known), given.get("--config")
    path = Path(str(file)) if file else None
    if program != k8s_kms_plugin.PROGRAM:
        loaded = sources.load(flags, config_file=path)
        return dataclasses.replace(loaded, warnings=(*loaded.warnings, *idle))
    kept, environ, lost = k8s_kms_plugin.as_it_reads(flags, os.environ)
    try:
        loaded = sources.load(kept, config_file=path, environ=environ, defaults=k8s_kms_plugin.defaults(environ))
    except sources.ConfigError as error:
        if path is None:
            raise
        raise sources.ConfigError(error.message, f"{error.hint}\n{k8s_kms_plugin.CONFIG_HINT}".lstrip()) from None
    warnings = (*loaded.warnings, *idle, *lost, *k8s_kms_plugin.warnings(loaded.settings))
    return dataclasses.replace(loaded, warnings=warnings)


def _settings(given: Given, known: Sequence[Flag] = FLAGS) -> dict[str, tuple[str, object]]:
    settings: dict[str, tuple[str, object]] = {}
    for flag in known:
        if not flag.key or flag.name not in given:
            continue
        value = given[flag.name]
        if isinstance(value, list):
            settings[flag.key] = (flag.name, tuple(value))
            continue
        meant = flag.means.get(value) if flag.means is not None else value
        if meant is not None:
            settings[flag.key] = (flag.off if value is False else flag.name, meant)
        elif flag.metavar:
            allowed = " or ".join(f'"{each}"' for each in flag.means or ())
            raise sources.ConfigError(f"{flag.name}: expected {allowed}, found {found(flag.key, value)}")
    return settings


def _with_pin(loaded: sources.Loaded, pin: str | None) -> sources.Loaded:
    """Return `loaded` with the PIN that was typed in, unless a PIN has been configured since."""
    token = loaded.settings.token
    if pin is None or token.pin is not None or token.pin_file is not None:
        return loaded
    token = token.model_copy(update={"pin": SecretStr(pin)})
    origins = {**loaded.origins, "token.pin": sources.Origin("flag", "typed in")}
    settings = loaded.settings.model_copy(update={"token": token})
    return dataclasses.replace(loaded, settings=settings, origins=origins)


def _missing(settings: Settings) -> list[str]:
    """Return what will keep the token from being used, or TCP, as far as it can be seen without touching them."""
    missing = [missing for token in settings.places for missing in _missing_of(token)]
    return [*missing, *(tcp.not_served(settings.server) or ())[:1]]


def _missing_of(token: Token) -> list[str]:
    missing = []
    if token.module and not os.path.exists(token.module):  # noqa: PTH110 - Path.exists raises where a folder is closed
        missing.append(f"token.module: there is no file {token.module}")
    elif not token.module and token.provider in ("auto", "p11", "generic"):
        missing.append(
            "token.module is empty: name the PKCS#11 module with --p11-lib, P11_LIB or token.module, "
            'or say --provider softhsm (token.provider = "softhsm")'
        )
    pin_file = pins.pin_path(token)
    if token.pin is None and pin_file is not None and not os.path.exists(pin_file):  # noqa: PTH110 - as above
        missing.append(f"token.pin_file: there is no file {pin_file}")
    return missing


_GO_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_GO_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


def _from_go(argv: Sequence[str]) -> list[str]:
    """Return the arguments with `--auto-create=true` and the like, as Go writes them, in the form of this parser."""
    switches = {flag.name: flag.off for flag in FLAGS if not flag.metavar}
    translated: list[str] = []
    for argument in argv:
        name, equals, value = argument.partition("=")
        if not equals or name not in switches:
            translated.append(argument)
        elif value in _GO_TRUE:
            translated.append(name)
        elif value in _GO_FALSE:
            translated.append(switches[name])
        else:
            raise sources.ConfigError(f"{name}: expected true or false after the =, found {value[:40]!r}")
    return translated


def _fail(message: str, hint: str = "") -> NoReturn:
    typer.echo(on_stderr(message, hint), nl=False, err=True)
    raise SystemExit(USAGE)


def _usage(error: typer.TyperException) -> tuple[str, str]:
    """Return the words of a wrong command line; a stray argument is not repeated, it may be a PIN."""
    message = error.format_message().rstrip(".")
    if message.startswith("No such command"):
        known = ", ".join(info.name or info.callback.__name__ for info in app.registered_commands if info.callback)
        return "no such command", f"the commands are {known}"
    if message.startswith("Got unexpected extra argument"):
        return "an argument that is not a flag", "every argument is a flag or its value; try `kmsd --help`"
    return re.sub(r"^(No|Option)\b", lambda word: word[0].lower(), message), "try `kmsd --help`"


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command line and exit with its code: 2 for a wrong one, or a wrong configuration."""
    called = Path(sys.argv[0]).name
    try:
        arguments = _from_go(sys.argv[1:] if argv is None else argv)
        code = app(arguments, prog_name=called if called == k8s_kms_plugin.PROGRAM else "kmsd", standalone_mode=False)
    except sources.ConfigError as error:
        _fail(error.message, error.hint)
    except typer.TyperException as error:
        _fail(*_usage(error))
    except typer.Abort:
        raise SystemExit(130) from None
    raise SystemExit(code)
