"""The commands of `kmsctl enrol` for tokens."""

from __future__ import annotations

from typing import Annotated

import typer

from kmsctl import diagnostics, documents, options, output
from kmsctl.options import TokenId
from kmsctl.output import OutputFormat
from kmsctl.text import timestamp
from kmsd.client import EnrolmentToken, connect


def token(
    ctx: typer.Context,
    node: Annotated[str, typer.Argument(metavar="NODE", help="Name of the node, as in Kubernetes.")],
    tenant: Annotated[str, typer.Option("--tenant", metavar="TENANT", help="Tenant that the node belongs to.")],
    ttl: Annotated[
        float | None,
        typer.Option(
            "--ttl", metavar="DURATION", parser=options.duration, help="Time for which it counts: 30m, 1h. Default: 1h."
        ),
    ] = None,
    uses: Annotated[
        int, typer.Option("--uses", metavar="N", help="Certificates that it is good for, 1 to 1000.", min=1, max=1000)
    ] = 1,
    output_format: options.OutputDocument = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:  # fmt: skip
    """\b
    Examples:
      kmsctl enrol token node-1 --tenant cluster-a
      kmsctl enrol token node-1 --tenant cluster-a --ttl 15m > /run/token
      kmsctl enrol token node-1 --tenant cluster-a -o json

    Make a token with which a node gets its first certificate, and print it.

    It is printed this once, and kmsd keeps no more than a hash of it. Pass it on in a file: whoever has it can be this
    node.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.DOCUMENT)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        made = kmsd.create_enrolment_token(node, tenant, ttl=0 if ttl is None else max(ttl, 1.0), uses=uses)
    if form in (OutputFormat.JSON, OutputFormat.YAML):
        output.emit_document({"text": made.text, "token": documents.of(made.token)}, form)
        return
    output.emit_names([made.text])
    diagnostics.note(f"token {made.token.id} counts until {timestamp(made.token.expires)}, and is not shown again")
    diagnostics.hint("on the node: kmsctl enrol --server URL --ca-fingerprint sha256:... --token-file FILE --out DIR")


def tokens(
    ctx: typer.Context,
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl enrol tokens
      kmsctl enrol tokens -o wide
      kmsctl enrol tokens -o json

    List the enrolment tokens, the newest first; those that have ended stay for 30 days.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.ALL)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        found = kmsd.list_enrolment_tokens()
    match form:
        case OutputFormat.NAME:
            output.emit_names(each.id for each in found)
        case OutputFormat.JSON | OutputFormat.YAML:
            output.emit_document({"tokens": [documents.of(each) for each in found]}, form)
        case _ if not found:
            diagnostics.note("there are no enrolment tokens")
        case _:
            output.emit(_table(found, wide=form is OutputFormat.WIDE))


def revoke_token(
    ctx: typer.Context,
    token_id: TokenId,
    output_format: options.OutputDocument = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl enrol revoke-token 0123456789abcdef

    Have an enrolment token count no more. Certificates that were issued for it stay: `kmsctl ca revoke` is for those.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.DOCUMENT)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        revoked = kmsd.revoke_enrolment_token(token_id)
    if form in (OutputFormat.JSON, OutputFormat.YAML):
        output.emit_document({"token": documents.of(revoked)}, form)
    else:
        output.emit_names([revoked.id])


def _state(token: EnrolmentToken) -> str:
    if token.usable:
        return "usable"
    return "revoked" if token.revoked is not None else "used" if token.uses_left == 0 else "ended"


def _table(tokens: tuple[EnrolmentToken, ...], *, wide: bool) -> str:
    headers = ["ID", "NODE", "TENANT", "STATE", "USES", "UNTIL"]
    rows = [
        [each.id, each.node, each.tenant, _state(each), f"{each.uses_left}/{each.uses}", timestamp(each.expires) or ""]
        for each in tokens
    ]
    if wide:
        headers += ["MADE", "BY"]
        for row, each in zip(rows, tokens, strict=True):
            row += [timestamp(each.created) or "", each.made_by]
    return output.table(headers, rows)
