"""The options that commands share, and what they come to for one run. Knows typer, and no command."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final

import typer

from kmsctl import diagnostics
from kmsctl.diagnostics import ExitCode, UsageError
from kmsctl.output import OutputFormat
from kmsd.client import DEFAULT_TIMEOUT
from kmsd.client.durations import parse_duration
from kmsd.client.places import flag, variable

OUTPUT_VARIABLE: Final = "KMSCTL_OUTPUT"


def duration(text: str) -> float:
    """Parse a duration. Raises typer.BadParameter."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@dataclass(frozen=True)
class Options:
    """The options that all commands share."""

    named: str | None = None
    """The target that was named; None: none."""
    target_typed: bool = False
    """Whether --target was typed, rather than found in the environment."""
    timeout: float = DEFAULT_TIMEOUT
    """Seconds for one call."""
    output: OutputFormat | None = None
    """The format that was typed; None: none."""
    debug: bool = False
    tls_typed: tuple[str, ...] = ()
    """The options of TLS that were typed."""

    @property
    def target(self) -> str | None:
        """The target to connect to; None: where kmsd listens by default. Raises UsageError, ClientError if options of
        TLS were typed for one that is a Unix socket."""
        if self.tls_typed:
            from kmsd.client import default_target, parse_target
            from kmsd.client.places import TlsPlace

            place = parse_target(self.named or default_target())
            if not isinstance(place, TlsPlace):
                raise self.useless_tls(place.address)
        return self.named

    def useless_tls(self, target: str) -> UsageError:
        """Return what to say of options of TLS that were typed and are of no use with a target."""
        typed = " and ".join(self.tls_typed) + (" is" if len(self.tls_typed) == 1 else " are")
        return UsageError(
            f"{typed} for a target that is reached by TLS, and {target} is a Unix socket",
            "leave it out, or name the target as tls://host:port",
        )

    def form(self, *allowed: OutputFormat) -> OutputFormat:
        """Return the output format: the one that was typed, else the one that environment or configuration file prefer
        if the command has it, else the first of `allowed`. Raises UsageError for a typed one that it does not have."""
        if self.output is None:
            liked = preferred()
            return liked if liked in allowed else allowed[0]
        if self.output not in allowed:
            raise UsageError(
                f"this command has no output format {self.output}",
                f"it writes {', '.join(allowed)}" if len(allowed) > 1 else "leave out --output",
            )
        return self.output


def preferred() -> OutputFormat | None:
    """Return the output format that KMSCTL_OUTPUT names, else the configuration file; None if neither does. Raises
    UsageError, ClientError."""
    liked = os.environ.get(OUTPUT_VARIABLE)
    if liked:
        if liked not in ALL:
            raise UsageError(
                f"{OUTPUT_VARIABLE} must be one of {', '.join(ALL)}, got {liked!r}",
                f"correct or unset {OUTPUT_VARIABLE}",
            )
        return OutputFormat(liked)
    from kmsd.client import clientconfig

    liked = clientconfig.load().output
    return OutputFormat(liked) if liked else None


@dataclass
class Invocation:
    """A run of the program: filled in by the options before the command, read by everything after."""

    options: Options = field(default_factory=Options)


TARGET_HELP: Final = (
    "Admin socket of kmsd, as unix:///path or /path; or tls://host:port of a key manager; or a target's name in the "
    "configuration file."
)

Target = Annotated[
    str | None,
    typer.Option("--target", metavar="TARGET", help=TARGET_HELP),
]
TlsCa = Annotated[
    str | None,
    typer.Option(
        "--tls-ca",
        metavar="FILE",
        envvar=variable("ca"),
        help="With a tls:// target: PEM file with the CA of its certificate.",
    ),
]
TlsCertificate = Annotated[
    str | None,
    typer.Option(
        "--tls-certificate",
        metavar="FILE",
        envvar=variable("certificate"),
        help="PEM file with the certificate to show there, with its chain.",
    ),
]
TlsKey = Annotated[
    str | None,
    typer.Option(
        "--tls-key", metavar="FILE", envvar=variable("key"), help="PEM file with the private key of that certificate."
    ),
]
TlsServerName = Annotated[
    str | None,
    typer.Option(
        "--tls-server-name",
        metavar="NAME",
        envvar=variable("server_name"),
        help="Name that the target's certificate must have. Default: its host.",
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout", metavar="DURATION", parser=duration, help="Time limit for each call: 10, 10s, 1m30s. Default: 10s."
    ),
]
TokenArgument = Annotated[
    str,
    typer.Argument(
        metavar="[TOKEN]",
        help="Name of a token in kmsd's configuration. Default: the write token.",
        show_default=False,
    ),
]
ALL: Final = (OutputFormat.TABLE, OutputFormat.WIDE, OutputFormat.JSON, OutputFormat.YAML, OutputFormat.NAME)
SHEETS: Final = (OutputFormat.TABLE, OutputFormat.WIDE, OutputFormat.JSON, OutputFormat.YAML)
STATS: Final = (*SHEETS, OutputFormat.PROMETHEUS)
NAMED: Final = (OutputFormat.TABLE, OutputFormat.JSON, OutputFormat.YAML, OutputFormat.NAME)
DOCUMENT: Final = (OutputFormat.TABLE, OutputFormat.JSON, OutputFormat.YAML)


