"""The commands of `kmsctl enrol` for requests without a token, which an operator decides on."""

from __future__ import annotations

from typing import Annotated

import typer

from kmsctl import diagnostics, documents, options, output
from kmsctl.options import RequestId
from kmsctl.output import OutputFormat
from kmsctl.text import timestamp
from kmsd.client import EnrolmentRequest, connect


def pending(
    ctx: typer.Context,
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl enrol pending
      kmsctl enrol pending -o wide

    List the requests for a certificate that came without a token (est.approval = "manual"), the oldest first.

    Compare KEY with what the node has before you approve one: anybody can ask, for any name. On the node it is
    openssl pkey -in .tls.key.new -pubout -outform DER | sha256sum, in the folder that --out names.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.ALL)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        found = kmsd.list_enrolment_requests()
    match form:
        case OutputFormat.NAME:
            output.emit_names(each.id for each in found)
        case OutputFormat.JSON | OutputFormat.YAML:
            output.emit_document({"requests": [documents.of(each) for each in found]}, form)
        case _ if not found:
            diagnostics.note("no requests wait")
        case _:
            output.emit(_table(found, wide=form is OutputFormat.WIDE))


def approve(
    ctx: typer.Context,
    request: RequestId,
    node: Annotated[
        str, typer.Option("--node", metavar="NODE", help="Name of the node. Default: the name it asks for.")
    ] = "",
    tenant: Annotated[
        str, typer.Option("--tenant", metavar="TENANT", help="Tenant of the node. Default: the tenant it asks for.")
    ] = "",
    output_format: options.OutputDocument = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl enrol approve 0123456789abcdef --tenant cluster-a

    Approve a request: the node gets its certificate when it asks again, with the names of that node and tenant.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.DOCUMENT)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        decided = kmsd.decide_enrolment_request(request, approve=True, node=node, tenant=tenant)
    _show(decided, form)
    diagnostics.note(f"node {decided.node} of tenant {decided.tenant} gets its certificate when it asks again")


def deny(
    ctx: typer.Context,
    request: RequestId,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="What the node is told.")] = "",
    output_format: options.OutputDocument = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl enrol deny 0123456789abcdef --reason "no such node"

    Deny a request.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.DOCUMENT)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        decided = kmsd.decide_enrolment_request(request, approve=False, reason=reason)
    _show(decided, form)


def _show(request: EnrolmentRequest, form: OutputFormat) -> None:
    if form in (OutputFormat.JSON, OutputFormat.YAML):
        output.emit_document({"request": documents.of(request)}, form)
    else:
        output.emit_names([request.id])


def _table(requests: tuple[EnrolmentRequest, ...], *, wide: bool) -> str:
    headers = ["ID", "STATE", "SUBJECT", "TENANT", "ADDRESS", "ASKED", "KEY"]
    rows = [
        [
            each.id,
            each.state,
            each.subject,
            each.tenant or each.label,
            each.address,
            timestamp(each.asked) or "",
            each.public_key_sha256 if wide else each.public_key_sha256[:16],
        ]
        for each in requests
    ]
    if wide:
        headers += ["NODE", "DECIDED BY", "REASON"]
        for row, each in zip(rows, requests, strict=True):
            row += [each.node, each.decided_by, each.reason]
    return output.table(headers, rows)
