"""The program: its commands and global options, and the one place where a failure becomes an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.exceptions import Abort, TyperException

from kmsctl import diagnostics, options, output, tree
from kmsctl.commands import completion
from kmsctl.diagnostics import ExitCode, UsageError
from kmsctl.options import Invocation, Options
from kmsd.client import ClientError, __version__

app = typer.Typer(
    name="kmsctl",
    cls=tree.Group,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(asked: bool) -> None:
    if asked:
        output.emit(f"kmsctl {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="TARGET",
            envvar="KMSCTL_TARGET",
            help=options.TARGET_HELP,
        ),
    ] = None,
    tls_ca: options.TlsCa = None,
    tls_certificate: options.TlsCertificate = None,
    tls_key: options.TlsKey = None,
    tls_server_name: options.TlsServerName = None,
    timeout: options.Timeout = None,
    output_format: options.Output = None,
    no_color: Annotated[bool, typer.Option("--no-color", help="Print without colour, as NO_COLOR=1 does.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
    version_: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version of kmsctl."),
    ] = False,
) -> None:
    """\b
    Examples:
      kmsctl status
      kmsctl health --wait --timeout 2m
      kmsctl keygen k8s-kek --if-not-exists
      kmsctl keys list -o json
      kmsctl help exit-codes

    Ask and operate a running kmsd over its admin socket, or a key manager on another machine by TLS.
    """
    if no_color:
        os.environ["NO_COLOR"] = "1"  # the one switch that stdout and stderr both look at
    invocation = ctx.find_object(Invocation)
    if invocation is not None:
        invocation.options = Options(
            named=target,
            target_typed=_typed(ctx, "target"),
            output=output_format,
            debug=debug,
        )
        tls = {"ca": tls_ca, "certificate": tls_certificate, "key": tls_key, "server_name": tls_server_name}
        for name, value in tls.items():
            if value is not None and _typed(ctx, f"tls_{name}"):
                invocation.options = options.type_tls(invocation.options, name, value)
    options.gather(ctx, timeout=timeout)
    if ctx.invoked_subcommand is None:
        diagnostics.screed(ctx.get_help())
        raise typer.Exit(ExitCode.USAGE)


def _typed(ctx: typer.Context, name: str) -> bool:
    """Return whether an option stands on the command line, rather than in the environment."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def program() -> Any:
    """Return the program as typer's tree of commands, with its options behind every command too."""
    return tree.program(app)


def main(argv: Sequence[str] | None = None) -> int:
    """Run kmsctl with these arguments, the process' own by default. Return the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == [completion.ASK]:
        return _complete(arguments[1:])
    invocation = Invocation()
    try:
        code = program()(arguments, prog_name="kmsctl", standalone_mode=False, obj=invocation)
    except ClientError as error:
        diagnostics.error(error.message, error.hint, retryable=error.retryable)
        _trace(error, invocation)
        return diagnostics.exit_code(error)
    except UsageError as error:
        diagnostics.error(error.message, error.hint)
        _trace(error, invocation)
        return ExitCode.USAGE
    except TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "kmsctl"
        diagnostics.error(_sentence(error.format_message()), f"`{command} --help` shows how it is used")
        return ExitCode.USAGE
    except (KeyboardInterrupt, Abort):
        return ExitCode.INTERRUPTED
    except OSError as error:
        return _stdout_failed(error, invocation)
    except Exception as error:  # noqa: BLE001 - the last resort: one line instead of a traceback
        diagnostics.error(f"unexpected {type(error).__name__}: {error}", "this is a bug in kmsctl; --debug shows where")
        _trace(error, invocation)
        return ExitCode.FAILED
    return code if isinstance(code, int) else ExitCode.OK


def _complete(arguments: Sequence[str]) -> int:
    """Answer a shell's completion script, which has no use for errors."""
    with contextlib.suppress(Exception):
        completion.answer(program(), arguments)
    if threading.active_count() > 1:
        os._exit(ExitCode.OK)  # a question to kmsd is still under way that nobody waits for
    return ExitCode.OK


def _stdout_failed(error: OSError, invocation: Invocation) -> int:
    """Say that stdout failed: all else that meets the operating system has dealt with its errors where it knows the
    name."""
    if not isinstance(error, BrokenPipeError):
        diagnostics.error(f"cannot write the output: {error.strerror or error}")
        _trace(error, invocation)
    output.give_up()
    return ExitCode.FAILED


def _trace(error: BaseException, invocation: Invocation) -> None:
    if invocation.options.debug:
        diagnostics.trace(error)


def _sentence(text: str) -> str:
    """Return typer's words, with what its parts are called left out."""
    text = text.replace("Value error, ", "")
    return (text[:1].lower() + text[1:]).rstrip(".")