def _output(allowed: Sequence[OutputFormat], default: str = "") -> Any:
    """Return the option of a command that writes these formats, the first of them by default."""
    metavar = f"[{'|'.join(allowed)}]"
    return typer.Option("--output", "-o", metavar=metavar, help=f"Output format. Default: {default or allowed[0]}.")


Output = Annotated[OutputFormat | None, _output(ALL)]
OutputSheets = Annotated[OutputFormat | None, _output(SHEETS)]
OutputStats = Annotated[OutputFormat | None, _output(STATS)]
OutputNamed = Annotated[OutputFormat | None, _output(NAMED)]
OutputDocument = Annotated[OutputFormat | None, _output(DOCUMENT)]
OutputBytes = Annotated[
    OutputFormat | None, _output(DOCUMENT[1:], "the bytes alone; in these, what belongs to them too")
]
Socket = Annotated[
    str | None,
    typer.Option(
        "--socket",
        metavar="SOCKET",
        envvar="KMSCTL_SOCKET",
        help="KMS socket of kmsd: unix:///path or /path.",
    ),
]

# What a value is, is told by its metavar: the completion offers what kmsd has of KEY, LABEL and TOKEN.
KeyName = Annotated[
    str,
    typer.Argument(
        metavar="KEY", help="Key: its label, its key id, or sha256: and the hash of its key id.", show_default=False
    ),
]
Label = Annotated[str, typer.Argument(metavar="LABEL", help="Label of the key (CKA_LABEL).", show_default=False)]
NewLabel = Annotated[str, typer.Argument(metavar="NEW-LABEL", help="New label of the key.", show_default=False)]
TokenId = Annotated[str, typer.Argument(metavar="ID", help="Id of the token: kmsctl enrol tokens.", show_default=False)]
RequestId = Annotated[
    str, typer.Argument(metavar="ID", help="Id of the request: kmsctl enrol pending.", show_default=False)
]
KeyId = Annotated[
    str,
    typer.Option("--id", metavar="TEXT", help="Key id (CKA_ID) of the key. Default: a new UUID.", show_default=False),
]
TokenName = Annotated[
    str,
    typer.Option(
        "--token",
        metavar="TOKEN",
        help="Name of a token in kmsd's configuration. Default: the write token.",
        show_default=False,
    ),
]

TenantName = Annotated[
    str,
    typer.Option(
        "--tenant",
        metavar="TENANT",
        help="Name of a tenant of a key manager: show only what concerns it.",
        show_default=False,
    ),
]


def gather(
    ctx: typer.Context,
    *,
    target: str | None = None,
    timeout: float | None = None,
    output: OutputFormat | None = None,
) -> Options:
    """Return the options of this run; what stands after the command wins over what stands before it."""
    invocation: Invocation = ctx.find_object(Invocation) or Invocation()
    options = invocation.options
    if target is not None:
        options = replace(options, named=target)
    if timeout is not None:
        options = replace(options, timeout=timeout)
    if output is not None:
        options = replace(options, output=output)
    invocation.options = options
    return options


def type_tls(options: Options, name: str, value: str) -> Options:
    """Return the options with one of TLS that was typed. name: of `kmsd.client.places.NAMES`."""
    # The one place that the client looks at, and a program that takes over this process.
    os.environ[variable(name)] = value
    return replace(options, tls_typed=(*options.tls_typed, flag(name)))


def want_command(ctx: typer.Context) -> None:
    """Show the help of a group of commands that was run by itself, and exit as wrong usage does."""
    if ctx.invoked_subcommand is None:
        diagnostics.screed(ctx.get_help())
        raise typer.Exit(ExitCode.USAGE)
