"""`kmsctl jwt`: show and export the keys of service account tokens."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated

import typer

from kmsctl import diagnostics, documents, files, options, output
from kmsctl.diagnostics import UsageError
from kmsctl.jwt import view
from kmsctl.output import OutputFormat
from kmsd.client import connect

Tenant = Annotated[
    str,
    typer.Option(
        "--tenant",
        metavar="TENANT",
        help="Tenant of a key manager whose keys these are. Default: those of kmsd's own socket.",
        show_default=False,
    ),
]
Kid = Annotated[
    str,
    typer.Argument(
        metavar="KID", help="The key: its kid, 8 or more characters of it, or its label.", show_default=False
    ),
]


def jwt(ctx: typer.Context) -> None:
    """\b
    Examples:
      kmsctl jwt keys
      kmsctl jwt export > jwks.json
      kmsctl jwt rotate --watch --yes

    Show and change the keys that sign service account tokens, for a kube-apiserver with
    --service-account-signing-endpoint.

    The first one is made with kmsctl keygen sa-signer --type ec-p256 --purpose jwt, or imported from the file that
    kube-apiserver signs with today. kmsd needs [jwt] in its configuration, or a tenant with a jwt_label.
    """
    options.want_command(ctx)


def keys(
    ctx: typer.Context,
    tenant: Tenant = "",
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl jwt keys
      kmsctl jwt keys -o wide
      kmsctl jwt keys -o json

    List the keys that sign service account tokens, are to sign or have signed, and the trusted ones; and who has
    fetched them.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.ALL)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        found = kmsd.get_jwt(tenant=tenant)
    now = found.now or datetime.now(UTC)
    if form in (OutputFormat.JSON, OutputFormat.YAML):
        output.emit_document(documents.of(found), form)
    elif form is OutputFormat.NAME:
        output.emit_names(key.kid for key in found.keys if key.kid)
    else:
        tables = [view.keys(found.keys, now, wide=form is OutputFormat.WIDE)] if found.keys else []
        tables += [view.fetchers(found.fetchers, now)] if found.fetchers else []
        output.emit("\n\n".join(tables))
    view.complain(found)
    if found.keys and not found.fetchers:
        diagnostics.note("nobody has fetched the keys lately")


def show(
    ctx: typer.Context,
    key: Kid,
    tenant: Tenant = "",
    output_format: options.OutputNamed = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl jwt show sa-signer
      kmsctl jwt keys -o name | xargs -n 1 kmsctl jwt show -o json --

    Show all that is known of one key: since when it is published, until when it is needed, its public key.

    A kid may begin as an option does; it stands behind -- then.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.NAMED)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        asked = kmsd.get_jwt(tenant=tenant)
    found = view.find(asked.keys, key)
    if form in (OutputFormat.JSON, OutputFormat.YAML):
        output.emit_document(documents.of(found), form)
    elif form is OutputFormat.NAME:
        output.emit_names([found.kid or found.label])
    else:
        output.emit(output.sheet(view.sheet(found, asked)))
    if found.hint:
        diagnostics.hint(found.hint)


def export(
    ctx: typer.Context,
    pem: Annotated[
        bool,
        typer.Option("--pem", help="Write PEM instead, for kube-apiserver's --service-account-key-file."),
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Export those too that discovery documents leave out.")
    ] = False,
    out: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="Write to this file (mode 0600) instead of to stdout.")
    ] = None,
    tenant: Tenant = "",
    output_format: options.OutputBytes = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl jwt export > jwks.json
      kmsctl jwt export --pem --all --out sa-hsm.pub

    Print the published public keys as a JSON Web Key Set (RFC 7517), as kube-apiserver's /openid/v1/jwks has them.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(OutputFormat.JSON, OutputFormat.YAML) if opts.output is not None else None
    if form is not None and (out is not None or pem):
        raise UsageError("--out and --pem write the keys, and -o a document to stdout", "leave out one of them")
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        found = kmsd.get_jwt(tenant=tenant)
    keys = [key for key in found.keys if key.published and (everything or not key.excluded_from_discovery)]
    if not keys:
        view.complain(found)
        diagnostics.note("no key is published")
    if pem:
        data = "".join(key.pem if key.pem.endswith("\n") else f"{key.pem}\n" for key in keys)
    else:
        document: output.Document = {"keys": [json.loads(key.jwk) for key in keys]}
        data = output.document_text(document, form or OutputFormat.JSON) + "\n"
    if out is not None:
        files.write(out, data.encode())
    else:
        output.emit(data.rstrip("\n"))
