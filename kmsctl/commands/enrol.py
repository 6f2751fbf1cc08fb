"""`kmsctl enrol`: the certificate of this machine, from any EST server (RFC 7030); and the group of its commands."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from kmsctl import diagnostics, documents, files, options, output
from kmsctl.diagnostics import UsageError
from kmsctl.output import OutputFormat
from kmsctl.text import timestamp

_TOKEN_MAX = 4096
_WAIT = 60.0


def enrol(
    ctx: typer.Context,
    server: Annotated[
        str, typer.Option("--server", metavar="URL", help="EST server: https://host[:port][/label].")
    ] = "",
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Folder for tls.key, tls.crt and ca.crt.")] = "",
    key: Annotated[
        str,
        typer.Option("--key", metavar="URI", help="Key on a token (pkcs11:...), in place of the file tls.key."),
    ] = "",
    ca_fingerprint: Annotated[
        str,
        typer.Option("--ca-fingerprint", metavar="sha256:HEX", help="Fingerprint of the server's CA."),
    ] = "",
    ca: Annotated[str, typer.Option("--ca", metavar="FILE", help="PEM file with the CAs, in place of that.")] = "",
    token_file: Annotated[
        str, typer.Option("--token-file", metavar="FILE", help="File with the enrolment token, - for stdin.")
    ] = "",
    node: Annotated[
        str, typer.Option("--node", metavar="NAME", help="Name of this node. Default: the host's name.")
    ] = "",
    if_needed: Annotated[
        bool,
        typer.Option(
            "--if-needed", help="Do nothing while the certificate is good; renew it by itself after 2/3 of its time."
        ),
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout", metavar="DURATION", parser=options.duration, help="Time limit for all of it. Default: 60s."
        ),
    ] = None,
    output_format: options.OutputDocument = None,
) -> None:
    """\b
    Examples:
      kmsctl enrol --server https://keys.test:31443 --ca-fingerprint sha256:5f1c... --token-file - --out /etc/kmsd/tls
      kmsctl enrol --server https://keys.test:31443 --out /etc/kmsd/tls --if-needed
      kmsctl enrol --server https://keys.test:31443 --out /etc/kmsd/tls --key "pkcs11:token=node;object=..."
      kmsctl enrol token node-1 --tenant cluster-a

    Get this machine a certificate from an EST server (RFC 7030), or let others have one: see the commands.

    The key is made here. The first certificate wants an enrolment token, or an operator who approves the request:
    then this waits until --timeout. --if-needed is for boot scripts: it needs a token the first time alone. The CA is
    known by its fingerprint, else by --ca, else by the ca.crt of the last time.

    With --key the key is made on a token or TPM, and never leaves it. Each certificate gets a new key, under the label
    that the URI has as object=; a key that was made here goes when its certificate has ended. The URI names the PIN's
    file, and no PIN.

    Exits 0 with a good certificate, 3 if it is worth trying again, 4 if the token or the server is refused.
    """
    if ctx.invoked_subcommand is not None:
        return
    if not server and not out:
        options.want_command(ctx)
    if not server or not out:
        raise UsageError("both --server and --out are needed", "see: kmsctl enrol --help")
    opts = options.gather(ctx, timeout=timeout, output=output_format)
    form = opts.form(*options.DOCUMENT)
    from kmsd.client.est import enrol_node  # it loads what no other command needs

    @cache
    def token() -> str | None:
        return _token(token_file) if token_file else None

    progress = diagnostics.ProgressLine()
    try:
        found = enrol_node(
            server,
            Path(out),
            node or socket.gethostname().partition(".")[0].lower(),
            key=key,
            pin=ca_fingerprint,
            authorities=files.read(ca, "the CA certificates") if ca else b"",
            token=token,
            if_needed=if_needed,
            timeout=_WAIT if timeout is None else timeout,
            waiting=progress.show,
        )
    finally:
        progress.clear()
    if form in (OutputFormat.JSON, OutputFormat.YAML):
        output.emit_document(documents.of(found), form)
        return
    output.emit_names(found.files)
    did = {"kept": "is good", "renewed": "was renewed", "enrolled": "was issued"}[found.what]
    diagnostics.note(
        f"the certificate {found.serial} of {found.subject} {did}: until {timestamp(found.not_after)}, "
        f"to be renewed from {timestamp(found.renew_at)}"
    )
    if found.not_before > datetime.now(UTC):
        diagnostics.warning(
            f"it begins only at {timestamp(found.not_before)}: the clock of this machine is behind, or the server's is "
            "ahead"
        )
        diagnostics.hint("set both clocks (NTP); a key manager whose clock is right takes it from then on")


def _token(source: str) -> str:
    text = files.read(source, "the enrolment token", most=_TOKEN_MAX, too_long="name the file with the token alone")
    try:
        token = text.decode("ascii").strip()
    except UnicodeDecodeError:
        token = ""
    if not token or not token.isprintable() or " " in token:
        raise UsageError(f"there is no enrolment token in {source}", "write it on the first line, and nothing else")
    return token
