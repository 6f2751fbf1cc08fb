"""`kmsctl jwt import`, `trust` and `untrust`: keys of service account tokens that were made outside of the token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from kmsctl import confirm, diagnostics, documents, files, options, output
from kmsctl.commands.jwt import Kid, Tenant
from kmsctl.confirm import DryRun
from kmsctl.jwt import view
from kmsctl.options import TokenName
from kmsctl.output import OutputFormat
from kmsd.client import JwtKey, connect

_MOST = 64 * 1024
"""Bytes that kmsd takes of a file with keys."""

Confirm = Annotated[
    str,
    typer.Option(
        "--confirm",
        metavar="KID",
        help="Kid of the key once more: do it although tokens may be in force that only this key verifies.",
        show_default=False,
    ),
]


def import_(
    ctx: typer.Context,
    pem: Annotated[
        str,
        typer.Option(
            "--pem",
            metavar="FILE",
            help="File with the private key, unencrypted: kube-apiserver's --service-account-signing-key-file; - for "
            "stdin.",
        ),
    ],
    pending: Annotated[
        bool, typer.Option("--pending", help="Publish it, to sign next: kmsctl jwt rotate goes on. Else it signs now.")
    ] = False,
    token: TokenName = "",
    tenant: Tenant = "",
    dry_run: DryRun = False,
    output_format: options.OutputNamed = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl jwt import --pem sa.key --pending --dry-run
      kmsctl jwt import --pem - --pending < sa.key

    Take the private key of a file into the token, so that tokens signed with it before stay valid: it keeps its kid.

    RSA of 2048 bits or more, or EC on P-256, P-384 or P-521. The file is left as it is: delete it, and its copies and
    backups, once no kube-apiserver names it. Whoever has kept one signs tokens for as long as the key is published,
    so have a key sign next that was made on the token: kmsctl jwt rotate.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.NAMED)
    data = files.read(pem, "the private key", most=_MOST, too_long="give the file of one private key")
    with connect(opts.target, timeout=opts.timeout) as kmsd, diagnostics.working("the token takes the key"):
        done = kmsd.import_jwt_key(data, pending=pending, token=token, tenant=tenant, dry_run=dry_run)
    _emit(
        [done.key] if done.key is not None else [], form, {"imported": done.imported, "wrapped": done.wrapped}, dry_run
    )
    if dry_run:
        diagnostics.note("it was there already" if done.key is not None else "it would be imported; nothing was done")
        return
    if not done.imported:
        diagnostics.note("it was there already; nothing was done")
    elif not done.wrapped:
        diagnostics.warning("the token knows no mechanism to unwrap it, and got it in the clear")
    if pem != "-":
        diagnostics.note(f"the file {pem} is left as it is, and signs as well as the token does")
        diagnostics.hint("delete it, its copies and backups once no kube-apiserver names it")
    if pending:
        diagnostics.hint("`kmsctl jwt rotate` has it sign, once everybody has fetched it")
    else:
        diagnostics.hint("have a key sign next that was made on the token: kmsctl jwt rotate")


def trust(
    ctx: typer.Context,
    pem: Annotated[
        str,
        typer.Option(
            "--pem",
            metavar="FILE",
            help="File with public keys or certificates, as kube-apiserver's --service-account-key-file; - for stdin.",
        ),
    ],
    exclude: Annotated[
        bool,
        typer.Option(
            "--exclude-from-discovery", help="Leave them out of discovery documents: kube-apiserver alone verifies."
        ),
    ] = False,
    note: Annotated[
        str, typer.Option("--note", metavar="TEXT", help="Words for whoever reads the list.", show_default=False)
    ] = "",
    tenant: Tenant = "",
    dry_run: DryRun = False,
    output_format: options.OutputNamed = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl jwt trust --pem sa.pub --dry-run
      kmsctl jwt trust --pem sa.pub --exclude-from-discovery --note "the key file until 2026"

    Publish public keys from outside, so that the tokens that were signed with their private keys stay valid.

    Whoever has the private key signs tokens for any service account: untrust it when the last of its tokens has ended.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.NAMED)
    data = files.read(pem, "the public keys", most=_MOST, too_long="give a file of 64 public keys at most")
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        done = kmsd.trust_jwt_key(data, exclude_from_discovery=exclude, note=note, tenant=tenant, dry_run=dry_run)
    _emit(done.keys, form, {"added": done.added}, dry_run)
    if dry_run:
        diagnostics.note(f"{done.added} of {len(done.keys)} would be new; nothing was done")
        return
    diagnostics.note(f"{done.added} of {len(done.keys)} are new")
    for key in done.keys:
        diagnostics.hint(f"when its last token has ended: kmsctl jwt untrust {view.word(key.kid)}")


def untrust(
    ctx: typer.Context,
    key: Kid,
    confirm_kid: Confirm = "",
    tenant: Tenant = "",
    dry_run: DryRun = False,
    output_format: options.OutputNamed = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      KID=$(kmsctl jwt trust --pem sa.pub -o name); kmsctl jwt untrust --confirm "$KID" -- "$KID"

    Publish a public key from outside no more. Tokens that only it verifies are refused from then on.

    kmsd cannot know when the last of them ends, so the kid is wanted once more, typed or with --confirm.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.NAMED)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        trusted = [each for each in kmsd.get_jwt(tenant=tenant).keys if each.state == "trusted"]
        kid = view.find(trusted, key).kid
        confirm_kid = kid if confirm_kid in (key, kid) and confirm_kid else confirm_kid
        done, _ = confirm.insist(
            lambda word: kmsd.untrust_jwt_key(kid, confirm_kid=word, tenant=tenant, dry_run=dry_run),
            kid,
            confirm_kid,
            "trust it no more",
            ask=not dry_run,
            what="kid",
        )
    _emit([done], form, {}, dry_run)
    if dry_run:
        diagnostics.note(f"{view.short(done)} would not be trusted any more; nothing was done")
    else:
        diagnostics.note(f"{view.short(done)} is not trusted any more")


def _emit(keys: Sequence[JwtKey], form: OutputFormat, more: output.Document, dry_run: bool) -> None:
    match form:
        case OutputFormat.JSON | OutputFormat.YAML:
            output.emit_document({**more, "dry_run": dry_run, "keys": [documents.of(key) for key in keys]}, form)
        case OutputFormat.NAME:
            output.emit_names(key.kid for key in keys)
        case _:
            output.emit(view.keys(keys, None) if keys else "")
