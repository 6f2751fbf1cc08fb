"""`kmsctl keys adopt`, `relabel` and `destroy`: what changes one key."""

from __future__ import annotations

from typing import Annotated

import typer

from kmsctl import confirm, diagnostics, documents, keyview, options
from kmsctl.confirm import Confirm, DryRun, Report, Yes
from kmsctl.options import KeyId, KeyName, Label, NewLabel
from kmsd.client import Key, KeyState, connect


def adopt(
    ctx: typer.Context,
    label: Label,
    key_id: KeyId = "",
    public: Annotated[
        bool,
        typer.Option("--public", help="The key is a public object that you made: serve with a private copy of it."),
    ] = False,
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl keys adopt found-key
      kmsctl keys adopt other-key --id 7d3f0c52-6f0e-4a6e-9d83-0d3b5e2c8a11

    Give a key id (CKA_ID) to a key that was made elsewhere without one, so that it can serve.

    A public object (CKA_PRIVATE false), as pkcs11-tool makes them, serves only with --public: whoever reaches the token
    may have made it, so be sure that it is yours. A private copy takes its place, with its value and its key id.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*keyview.FORMATS)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        key = kmsd.adopt_key(label, key_id=key_id, public=public)
    keyview.emit_one({"key": documents.of(key)}, key, form)
    keyview.next_step(key)


def relabel(
    ctx: typer.Context,
    key: KeyName,
    label: NewLabel,
    confirm_label: Confirm = "",
    dry_run: DryRun = False,
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl keys relabel spare-kek old-kek --dry-run
      kmsctl keys relabel spare-kek old-kek

    Give a key another label. Its key id stays, and so what names that: all that kmsd writes in its own format.

    Where this changes which key kmsd encrypts with, or where what k8s-kms-plugin wrote names the label that the key
    had (L@...), the present label must be typed, or given with --confirm.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*keyview.FORMATS)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        found = kmsd.get_key(key).key
        changed, _ = confirm.insist(
            lambda word: kmsd.relabel_key(naming(found, key), label, confirm_label=word, dry_run=dry_run),
            found.label,
            confirm_label,
            "relabel it",
            ask=not dry_run,
        )
    keyview.emit_one(
        {"key": documents.of(changed.key), "previous_label": changed.previous_label, "dry_run": dry_run},
        changed.key,
        form,
    )
    verb = "would be" if dry_run else "is now"
    diagnostics.note(f"the key {changed.previous_label!r} {verb} {label!r}")


def destroy(
    ctx: typer.Context,
    key: KeyName,
    report: Report = None,
    yes: Yes = False,
    confirm_label: Confirm = "",
    dry_run: DryRun = False,
    output_format: options.Output = None,
    target: options.Target = None,
    timeout: options.Timeout = None,
) -> None:
    """\b
    Examples:
      kmsctl keys destroy spare-kek --dry-run
      kmsctl keys destroy spare-kek --yes
      kmsctl etcd scan --report scan.json && kmsctl keys destroy old-kek --report scan.json --yes

    Destroy a key on the token, and the HMAC key beside it. What only it decrypts is lost for good.

    Refused unless the key is retired, a scan of etcd, given with --report, shows that nothing needs it, or kmsd made
    it itself and has never seen it used; if its label is typed, or given with --confirm, it is done in spite of that.
    """
    opts = options.gather(ctx, target=target, timeout=timeout, output=output_format)
    form = opts.form(*keyview.FORMATS)
    scan = confirm.evidence(report)
    with connect(opts.target, timeout=opts.timeout) as kmsd:
        found = kmsd.get_key(key).key
        name = naming(found, key)
        answer, confirmed = confirm.insist(
            lambda word: kmsd.destroy_key(name, scan=scan, confirm_label=word, dry_run=True),
            found.label,
            confirm_label,
            "destroy it",
            ask=not dry_run,
        )
        if not dry_run:
            if not confirmed:
                confirm.agree(f"destroy the key {keyview.describe(found)} for good?", yes=yes)
            answer = kmsd.destroy_key(name, scan=scan, confirm_label=confirmed)
    keyview.emit_one(
        {
            "destroyed": answer.destroyed,
            "dry_run": dry_run,
            "key": documents.of(answer.key),
            "companion": documents.or_none(answer.companion),
        },
        answer.key,
        form,
        answer.companion,
    )
    verb = "is destroyed" if answer.destroyed else "would be destroyed; nothing was done"
    diagnostics.note(f"the key {keyview.describe(answer.key)} {verb}")


def naming(found: Key, typed: str) -> str:
    """Return what to call a key that was looked at, so that no other is meant when a label moves in between."""
    # Keys whose ids collide are unusable, and only their labels tell them apart.
    if not found.key_id_sha256 or found.state is KeyState.UNUSABLE:
        return typed
    return f"sha256:{found.key_id_sha256}"
