"""`kmsctl jwt rotate`, `retire` and `revert`: from one key of service account tokens to the next, and back."""

from __future__ import annotations

from typing import Annotated

import typer

from kmsctl import confirm, diagnostics, documents, options, output
from kmsctl.commands.ca_own import SigningType
from kmsctl.commands.jwt import Kid, Tenant
from kmsctl.commands.jwt_outside import Confirm
from kmsctl.commands.rotate import parse_nodes
from kmsctl.confirm import DryRun, Yes
from kmsctl.diagnostics import UsageError
from kmsctl.jwt import rotating, view
from kmsctl.options import TokenName
from kmsctl.output import OutputFormat
from kmsd.client import Conflict, JwtKey, connect
from kmsd.client.jwt_rotation import before, pending, signing


def rotate(
    ctx: typer.Context,
    kind: Annotated[
        SigningType | None,
        typer.Option("--type", help="Type of the next key. Default: as the present one.", show_default=False),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on until the old key is retired; resume what was left.")
    ] = False,
    nodes: Annotated[
        list[str] | None,
        typer.Option(
            "--node",
            metavar="[NAME=]SOCKET",
            help="Admin socket of another control-plane node's kmsd with the same token: wait for its kube-apiserver, "
            "too. May be repeated.",
            show_default=False,
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Begin another rotation although tokens of the last one may be in force.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Have the next key sign although not everybody has fetched it.")
    ] = False,
    token: TokenName = "",
    tenant: Tenant = "",
    yes: Yes = False,
    dry_run: DryRun = False,
    output_format: options.OutputDocument = None,
    target: options.Target = None,
    timeout: rotating.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl jwt rotate --dry-run
      kmsctl jwt rotate --yes
      kmsctl jwt rotate --watch --yes --node cp-2=/run/cp-2.sock

    Have a new key sign service account tokens, without a token refused.

    The next key is made and published; when every kube-apiserver has fetched it, it signs; the old one stays published
    until the longest token that it signed has ended, and is retired. Each run does the one step whose time has come,
    or says what it waits for; with --watch, all of them. It can be left, or killed, at any time: all state is in kmsd
    and on the token, and any run resumes.

    A bad key: kmsctl jwt revert has the one before sign again.
    """
    opts = options.gather(ctx, target=target, output=output_format)
    form = opts.form(*options.DOCUMENT)
    if watch and dry_run:
        raise UsageError("--dry-run changes nothing, so there is nothing to watch", "leave out one of them")
    plan = rotating.JwtRotationRun(
        type=kind.value if kind is not None else "",
        token=token,
        tenant=tenant,
        nodes=parse_nodes(nodes),
        again=again,
        force=force,
        yes=yes,
    )
    if watch:
        rotating.follow(opts, plan, form, timeout)
    else:
        rotating.once(opts if timeout is None else options.gather(ctx, timeout=timeout), plan, form, dry_run=dry_run)


def retire(
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
      kmsctl jwt retire sa-signer.pending --dry-run
      kmsctl jwt retire sa-signer.pending -o json

    Publish a key on a token no more, for good: one that signed before, or one that was to sign.

    While tokens that it signed may be in force, its kid is wanted once more, typed or with --confirm: they are refused
    from then on. That is what a key that somebody has stolen needs, after another one signs (kmsctl jwt rotate
    --force). The key stays on the token until kmsctl keys destroy.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.NAMED)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        here = [each for each in kmsd.get_jwt(tenant=tenant).keys if each.state != "trusted"]
        kid = view.find(here, key).kid or key
        confirm_kid = kid if confirm_kid in (key, kid) and confirm_kid else confirm_kid
        done, _ = confirm.insist(
            lambda word: kmsd.retire_jwt_key(kid, confirm_kid=word, tenant=tenant, dry_run=dry_run),
            kid,
            confirm_kid,
            "retire it",
            ask=not dry_run,
            what="kid",
        )
    if form in (OutputFormat.JSON, OutputFormat.YAML):
        output.emit_document({"key": documents.of(done), "dry_run": dry_run}, form)
    elif form is OutputFormat.NAME:
        output.emit_names([done.kid])
    else:
        output.emit(output.sheet([("KID", done.kid), ("LABEL", done.label), ("WAS", done.state)]))
    if dry_run:
        diagnostics.note(f"{view.short(done)} would be retired; nothing was done")
    else:
        diagnostics.note(f"{view.short(done)} is retired, and verifies no token any more")


def revert(
    ctx: typer.Context,
    tenant: Tenant = "",
    yes: Yes = False,
    dry_run: DryRun = False,
    output_format: options.OutputDocument = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl jwt revert --dry-run
      kmsctl jwt revert --yes

    Undo a rotation: withdraw the key that is to sign, or have the one before sign again. Everybody knows that one, so
    nothing is waited for; what the other one signed stays valid.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*options.DOCUMENT)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        found = kmsd.get_jwt(tenant=tenant)
        waiting, old = pending(found), before(found)
        withdrawn: JwtKey | None
        signs: JwtKey | None
        signer = signing(found)
        if waiting is not None and signer is not None and waiting.key_id < signer.key_id:
            waiting, old = None, waiting  # somebody began to have it sign again
        if waiting is not None:
            if not dry_run:
                confirm.agree(f"withdraw {view.short(waiting)}, which is to sign next?", yes=yes)
            kmsd.retire_jwt_key(waiting.kid, tenant=tenant, dry_run=dry_run)
            withdrawn, signs = waiting, signer
        elif old is not None:
            if not dry_run:
                confirm.agree(f"have {view.short(old)} sign again?", yes=yes, why="it changes which key signs")
            done = kmsd.switch_jwt_key(old.kid, tenant=tenant, dry_run=dry_run)
            withdrawn, signs = done.previous, done.key
        else:
            raise Conflict(
                "no key signed before this one, as far as is published",
                "to have another one sign at once: kmsctl jwt rotate, and then kmsctl jwt rotate --force",
                "FAILED_PRECONDITION",
            )
    if form in (OutputFormat.JSON, OutputFormat.YAML):
        keys = {"withdrawn": documents.or_none(withdrawn), "signs": documents.or_none(signs)}
        output.emit_document({"dry_run": dry_run, **keys}, form)
    else:
        output.emit(output.sheet([("AWAY FROM", view.short(withdrawn)), ("SIGNS", view.short(signs))]))
    if dry_run:
        diagnostics.note("nothing was changed")
